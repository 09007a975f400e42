"""Faults that a person asks of an HSM (DESIGN D13): what they are, and the file that its process maps.

The file `faults` in the HSM's folder is five numbers (hsmsim.words), read by the engine (native/engine/faults.c) at
every request and by the firmware where it acts. All zeros: no fault. They last until they are taken back, over the end
of the process.
"""

from __future__ import annotations

import resource
from dataclasses import astuple, dataclass
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING, Final

from hsmsim.words import Words, read, write

if TYPE_CHECKING:
    from pathlib import Path

FILE: Final = "faults"
MAX_SLOW_US: Final = 10_000_000
MILLION: Final = 1_000_000
_WHAT: Final = "the file of faults"


class Cut(IntFlag):
    """From whom the HSM is cut off. What is sent either way is lost, without a word."""

    NONE = 0
    CLIENTS = 1
    PEERS = 2
    DATABASE = 4


class Disk(IntEnum):
    """What is wrong with the disk that the HSM writes to.

    FULL is the kernel's doing: no file of the process's may grow (RLIMIT_FSIZE). READ_ONLY is for the rows alone.
    """

    FINE = 0
    READ_ONLY = 1
    FULL = 2


@dataclass(frozen=True, slots=True)
class Faults:
    """All of an HSM's faults.

    slow_us: microseconds that each request waits; drop_ppm: how many of a million requests are lost; clock_s: seconds
    by which its simulated clock is ahead of the others'.
    """

    slow_us: int = 0
    drop_ppm: int = 0
    cut: Cut = Cut.NONE
    disk: Disk = Disk.FINE
    clock_s: int = 0


_COUNT: Final = len(astuple(Faults()))


def load(path: Path) -> Faults:
    """Return the faults in a file; none where there is no file."""
    slow, drop, cut, disk, clock = read(path, _COUNT, _WHAT)
    return Faults(slow, drop, Cut(cut), Disk(disk), clock)


def store(path: Path, faults: Faults) -> None:
    """Have the HSM suffer these, and no others, from now on."""
    write(path, tuple(int(value) for value in astuple(faults)), _WHAT, 0o600)


class Suffering:
    """The faults as the HSM's own process sees them; the file is made if there is none."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            store(path, Faults())
        self.path = path
        self._words = Words(path, _COUNT, _WHAT)
        self._full = False

    def cut_from(self, whom: Cut) -> bool:
        """Whether the HSM is cut off from these."""
        return bool(self._words[2] & whom)

    def fill_disk(self) -> None:
        """Let the process's files grow, or not, as the file says now."""
        full = self._words[3] == Disk.FULL
        if full != self._full:
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (0 if full else hard, hard))
            self._full = full

    @property
    def read_only(self) -> bool:
        """Whether its disk takes no writes."""
        return self._words[3] == Disk.READ_ONLY

    @property
    def clock_s(self) -> int:
        """Seconds by which its simulated clock is ahead."""
        return self._words[4]
