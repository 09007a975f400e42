"""kill -9 of the gateway at every step of a cluster's life, of the fleet's daemon and of HSMs in the middle of them."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ConnectionClosedError
from support.cloudhsm import REGION, Simulator, refused, simulator
from support.fleet import MORTAL

from hsmsim.fleet import protocol as p
from hsmsim.services.cloudhsm.plan import Do

if TYPE_CHECKING:
    from collections.abc import Iterator

DIGEST = bytes(range(32))
ELSEWHERE = {Do.COPY_IMAGE.name}
"""Killed in test_a_copy_whose_gateway_is_killed_is_made_once."""


@pytest.fixture
def sim() -> Iterator[Simulator]:
    with simulator() as one:
        yield one


def adding(sim: Simulator, id_: str, zone: str) -> str:
    made = sim.client().create_hsm(ClusterId=id_, AvailabilityZone=f"{REGION}{zone}")["Hsm"]
    return str(made["HsmId"])


def up(sim: Simulator, id_: str, count: int) -> list[str]:
    """The HSMs, once there are so many and all are ACTIVE; each has its process, and there are no more of those."""

    def met(found: dict[str, Any]) -> bool:
        return [hsm["State"] for hsm in found["Hsms"]] == ["ACTIVE"] * count

    sim.when(id_, met)
    ids = [hsm["HsmId"] for hsm in sim.settled(id_)["Hsms"]]
    assert sorted(path.name for path in (sim.fleet.places.home / "hsms").iterdir()) == sorted(ids)
    return ids


def test_a_life_with_a_kill_at_every_step(sim: Simulator) -> None:
    id_ = begun(sim)
    (first,) = up(sim, id_, 1)
    with sim.hsm(first) as alice:
        alice.login("alice")
        public, private = alice.ec(token=True)
    failed(sim, id_, first)
    grown_and_migrated(sim, id_)
    shrunk_to_nothing(sim, id_)

    # One again with the key that was made at the beginning, and a new cluster with it.
    with sim.dying("CREATE_HSM between"):
        adding(sim, id_, "a")
    with sim.dying("CREATED after", "RESTORED after"):
        newest = sim.backups(states=["READY"])[-1]["BackupId"]
        wanted = {"HsmType": "hsm2m.medium", "Mode": "FIPS", "SubnetIds": sim.subnets[:1]}
        sim.client().create_cluster(**wanted, SourceBackupId=newest)
    (other,) = {one["ClusterId"] for one in sim.client().describe_clusters()["Clusters"]} - {id_}
    sim.until(other, "ACTIVE")
    adding(sim, other, "a")
    for one in (id_, other):
        sim.when(one, lambda found: [hsm["State"] for hsm in found["Hsms"]] == ["ACTIVE"])
        (hsm,) = sim.settled(one)["Hsms"]
        with sim.hsm(hsm["HsmId"]) as alice:
            alice.login("alice")
            alice.verify(public, DIGEST, alice.sign(private, DIGEST))
            assert len(alice.find()) == 2
        sim.remove(one, hsm["HsmId"])

    deleted_and_forgotten(sim, id_)
    assert {place.split()[0] for place in sim.killed} == {do.name for do in Do} - ELSEWHERE
    assert {f"{step} between" for step in sim.asked()} <= sim.killed


def failed(sim: Simulator, id_: str, hsm_id: str) -> None:
    """An HSM that dies, is started again, and makes the day's backup."""
    with sim.dying("HEALTH before"):
        sim.fleet.do(p.KillHsm(hsm_id))
    sim.when(id_, lambda found: [hsm["State"] for hsm in found["Hsms"]] == ["DEGRADED"])
    with sim.dying("HEALTH after"):
        sim.fleet.do(p.StartHsm(hsm_id))
    assert up(sim, id_, 1) == [hsm_id]
    with sim.dying("BACKUP after"):
        sim.advance(days=1)
    sim.eventually(lambda: len(sim.backups(states=["READY"])) == 2)


