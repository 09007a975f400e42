"""HSMs of one cluster join, hear each other, wait for each other no longer than a lease, and stop when cut off."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from unit import hsms
from unit.hsms import CLUSTER, PythonEngine, PythonHsm
from unit.replicas import new_object, run_sql

from hsmsim.cluster.leases import Leases
from hsmsim.errors import CkrError, HsmsimError
from hsmsim.hsm import membership, peers
from hsmsim.hsm.link import VERSION, Link
from hsmsim.hsm.messages import (
    HelloRequest,
    PeerBeatRequest,
    PeerHelloRequest,
    PeerProveRequest,
)
from hsmsim.hsm.peers import Links
from hsmsim.hsm.roots.authority import manufacture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hsmsim.cluster.model import Change, ClusterRow

A, B, C = "hsm-aaaaaaaaaaa", "hsm-bbbbbbbbbbb", "hsm-ccccccccccc"


class Cluster:
    def __init__(self, home: Path) -> None:
        self.home = home
        self.url = f"sqlite:///{home}/cluster.db"
        self.hsms: list[PythonHsm] = []

    def start(self, *ids: str) -> list[PythonHsm]:
        started = [PythonHsm(self.home, hsm_id, self.url) for hsm_id in ids]
        self.hsms += started
        return started


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    for hsm in made.hsms:
        hsm.kill()


def eventually(condition: Callable[[], bool], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def serves(hsm: PythonHsm) -> bool:
    return hsm.engine.deadline > time.monotonic_ns()


def test_the_first_hsm_makes_the_cluster_and_serves_alone(cluster: Cluster) -> None:
    (one,) = cluster.start(A)
    assert one.replica.cluster.state == "UNINITIALIZED"
    assert [(user.name, user.role, user.password_hash) for user in one.replica.users.values()] == [
        ("admin", 1, b""),
        ("app_user", 3, b""),
    ]
    assert one.replica.partitions[1].name == ""
    eventually(lambda: serves(one))
    assert one.links.live() == 1
    assert one.links.announce(1, "all")
    assert not one.links.announce(1, "one")


def test_an_hsm_that_starts_serves_nobody_before_it_has_a_lease(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others may take it for dead, and what they do is not in its rows."""
    cluster.start(A)
    asked, answered = threading.Event(), threading.Event()
    renew, engines = Leases.renew, []

    def slow(leases: Leases, applied: ClusterRow) -> bool:
        asked.set()
        return answered.wait(20) and renew(leases, applied)

    def made(*arguments: object) -> Links:
        engines.append(arguments[1])
        return Links(*arguments)

    monkeypatch.setattr(Leases, "renew", slow)
    monkeypatch.setattr(hsms, "Links", made)
    with ThreadPoolExecutor(1) as pool:
        started = pool.submit(cluster.start, B)
        assert asked.wait(20)
        eventually(lambda: bool(engines))
        assert engines[0].deadline < time.monotonic_ns()
        answered.set()
        (two,) = started.result()
    eventually(lambda: serves(two))


def test_another_joins_gets_the_masking_key_and_is_heard(cluster: Cluster) -> None:
    one, two = cluster.start(A, B)
    assert two.engine.mac("row", b"x") == one.engine.mac("row", b"x")
    eventually(lambda: one.links.live() == 2 and two.links.live() == 2)
    version = one.replica.write(lambda version: [new_object(version)])
    start = time.monotonic()
    assert one.links.announce(version, "one")
    assert two.replica.objects[version * 16]
    version = two.replica.write(lambda version: [new_object(version)])
    assert two.links.announce(version, "all")
    assert one.replica.objects[version * 16]
    assert time.monotonic() - start < 0.8
    assert [hsm.replica.alarms for hsm in (one, two)] == [0, 0]


def test_hsms_that_have_just_started_are_waited_for_and_dead_ones_are_not(cluster: Cluster) -> None:
    one, two = cluster.start(A, B)
    assert one.links.enough(2)
    assert two.links.enough(2)
    assert not one.links.enough(3)
    two.kill()
    assert not one.links.enough(3)
    eventually(lambda: not one.links.enough(2))
    (again,) = cluster.start(B)
    assert again.links.enough(2)
    assert one.links.enough(2)


def test_hsms_that_start_together_make_one_masking_key(cluster: Cluster) -> None:
    for hsm_id in (A, B, C):
        manufacture(cluster.home, hsm_id)
    with ThreadPoolExecutor(3) as pool:
        hsms = [hsm for started in pool.map(cluster.start, (A, B, C)) for hsm in started]
    assert len({hsm.engine.mac("row", b"x") for hsm in hsms}) == 1
    eventually(lambda: all(hsm.links.live() == 3 for hsm in hsms))
    assert [hsm.replica.alarms for hsm in hsms] == [0, 0, 0]


