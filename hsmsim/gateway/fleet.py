"""The gateway's end of the fleet's daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from hsmsim.errors import HsmsimError
from hsmsim.fleet.protocol import FleetClient

if TYPE_CHECKING:
    from pathlib import Path

    from hsmsim.fleet.protocol import Request

_T = TypeVar("_T")


class SocketFleet:
    """The daemon at its socket. A connection for each request: a daemon that was started again is found at once."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def call(self, request: Request, result: type[_T]) -> _T:
        """Ask; see ports.Fleet."""
        try:
            with FleetClient(self._path) as client:
                return client.call(request, result)
        except OSError as error:
            raise HsmsimError(
                f"The fleet's daemon, which has the HSMs, does not answer ({error.strerror or error}). It is asked "
                "again soon. Start it, if it does not run: hsmsim up"
            ) from error


class NoFleet:
    """What a gateway has that was started without one."""

    def call(self, request: Request, result: type[_T]) -> _T:  # noqa: ARG002 - the port's name
        """HsmsimError."""
        raise HsmsimError(f"This gateway has no HSMs for {type(request).__name__}. Start it with: hsmsim up")
