"""The database as hsmsim uses it."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_mock_engine, inspect

from hsmsim.errors import HsmsimError, StorageError
from hsmsim.storage.database import Database
from hsmsim.storage.migrate import CLUSTER, GATEWAY, Schema, migrate, upgrade
from hsmsim.storage.tables import METADATA

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/cluster.db"
    migrate(url)
    return url


def test_migrations_build_the_tables_of_the_code(url: str) -> None:
    with Database(url).read() as connection:
        found = inspect(connection)
        assert set(found.get_table_names()) == {*METADATA.tables, "alembic_version"}
        for table in METADATA.sorted_tables:
            columns = {column["name"]: column for column in found.get_columns(table.name)}
            assert list(columns) == [column.name for column in table.columns]
            dialect = connection.dialect
            for column in table.columns:
                assert str(columns[column.name]["type"]) == column.type.compile(dialect)
                assert columns[column.name]["nullable"] is False
            keys = found.get_pk_constraint(table.name)["constrained_columns"]
            assert keys == [column.name for column in table.primary_key]
            assert {index["name"] for index in found.get_indexes(table.name)} == {index.name for index in table.indexes}


@pytest.mark.parametrize("schema", [CLUSTER, GATEWAY], ids=["cluster", "gateway"])
def test_an_empty_file_gets_what_the_migrations_make(schema: Schema, tmp_path: Path) -> None:
    migrate(f"sqlite:///{tmp_path}/new.db", schema)
    database = Database(f"sqlite:///{tmp_path}/migrated.db")
    with database.write() as connection:
        upgrade(connection, schema)
    database.close()
    new, migrated = (everything(tmp_path / name) for name in ("new.db", "migrated.db"))
    assert new == migrated, "run scripts/gen-schemas"
    assert f"""INSERT INTO "alembic_version" VALUES('{schema.head}');""" in new


def everything(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as raw:
        return list(raw.iterdump())


def test_postgresql_gets_the_same_tables() -> None:
    statements: list[str] = []
    engine = create_mock_engine(
        "postgresql://", lambda sql, *_, **__: statements.append(str(sql.compile(dialect=engine.dialect)))
    )  # type: ignore[attr-defined]
    METADATA.create_all(engine, checkfirst=False)
    objects = next(text for text in statements if "CREATE TABLE objects" in text)
    assert "handle BIGINT NOT NULL" in objects
    assert "material BYTEA NOT NULL" in objects


def test_migrating_again_changes_nothing_and_a_newer_database_is_refused(url: str) -> None:
    migrate(url)
    database = Database(url)
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StorageError, match=f"revision 9999, newer than this hsmsim \\({CLUSTER.head}\\)"):
        migrate(url)


def test_processes_that_start_together_migrate_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/cluster.db"
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=migrate, args=(url,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4


def test_many_open_a_new_file_at_once(tmp_path: Path) -> None:
    def open_first(url: str, together: threading.Barrier) -> None:
        together.wait()
        with Database(url).read() as connection:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"

    for round_ in range(10):
        url, together = f"sqlite:///{tmp_path}/{round_}.db", threading.Barrier(8)
        with ThreadPoolExecutor(8) as pool:
            for opened in [pool.submit(open_first, url, together) for _ in range(8)]:
                opened.result()


def test_files_are_private_and_durable(url: str, tmp_path: Path) -> None:
    os.umask(0o022)
    database = Database(url)
    with database.write() as connection:
        connection.exec_driver_sql("DELETE FROM leases")
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    with Database(url, durable=False).read() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1


def test_a_block_that_raises_is_rolled_back(url: str) -> None:
    database = Database(url)

    def half() -> None:
        with database.write() as connection:
            connection.exec_driver_sql("INSERT INTO leases VALUES ('hsm', 1)")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    with database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM leases").scalar() == 0


def test_a_reader_sees_one_snapshot_and_does_not_block_a_writer(url: str) -> None:
    database = Database(url)
    with database.read() as reader:
        assert reader.exec_driver_sql("SELECT count(*) FROM leases").scalar() == 0
        with database.write() as writer:
            writer.exec_driver_sql("INSERT INTO leases VALUES ('hsm', 1)")
        assert reader.exec_driver_sql("SELECT count(*) FROM leases").scalar() == 0
    with database.read() as reader:
        assert reader.exec_driver_sql("SELECT count(*) FROM leases").scalar() == 1


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense", "is no database URL"),
        ("sqlite://", "names no file"),
        ("sqlite:////nowhere/at/all.db", "cannot be opened: No such file or directory"),
    ],
)
def test_a_bad_url_is_explained(url: str, words: str) -> None:
    with pytest.raises(HsmsimError, match=words):
        Database(url)
