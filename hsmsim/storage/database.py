"""An SQL database as hsmsim uses it: one SQLite file, or PostgreSQL across machines.

Rules: a `write` block holds the write lock from its start (SQLite: BEGIN IMMEDIATE; PostgreSQL: the first UPDATE of the
cluster row), is durable when it returns, and is rolled back whole by any exception. A `read` block sees one snapshot.
Every driver error leaves as a StorageError.
"""

from __future__ import annotations

import os
import re
import sqlite3
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from hsmsim.errors import HsmsimError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy.engine import Connection, Engine

    from hsmsim.storage.watch import Watch

BUSY_TIMEOUT_MS: Final = 5000
_WAL_PAUSE_S: Final = 0.005
_READ: Final = "hsmsim_read"
_ALONE: Final = "SELECT pg_advisory_xact_lock(1752395123, hashtext(current_setting('search_path')))"
"""A lock of this schema; the first number says that it is ours."""
_LIVENESS: Final = {
    "connect_timeout": 3,
    "keepalives_idle": 2,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 5000,
}
"""libpq: a server that is gone is noticed in seconds, not in the quarter of an hour that TCP takes."""
_GUARDS: Final = "-c statement_timeout=10s -c lock_timeout=5s -c idle_in_transaction_session_timeout=2s"
"""A process that is stopped in the middle of a transaction loses it, and its locks, before others give up."""
_SCHEMA: Final = re.compile(r"[a-z][a-z0-9_]{0,62}", re.ASCII)
_DRIVER: Final = "postgresql+psycopg"


_obstacles: Final[list[Callable[[bool], None]]] = []


def obstruct(obstacle: Callable[[bool], None]) -> None:
    """Have every transaction of this process begin with obstacle(writes), which may raise a StorageError: a fault."""
    _obstacles.append(obstacle)


def _pass(*, writes: bool) -> None:
    for obstacle in _obstacles:
        obstacle(writes)


class Database:
    """Connections to one database. durable=False: a commit may be lost with the machine, never with a process."""

    def __init__(self, url: str, *, durable: bool = True) -> None:
        self.url = url
        self._engine = _sqlite(url, durable=durable) if is_sqlite(url) else _server(url, durable=durable)
        self.dialect = self._engine.dialect.name

    @property
    def shared(self) -> bool:
        """Whether other processes of the gateway's kind may use it: a file has one."""
        return self.dialect == "postgresql"

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one snapshot and takes no lock."""
        options: dict[str, Any] = {_READ: True}
        if self.dialect != "sqlite":
            options["isolation_level"] = "REPEATABLE READ"
        _pass(writes=False)
        with _translated(self.url), self._engine.connect() as connection:
            reading = connection.execution_options(**options)
            with reading.begin():
                yield reading

    @contextmanager
    def write(self, *, alone: bool = False) -> Iterator[Connection]:
        """A transaction, committed at the end of the block. alone: no other such block runs anywhere meanwhile."""
        _pass(writes=True)
        with _translated(self.url), self._engine.begin() as connection:
            if alone and self.dialect == "postgresql":
                connection.exec_driver_sql(_ALONE)
            yield connection

    def watch(self, statement: str) -> Watch:
        """What an event loop asks for the number that a statement answers. PostgreSQL only."""
        from hsmsim.storage.watch import Watch  # noqa: PLC0415 - needs the driver, which SQLite goes without

        _, parameters = self._engine.dialect.create_connect_args(self._engine.url)
        return Watch({**parameters, **_arguments(self.url)}, statement)

    @contextmanager
    def session(self) -> Iterator[Connection]:
        """A connection of its own outside of transactions: for locks and notifications. PostgreSQL only."""
        with _translated(self.url), self._engine.connect() as connection:
            try:
                yield connection.execution_options(isolation_level="AUTOCOMMIT")
            finally:
                connection.invalidate()  # closed, with all that it holds

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


def is_sqlite(url: str) -> bool:
    """Whether the URL names a file; HsmsimError where it is the URL of neither kind of database."""
    try:
        backend = make_url(url).get_backend_name()
    except ArgumentError as error:
        raise HsmsimError(f"{url!r} is no database URL; write sqlite:////folder/cluster.db, for instance.") from error
    if backend not in {"sqlite", "postgresql"}:
        raise HsmsimError(f"hsmsim keeps its rows in SQLite or PostgreSQL, not in {backend!r}.")
    return backend == "sqlite"


# ---- PostgreSQL --------------------------------------------------------------------------------------------------


def in_schema(url: str, schema: str) -> str:
    """Return the URL of a schema in a PostgreSQL database: each cluster, and the gateway, has one of its own."""
    if not _SCHEMA.fullmatch(schema):
        raise HsmsimError(f"{schema!r} is no name of a schema: a-z, 0-9 and _, 63 at most.")
    parsed = make_url(url)
    options = " ".join(filter(None, (str(parsed.query.get("options", "")), f"-c search_path={schema}")))
    return parsed.update_query_dict({"options": options}).render_as_string(hide_password=False)


def as_user(url: str, user: str) -> str:
    """Return the URL for root, who connects as whom the URL names or, where it names nobody, acts for `user`."""
    parsed = make_url(url)
    if parsed.username:
        return url
    options = f"{parsed.query.get('options', '')} -c role={user}".strip()
    return parsed.update_query_dict({"options": options}).render_as_string(hide_password=False)


def make_schema(connection: Connection) -> None:
    """Make the schema that the connection works in, if it is not there."""
    connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {_own_schema(connection)}")


def drop_schema(url: str) -> None:
    """Remove the schema of a URL that in_schema() made, with all that is in it."""
    database = Database(url)
    try:
        with database.write(alone=True) as connection:
            connection.exec_driver_sql(f"DROP SCHEMA IF EXISTS {_own_schema(connection)} CASCADE")
    finally:
        database.close()


def _own_schema(connection: Connection) -> str:
    schema = str(connection.exec_driver_sql("SHOW search_path").scalar())
    if not _SCHEMA.fullmatch(schema):
        raise StorageError(f"The database's URL names no schema of hsmsim's own (search_path is {schema}).")
    return schema


def _arguments(url: str, *, durable: bool = True) -> dict[str, str | int]:
    """What a connection is made with beside what the URL says."""
    guards = _GUARDS if durable else f"{_GUARDS} -c synchronous_commit=off"
    options = " ".join(filter(None, (guards, str(make_url(url).query.get("options", "")))))
    return {**_LIVENESS, "options": options}


def _server(url: str, *, durable: bool) -> Engine:
    try:
        return create_engine(
            make_url(url).set(drivername=_DRIVER).difference_update_query(["options"]),
            connect_args=_arguments(url, durable=durable),
            pool_pre_ping=True,
            pool_recycle=600,
            isolation_level="READ COMMITTED",
        )
    except ModuleNotFoundError as error:
        raise HsmsimError(
            "PostgreSQL needs the driver psycopg, which is not installed: pip install 'hsmsim[postgresql]'"
        ) from error


# ---- SQLite ------------------------------------------------------------------------------------------------------


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
