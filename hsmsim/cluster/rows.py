"""Rows and their seals: a value <-> the columns of its table, with a MAC over every one of them.

The MAC is over length-prefixed fields, so no two rows have the same encoding: a format mark, the table, the cluster,
its incarnation, then each field of the dataclass in order (version and deleted among them), each with its type. A
column of another type than the field's (SQLite stores what it is given) is a bad seal like any other.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from hsmsim.cluster.model import (
    AuditRow,
    ClusterRow,
    IdentityRow,
    LockoutRow,
    MemberRow,
    MtlsRow,
    ObjectRow,
    PartitionRow,
    ShareRow,
    UserRow,
)
from hsmsim.storage import tables

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy import Table

    from hsmsim.cluster.model import Keyring

_FORMAT: Final = b"hsmsim row 1"
_SIGNED = 1 << 63


class SealError(ValueError):
    """Columns that do not make a row of this cluster; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How a row class is stored. key: the names of its primary key."""

    row: type[Any]
    table: Table
    key: tuple[str, ...]
    purpose: str = "row"

    @property
    def name(self) -> str:
        """The table's name."""
        return self.table.name

    def key_of(self, row: object) -> tuple[Any, ...]:
        """The values of the primary key."""
        return tuple(getattr(row, name) for name in self.key)


CLUSTER: Final = Kind(ClusterRow, tables.CLUSTER, ("cluster_id",))
IDENTITY: Final = Kind(IdentityRow, tables.IDENTITY, ("id",))
MTLS: Final = Kind(MtlsRow, tables.MTLS, ("id",))
PARTITION: Final = Kind(PartitionRow, tables.PARTITIONS, ("id",))
USER: Final = Kind(UserRow, tables.USERS, ("id",))
OBJECT: Final = Kind(ObjectRow, tables.OBJECTS, ("handle",))
SHARE: Final = Kind(ShareRow, tables.SHARES, ("handle", "user_id"))
MEMBER: Final = Kind(MemberRow, tables.MEMBERS, ("hsm_id",))
LOCKOUT: Final = Kind(LockoutRow, tables.LOCKOUTS, ("hsm_id", "user_id"))
AUDIT: Final = Kind(AuditRow, tables.AUDIT, ("hsm_id", "sequence"), purpose="audit")

# In the order in which the rows of one version are applied: what others refer to comes first.
REPLICATED: Final = (IDENTITY, MTLS, PARTITION, USER, OBJECT, SHARE, MEMBER)
_OF: Final[Mapping[type[Any], Kind]] = {kind.row: kind for kind in (CLUSTER, *REPLICATED, LOCKOUT, AUDIT)}
_FIELDS: Final[Mapping[type[Any], tuple[tuple[str, str], ...]]] = {
    row: tuple((field.name, str(field.type)) for field in fields(row)) for row in _OF
}


def kind_of(row: object) -> Kind:
    """The kind of a row."""
    return _OF[type(row)]


def _blob(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


def _encoded(declared: str, value: object) -> bytes:
    """One field; SealError where the value is not of the declared type."""
    match declared, value:
        case "int", int() if not isinstance(value, bool) and -_SIGNED <= value < _SIGNED:
            return b"i" + value.to_bytes(8, "big", signed=True)
        case "bool", bool():
            return b"b\1" if value else b"b\0"
        case "str", str():
            return b"s" + _blob(value.encode("utf-8", "surrogateescape"))
        case "bytes", bytes():
            return b"r" + _blob(value)
    raise SealError(f"{type(value).__name__} where {declared} belongs")


class Sealer:
    """Makes and checks the MACs of one incarnation of a cluster."""

    __slots__ = ("_keyring", "_prefix")

    def __init__(self, keyring: Keyring, cluster_id: str, incarnation: str) -> None:
        self._keyring = keyring
        self._prefix = _FORMAT + _blob(cluster_id.encode()) + _blob(incarnation.encode())

    def mac(self, row: object) -> bytes:
        """The row's MAC, 32 bytes; SealError for a value that no column can hold."""
        kind = kind_of(row)
        parts = [self._prefix, _blob(kind.name.encode())]
        for name, declared in _FIELDS[kind.row]:
            parts.append(_encoded(declared, getattr(row, name)))
        return self._keyring.mac(kind.purpose, b"".join(parts))

    def columns(self, row: object) -> tuple[dict[str, Any], bytes]:
        """The row as columns with its MAC, and the MAC."""
        mac = self.mac(row)
        values = {name: _stored(declared, getattr(row, name)) for name, declared in _FIELDS[type(row)]}
        return values | {"mac": mac}, mac

    def opened(self, kind: Kind, columns: Mapping[Any, Any]) -> tuple[Any, bytes]:
        """The row that the columns hold, and its MAC; SealError where the MAC is not theirs."""
        row = unchecked(kind, columns)
        mac = columns["mac"]
        if not isinstance(mac, bytes) or not hmac.compare_digest(mac, self.mac(row)):
            raise SealError("the MAC does not match the columns")
        return row, mac


def _stored(declared: str, value: object) -> object:
    return int(bool(value)) if declared == "bool" else value


def _loaded(declared: str, value: object) -> object:
    """Flags are stored as 0 and 1; anything else stays what it is and fails the MAC."""
    return value == 1 if declared == "bool" and type(value) is int and value in (0, 1) else value


def unchecked(kind: Kind, columns: Mapping[Any, Any]) -> Any:  # noqa: ANN401 - the class is the kind's
    """The row that the columns hold, whoever wrote them."""
    return kind.row(*(_loaded(declared, columns[name]) for name, declared in _FIELDS[kind.row]))


def add_digests(digest: bytes, added: Iterable[bytes], removed: Iterable[bytes]) -> bytes:
    """The sum of MACs modulo 2^256: order does not matter, and a row is replaced without reading the others."""
    total = int.from_bytes(digest, "big")
    total += sum(int.from_bytes(mac, "big") for mac in added) - sum(int.from_bytes(mac, "big") for mac in removed)
    return (total % (1 << 256)).to_bytes(32, "big")
