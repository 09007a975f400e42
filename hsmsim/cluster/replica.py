"""One HSM's copy of the cluster's rows: reads from memory, writes to SQL, follows what other HSMs commit.

Rules (DESIGN D6):
- A write predicts its version, builds and seals its rows outside the transaction, then takes the cluster row from the
  version before to that one. Another writer came first: nothing is written, the replica catches up and builds again.
- A sync reads cluster row and changed rows in one snapshot, and advances to that version only. Another incarnation, a
  lower version, or purged tombstones that this replica had not passed: everything is read again.
- A row whose seal is wrong is not applied, what was verified before is served on, and an alarm goes to the log, the
  audit log and `alarms`, once per cause. The cluster row's digest over all live rows tells of rows that vanished or
  came back while no HSM was looking; the census tells of those that do while this one runs.
- One lock around writing, applying and the on_change callbacks: changes are seen in the order of versions, and
  `version` is one whose callbacks have returned. Reading takes no lock. Callbacks and builders must not call announce()
  of the links, or wait for another thread that writes.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import delete

from hsmsim.clock import SystemClock
from hsmsim.cluster import sql
from hsmsim.cluster.audit import AuditLog, Lockouts
from hsmsim.cluster.memory import Memory
from hsmsim.cluster.model import AuditEntry, Change, ClusterRow
from hsmsim.cluster.rows import CLUSTER, REPLICATED, Sealer, SealError, add_digests, kind_of, unchecked
from hsmsim.errors import HsmsimError, StorageError
from hsmsim.storage.database import Database

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from sqlalchemy import RowMapping
    from sqlalchemy.engine import Connection

    from hsmsim.clock import Clock
    from hsmsim.cluster.model import (
        IdentityRow,
        Keyring,
        MemberRow,
        MtlsRow,
        ObjectRow,
        PartitionRow,
        Row,
        ShareRow,
        UserRow,
    )
    from hsmsim.cluster.rows import Kind

_LOG = logging.getLogger(__name__)

ATTEMPTS: Final = 200
"""Writers that may come first before a write gives up; each of them is a write that succeeded."""
_REMEMBERED: Final = 4096


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """What one read transaction saw. whole: all rows, not those above the replica's version."""

    cluster: ClusterRow
    mac: bytes
    rows: tuple[tuple[Kind, Sequence[RowMapping]], ...]
    whole: bool


