"""Time as an argument (DESIGN D12).

Three clocks: `time` is simulated and belongs to the user (audit stamps, schedules), `real` is what the outside checks
against its own clock (signatures, TLS), `monotonic_ns` is CLOCK_MONOTONIC (leases, timeouts, lockouts).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from hsmsim.words import Words, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_WHAT: Final = "the simulated clock"


class Clock(Protocol):
    """What code that needs the time is given."""

    def time(self) -> float:
        """Simulated seconds since the epoch."""

    def real(self) -> float:
        """Real seconds since the epoch."""

    def monotonic_ns(self) -> int:
        """CLOCK_MONOTONIC in nanoseconds, as the engine reads it."""


class SystemClock:
    """The machine's clocks; simulated time is real time."""

    def time(self) -> float:
        """Real time."""
        return time.time()

    def real(self) -> float:
        """Real time."""
        return time.time()

    def monotonic_ns(self) -> int:
        """CLOCK_MONOTONIC."""
        return time.monotonic_ns()


class SharedClock:
    """The machine's clocks, the simulated one ahead by the seconds in a small file: all who map it follow at once."""

    def __init__(self, path: Path) -> None:
        self._words = Words(path, 1, _WHAT)

    def offset(self) -> int:
        """Seconds by which simulated time is ahead."""
        return self._words[0]

    def time(self) -> float:
        """Real time and the offset."""
        return time.time() + self._words[0]

    def real(self) -> float:
        """Real time."""
        return time.time()

    def monotonic_ns(self) -> int:
        """CLOCK_MONOTONIC."""
        return time.monotonic_ns()


class ClockAhead:
    """A clock whose simulated time is ahead by what a function says."""

    def __init__(self, clock: Clock, seconds: Callable[[], int]) -> None:
        self._clock = clock
        self._seconds = seconds

    def time(self) -> float:
        """The clock's, and the seconds."""
        return self._clock.time() + self._seconds()

    def real(self) -> float:
        """The clock's."""
        return self._clock.real()

    def monotonic_ns(self) -> int:
        """The clock's."""
        return self._clock.monotonic_ns()


def set_offset(path: Path, seconds: int) -> None:
    """Have every SharedClock of this file be ahead by so many seconds; the file is made if there is none."""
    write(path, (seconds,), _WHAT, 0o644)


@dataclass(slots=True)
class ManualClock:
    """A clock that stands still until it is told to advance: for tests and rehearsals."""

    now: float = 1_700_000_000.0
    ticks_ns: int = 0

    def advance(self, seconds: float) -> None:
        """Moves all three clocks."""
        self.now += seconds
        self.ticks_ns += int(seconds * 1e9)

    def time(self) -> float:
        """The set time."""
        return self.now

    def real(self) -> float:
        """The set time."""
        return self.now

    def monotonic_ns(self) -> int:
        """The set ticks."""
        return self.ticks_ns
