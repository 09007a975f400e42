"""The first rows of a cluster, and the rows of HSMs that want to become members.

Rules: a database holds one cluster. A candidate's row has version 0 and no seal: nobody believes more of it than what
its certificate proves, until a member has sealed the masking key to it and written the row as a version of the
cluster.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from hsmsim.cluster import sql
from hsmsim.cluster.rows import CLUSTER, LOCKOUT, MEMBER, REPLICATED, Sealer, add_digests, kind_of, unchecked

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hsmsim.cluster.model import ClusterRow, Keyring, MemberRow, Row
    from hsmsim.storage.database import Database


def is_founded(database: Database) -> bool:
    """Whether the database holds a cluster."""
    with database.read() as connection:
        return sql.read_cluster(connection) is not None


def found(database: Database, cluster: ClusterRow, first: Callable[[], Sequence[Row]], keyring: Keyring) -> bool:
    """Write version 1 of a new cluster; False, and nothing done, where another HSM was first.

    first() makes the masking key and with it the first rows. It runs under the write lock, the only cryptography that
    does: two HSMs that start together must not make two keys.
    """
    with database.write(alone=True) as connection:
        if sql.read_cluster(connection) is not None:
            return False
        rows = first()
        sealer = Sealer(keyring, cluster.cluster_id, cluster.incarnation)
        sealed = [(kind_of(row), *sealer.columns(replace(row, version=1))) for row in rows]
        digest = add_digests(bytes(32), (mac for _, _, mac in sealed), ())
        columns, _ = sealer.columns(replace(cluster, version=1, digest=digest))
        sql.upsert(connection, CLUSTER, [columns])
        for kind, values, _ in sealed:
            sql.upsert(connection, kind, [values])
    return True


def incarnation_of(database: Database) -> str:
    """The cluster's incarnation as it stands in the table, unchecked; empty where there is no cluster."""
    with database.read() as connection:
        columns = sql.read_cluster(connection)
    return "" if columns is None else str(columns["incarnation"])


def restore(database: Database, cluster: ClusterRow, rows: Sequence[Row], keyring: Keyring) -> bool:
    """Put the rows of an image in the place of all that is there, under a new incarnation.

    False, and nothing done, where another HSM was first. `rows` keep their versions; those of version 0 and the
    cluster get a new one, above every version that this database or the image has had, so that no handle comes back.
    """
    with database.write(alone=True) as connection:
        former = sql.read_cluster(connection)
        if former is not None and former["incarnation"] == cluster.incarnation:
            return False
        known = former["version"] if former is not None and isinstance(former["version"], int) else 0
        version = max(known, cluster.version) + 1
        sealer = Sealer(keyring, cluster.cluster_id, cluster.incarnation)
        dated = [row if row.version else replace(row, version=version) for row in rows]
        sealed = [(kind_of(row), *sealer.columns(row)) for row in dated]
        digest = add_digests(bytes(32), (mac for _, _, mac in sealed), ())
        columns, _ = sealer.columns(replace(cluster, version=version, purged=version - 1, digest=digest))
        for kind in (CLUSTER, *REPLICATED, LOCKOUT):
            connection.execute(kind.table.delete())
        sql.upsert(connection, CLUSTER, [columns])
        for kind in REPLICATED:
            ours = [values for of, values, _ in sealed if of is kind]
            if ours:
                sql.upsert(connection, kind, ours)
    return True


def put_candidate(database: Database, member: MemberRow) -> None:
    """Ask to join: a row that is nobody's yet. A row that is there is left alone unless it is an older request."""
    columns: dict[str, Any] = {
        "hsm_id": member.hsm_id,
        "socket": member.socket,
        "certificate": member.certificate,
        "sealed": b"",
        "version": 0,
        "deleted": 0,
        "mac": b"",
    }
    with database.write() as connection:
        table = MEMBER.table
        connection.execute(table.delete().where(table.c.hsm_id == member.hsm_id, table.c.version == 0))
        sql.insert_new(connection, MEMBER, columns)


def read_member(database: Database, hsm_id: str) -> MemberRow | None:
    """A member's or candidate's row as it stands in the table: its seal is not checked."""
    table = MEMBER.table
    with database.read() as connection:
        columns = connection.execute(select(table).where(table.c.hsm_id == hsm_id)).mappings().first()
    row: MemberRow | None = unchecked(MEMBER, columns) if columns is not None else None
    return row


def read_members(database: Database) -> list[MemberRow]:
    """All of them, for an HSM that looks for one that answers."""
    table = MEMBER.table.c
    query = select(MEMBER.table).where(table.version > 0, table.deleted == 0)
    with database.read() as connection:
        found_rows = connection.execute(query).mappings().all()
    return [unchecked(MEMBER, columns) for columns in found_rows]
