"""The management socket: the gateway's own calls, and the client that the command line uses.

Who may open HOME/gateway/gateway.sock may do all. A call is JSON in, JSON out.
"""

from __future__ import annotations

import http.client
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec

from hsmsim.errors import HsmsimError
from hsmsim.fleet.protocol import FaultsView, ListFaults, PutFaults

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from hsmsim.clock import Clock
    from hsmsim.gateway.ports import Fleet, Route
    from hsmsim.gateway.reconcile import Reconcilers

CLOCK: Final = "/_hsmsim/clock"
SETTLE_SECONDS: Final = 60.0
_CALL_SECONDS: Final = SETTLE_SECONDS + 30
_ANSWER_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 0.1


FAULTS: Final = "/_hsmsim/faults"


class GatewayAwayError(HsmsimError):
    """The gateway does not run, or does not answer."""


def routes(clock: Clock, reconcilers: Reconcilers, fleet: Fleet) -> dict[tuple[str, str], Route]:
    """The calls that the process answers by itself.

    GET FAULTS: {"faults": [FaultsView, ...]}. POST FAULTS: a FaultsView, which replaces the HSM's faults.
    """

    def moved(members: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answer once what is due, since time was changed perhaps, has been done, or say what still goes on.

        Of several gateways it is the one that leads which does it; the others say that they do not.
        """
        seconds = members.get("seconds", SETTLE_SECONDS)
        if not isinstance(seconds, int | float) or not 0 <= seconds <= SETTLE_SECONDS:
            raise HsmsimError(f"`seconds` is a number from 0 to {SETTLE_SECONDS:.0f}.")
        if not reconcilers.lead.held:
            return {"time": clock.time(), "leads": False}
        return {"time": clock.time(), "leads": True, "unfinished": reconcilers.settle(seconds)}

    def show_time(_: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"time": clock.time(), "leads": reconcilers.lead.held}

    def list_faults(_: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"faults": msgspec.to_builtins(fleet.call(ListFaults(), list[FaultsView]))}

    def put_faults(members: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            wanted = msgspec.convert(members, FaultsView)
        except msgspec.ValidationError as error:
            raise HsmsimError(f"These are no faults of an HSM: {error}.") from error
        fleet.call(PutFaults(wanted), type(None))
        return {}

    return {
        ("GET", CLOCK): show_time,
        ("POST", CLOCK): moved,
        ("GET", FAULTS): list_faults,
        ("POST", FAULTS): put_faults,
    }


def settle(gateways: Callable[[], Iterable[Path]], seconds: float = SETTLE_SECONDS) -> list[str]:
    """Have what is due now be done; the names of the parts that are not done after that many seconds.

    gateways: the sockets of those that run now. Where the one that led has just died, another one takes over meanwhile.
    """
    deadline = time.monotonic() + seconds
    while True:
        for path in filter(leads, gateways()):
            with suppress(GatewayAwayError):
                answer = call(path, "POST", CLOCK, {"seconds": max(0.0, deadline - time.monotonic())})
                if answer["leads"]:
                    unfinished: list[str] = answer["unfinished"]
                    return unfinished
        if time.monotonic() > deadline:
            return ["no gateway leads"]
        time.sleep(_LOOK_SECONDS)


def leads(path: Path) -> bool:
    """Whether the gateway of this socket leads; one that is gone, or stands still, does not."""
    try:
        return bool(call(path, "GET", CLOCK, seconds=_ANSWER_SECONDS)["leads"])
    except GatewayAwayError:
        return False


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def call(
    path: Path, method: str, route: str, members: Mapping[str, Any] | None = None, seconds: float = _CALL_SECONDS
) -> dict[str, Any]:
    """Call the gateway whose socket this is; HsmsimError says what it refused, or that it is away."""
    connection = _Connection(path, seconds)
    try:
        connection.request(method, route, msgspec.json.encode(members or {}))
        answer = connection.getresponse()
        content = msgspec.json.decode(answer.read(), type=dict[str, Any])
    except (ConnectionRefusedError, FileNotFoundError) as error:
        raise GatewayAwayError("The gateway is not running. Start it: hsmsim up --detach") from error
    except (OSError, http.client.HTTPException, msgspec.DecodeError) as error:
        raise GatewayAwayError(
            f"The gateway did not answer ({error}). Its log is {path.with_name('gateway.log')}."
        ) from error
    finally:
        connection.close()
    if answer.status != http.client.OK:
        raise HsmsimError(str(content.get("error", f"The gateway answered {answer.status}.")))
    return content
