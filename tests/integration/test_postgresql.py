"""A cluster whose rows are in PostgreSQL: the same promises, and what a lost server costs (DESIGN D6)."""

from __future__ import annotations

import itertools
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from support import postgres
from support.hsm import Cluster, cluster, eventually, patiently

from hsmsim.errors import CkrError, HsmsimError, StorageError
from hsmsim.hsm.cryptoki import CKR
from hsmsim.storage.database import Database, drop_schema, in_schema
from hsmsim.storage.migrate import migrate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hsmsim.fleet.postgresql import LocalServer

_NAMES = itertools.count()


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with postgres.server() as made:
        yield made


@pytest.fixture(scope="module")
def pair(server: LocalServer) -> Iterator[Cluster]:
    with cluster(hsms=2, check=True, database=in_schema(server.url, f"cluster_{next(_NAMES)}")) as made:
        yield made


def test_a_key_is_on_both_hsms_when_it_is_acknowledged(pair: Cluster) -> None:
    first, second = pair.hsms
    with first.user("alice") as client, second.user("alice") as other:
        for index in range(10):
            public, private = client.ec(token=True, label=f"both-{index}")
            signature = other.sign(private, bytes(32))
            client.verify(public, bytes(32), signature)


def test_writers_on_both_hsms_take_turns_and_lose_nothing(pair: Cluster) -> None:
    def make(index: int) -> list[int]:
        with pair.hsms[index % 2].user("alice") as client:
            return [client.aes(token=True, label=f"turns-{index}") for _ in range(15)]

    with ThreadPoolExecutor(4) as pool:
        made = [handle for handles in pool.map(make, range(4)) for handle in handles]
    assert len(set(made)) == 60
    for hsm in pair.hsms:
        with hsm.user("alice") as client:
            found = {handle for index in range(4) for handle in client.find(label=f"turns-{index}")}
            assert found == set(made)


def test_a_row_that_sql_changed_is_not_applied(server: LocalServer) -> None:
    with cluster(database=in_schema(server.url, "tampered")) as made:
        [hsm] = made.hsms
        with hsm.user("alice") as client:
            key = client.aes(token=True, label="mine")
        database = Database(made.database_url)
        with database.write() as connection:
            changed = text("UPDATE objects SET owner_id = owner_id + 1 WHERE handle = :handle")
            assert connection.execute(changed, {"handle": key}).rowcount == 1
        database.close()
        hsm.end(signal.SIGKILL)
        hsm.start()
        for name in ("alice", "bob"):
            with hsm.user(name) as client:
                assert client.find(label="mine") == ()
        assert "objects [" in hsm.log
        assert "ALARM" in hsm.log


def test_signing_goes_on_without_the_server_and_writing_when_it_is_back(server: LocalServer, pair: Cluster) -> None:
    first, second = pair.hsms
    with first.user("alice") as client, second.user("alice") as other:
        _, key = patiently(lambda: client.ec(token=True, label="before"))
        server.stop("immediate")
        try:
            began = time.monotonic()
            while time.monotonic() - began < 2.5:  # longer than every lease
                assert len(client.sign(key, bytes(32))) == len(other.sign(key, bytes(32))) == 64
            with pytest.raises(CkrError) as lost:
                client.aes(token=True, label="meanwhile")
            assert lost.value.rv == CKR.DEVICE_ERROR
        finally:
            server.start()
        made = patiently(lambda: client.aes(token=True, label="after"))
        eventually(lambda: other.find(label="after") == (made,))
        assert client.find(label="meanwhile") == other.find(label="meanwhile") == ()


def test_an_hsm_that_starts_without_the_server_says_so(server: LocalServer) -> None:
    url = in_schema(f"{server.url}-not-there", "nowhere")
    with pytest.raises(AssertionError, match="ended"), cluster(database=url):
        pass
    with pytest.raises(StorageError, match="cannot be used") as told:
        migrate(url)
    assert "not-there" in str(told.value)


def test_two_lone_writers_of_a_schema_take_turns_and_those_of_others_do_not_wait(server: LocalServer) -> None:
    order: list[str] = []
    urls = {name: in_schema(server.url, name) for name in ("mine", "others")}
    for url in urls.values():
        migrate(url)

    def write(name: str, mark: str, seconds: float) -> None:
        database = Database(urls[name])
        with database.write(alone=True):
            order.append(f"{mark} in")
            time.sleep(seconds)
            order.append(f"{mark} out")
        database.close()

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(write, "mine", "first", 1.0)
        eventually(lambda: order == ["first in"])
        second = pool.submit(write, "mine", "second", 0)
        pool.submit(write, "others", "other", 0).result()
        assert order == ["first in", "other in", "other out"]
        first.result()
        second.result()
    assert order[3:] == ["first out", "second in", "second out"]


def test_a_schema_goes_with_all_that_is_in_it(server: LocalServer) -> None:
    url = in_schema(server.url, "gone")
    migrate(url)
    drop_schema(url)
    database = Database(url)
    with database.read() as connection:
        assert connection.execute(text("SELECT current_schema()")).scalar() is None
    database.close()
    drop_schema(url)


@pytest.mark.parametrize("name", ["", "Upper", 'a"; DROP SCHEMA public; --', "a" * 64, "pg-1"])
def test_a_schema_has_a_plain_name(name: str) -> None:
    with pytest.raises(HsmsimError, match="no name of a schema"):
        in_schema("postgresql:///hsmsim", name)


def test_a_url_without_a_schema_of_ours_is_not_dropped(server: LocalServer) -> None:
    with pytest.raises(StorageError, match="names no schema"):
        drop_schema(server.url)


def test_another_kind_of_database_is_refused_by_name() -> None:
    with pytest.raises(HsmsimError, match="not in 'mysql'"):
        Database("mysql://localhost/x")
