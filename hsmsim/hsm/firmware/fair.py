"""A queue that serves whoever waits in turn, so that one who asks often delays himself."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Items in order for each party that put them, the parties in turn; any number of threads at both ends."""

    def __init__(self) -> None:
        self._ready = threading.Condition(threading.Lock())
        self._lines: dict[int, deque[T]] = {}  # a party that has none waiting is not in it; the next one is first

    def put(self, party: int, item: T) -> None:
        """Add an item of a party."""
        with self._ready:
            self._lines.setdefault(party, deque()).append(item)
            self._ready.notify()

    def get(self) -> T:
        """Take the next item; wait for one."""
        with self._ready:
            while not self._lines:
                self._ready.wait()
            party = next(iter(self._lines))
            line = self._lines.pop(party)
            item = line.popleft()
            if line:
                self._lines[party] = line  # behind all others
            return item
