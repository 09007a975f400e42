"""The tables of a cluster's database.

Rules: every replicated row has `version`, `deleted` and `mac`; the MAC covers all other columns (hsmsim.cluster.rows),
so columns are read as the database holds them, without a conversion that could hide a change: flags are integers,
blobs are taken raw. Unsigned 64-bit values above 2^63-1 have no column type. Migrations build the same tables; a test
compares the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, SmallInteger, Table, Text
from sqlalchemy.types import TypeDecorator

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect

METADATA: Final = MetaData()


class Raw(LargeBinary):
    """Bytes exactly as the driver gives them: LargeBinary would turn a number that SQL put there into zero bytes."""

    def result_processor(self, dialect: Dialect, coltype: object) -> None:
        """Convert nothing."""


class Number(TypeDecorator[int]):
    """A signed 64-bit integer; SQLite knows only INTEGER as an alias of the row id."""

    impl = BigInteger().with_variant(Integer(), "sqlite")
    cache_ok = True


def _replicated(name: str, *columns: Column[Any]) -> Table:
    return Table(
        name,
        METADATA,
        *columns,
        Column("version", Number, nullable=False),
        Column("deleted", SmallInteger, nullable=False),
        Column("mac", Raw, nullable=False),
        Index(f"ix_{name}_version", "version"),
    )


def _key(name: str) -> Column[int]:
    return Column(name, Number, primary_key=True, autoincrement=False)


def _number(name: str) -> Column[int]:
    return Column(name, Number, nullable=False)


def _small(name: str) -> Column[int]:
    return Column(name, SmallInteger, nullable=False)


def _text(name: str, *, primary_key: bool = False) -> Column[str]:
    return Column(name, Text, primary_key=primary_key, nullable=False)


def _blob(name: str) -> Column[bytes]:
    return Column(name, Raw, nullable=False)


CLUSTER: Final = Table(
    "cluster",
    METADATA,
    _text("cluster_id", primary_key=True),
    _text("incarnation"),
    _number("version"),
    _text("state"),
    _number("purged"),
    _blob("digest"),
    _small("deleted"),
    _blob("mac"),
)
# One row, with id 1; a cluster from before there were modes has none.
IDENTITY: Final = _replicated(
    "identity",
    _key("id"),
    _text("mode"),
    _small("limited_write"),
    _blob("key"),
    _blob("csr"),
    _blob("hsm_certificate"),
    _blob("aws_hardware"),
    _blob("manufacturer_hardware"),
    _blob("certificate"),
    _blob("trust_anchor"),
)
# One row, with id 1, once a trust anchor was registered.
MTLS: Final = _replicated("mtls", _key("id"), _small("enforced"), _blob("anchor_1"), _blob("anchor_2"))
PARTITIONS: Final = _replicated("partitions", _key("id"), _text("name"))
USERS: Final = _replicated(
    "users",
    _key("id"),
    _number("partition_id"),
    _text("name"),
    _small("role"),
    _blob("salt"),
    _blob("password_hash"),
    _number("password_version"),
)
OBJECTS: Final = _replicated(
    "objects",
    _key("handle"),
    _number("partition_id"),
    _number("owner_id"),
    _number("object_class"),
    _number("key_type"),
    _small("private"),
    _blob("attributes"),
    _blob("material"),
)
SHARES: Final = _replicated("shares", _key("handle"), _key("user_id"))
# version 0: an HSM that asks to join; nobody vouches for the row yet.
MEMBERS: Final = _replicated(
    "members", _text("hsm_id", primary_key=True), _text("socket"), _blob("certificate"), _blob("sealed")
)

# Not replicated: each HSM's own.
LOCKOUTS: Final = Table(
    "lockouts", METADATA, _text("hsm_id", primary_key=True), _key("user_id"), _number("failures"), _blob("mac")
)
AUDIT: Final = Table(
    "audit",
    METADATA,
    _text("hsm_id", primary_key=True),
    _key("sequence"),
    _number("boot"),
    _number("time"),
    _text("opcode"),
    _text("user"),
    _small("role"),
    _number("rv"),
    _number("handle"),
    _text("detail"),
    _blob("mac"),
)
# renewal: a counter that moves with each renewal, so that no two clocks are ever compared.
LEASES: Final = Table("leases", METADATA, _text("hsm_id", primary_key=True), _number("renewal"))
