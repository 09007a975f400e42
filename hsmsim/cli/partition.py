"""`hsmsim partition create|list`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hsmsim.cli import login, show
from hsmsim.fleet import users

if TYPE_CHECKING:
    from pathlib import Path

    from hsmsim.cli.login import Acting


@click.group()
def partition() -> None:
    """Partitions: tenants of the same HSMs.

    Each has its own admin, users and keys, and is a slot of its own in the module. Nothing of one can be seen from
    another. `hsmsim configure-pkcs11 --partition NAME` gives clients its slot.
    """


@partition.command()
@click.argument("name")
@login.new_password_option
@login.as_admin
def create(name: str, password_file: Path | None, who: Acting) -> None:
    """Make a partition (as an admin of the first). --password-file is for the new partition's own `admin`."""
    password = show.secret(f"Password for the admin of {name}", password_file, "--password-file", confirm=True)
    with show.progress() as say, who.connect() as client:
        say(f"Making partition {name} in every HSM")
        users.create_partition(client, name, password)
    click.echo(f"Made partition {name}. Next: hsmsim user create NAME --partition {name}")


@partition.command("list")
@login.as_admin
@show.as_json
def list_(who: Acting, *, as_json: bool) -> None:
    """List the cluster's partitions, with counts of users and keys."""
    with who.connect() as client:
        found = users.partitions(client)
    if as_json:
        show.document([{"id": one.id, "name": one.name, "users": one.users, "keys": one.keys} for one in found])
        return
    rows = [[one.id, one.name or "(first)", one.users, one.keys] for one in found]
    show.table(["ID", "NAME", "USERS", "KEYS"], rows, empty="There are no partitions.")
