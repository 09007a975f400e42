"""The verified rows in memory, with the indexes that the firmware asks for.

Rules: only rows whose seal was checked come in; reading takes no lock (each map changes by single dictionary
operations), writing happens under the replica's lock. A tombstone is remembered by key and version alone.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from hsmsim.cluster.model import (
    IDENTITY_ID,
    MTLS_ID,
    NON_FIPS,
    ClusterRow,
    IdentityRow,
    MtlsRow,
    ObjectRow,
    ShareRow,
    UserRow,
)
from hsmsim.cluster.rows import IDENTITY, MEMBER, MTLS, OBJECT, PARTITION, REPLICATED, SHARE, USER, kind_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hsmsim.cluster.model import MemberRow, PartitionRow, Row
    from hsmsim.cluster.rows import Kind

_NOBODY: Final[frozenset[int]] = frozenset()
_OLDER: Final = IdentityRow(IDENTITY_ID, NON_FIPS)
"""The identity of a cluster from before there were modes: nothing was forbidden to it."""
_NO_MTLS: Final = MtlsRow(MTLS_ID)


class Table:
    """Live rows and tombstones of one kind."""

    __slots__ = ("dead", "kind", "live")

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.live: dict[Any, Any] = {}
        self.dead: dict[Any, int] = {}

    def key(self, row: object) -> Any:  # noqa: ANN401 - an int, a str or a pair
        """The key in `live`: the column itself where the primary key has one column."""
        values = self.kind.key_of(row)
        return values[0] if len(values) == 1 else values

    def version_of(self, key: object) -> int | None:
        """The version of a row or tombstone, None for a key never seen."""
        row = self.live.get(key)
        return row.version if row is not None else self.dead.get(key)

    def versions(self) -> Iterator[tuple[Any, int]]:
        """Every key with its version, tombstones included."""
        for key, row in self.live.items():
            yield key, row.version
        yield from self.dead.items()


class Memory:
    """The state of a cluster at one version."""

    def __init__(self, cluster: ClusterRow) -> None:
        self.cluster = cluster
        self.tables: dict[str, Table] = {kind.name: Table(kind) for kind in REPLICATED}
        self._names: dict[tuple[int, str], int] = {}
        self._owned: dict[int, set[int]] = {}
        self._shares: dict[int, frozenset[int]] = {}

    @property
    def identity(self) -> IdentityRow:
        """Mode and certificates."""
        row: IdentityRow = self.tables[IDENTITY.name].live.get(IDENTITY_ID, _OLDER)
        return row

    @property
    def mtls(self) -> MtlsRow:
        """Trust anchors of clients' certificates."""
        row: MtlsRow = self.tables[MTLS.name].live.get(MTLS_ID, _NO_MTLS)
        return row

    @property
    def partitions(self) -> Mapping[int, PartitionRow]:
        """Live partitions by id."""
        return MappingProxyType(self.tables[PARTITION.name].live)

    @property
    def users(self) -> Mapping[int, UserRow]:
        """Live users by id."""
        return MappingProxyType(self.tables[USER.name].live)

    @property
    def objects(self) -> Mapping[int, ObjectRow]:
        """Live objects by handle."""
        return MappingProxyType(self.tables[OBJECT.name].live)

    @property
    def members(self) -> Mapping[str, MemberRow]:
        """Live members by HSM id."""
        return MappingProxyType(self.tables[MEMBER.name].live)

    def shares(self, handle: int) -> frozenset[int]:
        """Users whom the object is shared with."""
        return self._shares.get(handle, _NOBODY)

    def share(self, handle: int, user_id: int) -> ShareRow | None:
        """One share."""
        row: ShareRow | None = self.tables[SHARE.name].live.get((handle, user_id))
        return row

    def user_named(self, partition_id: int, name: str) -> UserRow | None:
        """A user by name, upper and lower case alike."""
        return self.users.get(self._names.get((partition_id, name.casefold()), 0))

    def owned(self, user_id: int) -> frozenset[int]:
        """Handles of the objects that a user owns."""
        return frozenset(self._owned.get(user_id, ()))

    def place(self, row: Row) -> tuple[str, Any]:
        """The table and the key of a row."""
        name = kind_of(row).name
        return name, "" if isinstance(row, ClusterRow) else self.tables[name].key(row)

    def previous(self, row: Row) -> Row | None:
        """The live row that this one replaces."""
        table = self.tables[kind_of(row).name]
        found: Row | None = table.live.get(table.key(row))
        return found

    def apply(self, row: Row) -> None:
        """Put a verified row or tombstone in place."""
        if isinstance(row, ClusterRow):
            self.cluster = row
            return
        table = self.tables[kind_of(row).name]
        key = table.key(row)
        former = table.live.get(key)
        if row.deleted:
            table.live.pop(key, None)
            table.dead[key] = row.version
        else:
            table.live[key] = row
            table.dead.pop(key, None)
            self._index(row)
        if former is not None:
            self._unindex(former, row)

    def forget_tombstones(self, version: int) -> None:
        """Drop tombstones up to a version: they were purged."""
        for table in self.tables.values():
            for key in [key for key, dead in table.dead.items() if dead <= version]:
                del table.dead[key]

    def _index(self, row: Row) -> None:
        match row:
            case UserRow():
                self._names[row.partition_id, row.name.casefold()] = row.id
            case ObjectRow():
                self._owned.setdefault(row.owner_id, set()).add(row.handle)
            case ShareRow():
                self._shares[row.handle] = self.shares(row.handle) | {row.user_id}

    def _unindex(self, former: Row, now: Row) -> None:
        """Take back what `former` had indexed and `now` has not: an entry that stays is never missing in between."""
        match former, now:
            case UserRow(), UserRow():
                name = (former.partition_id, former.name.casefold())
                stays = not now.deleted and name == (now.partition_id, now.name.casefold())
                if not stays and self._names.get(name) == former.id:
                    del self._names[name]
            case ObjectRow(), ObjectRow():
                if now.deleted or now.owner_id != former.owner_id:
                    self._owned[former.owner_id].discard(former.handle)
            case ShareRow(), ShareRow():
                left = self.shares(former.handle) - {former.user_id}
                if now.deleted and left:
                    self._shares[former.handle] = left
                elif now.deleted:
                    self._shares.pop(former.handle, None)
