"""Events are forgotten after 90 days of simulated time, and the first ones before that where there are too many."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from hsmsim.services.cloudtrail import store
from hsmsim.services.cloudtrail.model import RETENTION_S

if TYPE_CHECKING:
    from hsmsim.clock import Clock
    from hsmsim.services.kernel import Writer
    from hsmsim.storage.database import Database

NAME: Final = "cloudtrail"
LEAST_PAUSE_S: Final = 1.0


class Retention:
    """The reconciler. keep: events at most, in all accounts; a thousand more may be there for a moment."""

    name = NAME

    def __init__(self, database: Database, writer: Writer, clock: Clock, keep: int) -> None:
        self._database = database
        self._writer = writer
        self._clock = clock
        self._keep = keep

    def step(self) -> float | None:
        """Delete what is due, in small transactions."""
        now = self._clock.time()
        while self._writer.write(partial(store.prune, before=now - RETENTION_S, keep=self._keep)):
            pass
        with self._database.read() as connection:
            first = store.oldest(connection)
        return max(LEAST_PAUSE_S, (now if first is None else first) + RETENTION_S - now)
