"""`hsmsim user list|create|delete|change-password`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click
from msgspec import structs

from hsmsim.cli import login, show
from hsmsim.config import Places
from hsmsim.fleet import credentials, users
from hsmsim.fleet.access import Role, connect

if TYPE_CHECKING:
    from pathlib import Path

    from hsmsim.cli.login import Acting

role_option = click.option(
    "--role",
    type=click.Choice([Role.ADMIN.value, Role.CRYPTO_USER.value]),
    default=Role.CRYPTO_USER.value,
    show_default=True,
    help="An admin manages users and cannot use keys; a crypto user owns and uses keys.",
)


@click.group()
def user() -> None:
    """Users of a partition: admins and crypto users.

    A crypto user's PIN for the PKCS#11 module is user:password. Names are the same in upper and lower case.
    """


@user.command("list")
@login.partition_option
@show.as_json
def list_(partition: str, *, as_json: bool) -> None:
    """List users. LOCKED: after five bad logins in a row on the HSM that was asked."""
    with connect(Places.resolve(), partition) as client:
        found = users.users(client)
    if as_json:
        show.document([one.document() for one in found])
        return
    rows = [[one.name, one.role, one.failures, "yes" if one.locked else "no"] for one in found]
    show.table(["NAME", "ROLE", "BAD LOGINS", "LOCKED"], rows, empty="There are no users.")


@user.command()
@click.argument("name")
@role_option
@login.new_password_option
@login.as_admin
def create(name: str, role: str, password_file: Path | None, who: Acting) -> None:
    """Make a user (as an admin). The password has 8 to 32 characters and no ':'."""
    password = show.secret(f"Password for {name}", password_file, "--password-file", confirm=True)
    with who.connect() as client:
        users.create(client, name, Role(role), password)
    click.echo(f"Made {role} {name.lower()}." + (f" PIN: {name.lower()}:<password>" if role != Role.ADMIN else ""))


@user.command()
@click.argument("name")
@role_option
@login.as_admin
def delete(name: str, role: str, who: Acting) -> None:
    """Delete a user who owns no keys and is not logged in (as an admin)."""
    places = Places.resolve()
    with who.connect() as client:
        users.delete(client, name, Role(role))
    credentials.forget(places, who.partition, name)
    click.echo(f"Deleted {role} {name.lower()}.")


@user.command("change-password")
@click.argument("name")
@role_option
@click.option("--own", is_flag=True, help="Log in as NAME and change the own password, instead of acting as an admin.")
@login.new_password_option
@login.old_password_option
@login.as_admin
def change_password(
    name: str, role: str, *, own: bool, password_file: Path | None, old_password_file: Path | None, who: Acting
) -> None:
    """Set a user's password, which unlocks the user too."""
    places = Places.resolve()
    if own:
        who = replace(who, role=Role(role), name=name, file=old_password_file, option="--old-password-file")
    acting = who.credential(places)
    password = show.secret(f"New password for {name}", password_file, "--password-file", confirm=True)
    with connect(places, who.partition, acting) as client:
        users.change_password(client, name, Role(role), password)
    credentials.change(places, structs.replace(acting, name=name.lower(), role=role, password=password))
    click.echo(f"Changed the password of {role} {name.lower()}.")
