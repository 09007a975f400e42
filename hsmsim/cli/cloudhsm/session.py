"""What lasts from one command to the next: the configuration, connections, who is logged in, where answers go."""

from __future__ import annotations

import getpass
import json
import logging
import logging.handlers
import os
import sys
import warnings
from typing import TYPE_CHECKING, Final

import click

from hsmsim.cli.cloudhsm import config
from hsmsim.cli.cloudhsm.members import Members
from hsmsim.errors import CkrError, HsmsimError
from hsmsim.fleet.access import Role
from hsmsim.hsm.cryptoki import CKR

if TYPE_CHECKING:
    from collections.abc import Callable

    from hsmsim.cli.cloudhsm.config import Logging

_LOG: Final = logging.getLogger("cloudhsm_cli")
ROLES: Final = (Role.CRYPTO_USER, Role.ADMIN)
_LOGIN_REASONS: Final = {
    CKR.PIN_INCORRECT: "the user name, the role or the password is wrong; after five wrong passwords a user is locked",
    CKR.PIN_LOCKED: "the user is locked after five wrong passwords; an admin unlocks it: user change-password",
    CKR.USER_PIN_NOT_INITIALIZED: "the cluster is not active yet; cluster activate makes it so",
    CKR.USER_ALREADY_LOGGED_IN: "somebody is logged in already; logout first",
    CKR.USER_ANOTHER_ALREADY_LOGGED_IN: "somebody is logged in already; logout first",
}


class Session:
    """One run of the program."""

    def __init__(self) -> None:
        self._config: config.Config | None = None
        self._members: dict[str, Members] = {}
        self._log: logging.Handler | None = None
        self.interactive = False
        self.cluster_id = ""

    def members(self, cluster_id: str) -> Members:
        """Return the HSMs of the named cluster, of the one named at the start, or of the only one."""
        if self._config is None:
            self._config = config.load(os.environ)
            self._log = _log_to(self._config.logging)
        wanted = cluster_id or self.cluster_id
        cluster = self._config.cluster(wanted)
        key = cluster.cluster.cluster_id
        if key not in self._members:
            self._members[key] = Members(cluster)
        return self._members[key]

    def as_user(self, cluster_id: str) -> Members:
        """The same with somebody logged in: in single-command mode whom the environment names."""
        members = self.members(cluster_id)
        if members.user is None and self.interactive:
            raise HsmsimError("Nobody is logged in. First: login --username NAME --role ROLE")
        if members.user is None:
            login(members, *_from_environment())
        return members

    def close(self) -> None:
        """End all connections, and the log."""
        for members in self._members.values():
            members.close()
        if self._log is not None:
            _LOG.removeHandler(self._log)
            self._log.close()


def login(members: Members, name: str, role: Role, password: str) -> None:
    """Log in, or say why not."""
    try:
        members.login(name, role, password)
    except CkrError as error:
        reason = _LOGIN_REASONS.get(CKR(error.rv), str(error))
        raise HsmsimError(f"{name} ({role}) cannot log in: {reason}.") from error


def _from_environment() -> tuple[str, Role, str]:
    role, pin = os.environ.get("CLOUDHSM_ROLE", ""), os.environ.get("CLOUDHSM_PIN", "")
    name, colon, password = pin.partition(":")
    if role not in ROLES or not colon:
        raise HsmsimError(
            "This needs a login: set CLOUDHSM_ROLE to admin or crypto-user and CLOUDHSM_PIN to user:password, "
            "or use interactive mode."
        )
    return name, Role(role), password


def ask(*, confirm: bool) -> str:
    """Ask for a password at the terminal, without echo; twice for a new one."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", getpass.GetPassWarning)
        try:
            password = getpass.getpass("Enter password:")
            if confirm and getpass.getpass("Confirm password:") != password:
                raise HsmsimError("The two passwords are not the same. Nothing was changed.")
        except (getpass.GetPassWarning, EOFError) as error:
            raise HsmsimError("There is no terminal to ask for the password at. Give --password.") from error
    return password


def show(data: object, *, failed: bool = False) -> None:
    """Print an answer as AWS's tool does."""
    click.echo(json.dumps({"error_code": int(failed), "data": data}, indent=2))


_HANDLERS: Final[dict[str, Callable[[str], logging.Handler]]] = {
    "term": lambda _: logging.StreamHandler(sys.stderr),
    "file": lambda path: logging.FileHandler(path, encoding="utf-8"),
    "syslog": lambda _: logging.handlers.SysLogHandler("/dev/log"),
}
_LEVELS: Final = {
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": logging.DEBUG,
}


def _log_to(wanted: Logging) -> logging.Handler:
    """What is logged: the HSMs that do not answer. Never what was typed, nor an answer."""
    if wanted.log_type not in _HANDLERS or wanted.log_level not in _LEVELS:
        raise HsmsimError(f"`logging` has log_type {', '.join(_HANDLERS)} and log_level {', '.join(_LEVELS)}.")
    try:
        handler = _HANDLERS[wanted.log_type](wanted.log_file)
    except OSError as error:
        raise HsmsimError(
            f"The log {wanted.log_file or wanted.log_type} cannot be opened: {error.strerror}."
        ) from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s [%(process)d] %(message)s"))
    _LOG.addHandler(handler)
    _LOG.setLevel(_LEVELS[wanted.log_level])
    _LOG.propagate = False
    return handler