def shrunk_to_nothing(sim: Simulator, id_: str) -> None:
    """Back to one HSM; another type for good; none, and the last one takes its backup with it."""
    one, two = up(sim, id_, 2)
    with sim.dying("DELETE_HSM between"):
        sim.client().delete_hsm(ClusterId=id_, HsmId=one)
    assert up(sim, id_, 1) == [two]
    sim.client().modify_cluster(ClusterId=id_, HsmType="hsm2m.medium")
    assert "HsmTypeRollbackExpiration" in sim.until(id_, "ACTIVE")
    with sim.dying("END_ROLLBACK before"):
        sim.advance(days=1)
    (last,) = up(sim, id_, 1)
    assert "HsmTypeRollbackExpiration" not in sim.cluster(id_)
    with refused("CloudHsmInvalidRequestException", "can go back to the HSM type that it had"):
        sim.client().modify_cluster(ClusterId=id_, HsmType="hsm1.medium")
    with sim.dying("BACKUP_FOR after", "ABANDON after"):
        with suppress(ConnectionClosedError, ConnectionError):
            sim.client().delete_hsm(ClusterId=id_, HsmId=last)
        sim.dead("BACKUP_FOR after")
        sim.fleet.do(p.KillHsm(last))
    assert up(sim, id_, 0) == []
    assert sim.backups()[-1]["BackupState"] == "DELETED"


def deleted_and_forgotten(sim: Simulator, id_: str) -> None:
    """The cluster, then all of its backups but the last."""
    with sim.dying("DELETE_CLUSTER between"):
        sim.client().delete_cluster(ClusterId=id_)
    sim.until(id_, "DELETED")
    *old, last = (backup["BackupId"] for backup in sim.backups(clusterIds=[id_], states=["READY"]))
    assert len(old) > 2
    with sim.dying("EXPIRE after"):
        sim.advance(days=91)
    sim.eventually(lambda: len(sim.backups(clusterIds=[id_], states=["PENDING_DELETION"])) == len(old))
    with sim.dying("REMOVE after", "WIPE between"):
        sim.advance(days=8)
    images = sim.fleet.places.images_folder
    sim.eventually(lambda: not any((images / f"{backup}.image").exists() for backup in old))
    assert [backup["BackupId"] for backup in sim.backups(clusterIds=[id_], states=["READY"])] == [last]
    assert (images / f"{last}.image").exists()


def begun(sim: Simulator) -> str:
    """From nothing to ACTIVE; the cluster's id."""
    with sim.dying("CREATED before"):
        sim.client().create_cluster(HsmType="hsm1.medium", SubnetIds=sim.subnets[:2])
    (made,) = sim.client().describe_clusters()["Clusters"]
    id_ = made["ClusterId"]
    sim.until(id_, "UNINITIALIZED")
    with sim.dying("CREATE_HSM between"):
        adding(sim, id_, "a")
    (first,) = up(sim, id_, 1)
    certificate, root = sim.sign(id_)
    with sim.dying("INITIALIZE between"):
        sim.client().initialize_cluster(ClusterId=id_, SignedCert=certificate, TrustAnchor=root)
    assert sim.until(id_, "INITIALIZED")["Certificates"] == {"ClusterCertificate": certificate}
    with sim.dying("ACTIVATED after"):
        sim.activate(first)
    sim.until(id_, "ACTIVE")
    sim.settled(id_)
    assert len(sim.backups(states=["READY"])) == 1
    return str(id_)


def grown_and_migrated(sim: Simulator, id_: str) -> None:
    """A second HSM; another HSM type, and back."""
    with sim.dying("WRITE_IMAGE between", "CREATE_HSM before"):
        adding(sim, id_, "b")
    assert len(up(sim, id_, 2)) == 2
    assert len(sim.backups(states=["READY"])) == 3

    steps = ("LIMIT between", "REPLACE after", "CREATE_HSM between", "RETIRE between", "UNLIMIT between")
    with sim.dying(*steps, "MIGRATED before"):
        sim.client().modify_cluster(ClusterId=id_, HsmType="hsm2m.medium")
    assert [hsm["HsmType"] for hsm in sim.until(id_, "ACTIVE")["Hsms"]] == ["hsm2m.medium"] * 2
    for hsm_id in up(sim, id_, 2):
        assert not sim.fleet.call(p.Describe(hsm_id), p.HsmView).limited_write
    with sim.dying("RETIRE between", "CREATE_HSM between"):
        sim.client().modify_cluster(ClusterId=id_, HsmType="hsm1.medium")
    assert [hsm["HsmType"] for hsm in sim.until(id_, "ACTIVE")["Hsms"]] == ["hsm1.medium"] * 2


