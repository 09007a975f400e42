"""CloudHSM in simulated time: transitions as slow as AWS's, periodic backups, retention, deletion for good."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import pytest
from support.cloudhsm import REGION, Simulator, refused, simulator

from hsmsim.errors import CkrError
from hsmsim.hsm.cryptoki import CKR

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def sim() -> Iterator[Simulator]:
    with simulator() as one:
        yield one


def states(sim: Simulator, id_: str) -> list[str]:
    return [backup["BackupState"] for backup in sim.backups(clusterIds=[id_])]


def files(sim: Simulator, id_: str) -> set[str]:
    """The images of a cluster that are on the disk."""
    found = {path.stem for path in sim.fleet.places.images_folder.iterdir()}
    return found & {backup["BackupId"] for backup in sim.backups(clusterIds=[id_])}


def test_backups_come_every_day_and_go_with_their_retention(sim: Simulator) -> None:
    id_, hsm = sim.active(BackupRetentionPolicy={"Type": "DAYS", "Value": "7"})
    (first,) = sim.backups(clusterIds=[id_])
    sim.advance(hours=23, minutes=50)
    sim.client().modify_backup_attributes(BackupId=first["BackupId"], NeverExpires=True)
    assert states(sim, id_) == ["READY"]
    sim.advance(minutes=20)
    sim.eventually(lambda: states(sim, id_) == ["READY"] * 2)
    _, second = sim.backups(clusterIds=[id_])
    assert dt.timedelta(hours=24) <= second["CreateTimestamp"] - first["CreateTimestamp"] < dt.timedelta(hours=25)

    # After a week the second one is old, and the first never; what was made just now is the latest.
    sim.advance(days=7)
    sim.eventually(lambda: states(sim, id_) == ["READY", "PENDING_DELETION", "READY"])
    _, second, _ = sim.backups(clusterIds=[id_])
    assert second["DeleteTimestamp"] > second["CreateTimestamp"] + dt.timedelta(days=14)
    assert len(files(sim, id_)) == 3
    sim.remove(id_, hsm["HsmId"])
    sim.settled(id_)
    sim.advance(days=6, hours=23)
    assert states(sim, id_) == ["READY", "PENDING_DELETION", "READY", "READY"]
    sim.advance(hours=2)
    sim.eventually(lambda: states(sim, id_)[1] == "DELETED")
    image = sim.fleet.places.images_folder / f"{second['BackupId']}.image"
    sim.eventually(lambda: not image.exists())
    sim.advance(days=1)
    assert [backup["BackupId"] for backup in sim.backups(backupIds=[second["BackupId"]])] == []

    # Without HSMs nothing new is made, and the last one stays whatever its age, so that the cluster comes back.
    sim.advance(days=400)
    sim.eventually(lambda: states(sim, id_) == ["READY", "READY"])
    assert len(files(sim, id_)) == 2
    with sim.hsm(sim.add(id_)["HsmId"]) as alice:
        alice.login("alice")
    for hsm in sim.cluster(id_)["Hsms"]:
        sim.remove(id_, hsm["HsmId"])


def test_keys_are_lost_with_the_last_backup(sim: Simulator) -> None:
    id_, hsm = sim.active()
    sim.remove(id_, hsm["HsmId"])
    sim.settled(id_)
    oldest, newest = sim.backups(clusterIds=[id_])
    for backup in (oldest, newest):
        sim.client().delete_backup(BackupId=backup["BackupId"])
    with refused("CloudHsmInvalidRequestException", f"{id_} has no HSM, and no backup that is READY"):
        sim.client().create_hsm(ClusterId=id_, AvailabilityZone=f"{REGION}a")
    sim.client().restore_backup(BackupId=oldest["BackupId"])
    with sim.hsm(sim.add(id_)["HsmId"]) as alice:
        alice.login("alice")
    sim.remove(id_, sim.cluster(id_)["Hsms"][0]["HsmId"])
    sim.settled(id_)
    for backup in sim.backups(clusterIds=[id_], states=["READY"]):
        sim.client().delete_backup(BackupId=backup["BackupId"])
    sim.advance(days=8)
    sim.eventually(lambda: "PENDING_DELETION" not in states(sim, id_))
    with refused("CloudHsmInvalidRequestException", f"{id_} has no HSM, and no backup that is READY"):
        sim.client().create_hsm(ClusterId=id_, AvailabilityZone=f"{REGION}a")
    sim.client().delete_cluster(ClusterId=id_)
    sim.until(id_, "DELETED")
    sim.advance(days=2)
    assert sim.client().describe_clusters(Filters={"clusterIds": [id_]})["Clusters"] == []


def migrated(sim: Simulator, id_: str, hsm_id: str) -> str:
    """A change of the HSM type, in which token keys and users stay as they are; the new HSM's id."""
    sim.client().modify_cluster(ClusterId=id_, HsmType="hsm2m.medium")
    sim.eventually(lambda: states(sim, id_)[-1] == "CREATE_IN_PROGRESS")
    sim.advance(minutes=2)
    sim.when(id_, lambda found: len(found["Hsms"]) == 2)
    with sim.hsm(hsm_id) as alice:
        alice.login("alice")
        with pytest.raises(CkrError) as error:
            alice.ec(token=True)
        assert error.value.rv == CKR.TOKEN_WRITE_PROTECTED
        alice.ec(token=False)
    sim.advance(minutes=25)
    shown = sim.cluster(id_)
    assert [hsm["State"] for hsm in shown["Hsms"]] == ["ACTIVE", "CREATE_IN_PROGRESS"]
    assert shown["Hsms"][0]["EniId"] == shown["Hsms"][1]["EniId"]
    with refused("CloudHsmInvalidRequestException", f"{id_} is MODIFY_IN_PROGRESS."):
        sim.client().delete_hsm(ClusterId=id_, HsmId=hsm_id)
    sim.advance(minutes=5)
    (hsm,) = sim.until(id_, "ACTIVE")["Hsms"]
    with sim.hsm(hsm["HsmId"]) as alice:
        alice.login("alice")
        alice.ec(token=True)
    return str(hsm["HsmId"])


