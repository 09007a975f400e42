"""CloudHSM where each decision that AWS does not document is taken otherwise, by the gateway's configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support.aws_cli import Aws
from support.cloudhsm import REGION, Simulator, refused, simulator

if TYPE_CHECKING:
    from collections.abc import Iterator

OTHERWISE = {
    "cloudhsm.shows_update": True,
    "cloudhsm.shown_s": 3600,
    "cloudhsm.quota": "CloudHsmServiceException",
    "cloudhsm.mode_from_backup": False,
}


@pytest.fixture(scope="module")
def sim() -> Iterator[Simulator]:
    quotas = {"cloudhsm.clusters": 1, "cloudhsm.hsms_per_cluster": 2}
    with simulator(unverified=OTHERWISE, quotas=quotas, time_scale=1) as one:
        yield one


def test_each_decision_taken_otherwise(sim: Simulator) -> None:
    api = sim.client()

    def hsms() -> list[Any]:
        return [hsm["State"] for hsm in sim.cluster(id_)["Hsms"]]

    def writing() -> list[Any]:
        """The backups that take their time now."""
        return sim.backups(clusterIds=[id_], states=["CREATE_IN_PROGRESS"])

    def in_state(state: str) -> list[str]:
        filters = {"clusterIds": [id_], "states": [state]}
        return [one["ClusterId"] for one in api.describe_clusters(Filters=filters)["Clusters"]]

    id_ = api.create_cluster(HsmType="hsm2m.medium", Mode="FIPS", SubnetIds=sim.subnets[:2])["Cluster"]["ClusterId"]
    create = ("create-cluster", "--hsm-type", "hsm2m.medium", "--mode", "FIPS", "--subnet-ids", sim.subnets[0])
    assert Aws(sim.url, sim.root, REGION).error(*create) == (
        "An error occurred (CloudHsmServiceException) when calling the CreateCluster operation: The quota is reached: "
        "clusters of an account in a region can be 1 at most."
    )
    sim.advance(minutes=1)
    sim.until(id_, "UNINITIALIZED")
    first = api.create_hsm(ClusterId=id_, AvailabilityZone=f"{REGION}a")["Hsm"]
    assert sim.cluster(id_)["State"] == "UNINITIALIZED"
    sim.advance(minutes=7)
    sim.eventually(lambda: hsms() == ["ACTIVE"])
    certificate, root = sim.sign(id_)
    api.initialize_cluster(ClusterId=id_, SignedCert=certificate, TrustAnchor=root)
    sim.advance(minutes=3)
    sim.until(id_, "INITIALIZED")
    sim.activate(first["HsmId"])
    sim.until(id_, "ACTIVE")

    # An HSM comes, and meanwhile the cluster says so, and takes what an ACTIVE one takes.
    second = api.create_hsm(ClusterId=id_, AvailabilityZone=f"{REGION}b")["Hsm"]
    assert sim.cluster(id_)["State"] == "UPDATE_IN_PROGRESS"
    assert (in_state("UPDATE_IN_PROGRESS"), in_state("ACTIVE")) == ([id_], [])
    with refused("CloudHsmServiceException", "HSMs of a cluster can be 2 at most"):
        api.create_hsm(ClusterId=id_, AvailabilityZone=f"{REGION}a")
    with refused("CloudHsmInvalidRequestException", "needs HSMs, all of them ACTIVE"):
        api.modify_cluster(ClusterId=id_, HsmType="hsm1.medium")
    sim.eventually(lambda: len(writing()) == 2)
    sim.advance(minutes=7)
    sim.eventually(lambda: hsms() == ["ACTIVE", "ACTIVE"])
    assert in_state("ACTIVE") == [id_]

    # They go.
    for hsm, left in ((first, ["ACTIVE"]), (second, [])):
        api.delete_hsm(ClusterId=id_, HsmId=hsm["HsmId"])
        assert in_state("UPDATE_IN_PROGRESS") == [id_]
        sim.eventually(writing)
        sim.advance(minutes=5)
        sim.eventually(lambda left=left: hsms() == left)
        assert in_state("ACTIVE") == [id_]
    restored = {
        "HsmType": "hsm2m.medium",
        "SubnetIds": sim.subnets[:1],
        "SourceBackupId": sim.backups()[-1]["BackupId"],
    }
    with refused("CloudHsmInvalidRequestException", "Mode is a required argument for this hsm type."):
        api.create_cluster(**restored)
    api.delete_cluster(ClusterId=id_)
    sim.advance(minutes=1)
    sim.until(id_, "DELETED")
    sim.advance(minutes=58)
    assert in_state("DELETED") == [id_]
    sim.advance(minutes=3)
    assert in_state("DELETED") == []