def test_members_come_back_without_being_let_in_again(cluster: Cluster) -> None:
    one, two = cluster.start(A, B)
    one.replica.write(lambda version: [new_object(version)])
    one.kill()
    two.kill()
    (again,) = cluster.start(B)
    assert again.replica.boot == 2
    assert len(again.replica.objects) == 1
    eventually(lambda: serves(again))


def test_a_dead_member_costs_a_lease_once(cluster: Cluster) -> None:
    one, two = cluster.start(A, B)
    eventually(lambda: one.links.live() == 2)
    two.kill()
    start = time.monotonic()
    assert one.links.announce(one.replica.write(lambda version: [new_object(version)]), "all")
    assert time.monotonic() - start < 1.6
    eventually(lambda: one.links.live() == 1)
    assert not one.links.announce(one.replica.write(lambda version: [new_object(version)]), "one")
    time.sleep(2)
    start = time.monotonic()
    assert one.links.announce(one.replica.write(lambda version: [new_object(version)]), "all")
    assert time.monotonic() - start < 0.8
    eventually(lambda: serves(one))


def test_a_member_that_hangs_is_waited_for_until_its_lease_is_over(cluster: Cluster) -> None:
    one, two, three = cluster.start(A, B, C)
    eventually(lambda: all(hsm.links.live() == 3 for hsm in (one, two, three)))
    two.paused.set()
    version = one.replica.write(lambda version: [new_object(version)])
    start = time.monotonic()
    assert one.links.announce(version, "all")
    assert 0.3 < time.monotonic() - start < 1.8
    assert three.replica.version >= version
    two.paused.clear()
    eventually(lambda: two.replica.version >= version)


def test_without_the_database_all_members_go_on_and_a_lost_one_stops_the_rest(cluster: Cluster) -> None:
    one, two = cluster.start(A, B)
    eventually(lambda: one.links.live() == 2 and two.links.live() == 2)
    run_sql(cluster.url, "ALTER TABLE cluster RENAME TO away")
    time.sleep(1.5)
    eventually(lambda: serves(one))
    eventually(lambda: serves(two))
    two.kill()
    eventually(lambda: not serves(one), 3)
    run_sql(cluster.url, "ALTER TABLE away RENAME TO cluster")
    eventually(lambda: serves(one), 3)


def test_a_member_is_behind_until_it_has_done_what_a_version_means(cluster: Cluster) -> None:
    """Its poller has read the version, and takes rights away, when another HSM tells of it and wants an answer."""
    one, two = cluster.start(A, B)
    eventually(lambda: one.links.live() == 2 and two.links.live() == 2)
    entered, done = threading.Event(), threading.Event()

    def take_away(_change: Change) -> None:
        entered.set()
        time.sleep(0.7)  # some beats long, and less than a lease
        done.set()

    two.replica.on_change.append(take_away)
    version = one.replica.write(lambda version: [new_object(version)])
    poller = threading.Thread(target=two.replica.sync)
    poller.start()
    assert entered.wait(5)
    assert one.links.announce(version, "all")
    assert done.is_set() or not serves(two)
    poller.join()