def test_transitions_take_what_they_take_in_aws() -> None:
    with simulator(time_scale=1) as sim:
        api = sim.client()

        def state() -> Any:
            return sim.cluster(id_)["State"]

        def hsms() -> list[str]:
            return [hsm["State"] for hsm in sim.cluster(id_)["Hsms"]]

        id_ = api.create_cluster(HsmType="hsm1.medium", SubnetIds=sim.subnets[:1])["Cluster"]["ClusterId"]
        sim.advance(seconds=40)
        assert state() == "CREATE_IN_PROGRESS"
        sim.advance(seconds=20)
        sim.until(id_, "UNINITIALIZED")
        hsm_id = api.create_hsm(ClusterId=id_, AvailabilityZone=f"{REGION}a")["Hsm"]["HsmId"]
        sim.advance(minutes=6)
        assert hsms() == ["CREATE_IN_PROGRESS"]
        assert not (sim.fleet.places.home / "hsms").exists()
        sim.advance(minutes=1)
        sim.eventually(lambda: hsms() == ["ACTIVE"])
        certificate, root = sim.sign(id_)
        api.initialize_cluster(ClusterId=id_, SignedCert=certificate, TrustAnchor=root)
        sim.advance(minutes=2)
        assert (state(), sim.cluster(id_)["Certificates"]) == ("INITIALIZE_IN_PROGRESS", {})
        sim.advance(minutes=1)
        sim.until(id_, "INITIALIZED")
        sim.activate(hsm_id)
        sim.until(id_, "ACTIVE")
        assert states(sim, id_) == ["CREATE_IN_PROGRESS"]
        sim.restart()
        assert states(sim, id_) == ["CREATE_IN_PROGRESS"]
        sim.advance(minutes=2)
        sim.eventually(lambda: states(sim, id_) == ["READY"])
        api = sim.client()
        hsm_id = migrated(sim, id_, hsm_id)
        api.delete_hsm(ClusterId=id_, HsmId=hsm_id)
        sim.eventually(lambda: states(sim, id_)[-1] == "CREATE_IN_PROGRESS")
        sim.advance(minutes=2)
        assert hsms() == ["DELETE_IN_PROGRESS"]
        sim.advance(minutes=1)
        sim.eventually(lambda: hsms() == [])
        assert states(sim, id_) == ["READY"] * 3
        api.delete_cluster(ClusterId=id_)
        sim.advance(seconds=40)
        assert state() == "DELETE_IN_PROGRESS"
        sim.advance(seconds=20)
        sim.until(id_, "DELETED")
