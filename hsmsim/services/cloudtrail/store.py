"""The events: one row each, and one index that holds all that LookupEvents filters by.

Most events come thousands a second, and the fewest are ever looked up. So every insert goes to the end of the table and
to the end of its account's part of the index; a lookup walks that part from the newest on, and reads the rows of its
page only. An index for each attribute would cost a page of the database for each event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from sqlalchemy import (
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    Table,
    Text,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    tuple_,
)

from hsmsim.services.cloudtrail import rules
from hsmsim.services.cloudtrail.model import Attribute, Entry, Position, Query, Resource
from hsmsim.storage.gateway import GATEWAY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy.engine import Connection, Row
    from sqlalchemy.sql import ColumnElement

EVENTS: Final = Table(
    "cloudtrail_events",
    GATEWAY,
    Column("sequence", Integer, primary_key=True),
    Column("account", Text, nullable=False),
    Column("region", Text, nullable=False),
    Column("time", Float, nullable=False),
    Column("id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("read_only", Boolean, nullable=False),
    Column("username", Text, nullable=False),
    Column("access_key", Text, nullable=False),
    Column("resources", Text, nullable=False),
    Column("body", Text, nullable=False),
)
_C: Final = EVENTS.c
Index(
    "cloudtrail_lookup",
    _C.account,
    _C.region,
    _C.time,
    _C.sequence,
    _C.id,
    _C.name,
    _C.source,
    _C.read_only,
    _C.username,
    _C.access_key,
    _C.resources,
)
WAKE_EVERY: Final = 1000
PRUNED: Final = 1000
"""Rows that one transaction deletes: others wait for it."""


class History:
    """The gateway's recorder. `grown` is called now and then: the history may have become too large."""

    def __init__(self, grown: Callable[[], None]) -> None:
        self._grown = grown
        self._since = 0

    def record(self, connection: Connection, *events: Mapping[str, Any], again: bool = False) -> None:
        """Keep the events. again: leave out those that are kept. Called in the one writer's thread."""
        entries = [rules.entry(event) for event in events]
        if again:
            kept = _kept(connection, entries)
            entries = [entry for entry in entries if entry.id not in kept]
        if not entries:
            return
        connection.execute(insert(EVENTS), [_row(entry) for entry in entries])
        self._since += len(entries)
        if self._since >= WAKE_EVERY:
            self._since = 0
            self._grown()


def _row(entry: Entry) -> dict[str, Any]:
    return {
        "account": entry.account,
        "region": entry.region,
        "time": entry.time,
        "id": entry.id,
        "name": entry.name,
        "source": entry.source,
        "read_only": entry.read_only,
        "username": entry.username,
        "access_key": entry.access_key,
        "resources": _packed([[one.type, one.name] for one in entry.resources]) if entry.resources else "",
        "body": entry.body,
    }


def _kept(connection: Connection, entries: Sequence[Entry]) -> set[str]:
    """The ids of those that are there."""
    oldest, accounts = min(entry.time for entry in entries), {entry.account for entry in entries}
    wanted = (_C.account.in_(accounts), _C.time >= oldest, _C.id.in_([entry.id for entry in entries]))
    return set(connection.execute(select(_C.id).where(*wanted)).scalars())


def _packed(value: Any) -> str:  # noqa: ANN401 - strings and lists of them
    return msgspec.json.encode(value).decode()


# ---- looking up --------------------------------------------------------------------------------------------------


def lookup(
    connection: Connection, query: Query, after: Position | None, kept: float, most: int
) -> list[tuple[Position, Entry]]:
    """The events of a query behind a position, newest first; none from before `kept`."""
    start = kept if query.start is None else max(kept, query.start)
    clauses = [_C.account == query.account, _C.region == query.region, _C.time >= start]
    if query.end is not None:
        clauses.append(_C.time <= query.end)
    if after is not None:
        clauses.append(tuple_(_C.time, _C.sequence) < tuple_(literal(after.time), literal(after.sequence)))
    if query.attribute is not None:
        clauses.append(_FILTERS[query.attribute](query.value))
    statement = select(EVENTS).where(*clauses).order_by(_C.time.desc(), _C.sequence.desc()).limit(most)
    return [(Position(row.time, row.sequence), _entry(row)) for row in connection.execute(statement)]


def _resource(pattern: str) -> ColumnElement[bool]:
    """Whether the packed resources hold this text: a quote within a name is escaped, so it fits whole names only.

    Both kinds of database have `replace`, and neither overlooks the case of letters in it, as SQLite's LIKE does.
    """
    return func.replace(_C.resources, pattern, "") != _C.resources


_FILTERS: Final[Mapping[Attribute, Callable[[str], ColumnElement[bool]]]] = {
    Attribute.EVENT_ID: lambda value: _C.id == value,
    Attribute.EVENT_NAME: lambda value: _C.name == value,
    Attribute.READ_ONLY: lambda value: _C.read_only == (value == "true"),
    Attribute.USERNAME: lambda value: _C.username == value,
    Attribute.RESOURCE_TYPE: lambda value: _resource(f"[{_packed(value)},"),
    Attribute.RESOURCE_NAME: lambda value: _resource(f",{_packed(value)}]"),
    Attribute.EVENT_SOURCE: lambda value: _C.source == value,
    Attribute.ACCESS_KEY_ID: lambda value: _C.access_key == value,
}


def _entry(row: Row[Any]) -> Entry:
    pairs = msgspec.json.decode(row.resources, type=list[tuple[str, str]]) if row.resources else []
    return Entry(
        account=row.account,
        region=row.region,
        time=row.time,
        id=row.id,
        name=row.name,
        source=row.source,
        read_only=row.read_only,
        username=row.username,
        access_key=row.access_key,
        resources=tuple(Resource(type_, name) for type_, name in pairs),
        body=row.body,
    )


# ---- forgetting --------------------------------------------------------------------------------------------------


def prune(connection: Connection, before: float, keep: int) -> int:
    """Delete the first events that are older than `before` or more than `keep`; how many, 0 when there are no more."""
    newest = select(func.max(_C.sequence)).scalar_subquery()
    first = select(_C.sequence).order_by(_C.sequence).limit(PRUNED)
    gone = or_(_C.time < before, _C.sequence <= newest - keep)
    return connection.execute(delete(EVENTS).where(_C.sequence.in_(first), gone)).rowcount


def oldest(connection: Connection) -> float | None:
    """The time of the first event."""
    return connection.execute(select(_C.time).order_by(_C.sequence).limit(1)).scalar()