def test_the_fleet_s_daemon_may_be_away(sim: Simulator) -> None:
    id_, first = sim.active()
    sim.fleet.end()
    made = adding(sim, id_, "b")
    shown = sim.when(id_, lambda found: found["Hsms"][1].get("StateMessage"))
    assert [hsm["State"] for hsm in shown["Hsms"]] == ["ACTIVE", "CREATE_IN_PROGRESS"]
    assert "The fleet's daemon, which has the HSMs, does not answer" in shown["Hsms"][1]["StateMessage"]
    sim.fleet.start()
    assert up(sim, id_, 2) == [first["HsmId"], made]
    assert "StateMessage" not in sim.cluster(id_)["Hsms"][1]


def test_the_fleet_s_daemon_and_hsms_die_in_the_middle_of_a_life() -> None:
    """A person starts an HSM again that died while it served; one that is being made is made all the same."""
    with simulator(MORTAL) as sim:
        id_, first = begun_by_mortals(sim)
        with sim.hsm(first) as alice:
            alice.login("alice")
            public, private = alice.ec(token=True)

        # The second one: a backup of the first, and the first lets it in.
        sim.fleet.arm("a candidate", "certified")
        with sim.fleet.dying("backing up", "spawned"):
            second = adding(sim, id_, "b")
        assert up(sim, id_, 2) == [first, second]
        sim.fleet.arm("wrote an image", hsm_id=second)
        sim.fleet.arm("writing an image", hsm_id=first)
        sim.advance(days=1)
        sim.eventually(lambda: sim.fleet.struck(first) and sim.fleet.struck(second))
        sim.when(id_, lambda found: found["State"] == "DEGRADED")
        sim.fleet.do(p.StartHsm(first))
        sim.fleet.do(p.StartHsm(second))
        assert up(sim, id_, 2) == [first, second]

        # They go, and one grows again from the last backup.
        with sim.fleet.dying("left"):
            sim.client().delete_hsm(ClusterId=id_, HsmId=first)
        assert up(sim, id_, 1) == [second]
        with sim.fleet.dying("backed up", "wiped"):
            sim.client().delete_hsm(ClusterId=id_, HsmId=second)
        assert up(sim, id_, 0) == []
        assert {backup["BackupState"] for backup in sim.backups()} == {"READY"}
        assert len(list(sim.fleet.places.images_folder.iterdir())) == len(sim.backups())
        sim.fleet.arm("restored")
        with sim.fleet.dying("HSM made"):
            third = adding(sim, id_, "a")
        assert up(sim, id_, 1) == [third]
        with sim.hsm(third) as alice:
            alice.login("alice")
            alice.verify(public, DIGEST, alice.sign(private, DIGEST))
            assert len(alice.find()) == 2


def begun_by_mortals(sim: Simulator) -> tuple[str, str]:
    """A cluster that is ACTIVE, and its HSM."""
    id_ = sim.create(subnets=sim.subnets[:2])
    with sim.fleet.dying("cluster made", "seed made", "serving"):
        given_up = adding(sim, id_, "a")
    assert up(sim, id_, 1) == [given_up]
    sim.remove(id_, given_up)
    sim.fleet.arm("founding", "founded", "certified")
    first = adding(sim, id_, "a")
    shown = sim.when(id_, lambda found: found["Hsms"][0].get("StateMessage"))
    assert f"{first} ended instead of starting" in shown["Hsms"][0]["StateMessage"]
    assert up(sim, id_, 1) == [first]

    certificate, root = sim.sign(id_)
    sim.fleet.arm("granted", hsm_id=first)
    with sim.fleet.dying("initializing"):
        sim.client().initialize_cluster(ClusterId=id_, SignedCert=certificate, TrustAnchor=root)
    sim.eventually(lambda: sim.fleet.struck(first))
    shown = sim.when(id_, lambda found: "hsmsim hsm start" in found.get("StateMessage", ""))
    assert shown["State"] == "INITIALIZE_IN_PROGRESS"
    with sim.fleet.dying("initialized"):
        sim.fleet.do(p.StartHsm(first))
    assert sim.until(id_, "INITIALIZED")["Certificates"] == {"ClusterCertificate": certificate}

    sim.activate(first)
    sim.until(id_, "ACTIVE")
    sim.settled(id_)
    assert [backup["BackupState"] for backup in sim.backups()] == ["READY"]
    return id_, first
