"""The gateway's one writer: what many threads may rely on."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import func, insert, inspect, select
from sqlalchemy.exc import IntegrityError

import hsmsim.gateway.assembly  # noqa: F401 - the services, which register their tables
from hsmsim.errors import StorageError
from hsmsim.storage.database import Database
from hsmsim.storage.gateway import GATEWAY, SETTINGS
from hsmsim.storage.migrate import GATEWAY as SCHEMA
from hsmsim.storage.migrate import migrate
from hsmsim.storage.writer import GroupWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy.engine import Connection


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path}/gateway.db"
    migrate(url, SCHEMA)
    one = Database(url)
    yield one
    one.close()


@pytest.fixture
def writer(database: Database) -> Iterator[GroupWriter]:
    one = GroupWriter(database)
    yield one
    one.close()


def adding(name: str) -> Callable[[Connection], str]:
    def work(connection: Connection) -> str:
        connection.execute(insert(SETTINGS).values(name=name, value=b"1"))
        return name

    return work


def names(database: Database) -> set[str]:
    with database.read() as connection:
        return set(connection.execute(select(SETTINGS.c.name)).scalars())


def test_migrations_build_the_tables_of_the_code(database: Database) -> None:
    with database.read() as connection:
        found: Any = inspect(connection)
        tables = {
            name: {(column["name"], str(column["type"]), column["nullable"]) for column in found.get_columns(name)}
            for name in found.get_table_names()
            if name != "alembic_version"
        }
    assert tables == {
        table.name: {
            (column.name, str(column.type.compile(dialect=connection.dialect)), column.nullable)
            for column in table.columns
        }
        for table in GATEWAY.tables.values()
    }


def test_what_was_acknowledged_is_there(database: Database, writer: GroupWriter) -> None:
    assert writer.write(adding("one")) == "one"
    assert names(database) == {"one"}


def test_a_work_that_raises_is_undone_alone(database: Database, writer: GroupWriter) -> None:
    gate = threading.Event()

    def hold(_connection: Connection) -> None:
        gate.wait()

    def half(connection: Connection) -> None:
        adding("half")(connection)
        raise ZeroDivisionError

    futures: list[Any] = [writer.submit(hold)]
    futures += [writer.submit(work) for work in (adding("a"), half, adding("a"), adding("b"))]
    gate.set()
    assert [future.exception().__class__ for future in futures] == [
        type(None),
        type(None),
        ZeroDivisionError,
        IntegrityError,
        type(None),
    ]
    assert names(database) == {"a", "b"}


def test_many_threads(database: Database, writer: GroupWriter) -> None:
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda number: writer.write(adding(str(number))), range(500))) == [
            str(number) for number in range(500)
        ]
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(SETTINGS)).scalar() == 500


def test_closing_finishes_what_was_submitted_and_refuses_more(database: Database) -> None:
    writer = GroupWriter(database)
    futures = [writer.submit(adding(str(number))) for number in range(200)]
    writer.close()
    assert [future.result(0) for future in futures] == [str(number) for number in range(200)]
    with pytest.raises(StorageError, match="stopping"):
        writer.submit(adding("late"))


def test_a_work_that_waits_for_another_is_told(writer: GroupWriter) -> None:
    def inner(_connection: Connection) -> None:
        writer.write(adding("never"))

    with pytest.raises(RuntimeError, match="may not wait"):
        writer.write(inner)


def test_a_database_that_is_away_fails_all_and_comes_back(database: Database, writer: GroupWriter) -> None:
    blocker = Database(database.url)
    with blocker.write() as connection:
        connection.execute(insert(SETTINGS).values(name="blocker", value=b""))
        with pytest.raises(StorageError, match="locked"):
            writer.write(adding("one"))
    writer.write(adding("two"))
    assert names(database) == {"blocker", "two"}
