"""The first tables of a cluster."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _key(name: str) -> sa.Column[int]:
    return sa.Column(name, NUMBER, primary_key=True, autoincrement=False)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, NUMBER, nullable=False)


def _small(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.SmallInteger, nullable=False)


def _text(name: str, *, primary_key: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, primary_key=primary_key, nullable=False)


def _blob(name: str) -> sa.Column[bytes]:
    return sa.Column(name, sa.LargeBinary, nullable=False)


def _replicated(name: str, *columns: sa.Column[int] | sa.Column[str] | sa.Column[bytes]) -> None:
    op.create_table(name, *columns, _number("version"), _small("deleted"), _blob("mac"))
    op.create_index(f"ix_{name}_version", name, ["version"])


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "cluster",
        _text("cluster_id", primary_key=True),
        _text("incarnation"),
        _number("version"),
        _text("state"),
        _number("purged"),
        _blob("digest"),
        _small("deleted"),
        _blob("mac"),
    )
    _replicated("partitions", _key("id"), _text("name"))
    _replicated(
        "users",
        _key("id"),
        _number("partition_id"),
        _text("name"),
        _small("role"),
        _blob("salt"),
        _blob("password_hash"),
        _number("password_version"),
    )
    _replicated(
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
    _replicated("shares", _key("handle"), _key("user_id"))
    _replicated("members", _text("hsm_id", primary_key=True), _text("socket"), _blob("certificate"), _blob("sealed"))
    op.create_table("lockouts", _text("hsm_id", primary_key=True), _key("user_id"), _number("failures"), _blob("mac"))
    op.create_table(
        "audit",
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
    op.create_table("leases", _text("hsm_id", primary_key=True), _number("renewal"))
