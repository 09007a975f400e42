"""The few statements of the replicated rows, for SQLite and PostgreSQL alike."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import func, select, update
from sqlalchemy.dialects import sqlite

from hsmsim.cluster.rows import CLUSTER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Executable, RowMapping
    from sqlalchemy.dialects import postgresql
    from sqlalchemy.engine import Connection

    from hsmsim.cluster.model import ClusterRow
    from hsmsim.cluster.rows import Kind

CENSUS_MODULUS: Final = 1 << 31
"""Keeps the sum of versions far from an overflow, whatever SQL put there."""


def upsert(connection: Connection, kind: Kind, rows: Sequence[dict[str, Any]]) -> None:
    """Insert the rows, or replace those whose key is there."""
    connection.execute(_upsert(connection.dialect.name, kind), list(rows))


@cache  # building the statement takes as long as running it
def _upsert(dialect: str, kind: Kind) -> Executable:
    statement = _insert(dialect, kind)
    rest = {column.name: column for column in statement.excluded if column.name not in kind.key}
    upserting: Executable = statement.on_conflict_do_update(index_elements=list(kind.key), set_=rest)
    return upserting


def _insert(dialect: str, kind: Kind) -> sqlite.Insert | postgresql.Insert:
    if dialect == "postgresql":
        from sqlalchemy.dialects import postgresql  # noqa: PLC0415 - 2 MB that an HSM on SQLite need not carry

        return postgresql.insert(kind.table)
    return sqlite.insert(kind.table)


def insert_new(connection: Connection, kind: Kind, columns: dict[str, Any]) -> bool:
    """Insert a row; False where its key is there."""
    statement = _insert(connection.dialect.name, kind).on_conflict_do_nothing().values(columns)
    return connection.execute(statement.returning(kind.table.c[kind.key[0]])).first() is not None


def read_cluster(connection: Connection) -> RowMapping | None:
    """The cluster row: one per database."""
    return connection.execute(select(CLUSTER.table)).mappings().first()


def advance(connection: Connection, former: ClusterRow, former_mac: bytes, columns: dict[str, Any]) -> bool:
    """Take the cluster row from its former state to the next; False where another writer, or tampering, came first.

    Taking it first makes versions commit in order: on PostgreSQL a second writer waits here for the first one's end.
    """
    table = CLUSTER.table
    done = connection.execute(
        update(table)
        .where(
            table.c.cluster_id == former.cluster_id,
            table.c.incarnation == former.incarnation,
            table.c.version == former.version,
            table.c.mac == former_mac,
        )
        .values(columns)
    )
    return done.rowcount == 1


def changed(connection: Connection, kind: Kind, since: int) -> Sequence[RowMapping]:
    """Rows and tombstones above a version; version 0 is a candidate for membership, which nobody vouches for."""
    table = kind.table
    return connection.execute(select(table).where(table.c.version > since).order_by(table.c.version)).mappings().all()


def census(connection: Connection, kind: Kind) -> tuple[int, int]:
    """How many rows and tombstones there are, and a sum of their versions; read from the index alone."""
    version = kind.table.c.version
    query = select(func.count(), func.sum(version % CENSUS_MODULUS)).where(version > 0)
    count, total = connection.execute(query).one()
    return int(count), int(total or 0)


def versions(connection: Connection, kind: Kind) -> dict[Any, Any]:
    """The version of every row and tombstone by key, as memory.Table has it."""
    table = kind.table
    keys = [table.c[name] for name in kind.key]
    found = connection.execute(select(*keys, table.c.version).where(table.c.version > 0)).all()
    return {tuple(row[:-1]) if len(keys) > 1 else row[0]: row[-1] for row in found}
