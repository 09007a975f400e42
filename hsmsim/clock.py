"""Time as an argument (DESIGN D12).

Three clocks: `time` is simulated and belongs to the user (audit stamps, schedules), `real` is what the outside checks
against its own clock (signatures, TLS), `monotonic_ns` is CLOCK_MONOTONIC (leases, timeouts, lockouts).
"""

from __future__ import annotations

import mmap
import os
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from hsmsim.errors import HsmsimError

if TYPE_CHECKING:
    from pathlib import Path

_BYTES: Final = 8


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
    """The machine's clocks, with the simulated one ahead by what a small file says: all who map it follow at once.

    The file is a signed 64-bit number of seconds in the machine's byte order, aligned, so that it is read and written
    in one piece; it is never replaced.
    """

    def __init__(self, path: Path) -> None:
        descriptor = _open(path, os.O_RDONLY)
        try:
            self._map = mmap.mmap(descriptor, _BYTES, access=mmap.ACCESS_READ)
        finally:
            os.close(descriptor)
        self._offset = memoryview(self._map).cast("q")

    def offset(self) -> int:
        """Seconds by which simulated time is ahead."""
        return int(self._offset[0])

    def time(self) -> float:
        """Real time and the offset."""
        return time.time() + self._offset[0]

    def real(self) -> float:
        """Real time."""
        return time.time()

    def monotonic_ns(self) -> int:
        """CLOCK_MONOTONIC."""
        return time.monotonic_ns()


def set_offset(path: Path, seconds: int) -> None:
    """Have every SharedClock of this file be ahead by so many seconds; the file is made if there is none."""
    descriptor = _open(path, os.O_RDWR | os.O_CREAT)
    try:
        os.fchmod(descriptor, 0o644)
        if os.fstat(descriptor).st_size != _BYTES:
            os.ftruncate(descriptor, _BYTES)
        with mmap.mmap(descriptor, _BYTES) as mapped, memoryview(mapped) as bytes_, bytes_.cast("q") as offset:
            offset[0] = seconds
    finally:
        os.close(descriptor)


def _open(path: Path, flags: int) -> int:
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise HsmsimError(f"The simulated clock {path} cannot be opened: {error.strerror}.") from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or (found.st_size != _BYTES and not flags & os.O_CREAT):
        os.close(descriptor)
        raise HsmsimError(f"{path} is not the simulated clock of hsmsim. Remove it: hsmsim clock show makes it anew.")
    return descriptor


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
