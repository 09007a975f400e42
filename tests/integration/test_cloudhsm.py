"""CloudHSM by boto3, with the fleet's daemon and HSM processes behind the gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.cloudhsm import ACCOUNT, REGION, Simulator, simulator
from support.network import SUBNET_IDS, VPC

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def sim() -> Iterator[Simulator]:
    with simulator(quotas={"cloudhsm.clusters": 40, "cloudhsm.hsms": 40}) as one:
        yield one


def test_from_nothing_to_an_active_cluster(sim: Simulator) -> None:
    hsm_api = sim.client()
    made = hsm_api.create_cluster(
        HsmType="hsm2m.medium", SubnetIds=SUBNET_IDS[:2], TagList=[{"Key": "team", "Value": "blue"}]
    )["Cluster"]
    id_ = made["ClusterId"]
    stamp, group = made.pop("CreateTimestamp"), made.pop("SecurityGroup")
    assert made == {
        "BackupPolicy": "DEFAULT",
        "BackupRetentionPolicy": {"Type": "DAYS", "Value": "90"},
        "ClusterId": id_,
        "Hsms": [],
        "HsmType": "hsm2m.medium",
        "State": "CREATE_IN_PROGRESS",
        "SubnetMapping": {f"{REGION}a": SUBNET_IDS[0], f"{REGION}b": SUBNET_IDS[1]},
        "VpcId": VPC,
        "NetworkType": "IPV4",
        "Certificates": {},
        "TagList": [{"Key": "team", "Value": "blue"}],
        "Mode": "FIPS",
    }
    assert sim.until(id_, "UNINITIALIZED")["CreateTimestamp"] == stamp
    hsm = hsm_api.create_hsm(ClusterId=id_, AvailabilityZone=f"{REGION}b", IpAddress="10.0.1.77")["Hsm"]
    assert hsm["State"] == "CREATE_IN_PROGRESS"
    assert (hsm["SubnetId"], hsm["EniIp"], hsm["HsmType"]) == (SUBNET_IDS[1], "10.0.1.77", "hsm2m.medium")
    shown = sim.when(id_, lambda found: found["Hsms"][0]["State"] == "ACTIVE")
    assert shown["Hsms"] == [{**hsm, "State": "ACTIVE"}]
    assert set(shown["Certificates"]) == {
        "ClusterCsr",
        "HsmCertificate",
        "AwsHardwareCertificate",
        "ManufacturerHardwareCertificate",
    }
    certificate, root = sim.sign(id_)
    answer = hsm_api.initialize_cluster(ClusterId=id_, SignedCert=certificate, TrustAnchor=root)
    assert answer["State"] == "INITIALIZE_IN_PROGRESS"
    assert answer["StateMessage"] == "Cluster is initializing. State will change to INITIALIZED upon completion."
    shown = sim.until(id_, "INITIALIZED")
    assert shown["Certificates"] == {"ClusterCertificate": certificate}
    assert sim.backups(clusterIds=[id_]) == []
    sim.activate(hsm["HsmId"])
    assert "StateMessage" not in sim.until(id_, "ACTIVE")
    sim.settled(id_)
    (backup,) = sim.backups(clusterIds=[id_])
    assert (backup["BackupState"], backup["NeverExpires"]) == ("READY", False)
    assert backup["BackupArn"] == f"arn:aws:cloudhsm:{REGION}:{ACCOUNT}:backup/{backup['BackupId']}"
    network = sim.manage("GET", "/network")
    assert {"id": group, "name": f"cloudhsm-{id_}-sg", "first": 2223, "last": 2225} in network["groups"]
    assert [one["ip"] for one in network["interfaces"] if one["groupid"] == group] == ["10.0.1.77"]
