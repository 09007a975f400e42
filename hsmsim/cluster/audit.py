"""An HSM's audit log, and its users' bad logins: rows that belong to one HSM and are sealed like all others.

Rules: `sequence` has no gap over the HSM's whole life; `boot` counts its starts, each of which leaves a first record.
A record is written in the same transaction as the rows it tells of. Records are never changed. One process writes one
HSM's log, under the log's lock, so the sequence is known, and the record sealed, before the transaction.
"""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from sqlalchemy import func, select

from hsmsim.cluster.model import AuditEntry, AuditRow, LockoutRow
from hsmsim.cluster.rows import AUDIT, LOCKOUT, SealError
from hsmsim.cluster.sql import upsert
from hsmsim.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from sqlalchemy.engine import Connection

    from hsmsim.clock import Clock
    from hsmsim.cluster.rows import Sealer
    from hsmsim.storage.database import Database

_LOG = logging.getLogger(__name__)

TAMPERED_FAILURES: Final = 255
"""What a lockout row with a bad seal counts as: more than any limit, until an admin sets the password."""


class AuditLog:
    """The log of one HSM."""

    def __init__(self, database: Database, hsm_id: str, sealer: Sealer, clock: Clock) -> None:
        self._database = database
        self._hsm_id = hsm_id
        self._sealer = sealer
        self._clock = clock
        self._lock = threading.RLock()
        self._sequence: int | None = None  # of the last record; None: ask the database
        self.problems = self._read_end()

    def _read_end(self) -> list[str]:
        """Find the last record; what is wrong with the log as far as a start looks at it."""
        ours = AUDIT.table.c.hsm_id == self._hsm_id
        sequence = AUDIT.table.c.sequence
        with self._database.read() as connection:
            count, first, last = connection.execute(
                select(func.count(), func.min(sequence), func.max(sequence)).where(ours)
            ).one()
            end = connection.execute(select(AUDIT.table).where(ours, sequence == last)).mappings().first()
        self.boot = 1
        self._sequence = 0
        if end is None:
            return []
        if not isinstance(first, int) or not isinstance(last, int):
            raise StorageError(f"The audit log of {self._hsm_id} has sequence numbers that are none: restore a backup.")
        problems = [f"{last - first + 1 - count} records are missing"] if count != last - first + 1 else []
        self._sequence = last
        try:
            self.boot = self._sealer.opened(AUDIT, end)[0].boot + 1
        except SealError as error:
            problems.append(f"record {last}: {error}")
            self.boot = end["boot"] + 1 if isinstance(end["boot"], int) else 1
        return problems

    @contextmanager
    def entering(self, entry: AuditEntry | None) -> Iterator[dict[str, Any] | None]:
        """The columns of the entry's record, to be inserted by insert() in a transaction inside this block.

        A block that fails with a StorageError leaves it to the database whether the record is there.
        """
        if entry is None:
            yield None
            return
        with self._lock:
            if self._sequence is None:
                self._sequence = self._last()
            row = AuditRow(
                hsm_id=self._hsm_id,
                sequence=self._sequence + 1,
                boot=self.boot,
                time=int(self._clock.time() * 1_000_000),
                **asdict(entry),
            )
            columns, _ = self._sealer.columns(row)
            try:
                yield columns
            except StorageError:
                self._sequence = None
                raise

    def insert(self, connection: Connection, columns: Mapping[str, Any] | None) -> None:
        """Write the record of entering(); it counts when the transaction commits, see entered()."""
        if columns is not None:
            connection.execute(AUDIT.table.insert(), dict(columns))

    def entered(self, columns: Mapping[str, Any] | None) -> None:
        """The transaction of insert() is committed."""
        if columns is not None:
            self._sequence = columns["sequence"]

    def record(self, entry: AuditEntry) -> None:
        """A record without rows, in a transaction of its own."""
        with self.entering(entry) as columns:
            with self._database.write() as connection:
                self.insert(connection, columns)
            self.entered(columns)

    def _last(self) -> int:
        ours = AUDIT.table.c.hsm_id == self._hsm_id
        with self._database.read() as connection:
            return connection.execute(select(func.max(AUDIT.table.c.sequence)).where(ours)).scalar() or 0

    def rows(self) -> Iterator[tuple[AuditRow | None, str]]:
        """Every record in order; (None, what is wrong) for one that is missing or whose seal is bad."""
        expected = 1
        query = select(AUDIT.table).where(AUDIT.table.c.hsm_id == self._hsm_id).order_by(AUDIT.table.c.sequence)
        with self._database.read() as connection:
            for columns in connection.execute(query).mappings():
                if columns["sequence"] != expected:
                    yield None, f"records {expected} to {columns['sequence'] - 1} are missing"
                expected = columns["sequence"] + 1
                try:
                    yield self._sealer.opened(AUDIT, columns)[0], ""
                except SealError as error:
                    yield None, f"record {columns['sequence']}: {error}"


class Lockouts:
    """Bad logins in a row, per user, on this HSM."""

    def __init__(self, database: Database, hsm_id: str, sealer: Sealer) -> None:
        self._hsm_id = hsm_id
        self._sealer = sealer
        self._failures: dict[int, int] = {}
        self.problems: list[str] = []
        with database.read() as connection:
            rows = connection.execute(select(LOCKOUT.table).where(LOCKOUT.table.c.hsm_id == hsm_id)).mappings().all()
        for columns in rows:
            try:
                self._failures[columns["user_id"]] = sealer.opened(LOCKOUT, columns)[0].failures
            except SealError as error:
                self._failures[columns["user_id"]] = TAMPERED_FAILURES
                self.problems.append(f"lockout of user {columns['user_id']}: {error}; the user counts as locked")

    def failures(self, user_id: int) -> int:
        """How many logins in a row have failed."""
        return self._failures.get(user_id, 0)

    def columns(self, user_id: int, failures: int) -> dict[str, Any]:
        """The sealed columns of a new count."""
        return self._sealer.columns(LockoutRow(self._hsm_id, user_id, failures))[0]

    def store(self, connection: Connection, columns: dict[str, Any]) -> None:
        """Write a count."""
        upsert(connection, LOCKOUT, [columns])

    def stored(self, columns: Mapping[str, Any]) -> None:
        """The transaction of store() is committed."""
        self._failures[columns["user_id"]] = columns["failures"]
