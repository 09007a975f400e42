"""What an HSM may rely on in its copy of the cluster's rows."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from unit.replicas import (
    ADMIN,
    ALICE,
    BOB,
    CLUSTER,
    HSM_A,
    HSM_B,
    HmacKeyring,
    make_database,
    new_object,
    open_replica,
    run_sql,
    tombstone,
)

from hsmsim.cluster.founding import found
from hsmsim.cluster.model import ACTIVE, AuditEntry, ClusterRow, MemberRow, ShareRow, UserRow, new_key
from hsmsim.errors import CkrError, HsmsimError, StorageError
from hsmsim.storage.database import Database

if TYPE_CHECKING:
    from hsmsim.cluster.model import Change, Row
    from hsmsim.cluster.replica import Replica


@pytest.fixture
def url(tmp_path: Path) -> str:
    return make_database(tmp_path)


def test_a_version_counts_when_all_have_followed_it(url: str) -> None:
    replicas = open_replica(url), open_replica(url, HSM_B)
    seen: list[tuple[int, int, bool]] = []

    def follow(replica: Replica, change: Change) -> None:
        seen.append((change.version, replica.version, new_object(2).handle in replica.objects))

    for replica in replicas:
        replica.on_change.append(partial(follow, replica))
    assert replicas[0].write(lambda version: [new_object(version)]) == 2
    assert replicas[1].sync() == 2
    assert seen == [(2, 1, True)] * 2


def test_the_first_rows_are_there(url: str) -> None:
    replica = open_replica(url)
    assert replica.version == 1
    assert replica.cluster.state == "INITIALIZED"
    assert replica.partitions[1].name == ""
    assert replica.user_named(1, "ALICE") is replica.users[ALICE]
    assert replica.user_named(2, "alice") is None
    assert replica.owned(ALICE) == {20}
    assert replica.owned(BOB) == frozenset()
    assert replica.shares(20) == {BOB}
    assert replica.members[HSM_A].socket == "/run/a.sock"
    assert replica.alarms == 0


def test_a_database_holds_one_cluster(url: str) -> None:
    other = ClusterRow("cluster-bbbbbbbbbbb", "one", 0, ACTIVE)
    assert not found(Database(url), other, list, HmacKeyring())
    with pytest.raises(HsmsimError, match="not sealed by its masking key"):
        open_replica(url, keyring=HmacKeyring(b"another key"))


def test_a_write_is_seen_by_the_other_hsm_with_the_same_handle(url: str) -> None:
    one, two = open_replica(url), open_replica(url, HSM_B)
    version = one.write(lambda version: [new_object(version), new_object(version, 1, BOB)])
    assert version == 2
    assert two.sync() == 2
    assert two.objects[32] == one.objects[32] == replace(new_object(2), version=2)
    assert two.owned(BOB) == {33}
    assert two.alarms == 0


def test_the_later_writer_builds_again_on_what_the_other_wrote(url: str) -> None:
    one, two = open_replica(url), open_replica(url, HSM_B)
    one.write(lambda version: [UserRow(new_key(version, 0), 1, "carol", 2, b"", b"", 1)])
    seen = []

    def build(version: int) -> list[UserRow]:
        seen.append((version, two.user_named(1, "Carol") is not None))
        if two.user_named(1, "carol"):
            raise CkrError(0x190, "name taken")
        return [UserRow(new_key(version, 0), 1, "carol", 2, b"", b"", 1)]

    with pytest.raises(CkrError, match="name taken"):
        two.write(build)
    assert seen == [(2, False), (3, True)]
    assert two.version == 2
    assert open_replica(url).version == 2


def test_tombstones_take_rows_away_and_purging_takes_them_away(url: str) -> None:
    one, two = open_replica(url), open_replica(url, HSM_B)
    late = open_replica(url, HSM_B)
    one.write(lambda _: [tombstone(one.objects[20]), tombstone(one.share(20, BOB))])  # type: ignore[arg-type]
    assert two.sync() == 2
    for replica in (one, two):
        assert 20 not in replica.objects
        assert replica.owned(ALICE) == frozenset()
        assert replica.shares(20) == frozenset()
    one.purge(2)
    assert one.version == 3
    assert two.sync(check=True) == late.sync(check=True) == one.sync(check=True) == 3
    assert 20 not in late.objects
    with Database(url).read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM objects").scalar() == 0
    assert [replica.alarms for replica in (one, two, late)] == [0, 0, 0]


def test_changes_come_in_the_order_of_versions_for_own_and_foreign_writes(url: str) -> None:
    one, two = open_replica(url), open_replica(url, HSM_B)
    changes: list[Change] = []
    two.on_change.append(changes.append)
    one.write(lambda version: [new_object(version)])
    one.write(lambda _: [replace(one.cluster, state=ACTIVE), replace(one.users[ADMIN], password_version=1)])
    one.write(lambda version: [ShareRow(32, BOB)] if version else [])
    two.sync()
    two.write(lambda _: [replace(two.users[BOB], name="robert")])
    assert [change.version for change in changes] == [2, 3, 4, 5]
    rows = [(change.version, type(row).__name__) for change in changes for row in change.rows]
    assert rows == [(2, "ObjectRow"), (3, "UserRow"), (4, "ShareRow"), (4, "ClusterRow"), (5, "UserRow")]
    assert two.cluster.state == ACTIVE
    assert two.user_named(1, "bob") is None
    assert two.user_named(1, "Robert") == two.users[BOB]


def test_a_builder_that_raises_writes_nothing(url: str) -> None:
    replica = open_replica(url)

    def build(_version: int) -> list[UserRow]:
        raise CkrError(0x05, "no")

    with pytest.raises(CkrError):
        replica.write(build, AuditEntry("USER_CREATE", "admin", 1, 0, 0, ""))
    assert replica.version == open_replica(url).version == 1


def test_a_version_has_one_row_of_a_key(url: str) -> None:
    replica = open_replica(url)
    with pytest.raises(ValueError, match="at most one row of a key"):
        replica.write(lambda _: [replica.objects[20], tombstone(replica.objects[20])])
    assert open_replica(url).version == 1


def test_another_incarnation_is_read_whole(url: str) -> None:
    replica = open_replica(url)
    changes: list[Change] = []
    replica.on_change.append(changes.append)
    run_sql(url, "DELETE FROM cluster")
    for table in ("identity", "mtls", "objects", "users", "shares", "partitions", "members"):
        run_sql(url, f"DELETE FROM {table}")
    restored: list[Row] = [
        UserRow(ADMIN, 1, "admin", 1, b"", b"", 0),
        MemberRow(HSM_A, "/run/a.sock", b"certificate", b"sealed"),
    ]
    assert found(Database(url), ClusterRow(CLUSTER, "two", 0, ACTIVE), lambda: restored, HmacKeyring())
    replica.sync(check=True)
    assert replica.cluster.incarnation == "two"
    assert set(replica.users) == {ADMIN}
    assert not replica.objects
    assert replica.alarms == 0
    gone = {type(row).__name__ for change in changes for row in change.rows if row.deleted}
    assert gone == {"IdentityRow", "MtlsRow", "PartitionRow", "UserRow", "ObjectRow", "ShareRow"}
    replica.write(lambda version: [new_object(version)])
    assert open_replica(url).owned(ALICE) == {32}


def test_readers_never_miss_a_user_whose_row_changes(url: str) -> None:
    replica = open_replica(url)
    missing, stop = [], threading.Event()

    def read() -> None:
        while not stop.is_set():
            if replica.user_named(1, "alice") is None or 20 not in replica.owned(ALICE):
                missing.append(replica.version)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(60):
        replica.write(lambda _, n=number: [replace(replica.users[ALICE], password_version=n), replica.objects[20]])
    stop.set()
    reader.join()
    assert missing == []


def test_a_database_that_is_away_stops_writes_not_reads(url: str, tmp_path: Path) -> None:
    replica = open_replica(url)
    replica.database.close()
    path = tmp_path / "cluster.db"
    path.rename(tmp_path / "away")
    path.mkdir()
    with pytest.raises(StorageError):
        replica.write(lambda version: [new_object(version)])
    assert replica.user_named(1, "alice")
    path.rmdir()
    (tmp_path / "away").rename(path)
    assert replica.write(lambda version: [new_object(version)]) == 2


def random_rows(dice: random.Random, replica: Replica, version: int) -> list[Row]:
    rows: list[Row] = [new_object(version, index, dice.choice((ALICE, BOB))) for index in range(dice.randrange(3))]
    if not replica.objects:
        return rows
    old = replica.objects[dice.choice(sorted(replica.objects))]
    share = replica.share(old.handle, BOB)
    others: list[Row] = [
        tombstone(old),
        replace(old, owner_id=BOB, attributes=dice.randbytes(9)),
        tombstone(share) if share else ShareRow(old.handle, BOB),
        replace(replica.users[BOB], name=dice.choice(("bob", "robert", "Rob"))),
    ]
    return [*rows, *dice.sample(others, dice.randrange(2))]


def test_replicas_that_follow_in_any_rhythm_agree_with_one_that_reads_all(url: str) -> None:
    dice = random.Random(20)
    replicas = [open_replica(url), open_replica(url, HSM_B), open_replica(url, "hsm-ccccccccccc")]
    for _ in range(250):
        replica = dice.choice(replicas)
        match dice.randrange(4):
            case 0:
                replica.sync(check=True)
            case 1 if dice.random() < 0.2:
                replica.purge(dice.randrange(replica.version + 1))
            case _:
                replica.write(partial(random_rows, dice, replica))
    fresh = open_replica(url)
    for replica in replicas:
        assert replica.sync(check=True) == fresh.version
        assert replica.objects == fresh.objects
        assert replica.users == fresh.users
        for user in (ALICE, BOB):
            assert replica.owned(user) == fresh.owned(user)
        for handle in fresh.objects:
            assert replica.shares(handle) == fresh.shares(handle)
        for name in ("bob", "robert", "Rob"):
            assert replica.user_named(1, name) == fresh.user_named(1, name)
        assert replica.alarms == 0
    assert fresh.alarms == 0
    assert len(fresh.objects) > 20


def _writer(url: str, hsm_id: str, rounds: int) -> None:
    replica = open_replica(url, hsm_id)
    for _ in range(rounds):
        replica.write(lambda version: [new_object(version)], AuditEntry("CREATE_OBJECT", "alice", 2, 0, 0, ""))


def test_two_processes_write_at_once(url: str) -> None:
    rounds = 60
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_writer, args=(url, hsm_id, rounds)) for hsm_id in (HSM_A, HSM_B)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    replica = open_replica(url)
    assert replica.version == 1 + 2 * rounds
    assert len(replica.objects) == 1 + 2 * rounds
    assert sorted(row.version for row in replica.objects.values()) == list(range(1, 2 + 2 * rounds))
    assert replica.alarms == 0


KILLED = """
import sys
sys.path[:0] = sys.argv[2:]
from unit.replicas import open_replica, new_object, tombstone
replica = open_replica(sys.argv[1])
print("ready", flush=True)
for _ in range(100000):
    version = replica.write(lambda version: [new_object(version), new_object(version, 1)])
    print("made", version, flush=True)
    if version % 3 == 0:
        replica.write(lambda _: [tombstone(replica.objects[version * 16])])
        print("deleted", version, flush=True)
"""


@pytest.mark.parametrize("round_", range(3))
def test_a_killed_writer_loses_nothing_that_it_acknowledged(url: str, round_: int) -> None:
    paths = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]
    with subprocess.Popen([sys.executable, "-c", KILLED, url, *paths], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        lines = [writer.stdout.readline().split()]
        time.sleep(0.15 + 0.05 * round_)
        os.kill(writer.pid, signal.SIGKILL)
        lines += [line.split() for line in writer.stdout.read().splitlines()]
    replica: Replica = open_replica(url)
    made = [int(line[1]) for line in lines if len(line) == 2 and line[0] == "made"]
    deleted = {int(line[1]) for line in lines if len(line) == 2 and line[0] == "deleted"}
    assert made
    for version in made[:-1]:  # the last line may be cut in two, or its tombstone be unreported
        assert version * 16 + 1 in replica.objects
        assert (version * 16 in replica.objects) == (version not in deleted)
    pairs = {handle // 16 for handle in replica.objects if handle % 16 == 1}
    singles = {handle // 16 for handle in replica.objects if handle % 16 == 0}
    assert singles <= pairs, "half of a write"
    assert replica.alarms == 0
    replica.sync(check=True)
    assert replica.alarms == 0
