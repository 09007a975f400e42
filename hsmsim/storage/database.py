"""An SQL database as hsmsim uses it: one SQLite file, or PostgreSQL across machines.

Rules: a `write` block holds the write lock from its start (SQLite: BEGIN IMMEDIATE; PostgreSQL: the first UPDATE of the
cluster row), is durable when it returns, and is rolled back whole by any exception. A `read` block sees one snapshot.
Every driver error leaves as a StorageError.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from hsmsim.errors import HsmsimError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Connection, Engine

BUSY_TIMEOUT_MS: Final = 5000
_WAL_PAUSE_S: Final = 0.005
_READ: Final = "hsmsim_read"
_ADVISORY_LOCK: Final = 0x68736D73696D  # "hsmsim"


class Database:
    """Connections to one database. durable=False: a commit may be lost with the machine, never with a process."""

    def __init__(self, url: str, *, durable: bool = True) -> None:
        self.url = url
        self._engine = _sqlite(url, durable=durable) if _is_sqlite(url) else _server(url)
        self.dialect = self._engine.dialect.name

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one snapshot and takes no lock."""
        options: dict[str, Any] = {_READ: True}
        if self.dialect != "sqlite":
            options["isolation_level"] = "REPEATABLE READ"
        with _translated(self.url), self._engine.connect() as connection:
            reading = connection.execution_options(**options)
            with reading.begin():
                yield reading

    @contextmanager
    def write(self, *, alone: bool = False) -> Iterator[Connection]:
        """A transaction, committed at the end of the block. alone: no other such block runs anywhere meanwhile."""
        with _translated(self.url), self._engine.begin() as connection:
            if alone and self.dialect == "postgresql":
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})")
            yield connection

    def close(self) -> None:
        """Close idle connections."""
        self._engine.dispose()


@contextmanager
def _translated(url: str) -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        reason = error.orig if isinstance(error, DBAPIError) else error
        where = make_url(url).render_as_string(hide_password=True)
        raise StorageError(f"The database {where} cannot be used: {reason}.") from error


def _is_sqlite(url: str) -> bool:
    try:
        return make_url(url).get_backend_name() == "sqlite"
    except ArgumentError as error:
        raise HsmsimError(f"{url!r} is no database URL; write sqlite:////folder/cluster.db, for instance.") from error


def _server(url: str) -> Engine:
    return create_engine(url, pool_pre_ping=True, isolation_level="READ COMMITTED")


def _sqlite(url: str, *, durable: bool) -> Engine:
    path = make_url(url).database
    if not path or path == ":memory:":
        raise HsmsimError(f"{url!r} names no file; write sqlite:////folder/cluster.db.")
    _make_private(path)
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000})
    pragmas = (
        f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}",
        "PRAGMA foreign_keys=ON",
        "PRAGMA trusted_schema=OFF",
        "PRAGMA cache_size=-1024",
    )

    def connect(raw: Any, _record: object) -> None:  # noqa: ANN401 - a driver's connection has no common type
        raw.isolation_level = None  # transactions are begun below, by us
        raw.text_factory = _text
        _use_wal(raw)
        for pragma in pragmas:
            raw.execute(pragma)

    def begin(connection: Connection) -> None:
        reading = connection.get_execution_options().get(_READ, False)
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    event.listen(engine, "connect", connect)
    event.listen(engine, "begin", begin)
    return engine


def _use_wal(raw: Any) -> None:  # noqa: ANN401 - a driver's connection
    """Put a new file into WAL mode. SQLite does not wait for others who do so at the same moment, so we do."""
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            raw.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_WAL_PAUSE_S)
        else:
            return


def _text(raw: bytes) -> str:
    """Keep text that is not UTF-8 readable: it fails its row's MAC, not the whole query."""
    return raw.decode("utf-8", "surrogateescape")


def _make_private(path: str) -> None:
    """Make the file 0600 before SQLite would make it 0644; its WAL takes the mode over.

    A file that is there is not opened: closing any descriptor of it would drop the POSIX locks that SQLite holds in
    this process, and the next process to leave would take itself for the last one and delete the WAL in use.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return
    except OSError as error:
        raise StorageError(f"The database file {path} cannot be opened: {error.strerror}.") from error
