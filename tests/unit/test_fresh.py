"""What a gateway has in memory against what others have changed: when it is asked for, and what takes effect."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from support.aws import World

from hsmsim.errors import AwsError, StorageError
from hsmsim.gateway.fresh import Fresh
from hsmsim.services.iam import store
from hsmsim.services.iam.model import Thing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy.engine import Connection


@dataclass
class Memory:
    """Counts what it is asked. A question is answered when the test says so."""

    newest: int = 0
    known: int = 0
    asked: int = 0
    question: str = ""
    answer: asyncio.Event = field(default_factory=asyncio.Event)
    broken: bool = False

    async def ask(self) -> int:
        self.asked += 1
        newest = self.newest
        await self.answer.wait()
        if self.broken:
            raise StorageError("away")
        return newest

    def catch_up(self, _tx: Connection | None = None) -> None:
        self.known = self.newest


def fresh_of(memory: Memory) -> Fresh:
    return Fresh(memory, memory.ask, memory.catch_up)


def test_who_comes_while_one_asks_shares_the_next_question() -> None:
    async def go() -> None:
        memory = Memory(newest=1)
        fresh = fresh_of(memory)
        first = asyncio.create_task(fresh.now())
        await asyncio.sleep(0)
        memory.newest = 2  # acknowledged before the others come, unknown to the question that is under way
        others = [asyncio.create_task(fresh.now()) for _ in range(20)]
        for _ in range(3):
            await asyncio.sleep(0)
        assert memory.asked == 1
        memory.answer.set()
        await asyncio.gather(first, *others)
        assert (memory.asked, memory.known) == (2, 2)

    asyncio.run(go())


def test_an_error_reaches_all_who_wait_and_nobody_afterwards() -> None:
    async def go() -> None:
        memory = Memory(broken=True)
        memory.answer.set()
        fresh = fresh_of(memory)
        found = await asyncio.gather(*(fresh.now() for _ in range(5)), return_exceptions=True)
        assert [type(one) for one in found] == [StorageError] * 5
        memory.broken = False
        await fresh.now()

    asyncio.run(go())


def test_a_client_that_leaves_takes_nothing_from_the_others() -> None:
    async def go() -> None:
        memory = Memory(newest=1)
        fresh = fresh_of(memory)
        leaves, stays = (asyncio.create_task(fresh.now()) for _ in range(2))
        await asyncio.sleep(0)
        leaves.cancel()
        memory.answer.set()
        await stays
        assert memory.known == 1
        assert leaves.cancelled()

    asyncio.run(go())


def spied(log: list[str], name: str, read: Callable[..., Any]) -> Callable[..., Any]:
    def noted(*arguments: Any) -> Any:
        log.append(name)
        return read(*arguments)

    return noted


# ---- IAM's memory -------------------------------------------------------------------------------------------------


@dataclass
class Both:
    """Two gateways' memories of one database."""

    writes: World
    follows: World

    def follow(self) -> None:
        with self.follows.database.read() as connection:
            self.follows.directory.catch_up(connection)

    def knows(self, key: str) -> bool:
        try:
            self.follows.directory.find(key, None)
        except AwsError as error:
            return error.code != "InvalidClientTokenId"
        return True

    def new_key(self, name: str) -> str:
        self.writes.root.iam("CreateUser", UserName=name)
        made: dict[str, Any] = self.writes.root.iam("CreateAccessKey", UserName=name)
        return str(made["AccessKey"]["AccessKeyId"])


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Both]:
    one, two = World(tmp_path), World(tmp_path)
    yield Both(one, two)
    one.close()
    two.close()


def test_one_reads_again_what_the_other_changed_and_nothing_else(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, gone = both.new_key("kept"), both.new_key("gone")
    assert not both.knows(kept)
    both.follow()
    assert both.knows(kept)
    assert both.knows(gone)
    assert both.follows.directory.known == both.writes.directory.known
    both.writes.root.iam("DeleteAccessKey", UserName="gone", AccessKeyId=gone)
    read: list[str] = []
    for thing in ("entities", "keys", "policies"):
        monkeypatch.setattr(store, thing, spied(read, thing, getattr(store, thing)))
    both.follow()
    assert read == ["keys"]
    assert not both.knows(gone)


def test_changes_that_are_forgotten_already_have_all_of_it_read_again(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = both.new_key("one")
    both.follow()
    monkeypatch.setattr(store, "KEPT", 5)
    both.writes.root.iam("DeleteAccessKey", UserName="one", AccessKeyId=key)
    for number in range(11):
        both.writes.root.iam("CreateUser", UserName=f"user{number}")
    with both.follows.database.read() as connection:
        assert store.changes(connection, both.follows.directory.known) is None
    both.follow()
    assert not both.knows(key)
    assert both.follows.directory.known == both.writes.directory.known


def test_a_state_that_is_older_than_what_is_known_takes_no_effect(both: Both) -> None:
    """The follower writes a thing after it has read another one's state of it, and before that takes effect."""
    key = both.new_key("one")
    both.follow()
    directory = both.follows.directory
    with both.follows.database.read() as connection:
        late = store.newest_change(connection)
        stale = directory._read_key(connection, key)
    both.follows.root.iam("UpdateAccessKey", UserName="one", AccessKeyId=key, Status="Inactive")
    directory._take(late, Thing.KEY, key, stale)
    assert not both.knows(key)


def test_what_was_derived_from_a_key_is_forgotten_with_it(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    forgotten: list[str] = []
    monkeypatch.setattr(both.follows.directory, "_forget_key", forgotten.append)
    key = both.new_key("one")
    both.follow()
    assert forgotten == []
    both.writes.root.iam("UpdateAccessKey", UserName="one", AccessKeyId=key, Status="Inactive")
    both.follow()
    assert forgotten == [key]
