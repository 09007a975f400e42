"""HSM processes: start, wait until they answer, stop, kill, and say which run.

An HSM writes hsm.pid itself as soon as it can (see hsm.alone), so that it is found even if the command that started it
was killed at once.
"""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Final

from hsmsim.errors import HsmsimError
from hsmsim.fleet import databases, processes, simclock, state
from hsmsim.fleet.processes import READY_SECONDS, STOP_SECONDS, Process, reap
from hsmsim.hsm import alone
from hsmsim.hsm.client import HsmClient
from hsmsim.hsm.messages import HsmInfoRequest, HsmInfoResponse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hsmsim.config import Places

LOOK_SECONDS: Final = 10.0

__all__ = ["info", "is_running", "kill", "pid_of", "reap", "send", "start", "stop", "wait_ready"]


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
        cluster = fleet.cluster_of(hsm_id)
        url = databases.url_of(places, cluster.cluster_id)
        state.write_config(places, cluster, hsm, fleet.account, url, fleet.host)

    config = places.hsm_folder(hsm_id) / "config.json"
    command = [sys.executable, "-P", "-m", "hsmsim.hsm", "--config", str(config)]
    if fleet.account:
        command += ["--user", fleet.account]
    return processes.start(_process(places, hsm_id, fleet.account), processes.Program(command, prepare))


def wait_ready(places: Places, hsm_ids: Iterable[str], seconds: float = READY_SECONDS) -> None:
    """Return when each answers; HsmsimError with the end of its log if one ends or takes too long."""
    processes.wait_ready((_process(places, hsm_id) for hsm_id in hsm_ids), seconds)


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


def info(places: Places, hsm_id: str) -> HsmInfoResponse | None:
    """Return what the HSM says of itself; None if it does not answer within LOOK_SECONDS."""
    try:
        with HsmClient(places.socket(hsm_id), seconds=LOOK_SECONDS) as client:
            return client.call(HsmInfoRequest())
    except (OSError, HsmsimError):
        return None