class Replica:
    """The cluster as one HSM knows it. See the module's docstring for its rules."""

    def __init__(
        self, database_url: str, cluster_id: str, hsm_id: str, keyring: Keyring, *, clock: Clock | None = None
    ) -> None:
        self.database = Database(database_url)
        self.cluster_id = cluster_id
        self.hsm_id = hsm_id
        self.alarms = 0
        self.on_change: list[Callable[[Change], None]] = []
        self._keyring = keyring
        self._lock = threading.RLock()
        self._told: set[str] = set()
        self._untold: list[str] = []
        self._digest = bytes(32)
        self._mac = b""
        self._refused: set[tuple[str, Any]] = set()
        own = Sealer(keyring, cluster_id, "")  # an HSM's own rows outlive incarnations
        with self.database.read() as connection:
            snapshot = self._first_read(connection)
        self._sealer = Sealer(keyring, cluster_id, snapshot.cluster.incarnation)
        self._memory = Memory(replace(snapshot.cluster, version=0))
        self._audit = AuditLog(self.database, hsm_id, own, clock or SystemClock())
        self._lockouts = Lockouts(self.database, hsm_id, own)
        self._apply(snapshot)
        self.audit(AuditEntry("BOOT", "", 0, 0, 0, f"boot {self._audit.boot}"))
        for problem in (*self._audit.problems, *self._lockouts.problems):
            self._alarm(problem)
        self._tell_alarms()

    # ---- reading: from memory, without a lock ---------------------------------------------------------------------

    @property
    def cluster(self) -> ClusterRow:
        """The cluster row."""
        return self._memory.cluster

    @property
    def identity(self) -> IdentityRow:
        """The cluster's mode and certificates."""
        return self._memory.identity

    @property
    def mtls(self) -> MtlsRow:
        """Trust anchors of clients' certificates."""
        return self._memory.mtls

    @property
    def version(self) -> int:
        """The version that this replica has applied."""
        return self._memory.cluster.version

    @property
    def boot(self) -> int:
        """How often this HSM has been started, this time included."""
        return self._audit.boot

    @property
    def partitions(self) -> Mapping[int, PartitionRow]:
        """Live partitions by id."""
        return self._memory.partitions

    @property
    def users(self) -> Mapping[int, UserRow]:
        """Live users by id."""
        return self._memory.users

    @property
    def objects(self) -> Mapping[int, ObjectRow]:
        """Live objects by handle."""
        return self._memory.objects

    @property
    def members(self) -> Mapping[str, MemberRow]:
        """Live members by HSM id, this one included."""
        return self._memory.members

    def shares(self, handle: int) -> frozenset[int]:
        """Users whom the object is shared with."""
        return self._memory.shares(handle)

    def share(self, handle: int, user_id: int) -> ShareRow | None:
        """One share, to be replaced by its tombstone."""
        return self._memory.share(handle, user_id)

    def user_named(self, partition_id: int, name: str) -> UserRow | None:
        """A user by name, upper and lower case alike."""
        return self._memory.user_named(partition_id, name)

    def owned(self, user_id: int) -> frozenset[int]:
        """Handles of the objects that a user owns."""
        return self._memory.owned(user_id)

    def failures(self, user_id: int) -> int:
        """Bad logins in a row on this HSM; 255 where the row's seal is bad."""
        return self._lockouts.failures(user_id)

    @property
    def log(self) -> AuditLog:
        """This HSM's audit log."""
        return self._audit

    # ---- writing --------------------------------------------------------------------------------------------------

    def write(self, build: Callable[[int], Sequence[Row]], audit: AuditEntry | None = None) -> int:
        """Commit the rows that build(version) returns, tombstones included, with the audit record; return the version.

        build runs with the replica at version - 1 and again after each lost race, so it checks what must hold (a name
        is free, an object is there), has no effects, and may raise to write nothing. The version of its rows is set
        here; of a ClusterRow only the state is taken. StorageError: unknown whether it was written, all or nothing.
        """
        with self._lock:
            for _ in range(ATTEMPTS):
                version = self._try_write(build, audit)
                if version is not None:
                    return version
                before = (self.cluster.incarnation, self.version)
                self.sync()
                if (self.cluster.incarnation, self.version) == before:
                    break  # nobody was faster: the cluster row is not what was verified
        raise StorageError("The cluster's rows cannot be written: see the alarms in the audit log and the HSM's log.")

    def _try_write(self, build: Callable[[int], Sequence[Row]], audit: AuditEntry | None) -> int | None:
        version = self.version + 1
        built = build(version)
        state = next((row.state for row in built if isinstance(row, ClusterRow)), self.cluster.state)
        rows = tuple(replace(row, version=version) for row in built if not isinstance(row, ClusterRow))
        if len({self._memory.place(row) for row in rows}) != len(rows):
            raise ValueError("a version has at most one row of a key")
        sealed = [(kind_of(row), *self._sealer.columns(row), row) for row in rows]
        digest = self._digest_after((mac, row) for _, _, mac, row in sealed)
        cluster = replace(self.cluster, version=version, state=state, digest=digest)
        columns, mac = self._sealer.columns(cluster)
        with self._audit.entering(audit) as record:
            with self.database.write() as connection:
                if not sql.advance(connection, self.cluster, self._mac, columns):
                    return None
                for kind in REPLICATED:
                    ours = [values for of, values, _, _ in sealed if of is kind]
                    if ours:
                        sql.upsert(connection, kind, ours)
                self._audit.insert(connection, record)
            self._audit.entered(record)
        self._commit_to_memory(cluster, mac, {version: list(rows)})
        return version

    def _digest_after(self, macs: Iterable[tuple[bytes, Row]]) -> bytes:
        """The digest of the live rows once these have been applied."""
        added, removed = [], []
        for mac, row in macs:
            former = self._memory.previous(row)
            if former is not None:
                removed.append(self._sealer.mac(former))
            if not row.deleted:
                added.append(mac)
        return add_digests(self._digest, added, removed)

    def audit(self, entry: AuditEntry) -> None:
        """Write a record of something that changes no row."""
        self._audit.record(entry)

    def set_failures(self, user_id: int, failures: int, audit: AuditEntry | None = None) -> None:
        """Store this HSM's count of bad logins of a user, with the record of why."""
        columns = self._lockouts.columns(user_id, failures)
        with self._audit.entering(audit) as record:
            with self.database.write() as connection:
                self._lockouts.store(connection, columns)
                self._audit.insert(connection, record)
            self._audit.entered(record)
        self._lockouts.stored(columns)

    def purge(self, passed: int) -> None:
        """Delete tombstones up to a version that every member has passed."""
        with self._lock:
            if not any(version <= passed for table in self._memory.tables.values() for version in table.dead.values()):
                return
            cluster = replace(self.cluster, version=self.version + 1, purged=max(passed, self.cluster.purged))
            columns, mac = self._sealer.columns(cluster)
            with self.database.write() as connection:
                if not sql.advance(connection, self.cluster, self._mac, columns):
                    return  # someone else writes: another time
                for kind in REPLICATED:
                    table = kind.table.c
                    dead = (table.deleted == 1, table.version > 0, table.version <= passed)
                    connection.execute(delete(kind.table).where(*dead))
            self._commit_to_memory(cluster, mac, {})

    # ---- following ------------------------------------------------------------------------------------------------

    def sync(self, *, check: bool = False) -> int:
        """Apply what others committed and return the version. check: also look for rows that vanished or went back."""
        with self._lock:
            with self.database.read() as connection:
                snapshot = self._read(connection)
                problems = self._census(connection) if check and snapshot is None else []
            if snapshot is not None:
                self._follow(snapshot)
            for problem in problems:
                self._alarm(problem)
        self._tell_alarms()
        return self.version

    def _first_read(self, connection: Connection) -> _Snapshot:
        columns = self._cluster_columns(connection)
        try:
            cluster, mac = self._opened_cluster(columns)
        except SealError as error:
            raise HsmsimError(
                f"The rows of {self.cluster_id} are not sealed by its masking key ({error}): restore the database."
            ) from error
        return _Snapshot(cluster, mac, self._changed(connection, 0), whole=True)

    def _read(self, connection: Connection) -> _Snapshot | None:
        """What is new since the last time; None for nothing, and for a cluster row that is not to be believed."""
        columns = self._cluster_columns(connection)
        ours = self.cluster
        if columns["mac"] == self._mac and unchecked(CLUSTER, columns) == ours:
            return None
        try:
            cluster, mac = self._opened_cluster(columns)
        except SealError as error:
            self._alarm(f"cluster row: {error}")
            return None
        whole = cluster.incarnation != ours.incarnation or cluster.version <= ours.version
        whole = whole or cluster.purged > ours.version
        return _Snapshot(cluster, mac, self._changed(connection, 0 if whole else ours.version), whole)

    def _cluster_columns(self, connection: Connection) -> RowMapping:
        columns = sql.read_cluster(connection)
        if columns is None:
            raise StorageError(
                f"The database has no row of {self.cluster_id}: it is another cluster's, or was emptied."
            )
        return columns

    @staticmethod
    def _changed(connection: Connection, since: int) -> tuple[tuple[Kind, Sequence[RowMapping]], ...]:
        return tuple((kind, sql.changed(connection, kind, since)) for kind in REPLICATED)

    def _opened_cluster(self, columns: RowMapping) -> tuple[ClusterRow, bytes]:
        if columns["cluster_id"] != self.cluster_id:
            raise SealError(f"it names {columns['cluster_id']!r}")
        sealer = Sealer(self._keyring, self.cluster_id, str(columns["incarnation"]))
        row, mac = sealer.opened(CLUSTER, columns)
        return row, mac

    def _follow(self, snapshot: _Snapshot) -> None:
        cluster = snapshot.cluster
        if cluster.incarnation != self.cluster.incarnation:
            self._sealer = Sealer(self._keyring, self.cluster_id, cluster.incarnation)
        elif cluster.version <= self.version:
            self._alarm(f"the cluster went back from version {self.version} to {cluster.version}")
        self._apply(snapshot)

    def _apply(self, snapshot: _Snapshot) -> None:
        """Verify and apply the rows; those that fail leave an alarm and what was there before."""
        cluster = snapshot.cluster
        rows: dict[int, list[Row]] = {}
        macs: list[tuple[bytes, Row]] = []
        refused: set[tuple[str, Any]] = set()
        for kind, found in snapshot.rows:
            for columns in found:
                try:
                    row, mac = self._sealer.opened(kind, columns)
                    if row.version > cluster.version:
                        raise SealError(f"version {row.version} is not committed")  # noqa: TRY301
                except SealError as error:
                    refused.add(self._memory.place(unchecked(kind, columns)))
                    self._alarm(f"{kind.name} {[columns[name] for name in kind.key]}: {error}")
                else:
                    rows.setdefault(row.version, []).append(row)
                    macs.append((mac, row))
        if snapshot.whole:
            digest = add_digests(bytes(32), (mac for mac, row in macs if not row.deleted), ())
            rows = self._difference(rows, cluster.version, refused)
            self._refused = refused
        else:
            digest = self._digest_after(macs)
            self._refused |= refused
        if digest != cluster.digest and not refused:
            self._alarm(f"version {cluster.version} misses rows, or has rows of another version")
        self._commit_to_memory(cluster, snapshot.mac, rows)

    def _difference(
        self, rows: dict[int, list[Row]], version: int, refused: set[tuple[str, Any]]
    ) -> dict[int, list[Row]]:
        """What a full read changes: new and changed rows, and a tombstone for each row that is gone but not refused."""
        stays = refused | {self._memory.place(row) for group in rows.values() for row in group}
        changes = {of: [row for row in group if self._memory.previous(row) != row] for of, group in rows.items()}
        for name, table in self._memory.tables.items():
            gone = [row for key, row in table.live.items() if (name, key) not in stays]
            changes.setdefault(version, []).extend(replace(row, deleted=True, version=version) for row in gone)
        return changes

    def _commit_to_memory(self, cluster: ClusterRow, mac: bytes, rows: dict[int, list[Row]]) -> None:
        """Make rows visible version by version, and tell the listeners.

        A version counts as applied when they are done: what it takes away is gone, and others may be told so.
        """
        former = self._memory.cluster
        self._mac = mac
        self._digest = cluster.digest
        for version in sorted({*rows, cluster.version}):
            group: list[Row] = list(rows.get(version, ()))
            if version == cluster.version and (cluster.state, cluster.incarnation) != (
                former.state,
                former.incarnation,
            ):
                group.append(cluster)
            for row in group:
                if not isinstance(row, ClusterRow):
                    self._memory.apply(row)
                self._refused.discard(self._memory.place(row))
            if group:
                change = Change(version, tuple(group))
                for listener in self.on_change:
                    listener(change)
            self._memory.apply(cluster if version == cluster.version else replace(former, version=version))
        if cluster.purged > former.purged:
            self._memory.forget_tombstones(cluster.purged)

    def snapshot(self) -> tuple[ClusterRow, list[Row]]:
        """All live rows at one version, the latest; HsmsimError where rows are missing that were not to be believed."""
        self.sync()
        with self._lock:
            if self._refused:
                raise HsmsimError("Rows of the cluster are not sealed by its masking key: see the alarms.")
            return self.cluster, [row for table in self._memory.tables.values() for row in table.live.values()]

    # ---- alarms ---------------------------------------------------------------------------------------------------

    def _census(self, connection: Connection) -> list[str]:
        """Rows that vanished, went back or appeared by another way than a write, compared with memory."""
        problems = []
        for kind in REPLICATED:
            known = dict(self._memory.tables[kind.name].versions())
            total = sum(version % sql.CENSUS_MODULUS for version in known.values())
            if sql.census(connection, kind) == (len(known), total):
                continue
            stored = sql.versions(connection, kind)
            problems += [
                f"{kind.name} {key}: version {known.get(key)} became {stored.get(key)} without a write"
                for key in known.keys() | stored.keys()
                if known.get(key) != stored.get(key) and (kind.name, key) not in self._refused
            ]
        return problems

    def _alarm(self, text: str) -> None:
        """Note a cause, once: it is told when no transaction is open."""
        if text not in self._told:
            if len(self._told) >= _REMEMBERED:
                self._told.clear()
            self._told.add(text)
            self._untold.append(text)

    def _tell_alarms(self) -> None:
        with self._lock:
            untold, self._untold = self._untold, []
        for text in untold:
            self.alarms += 1
            _LOG.error("ALARM: %s: %s", self.cluster_id, text)
            try:
                self.audit(AuditEntry("ALARM", "", 0, 0, 0, text))
            except StorageError as error:
                _LOG.error("The alarm is not in the audit log: %s", error)

    def close(self) -> None:
        """Close the connections to the database."""
        self.database.close()
