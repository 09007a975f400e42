"""The management socket: the gateway's own calls, and the client that the command line uses.

Who may open HOME/gateway/gateway.sock may do all. A call is JSON in, JSON out.
"""

from __future__ import annotations

import http.client
import socket
from typing import TYPE_CHECKING, Any, Final

import msgspec

from hsmsim.errors import HsmsimError
from hsmsim.fleet.protocol import FaultsView, ListFaults, PutFaults

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from hsmsim.clock import Clock
    from hsmsim.gateway.ports import Fleet, Route
    from hsmsim.gateway.reconcile import Reconcilers

CLOCK: Final = "/_hsmsim/clock"
SETTLE_SECONDS: Final = 60.0
_CALL_SECONDS: Final = SETTLE_SECONDS + 30


FAULTS: Final = "/_hsmsim/faults"


def routes(clock: Clock, reconcilers: Reconcilers, fleet: Fleet) -> dict[tuple[str, str], Route]:
    """The calls that the process answers by itself.

    GET FAULTS: {"faults": [FaultsView, ...]}. POST FAULTS: a FaultsView, which replaces the HSM's faults.
    """

    def moved(members: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answer once what is due, since time was changed perhaps, has been done, or say what still goes on."""
        seconds = members.get("seconds", SETTLE_SECONDS)
        if not isinstance(seconds, int | float) or not 0 <= seconds <= SETTLE_SECONDS:
            raise HsmsimError(f"`seconds` is a number from 0 to {SETTLE_SECONDS:.0f}.")
        return {"time": clock.time(), "unfinished": reconcilers.settle(seconds)}

    def list_faults(_: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"faults": msgspec.to_builtins(fleet.call(ListFaults(), list[FaultsView]))}

    def put_faults(members: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            wanted = msgspec.convert(members, FaultsView)
        except msgspec.ValidationError as error:
            raise HsmsimError(f"These are no faults of an HSM: {error}.") from error
        fleet.call(PutFaults(wanted), type(None))
        return {}

    return {("POST", CLOCK): moved, ("GET", FAULTS): list_faults, ("POST", FAULTS): put_faults}


def settle(path: Path, seconds: float = SETTLE_SECONDS) -> list[str]:
    """Have the gateway do what is due now; the names of the parts of it that are not done after that many seconds."""
    unfinished: list[str] = call(path, "POST", CLOCK, {"seconds": seconds})["unfinished"]
    return unfinished


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def call(path: Path, method: str, route: str, members: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Call the gateway whose socket this is; HsmsimError says what it refused, or that it does not run."""
    connection = _Connection(path, _CALL_SECONDS)
    try:
        connection.request(method, route, msgspec.json.encode(members or {}))
        answer = connection.getresponse()
        content = msgspec.json.decode(answer.read(), type=dict[str, Any])
    except (ConnectionRefusedError, FileNotFoundError) as error:
        raise HsmsimError("The gateway is not running. Start it: hsmsim up --detach") from error
    except (OSError, http.client.HTTPException, msgspec.DecodeError) as error:
        raise HsmsimError(
            f"The gateway did not answer ({error}). Its log is {path.with_name('gateway.log')}."
        ) from error
    finally:
        connection.close()
    if answer.status != http.client.OK:
        raise HsmsimError(str(content.get("error", f"The gateway answered {answer.status}.")))
    return content
