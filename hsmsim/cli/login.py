"""Who a command acts as: the users that `hsmsim up` keeps, or the one named, whose password is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hsmsim.cli import show
from hsmsim.config import Places
from hsmsim.errors import HsmsimError
from hsmsim.fleet import credentials, state
from hsmsim.fleet.access import Role, connect
from hsmsim.fleet.credentials import Credential

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from hsmsim.hsm.client import HsmClient

    Command = Callable[..., None]


def _file(option: str, text: str) -> Callable[[Command], Command]:
    return click.option(option, type=click.Path(path_type=Path, allow_dash=True), help=text)


partition_option = click.option("--partition", default="", help="Partition; the first one if not given.")
new_password_option = _file("--password-file", "First line: the new password; - for standard input. Else it is asked.")
old_password_option = _file("--old-password-file", "With --own: the password so far; - for standard input.")


@dataclass(frozen=True, slots=True)
class Acting:
    """The user of a partition whom a command acts as, and where the password is."""

    partition: str
    role: Role
    name: str
    file: Path | None
    option: str

    def credential(self, places: Places) -> Credential:
        """Return name and password: the kept one if there is and no file was given, else ask."""
        cluster_id = state.load(places).only_cluster().cluster_id
        if self.file is None:
            kept = credentials.find(places, cluster_id, self.partition, self.role, self.name)
            if kept is not None:
                return kept
        if not self.name:
            raise HsmsimError(
                "No crypto user of this partition is kept here. Say who: --user NAME [--password-file FILE]"
            )
        password = show.secret(f"Password of {self.role} {self.name}", self.file, self.option)
        return Credential(cluster_id, self.partition, self.name.lower(), self.role, password)

    def connect(self) -> AbstractContextManager[HsmClient]:
        """Connect and log in."""
        places = Places.resolve()
        return connect(places, self.partition, self.credential(places))


def as_user(command: Command) -> Command:
    """Add the options that say which crypto user acts; the command gets them as `who`."""

    @partition_option
    @click.option("--user", "user_name", default="", help="Crypto user to act as, if not the one that `up` made.")
    @_file("--password-file", "First line: the user's password; - for standard input. Else it is asked.")
    @wraps(command)
    def wrapped(partition: str, user_name: str, password_file: Path | None, **others: Any) -> None:  # noqa: ANN401
        command(who=Acting(partition, Role.CRYPTO_USER, user_name, password_file, "--password-file"), **others)

    return wrapped


def as_admin(command: Command) -> Command:
    """Add the options that say which admin acts; the command gets them as `who`."""

    @partition_option
    @click.option("--admin", default="admin", show_default=True, help="Admin to act as.")
    @_file("--admin-password-file", "First line: the admin's password; - for standard input. Else it is asked.")
    @wraps(command)
    def wrapped(partition: str, admin: str, admin_password_file: Path | None, **others: Any) -> None:  # noqa: ANN401
        command(who=Acting(partition, Role.ADMIN, admin, admin_password_file, "--admin-password-file"), **others)

    return wrapped
