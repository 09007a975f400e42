"""The simulated clock of this state folder: an offset that is kept in HOME and shared with all processes in RUN."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from hsmsim.clock import SharedClock, set_offset
from hsmsim.errors import HsmsimError
from hsmsim.fleet import state

if TYPE_CHECKING:
    from collections.abc import Callable

    from hsmsim.config import Places

LIMIT: Final = 100 * 365 * 86_400
"""A hundred years: no certificate and no date format ends before."""
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SPAN: Final = re.compile(r"([0-9]{1,9})([smhdw])")


def seconds_of(text: str) -> int:
    """Return the seconds of 90s, 10m, 36h, 400d or 2w."""
    match = _SPAN.fullmatch(text)
    if match is None:
        raise HsmsimError(f"{text!r} is no span of time: write it like 10m, 36h or 400d (s, m, h, d, w).")
    return int(match[1]) * _UNITS[match[2]]


def offset(places: Places) -> int:
    """Return the seconds by which simulated time is ahead."""
    data = state.read_private(places.saved_clock_file)
    try:
        return int(data or b"0")
    except ValueError as error:
        raise HsmsimError(f"{places.saved_clock_file} is damaged. Set it anew: hsmsim clock reset") from error


def share(places: Places) -> None:
    """Have the shared file say what is kept; the run folder is there. The caller holds the fleet's lock."""
    wanted = offset(places)
    if not places.clock_file.exists() or SharedClock(places.clock_file).offset() != wanted:
        set_offset(places.clock_file, wanted)


def advance(places: Places, seconds: int) -> None:
    """Move simulated time on; every process follows before this returns."""
    _put(places, lambda former: former + seconds)


def reset(places: Places) -> None:
    """Go back to real time."""
    _put(places, lambda _: 0)


def _put(places: Places, wanted: Callable[[int], int]) -> None:
    with state.lock(places):
        seconds = wanted(offset(places))
        if seconds > LIMIT:
            raise HsmsimError("The clock goes at most 100 years ahead of real time. To go back: hsmsim clock reset")
        state.write_private(places.saved_clock_file, f"{seconds}\n".encode())
        state.make_run(places, state.load(places).account)
        share(places)
