"""Brings a database to the revision that this code needs.

The whole upgrade is one transaction under the write lock, so HSMs that start together migrate once. Alembic is imported
only when there is something to upgrade: it takes longer than everything else that a new database needs. An empty SQLite
file gets the newest tables at once, by the statements of head.sql, which scripts/gen-schemas takes from a database that
Alembic made; a test makes both and compares. There is no way back: what a newer revision keeps has no place in an older
one, and whoever goes back to an older hsmsim takes an older copy of the database with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import inspect, text

from hsmsim.errors import StorageError
from hsmsim.storage.database import Database, make_schema

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

_FOLDER: Final = Path(__file__).parent
_END: Final = ";\n"
_UNHURRIED: Final = "SET LOCAL idle_in_transaction_session_timeout = '60s'"
"""Alembic is read within the transaction, which takes longer than 2 s where a machine is busy."""


@dataclass(frozen=True, slots=True)
class Schema:
    """One kind of database: the folder of its migrations, and the revision that this code needs."""

    folder: Path
    head: str

    @property
    def newest(self) -> Path:
        """The statements that make an empty SQLite file one of this revision."""
        return self.folder / "head.sql"


CLUSTER: Final = Schema(_FOLDER / "migrations", "0003")
GATEWAY: Final = Schema(_FOLDER / "gateway_migrations", "0008")


def migrate(url: str, schema: Schema = CLUSTER) -> None:
    """Create or upgrade the tables; StorageError where the database is newer than this code, or cannot be reached."""
    database = Database(url)
    try:
        if _is_current(database, schema):
            return
        with database.write(alone=True) as connection:
            if database.dialect == "postgresql":
                connection.exec_driver_sql(_UNHURRIED)
                make_schema(connection)
            if database.dialect == "sqlite" and _revision(connection) is None:
                _create(connection, schema)
            else:
                upgrade(connection, schema)
    finally:
        database.close()


def is_current(url: str, schema: Schema = CLUSTER) -> bool:
    """Return whether there is nothing to upgrade; StorageError as of `migrate`."""
    database = Database(url)
    try:
        return _is_current(database, schema)
    finally:
        database.close()


def _is_current(database: Database, schema: Schema) -> bool:
    with database.read() as connection:
        current = _revision(connection)
    if current is not None and current > schema.head:
        raise StorageError(
            f"The database is at revision {current}, newer than this hsmsim ({schema.head}). Use the newer version."
        )
    return current == schema.head


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _create(connection: Connection, schema: Schema) -> None:
    for statement in schema.newest.read_text(encoding="ascii").split(_END):
        if statement:
            connection.exec_driver_sql(statement)


def upgrade(connection: Connection, schema: Schema, revision: str = "") -> None:
    """Have Alembic bring the tables to a revision: the newest, where none is named."""
    from alembic import command  # noqa: PLC0415 - see the module's docstring
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(schema.folder).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision or schema.head)
