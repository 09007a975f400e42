"""Faults of HSMs (hsmsim.faults), asked for by people: set, taken back, listed.

Rules: what is set replaces what was there, and lasts over the end of the process; but a pause is the process's own and
ends with it.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hsmsim import faults
from hsmsim.errors import HsmsimError
from hsmsim.fleet import launch, state
from hsmsim.fleet.protocol import FaultsView

if TYPE_CHECKING:
    from hsmsim.config import Places

_CUTS: Final = {"clients": faults.Cut.CLIENTS, "peers": faults.Cut.PEERS, "database": faults.Cut.DATABASE}
_DISKS: Final = {"fine": faults.Disk.FINE, "read-only": faults.Disk.READ_ONLY, "full": faults.Disk.FULL}
CUTS: Final = tuple(_CUTS)
DISKS: Final = tuple(_DISKS)
MAX_CLOCK_S: Final = 100 * 365 * 86_400
PAUSE_SECONDS: Final = 10.0


def _file(places: Places, hsm_id: str) -> Path:
    return places.hsm_folder(state.load(places).hsm(hsm_id).hsm_id) / faults.FILE


def show(places: Places, hsm_id: str) -> FaultsView:
    """Return the faults that an HSM has now."""
    found = faults.load(_file(places, hsm_id))
    pid = launch.pid_of(places, hsm_id)
    return FaultsView(
        hsm_id,
        pid is not None and _stopped(pid),
        found.slow_us / 1000,
        found.drop_ppm * 100 / faults.MILLION,
        tuple(name for name, cut in _CUTS.items() if cut in found.cut),
        next(name for name, value in _DISKS.items() if value is found.disk),
        found.clock_s,
    )


def list_all(places: Places) -> list[FaultsView]:
    """Return every HSM's."""
    return [show(places, hsm.hsm_id) for hsm in state.load(places).hsms()]


def put(places: Places, wanted: FaultsView) -> None:
    """Have an HSM suffer these faults and no others. Again is harmless."""
    with state.lock(places):
        path, pid = _file(places, wanted.hsm_id), launch.pid_of(places, wanted.hsm_id)
        if pid is None and wanted.paused:
            raise HsmsimError(f"{wanted.hsm_id} does not run, so it cannot be paused.")
        faults.store(path, _checked(wanted))
        state.give(path, state.load(places).account)
        if pid is not None:  # to one that is so already it is nothing
            launch.send(places, wanted.hsm_id, signal.SIGSTOP if wanted.paused else signal.SIGCONT)
    if pid is not None:
        _wait(wanted, pid)


def _checked(wanted: FaultsView) -> faults.Faults:
    unknown = set(wanted.cut) - set(CUTS)
    if unknown or wanted.disk not in _DISKS:
        raise HsmsimError(
            f"An HSM is cut off from {', '.join(CUTS)}, and its disk is {', '.join(DISKS)}; not "
            f"{', '.join(sorted(unknown)) or wanted.disk}."
        )
    slow, drop = round(wanted.slow_ms * 1000), round(wanted.drop_percent * faults.MILLION / 100)
    if not 0 <= slow <= faults.MAX_SLOW_US or not 0 <= drop <= faults.MILLION:
        raise HsmsimError("A request is slowed by 0 to 10,000 ms, and 0 to 100 percent of them are lost.")
    if abs(wanted.clock_s) > MAX_CLOCK_S:
        raise HsmsimError("A clock is at most 100 years off.")
    cut = faults.Cut.NONE
    for name in wanted.cut:
        cut |= _CUTS[name]
    return faults.Faults(slow, drop, cut, _DISKS[wanted.disk], wanted.clock_s)


def clear(places: Places, hsm_id: str) -> None:
    """Take all of an HSM's faults back."""
    put(places, FaultsView(hsm_id))


def _wait(wanted: FaultsView, pid: int) -> None:
    """Return when the last thread has heard of the signal."""
    deadline = time.monotonic() + PAUSE_SECONDS
    while _stopped(pid) != wanted.paused:
        if time.monotonic() > deadline:
            doing = "stop" if wanted.paused else "go on"
            raise HsmsimError(
                f"{wanted.hsm_id} did not {doing} within {PAUSE_SECONDS:.0f} s. Does it run? See: hsmsim hsm list"
            )
        time.sleep(0.01)


def _stopped(pid: int) -> bool:
    """Whether all threads of a process are stopped by a signal (proc(5), stat, field 3)."""
    stats = Path(f"/proc/{pid}/task").glob("*/stat")
    try:
        texts = [stat.read_text(encoding="ascii", errors="replace") for stat in stats]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return bool(texts) and all(text.rpartition(")")[2].split()[0] in {"T", "t"} for text in texts)
