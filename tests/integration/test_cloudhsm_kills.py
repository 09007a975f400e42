"""kill -9 of the gateway at every step of a cluster's life: it goes on from there after a restart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support.cloudhsm import REGION, Simulator, simulator

from hsmsim.fleet import protocol as p

if TYPE_CHECKING:
    from collections.abc import Iterator

DIGEST = bytes(range(32))


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
    grown_and_migrated(sim, id_)

    # None, and one again with the key that was made at the beginning.
    one, two = up(sim, id_, 2)
    with sim.dying("DELETE_HSM between"):
        sim.client().delete_hsm(ClusterId=id_, HsmId=one)
    assert up(sim, id_, 1) == [two]
    with sim.dying("BACKUP_FOR after"):
        sim.client().delete_hsm(ClusterId=id_, HsmId=two)
    assert up(sim, id_, 0) == []
    with sim.dying("CREATE_HSM between"):
        adding(sim, id_, "a")
    (third,) = up(sim, id_, 1)
    with sim.hsm(third) as alice:
        alice.login("alice")
        alice.verify(public, DIGEST, alice.sign(private, DIGEST))
        assert len(alice.find()) == 2

    sim.remove(id_, third)
    with sim.dying("DELETE_CLUSTER between"):
        sim.client().delete_cluster(ClusterId=id_)
    sim.until(id_, "DELETED")
    assert (sim.interfaces(), sim.groups()) == ([], {})
    assert {backup["BackupState"] for backup in sim.backups()} == {"READY"}
    assert len(list(sim.fleet.places.images_folder.iterdir())) == len(sim.backups())
    oldest, *_ = sim.backups()
    with sim.dying("WIPE between"):
        sim.client().delete_backup(BackupId=oldest["BackupId"])
        sim.advance(days=8)
    sim.eventually(lambda: not (sim.fleet.places.images_folder / f"{oldest['BackupId']}.image").exists())
    assert oldest["BackupId"] not in {backup["BackupId"] for backup in sim.backups(states=["READY"])}


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
    assert len(sim.backups(states=["READY"])) == 2

    steps = ("LIMIT between", "REPLACE after", "CREATE_HSM between", "RETIRE between", "UNLIMIT between")
    with sim.dying(*steps):
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
    sim.fleet.start()
    assert up(sim, id_, 2) == [first["HsmId"], made]
    assert "StateMessage" not in sim.cluster(id_)["Hsms"][1]
