"""HSM processes: start, wait until they answer, stop, kill, and say which run.

An HSM writes hsm.pid itself as soon as it can (see hsm.alone), so that it is found even if the command that started it
was killed at once.
"""

from __future__ import annotations

import signal
import sys
import time
from typing import TYPE_CHECKING, Final

from hsmsim import faults
from hsmsim.errors import HsmsimError
from hsmsim.fleet import hsmconfig, processes, simclock, state
from hsmsim.fleet.processes import READY_SECONDS, STOP_SECONDS, Process, reap
from hsmsim.hsm import alone
from hsmsim.hsm.client import HsmClient
from hsmsim.hsm.messages import HsmInfoRequest, HsmInfoResponse

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from hsmsim.config import Places

LOOK_SECONDS: Final = 10.0
HEARD_SECONDS: Final = 10.0
"""In which HSMs that serve find each other: at a beat of 250 ms, on a machine that is busy with other things."""
_ASK_SECONDS: Final = 1.0
_PAUSE_SECONDS: Final = 0.02

__all__ = ["info", "is_running", "kill", "pid_of", "reap", "send", "start", "stop", "wait_heard", "wait_ready"]


def _process(places: Places, hsm_id: str, account: str = "") -> Process:
    def answering() -> int | None:
        found = info(places, hsm_id)
        return found.pid if found is not None else None

    folder = places.hsm_folder(hsm_id)
    return Process(hsm_id, folder / alone.PID_FILE, folder / "hsm.lock", folder / "hsm.log", answering, account=account)


def start(places: Places, hsm_id: str) -> bool:
    """Start the process if it does not run; whether it was started. `wait_ready` waits until it serves."""
    fleet = state.load(places)
    hsm = fleet.hsm(hsm_id)

    def prepare() -> None:
        state.make_run(places, fleet.account)
        state.make_images(places, fleet.account)
        state.publish_roots(places)
        simclock.share(places)
        hsmconfig.write(places, fleet, hsm)

    config = places.hsm_folder(hsm_id) / "config.json"
    command = [sys.executable, "-P", "-m", "hsmsim.hsm", "--config", str(config)]
    if fleet.account:
        command += ["--user", fleet.account]
    return processes.start(_process(places, hsm_id, fleet.account), processes.Program(command, prepare))


def wait_ready(places: Places, hsm_ids: Iterable[str], seconds: float = READY_SECONDS) -> None:
    """Return when each answers; HsmsimError with the end of its log if one ends or takes too long."""
    processes.wait_ready((_process(places, hsm_id) for hsm_id in hsm_ids), seconds)


def wait_heard(places: Places, hsm_ids: Collection[str], seconds: float = HEARD_SECONDS) -> None:
    """Return when each HSM of a cluster that answers hears as many as do: before that it may refuse to make a key.

    Those that do not run or answer, or that a fault cuts off from their peers, are not waited for. HsmsimError after
    `seconds`.
    """
    deadline = time.monotonic() + seconds
    while deaf := _deaf(places, hsm_ids):
        if time.monotonic() > deadline:
            told = "; ".join(f"{hsm_id} hears {live} of {count}, itself included" for hsm_id, live, count in deaf)
            raise HsmsimError(
                f"After {seconds:.0f} s the HSMs serve but do not hear each other, so they may make no new key: "
                f"{told}. Look for faults that were asked for (hsmsim fault list), and why in "
                f"{places.hsm_folder(deaf[0][0])}/hsm.log"
            )
        time.sleep(_PAUSE_SECONDS)


def _deaf(places: Places, hsm_ids: Collection[str]) -> list[tuple[str, int, int]]:
    """HSMs that hear fewer than answer: how many, and how many of how many."""
    if len(hsm_ids) == 1:
        return []
    heard = [one for one in hsm_ids if not faults.load(places.hsm_folder(one) / faults.FILE).cut & faults.Cut.PEERS]
    live = {one: found.live for one in heard if (found := info(places, one, _ASK_SECONDS)) is not None}
    return [(one, count, len(live)) for one, count in live.items() if count < len(live)]


def stop(places: Places, hsm_ids: Iterable[str], seconds: float = STOP_SECONDS) -> list[str]:
    """End the processes in an orderly way, all at once; SIGKILL after `seconds`. Return the ids of those that ran."""
    return processes.end([_process(places, hsm_id) for hsm_id in hsm_ids], signal.SIGTERM, seconds)


def kill(places: Places, hsm_id: str) -> bool:
    """SIGKILL, as a power failure would; whether it ran."""
    return bool(processes.end([_process(places, hsm_id)], signal.SIGKILL))


def send(places: Places, hsm_id: str, number: signal.Signals) -> bool:
    """Send a signal that does not end the HSM's process; whether it runs."""
    return processes.send(_process(places, hsm_id), number)


def pid_of(places: Places, hsm_id: str) -> int | None:
    """Return the id of the HSM's process, None if it does not run."""
    return processes.pid_of(_process(places, hsm_id))


def is_running(places: Places, hsm_id: str) -> bool:
    """Return whether the HSM's process runs (it may not serve yet)."""
    return processes.is_running(_process(places, hsm_id))


def info(places: Places, hsm_id: str, seconds: float = LOOK_SECONDS) -> HsmInfoResponse | None:
    """Return what the HSM says of itself; None if it does not answer within `seconds`."""
    try:
        with HsmClient(places.socket(hsm_id), seconds=seconds) as client:
            return client.call(HsmInfoRequest())
    except (OSError, HsmsimError):
        return None
