"""`hsmsim account create|list`."""

from __future__ import annotations

import datetime as dt

import click

from hsmsim.cli import show
from hsmsim.config import Places
from hsmsim.gateway import launch, manage
from hsmsim.services.iam import accounts


@click.group()
def account() -> None:
    """AWS accounts. The first one, 123456789012, is there from the start; `hsmsim env` exports its root user's key."""


@account.command()
@click.argument("account_id", required=False)
@show.as_json
def create(*, account_id: str | None, as_json: bool) -> None:
    """Make an account and its root user's access key, which is shown this once.

    ACCOUNT_ID has twelve digits; left out, it is a random one.
    """
    members = {"account": account_id} if account_id else {}
    made = manage.call(launch.a_socket(Places.resolve()), "POST", accounts.PATH, members)
    if as_json:
        show.document(made)
        return
    click.echo(f"Account {made['account']}. Its root user's key, shown this once:")
    click.echo(f"export AWS_ACCESS_KEY_ID={made['access_key_id']}")
    click.echo(f"export AWS_SECRET_ACCESS_KEY={made['secret_access_key']}")


@account.command("list")
@show.as_json
def list_(*, as_json: bool) -> None:
    """All accounts, the oldest first."""
    found = manage.call(launch.a_socket(Places.resolve()), "GET", accounts.PATH)["accounts"]
    if as_json:
        show.document(found)
        return
    rows = [
        [one["account"], f"{dt.datetime.fromtimestamp(one['created'], dt.UTC):%Y-%m-%dT%H:%M:%SZ}"] for one in found
    ]
    show.table(["ACCOUNT", "CREATED"], rows, empty="There is no account.")
