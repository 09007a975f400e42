"""Who can write SQL cannot change a row: each column of each replicated row, rows that vanish, rows from the past."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from unit.replicas import ADMIN, ALICE, BOB, HSM_A, HSM_B, make_database, new_object, open_replica, run_sql, tombstone

from hsmsim.cluster.audit import TAMPERED_FAILURES
from hsmsim.cluster.rows import REPLICATED
from hsmsim.errors import HsmsimError, StorageError
from hsmsim.storage.tables import CLUSTER

if TYPE_CHECKING:
    from pathlib import Path

    from hsmsim.cluster.replica import Replica

VICTIM = {
    "identity": "id = 1",
    "mtls": "id = 1",
    "partitions": "id = 1",
    "users": "id = 18",
    "objects": "handle = 20",
    "shares": "handle = 20",
    "members": "1",
}
COLUMNS = [(kind.name, column.name) for kind in REPLICATED for column in kind.table.columns]
# Values of every storage class, for a column of any: SQLite takes them all.
WRONG: list[Any] = [7, -1, 2**62, 0.5, "", "x", b"", b"x", bytes(32), "\udcff"]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return make_database(tmp_path)


def served(replica: Replica) -> dict[str, Any]:
    return {name: dict(table.live) for name, table in replica._memory.tables.items()}


def change(path: Path, table: str, column: str, wrong: object) -> bool:
    """Whether the database took the value, and it is another one than before."""
    value = wrong.encode("utf-8", "surrogateescape") if wrong == "\udcff" else wrong
    setting = f"{column} = CAST(? AS TEXT)" if wrong == "\udcff" else f"{column} = ?"
    with contextlib.closing(sqlite3.connect(path)) as raw:
        raw.text_factory = bytes
        before = raw.execute(f"SELECT * FROM {table}").fetchall()
        with contextlib.suppress(sqlite3.IntegrityError), raw:
            raw.execute(f"UPDATE {table} SET {setting} WHERE {VICTIM[table]}", (value,))
        after = raw.execute(f"SELECT * FROM {table}").fetchall()
    return before != after


@pytest.mark.parametrize(("table", "column"), COLUMNS)
def test_a_changed_column_is_refused_at_a_start(url: str, tmp_path: Path, table: str, column: str) -> None:
    victim = {
        "identity": 1,
        "mtls": 1,
        "partitions": 1,
        "users": ALICE,
        "objects": 20,
        "shares": (20, BOB),
        "members": HSM_A,
    }[table]
    expected = served(open_replica(url))
    del expected[table][victim]
    path = tmp_path / "changed.db"
    changed = 0
    for wrong in WRONG:
        with (
            contextlib.closing(sqlite3.connect(tmp_path / "cluster.db")) as good,
            contextlib.closing(sqlite3.connect(path)) as copy,
        ):
            good.backup(copy)
        if change(path, table, column, wrong):
            changed += 1
            replica = open_replica(f"sqlite:///{path}")
            assert served(replica) == expected, wrong
            assert replica.alarms >= 1, wrong
            replica.close()
    assert changed >= 3


@pytest.mark.parametrize("column", [column.name for column in CLUSTER.columns])
def test_a_changed_cluster_row_is_refused(url: str, column: str) -> None:
    replica = open_replica(url)
    for wrong in WRONG:
        if wrong == "\udcff" or (column == "deleted" and wrong == 0):
            continue
        run_sql(url, f"UPDATE cluster SET {column} = ?", wrong)
        replica.sync(check=True)
        assert replica.version == 1
        assert replica.cluster.state == "INITIALIZED"
        assert replica.alarms >= 1
        with pytest.raises(HsmsimError):
            open_replica(url, HSM_B)
        break_write = column in {"cluster_id", "incarnation", "version", "mac"}
        if break_write:
            with pytest.raises(StorageError):
                replica.write(lambda version: [new_object(version)])
    assert len(replica.users) == 3


def test_a_changed_row_does_not_stop_the_others_while_running(url: str) -> None:
    one, two = open_replica(url), open_replica(url, HSM_B)
    one.write(lambda version: [new_object(version), replace(one.users[ALICE], password_hash=b"new")])
    run_sql(url, "UPDATE users SET role = 1 WHERE id = ?", ALICE)
    two.sync()
    assert two.version == 2
    assert 32 in two.objects
    assert two.users[ALICE].role == 2
    assert two.users[ALICE].password_hash == b"hash", "what was verified before is served on"
    assert two.alarms == 1
    assert two.sync() == 2
    assert two.alarms == 1, "one cause, one alarm"


@pytest.mark.parametrize("table", [kind.name for kind in REPLICATED])
def test_a_row_that_vanishes_is_noticed(url: str, table: str) -> None:
    replica = open_replica(url)
    good = served(replica)
    run_sql(url, f"DELETE FROM {table} WHERE {VICTIM[table]}")
    replica.sync(check=True)
    assert replica.alarms == 1
    assert served(replica) == good
    replica.sync(check=True)
    assert replica.alarms == 1
    started = open_replica(url, HSM_B)
    assert started.alarms == 1, "the digest tells, even where nobody watched"


def test_a_row_from_the_past_is_noticed(url: str) -> None:
    replica = open_replica(url)
    run_sql(url, "CREATE TABLE kept AS SELECT * FROM users")
    replica.write(lambda _: [replace(replica.users[ALICE], password_hash=b"new", password_version=2)])
    run_sql(url, "DELETE FROM users WHERE id = ?", ALICE)
    run_sql(url, "INSERT INTO users SELECT * FROM kept WHERE id = ?", ALICE)
    replica.sync(check=True)
    assert replica.users[ALICE].password_hash == b"new"
    assert replica.alarms == 1
    assert open_replica(url, HSM_B).alarms == 1


def test_a_deleted_row_that_comes_back_is_noticed(url: str) -> None:
    replica = open_replica(url)
    run_sql(url, "CREATE TABLE kept AS SELECT * FROM objects")
    replica.write(lambda _: [tombstone(replica.objects[20])])
    replica.purge(2)
    run_sql(url, "INSERT INTO objects SELECT * FROM kept")
    replica.sync(check=True)
    assert 20 not in replica.objects
    assert replica.alarms == 1
    assert open_replica(url, HSM_B).alarms == 1


def test_a_row_of_another_cluster_or_table_is_refused(url: str, tmp_path: Path) -> None:
    elsewhere = tmp_path / "other"
    elsewhere.mkdir()
    foreign = make_database(elsewhere)
    run_sql(foreign, "UPDATE cluster SET incarnation = incarnation")
    replica = open_replica(url)
    replica.write(lambda version: [new_object(version)])
    run_sql(url, "UPDATE shares SET mac = (SELECT mac FROM objects WHERE handle = 32)")
    assert open_replica(url, HSM_B).shares(20) == frozenset()


def test_an_older_database_is_read_again_with_an_alarm(url: str) -> None:
    replica = open_replica(url)
    run_sql(url, "CREATE TABLE kept AS SELECT * FROM cluster")
    replica.write(lambda version: [new_object(version)])
    run_sql(url, "DELETE FROM cluster")
    run_sql(url, "INSERT INTO cluster SELECT * FROM kept")
    run_sql(url, "DELETE FROM objects WHERE handle = 32")
    assert replica.sync() == 1
    assert 32 not in replica.objects
    assert replica.alarms == 1
    replica.write(lambda version: [new_object(version)])
    assert open_replica(url).alarms == 0


def test_a_row_above_the_committed_version_is_refused(url: str) -> None:
    replica = open_replica(url)
    run_sql(url, "CREATE TABLE kept AS SELECT * FROM cluster")
    replica.write(lambda version: [new_object(version)])
    run_sql(url, "DELETE FROM cluster")
    run_sql(url, "INSERT INTO cluster SELECT * FROM kept")
    started = open_replica(url, HSM_B)
    assert 32 not in started.objects
    assert started.alarms == 1


def test_a_lockout_row_that_was_changed_counts_as_locked(url: str) -> None:
    replica = open_replica(url)
    replica.set_failures(ALICE, 4)
    replica.set_failures(ADMIN, 1)
    assert open_replica(url).failures(ALICE) == 4
    assert open_replica(url, HSM_B).failures(ALICE) == 0, "counted per HSM"
    run_sql(url, "UPDATE lockouts SET failures = 0 WHERE user_id = ?", ALICE)
    started = open_replica(url)
    assert started.failures(ALICE) == TAMPERED_FAILURES
    assert started.failures(ADMIN) == 1
    assert started.alarms == 1
    started.set_failures(ALICE, 0)
    assert open_replica(url).failures(ALICE) == 0
