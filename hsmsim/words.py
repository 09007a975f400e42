"""A few numbers in a small file that several processes map: who writes one is seen by all at once.

The file is signed 64-bit numbers in the machine's byte order, aligned, so that each is read and written in one piece.
It is never replaced. One that is a symbolic link, or of another size, is refused.
"""

from __future__ import annotations

import mmap
import os
import stat
from typing import TYPE_CHECKING, Final

from hsmsim.errors import HsmsimError

if TYPE_CHECKING:
    from pathlib import Path

WORD: Final = 8


class Words:
    """The numbers, as they are now."""

    def __init__(self, path: Path, count: int, what: str) -> None:
        """what: the file's meaning, for people."""
        descriptor = _open(path, count, what, os.O_RDONLY, 0)
        try:
            self._map = mmap.mmap(descriptor, count * WORD, access=mmap.ACCESS_READ)
        finally:
            os.close(descriptor)
        self._words = memoryview(self._map).cast("q")

    def __getitem__(self, index: int) -> int:
        return int(self._words[index])


def read(path: Path, count: int, what: str) -> tuple[int, ...]:
    """Return the numbers; zeros where there is no file."""
    if not path.exists():
        return (0,) * count
    words = Words(path, count, what)
    return tuple(words[index] for index in range(count))


def write(path: Path, values: tuple[int, ...], what: str, mode: int) -> None:
    """Set the numbers for all who map them; the file is made, with this mode, if there is none."""
    descriptor = _open(path, len(values), what, os.O_RDWR | os.O_CREAT, mode)
    try:
        os.fchmod(descriptor, mode)
        if os.fstat(descriptor).st_size != len(values) * WORD:
            os.ftruncate(descriptor, len(values) * WORD)
        with (
            mmap.mmap(descriptor, len(values) * WORD) as mapped,
            memoryview(mapped) as raw,
            raw.cast("q") as words,
        ):
            for index, value in enumerate(values):
                words[index] = value
    finally:
        os.close(descriptor)


def _open(path: Path, count: int, what: str, flags: int, mode: int) -> int:
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    except OSError as error:
        raise HsmsimError(f"{what} {path} cannot be opened: {error.strerror}.") from error
    found = os.fstat(descriptor)
    new = bool(flags & os.O_CREAT) and found.st_size == 0
    if not stat.S_ISREG(found.st_mode) or (found.st_size != count * WORD and not new):
        os.close(descriptor)
        raise HsmsimError(f"{path} is not {what} of hsmsim. Remove it; it is made anew.")
    return descriptor
