"""Who is connected, and who has to go when there are too many.

Rules: a newcomer is not refused while somebody keeps the gateway waiting: for a head, for a body, or idle between
requests. Who has done so longest goes, among the connections of the address that has most of them. So a client that
opens connections without end drives out its own, and one that sends a request at once is answered, from wherever.
The same for what bodies take in memory.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator


class Guest(Protocol):
    """A connection."""

    address: str

    def give_up(self) -> None:
        """Close it."""


class Crowd:
    """The connections of some ports: at most `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._counts: Counter[str] = Counter()
        self._all: set[Guest] = set()
        self._waiting: dict[str, dict[Guest, None]] = {}

    def enter(self, guest: Guest) -> None:
        """Take a connection in; it waits for a head. It is given up at once where everybody else is being served."""
        if len(self._all) >= self._most:
            longest = self._longest()
            if longest is None:
                guest.give_up()
                return
            self.leave(longest)
            longest.give_up()
        self._all.add(guest)
        self._counts[guest.address] += 1
        self.waits(guest)

    def _longest(self) -> Guest | None:
        address = max(self._waiting, key=self._counts.__getitem__, default=None)
        return None if address is None else next(iter(self._waiting[address]))

    def waits(self, guest: Guest) -> None:
        """From now on the gateway waits for it."""
        if guest in self._all:
            self.served(guest)
            self._waiting.setdefault(guest.address, {})[guest] = None

    def served(self, guest: Guest) -> None:
        """A whole request is there: the gateway does not wait for it."""
        waiting = self._waiting.get(guest.address)
        if waiting is not None:
            waiting.pop(guest, None)
            if not waiting:
                del self._waiting[guest.address]

    def leave(self, guest: Guest) -> None:
        """It is gone, or about to be."""
        if guest not in self._all:
            return
        self.served(guest)
        self._all.remove(guest)
        self._counts[guest.address] -= 1
        if not self._counts[guest.address]:
            del self._counts[guest.address]


class Bodies:
    """The bodies that come in: at most `most` bytes, beyond what is small and always taken."""

    def __init__(self, most: int, small: int) -> None:
        self._most = most
        self._small = small
        self._held = 0
        self._sizes: dict[asyncio.Timeout, int] = {}

    @contextmanager
    def coming(self, limit: asyncio.Timeout) -> Iterator[None]:
        """While a body comes in. limit: expires at once where the memory is needed and this one began first."""
        self._sizes[limit] = 0
        try:
            yield
        finally:
            self._held -= self._sizes.pop(limit)

    def grown(self, limit: asyncio.Timeout, size: int) -> None:
        """That body has so many bytes now."""
        if limit not in self._sizes or size <= self._small:
            return
        self._held += size - self._sizes[limit]
        self._sizes[limit] = size
        if self._held > self._most:
            now = asyncio.get_running_loop().time()
            for other in [one for one, held in self._sizes.items() if held]:
                self._held -= self._sizes[other]
                self._sizes[other] = 0
                if not other.expired():
                    other.reschedule(now)
                if self._held <= self._most:
                    break