@pytest.fixture
def crowd(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> tuple[PythonHsm, ...]:
    """Three HSMs that take themselves for many, at rest."""
    monkeypatch.setattr(peers, "CROWD", 2)
    hsms = tuple(cluster.start(A, B, C))
    eventually(lambda: all(hsm.links.live() == 3 for hsm in hsms))
    eventually(lambda: all(heard_of(hsm) == 3 for hsm in hsms))
    return hsms


def heard_of(hsm: PythonHsm) -> int:
    """Members whose lease is in the database."""
    leases = Leases(hsm.place.database_url, hsm.place.hsm_id)
    try:
        return len(leases.renewals())
    finally:
        leases.close()


def test_in_a_crowd_the_database_carries_the_lease_and_beats_are_rare(crowd: tuple[PythonHsm, ...]) -> None:
    def rare() -> bool:
        """Whether all serve for a second with less than half of the beats of few members."""
        before, began, served = sum(hsm.beats for hsm in crowd), time.monotonic(), True
        for _ in range(10):
            time.sleep(0.1)
            served = served and all(serves(hsm) and hsm.links.enough(2) for hsm in crowd)
        return served and sum(hsm.beats for hsm in crowd) - before < 6 * 4 * (time.monotonic() - began) / 2

    eventually(rare, 30)
    one, two, three = crowd
    version = one.replica.write(lambda version: [new_object(version)])
    assert one.links.announce(version, "all")
    assert (two.replica.version, three.replica.version) == (version, version)


def test_a_crowd_without_the_database_beats_and_goes_on(crowd: tuple[PythonHsm, ...]) -> None:
    one, two, three = crowd
    run_sql(one.place.database_url, "ALTER TABLE cluster RENAME TO away")
    time.sleep(1.5)  # no lease of before holds any more
    for hsm in crowd:
        eventually(lambda hsm=hsm: serves(hsm))
    three.kill()
    eventually(lambda: not serves(one) and not serves(two), 3)
    run_sql(one.place.database_url, "ALTER TABLE away RENAME TO cluster")
    eventually(lambda: serves(one) and serves(two), 3)


def test_a_dead_member_of_a_crowd_costs_a_lease_once(crowd: tuple[PythonHsm, ...]) -> None:
    one, two, three = crowd
    three.kill()
    assert one.links.announce(one.replica.write(lambda version: [new_object(version)]), "all")
    assert two.replica.version == one.replica.version
    assert not serves(three) or three.replica.version == one.replica.version
    eventually(lambda: not serves(three) and one.links.live() == 2)
    two.kill()
    eventually(lambda: not one.links.enough(2))


def test_a_member_that_was_removed_stops(cluster: Cluster) -> None:
    one, two = cluster.start(A, B)
    eventually(lambda: one.links.live() == 2)
    one.replica.write(lambda _: [replace(one.replica.members[B], deleted=True)])
    eventually(lambda: not serves(two), 2)
    eventually(lambda: one.links.live() == 1)
    eventually(lambda: serves(one))
    assert not serves(two)


def test_a_stranger_proves_nothing(cluster: Cluster) -> None:
    one, _ = cluster.start(A, B)
    with Link(one.place.socket, 1) as link:
        link.call(HelloRequest(VERSION, 0, b"", b"", b""))
        with pytest.raises(CkrError):
            link.call(PeerHelloRequest(C.encode(), bytes(32)))
        with pytest.raises(CkrError):
            link.call(PeerHelloRequest(B.encode(), bytes(31)))
        answer = link.call(PeerHelloRequest(B.encode(), bytes(32)))
        for guess in (bytes(32), answer.proof):
            with pytest.raises(CkrError):
                link.call(PeerProveRequest(guess))
        with pytest.raises(CkrError):
            link.call(PeerBeatRequest(1))


def test_a_device_of_another_manufacturer_is_not_let_in(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = cluster.start(A)
    elsewhere = tmp_path / "elsewhere"
    manufacture(elsewhere, B)
    monkeypatch.setattr(membership, "JOIN_SECONDS", 1.2)
    place = membership.Place(cluster.url, CLUSTER, B, str(tmp_path / "b.sock"), elsewhere / "hsms" / B)
    with pytest.raises(HsmsimError, match="gave hsm-bbbbbbbbbbb the masking key"):
        membership.bootstrap(PythonEngine(), place)
    assert set(one.replica.members) == {A}
    stolen = replace(place, hsm_id=C)
    with pytest.raises(HsmsimError, match="is another one's"):
        membership.bootstrap(PythonEngine(), stolen)


def test_a_sealed_key_that_was_changed_is_explained(cluster: Cluster) -> None:
    one, two = cluster.start(A, B)
    two.kill()
    for wrong in (one.replica.members[A].sealed, bytes(92), b"short", "text", 5):
        assert run_sql(cluster.url, "UPDATE members SET sealed = ? WHERE hsm_id = ?", wrong, B) == 1
        with pytest.raises(HsmsimError, match="is not sealed to this HSM"):
            PythonHsm(cluster.home, B, cluster.url)
    eventually(lambda: serves(one))


def test_an_hsm_whose_socket_moved_is_found(cluster: Cluster, tmp_path: Path) -> None:
    one, two = cluster.start(A, B)
    two.kill()
    place = replace(two.place, socket=str(tmp_path / "moved.sock"))
    moved = membership.bootstrap(PythonEngine(), place)
    eventually(lambda: one.replica.members[B].socket == place.socket)
    moved.close()


def test_a_seed_is_made_once_and_private(tmp_path: Path) -> None:
    folder = manufacture(tmp_path, A)
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {
        "seed": 0o600, "device.crt": 0o600, "manufacturer.crt": 0o600,
        "aws_hardware.crt": 0o600, "manufacturer_hardware.crt": 0o600,
    }  # fmt: skip
    assert len((folder / "seed").read_bytes()) == 32
    with pytest.raises(HsmsimError, match="is an HSM already"):
        manufacture(tmp_path, A)
    other = manufacture(tmp_path, B)
    assert (other / "manufacturer.crt").read_bytes() == (folder / "manufacturer.crt").read_bytes()
    assert (other / "seed").read_bytes() != (folder / "seed").read_bytes()
