"""Of several processes on one PostgreSQL database one leads, and what one writes that was replaced is refused."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from support import postgres
from support.hsm import eventually

from hsmsim.errors import StorageError
from hsmsim.storage import lead
from hsmsim.storage.database import Database, in_schema
from hsmsim.storage.lead import ALL, Elected, Led
from hsmsim.storage.migrate import GATEWAY, migrate
from hsmsim.storage.writer import GroupWriter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Connection

    from hsmsim.fleet.postgresql import LocalServer

PATIENCE_S = 60


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with postgres.server() as made:
        migrate(in_schema(made.url, "gateway"), GATEWAY)
        yield made


@dataclass
class Process:
    """What one of them has."""

    url: str
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.database = Database(self.url)
        self.writer = GroupWriter(self.database)
        self.lead = Elected(self.database)
        self.led = Led(self.writer, self.lead)

    def start(self) -> None:
        self.lead.start(self.told.append)

    def close(self) -> None:
        self.lead.stop()
        self.writer.close()
        self.database.close()


@pytest.fixture
def pair(server: LocalServer) -> Iterator[tuple[Process, Process]]:
    """The first one leads."""
    with ExitStack() as stack:
        made = [Process(in_schema(server.url, "gateway")) for _ in range(2)]
        for one in made:
            stack.callback(one.close)
        made[0].start()
        eventually(lambda: made[0].lead.held, PATIENCE_S)
        made[1].start()
        yield made[0], made[1]


def put(tx: Connection, value: bytes) -> None:
    tx.execute(text("DELETE FROM settings WHERE name = 'test'"))
    tx.execute(text("INSERT INTO settings VALUES ('test', :value)"), {"value": value})


def found(process: Process) -> bytes:
    with process.database.read() as tx:
        return bytes(tx.execute(text("SELECT value FROM settings WHERE name = 'test'")).scalar_one())


def end_session(process: Process, pid: int) -> None:
    """What the server does with a session that has been idle for too long."""
    with process.database.write() as tx:
        assert tx.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid}).scalar_one()


def test_one_leads_is_told_and_is_followed_by_the_other(pair: tuple[Process, Process]) -> None:
    first, second = pair
    assert first.told == [ALL]
    second.lead.tell("work")
    eventually(lambda: "work" in first.told, PATIENCE_S)
    first.led.write(lambda tx: put(tx, b"first"))
    with pytest.raises(StorageError, match="Another gateway has taken over"):
        second.led.write(lambda tx: put(tx, b"second"))
    assert found(second) == b"first"
    assert not second.lead.held
    first.lead.stop()
    eventually(lambda: second.lead.held, PATIENCE_S)
    assert second.told[0] == ALL
    assert "work" not in second.told
    second.led.write(lambda tx: put(tx, b"second"))
    assert found(second) == b"second"
    first.lead = Elected(first.database)  # to be stopped at the end


def test_one_that_does_not_know_yet_that_it_was_replaced_writes_nothing(pair: tuple[Process, Process]) -> None:
    first, second = pair
    first.led.write(lambda tx: put(tx, b"before"))
    before = first.lead._who
    assert before is not None
    first.lead.stop()
    eventually(lambda: second.lead.held, PATIENCE_S)
    first.lead = Elected(first.database)
    first.lead._who = before  # as if it had stood still since
    assert first.lead.held
    with pytest.raises(StorageError, match="Another gateway has taken over"):
        Led(first.writer, first.lead).write(lambda tx: put(tx, b"late"))
    assert found(second) == b"before"


def test_a_leader_begins_after_what_its_predecessor_was_writing(pair: tuple[Process, Process]) -> None:
    first, second = pair
    writing, go_on = threading.Event(), threading.Event()

    def slow(tx: Connection) -> None:
        put(tx, b"slow")
        writing.set()
        while not go_on.wait(0.1):
            tx.execute(text("SELECT 1"))  # or the server takes it for stopped

    first.writer.submit(slow)
    try:
        assert writing.wait(PATIENCE_S)
        who = first.lead._who
        assert who is not None
        end_session(second, who[0])
        eventually(lambda: not first.lead.held, PATIENCE_S)
        assert not second.lead.held
    finally:
        go_on.set()
    eventually(lambda: first.lead.held or second.lead.held, PATIENCE_S)
    assert found(second) == b"slow"


def test_one_that_stands_still_is_replaced(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lead, "IDLE_S", 1)
    standing = Process(in_schema(server.url, "gateway"))
    still = threading.Event()
    standing.start()
    other = Process(in_schema(server.url, "gateway"))
    try:
        eventually(lambda: standing.lead.held, PATIENCE_S)
        monkeypatch.setattr(standing.lead, "_send", lambda _: still.wait(PATIENCE_S))
        standing.lead.tell("anything")
        other.start()
        eventually(lambda: other.lead.held, PATIENCE_S)
        with pytest.raises(StorageError, match="Another gateway has taken over"):
            standing.led.write(lambda tx: put(tx, b"late"))
    finally:
        still.set()
        other.close()
        standing.close()
