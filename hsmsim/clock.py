"""Time as an argument (DESIGN D12).

Three clocks: `time` is simulated and belongs to the user (audit stamps, schedules), `real` is what the outside checks
against its own clock (signatures, TLS), `monotonic_ns` is CLOCK_MONOTONIC (leases, timeouts, lockouts).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol


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
