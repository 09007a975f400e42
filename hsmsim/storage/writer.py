"""The one writer of a database that many threads want to change: group commit (DESIGN D6).

Rules: works run one after another in one thread, each in a savepoint of a transaction that they share; what a work
raises undoes that work alone. A caller gets its result after the commit, so what was acknowledged is durable. While one
transaction is on its way to the disk the next works gather. A commit that fails fails every work in it. Two writers
of one database, in two processes, take turns: a work sees what every work before it has committed.
"""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from hsmsim.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Connection

    from hsmsim.storage.database import Database

BATCH: Final = 64
T = TypeVar("T")


@dataclass(slots=True)
class _Job:
    work: Callable[[Connection], Any]
    future: Future[Any] = field(default_factory=Future)
    result: Any = None


class GroupWriter:
    """Commits works in groups. Safe from any thread but its own: a work that waits for another would wait for ever."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = threading.Lock()
        self._open = True
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[Connection], T]) -> Future[T]:
        """Have `work` run; its future is done when the transaction is durable or failed."""
        job = _Job(work)
        with self._closed:
            if not self._open:
                raise StorageError("The gateway is stopping; nothing is written any more. Try again once it runs.")
            self._queue.put(job)
        return job.future

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction and return its result once that is durable; raise what it raised."""
        if threading.current_thread() is self._thread:
            raise RuntimeError("a work may not wait for another one")
        return self.submit(work).result()

    def close(self) -> None:
        """Finish what was submitted, then end."""
        with self._closed:
            if not self._open:
                return
            self._open = False
            self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        last = False
        while not last:
            jobs, last = self._gather()
            if jobs:
                self._commit(jobs)

    def _gather(self) -> tuple[list[_Job], bool]:
        """At least one job, and those that wait behind it."""
        jobs: list[_Job] = []
        block = True
        while len(jobs) < BATCH:
            try:
                job = self._queue.get(block=block)
            except queue.Empty:
                break
            if job is None:
                return jobs, True
            jobs.append(job)
            block = False
        return jobs, False

    def _commit(self, jobs: list[_Job]) -> None:
        done: list[_Job] = []
        try:
            with self._database.write(alone=True) as connection:
                done.extend(job for job in jobs if self._attempt(connection, job))
        except Exception as error:  # noqa: BLE001 - handed on to all who wait
            for job in jobs:
                if not job.future.done():
                    job.future.set_exception(error)
            return
        for job in done:
            job.future.set_result(job.result)

    @staticmethod
    def _attempt(connection: Connection, job: _Job) -> bool:
        """Run one work in its savepoint; False, with its error handed on, where it raised."""
        try:
            with connection.begin_nested():
                job.result = job.work(connection)
        except Exception as error:  # noqa: BLE001 - handed on to who submitted it
            job.future.set_exception(error)
            return False
        return True
