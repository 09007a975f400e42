"""CloudHSM by boto3, with the fleet's daemon and HSM processes behind the gateway."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
from support.cloudhsm import ACCOUNT, REGION, Simulator, refused, simulator
from support.fleet import patiently

from hsmsim.fleet import launch
from hsmsim.fleet import protocol as p

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.hsm import Client

DIGEST = bytes(range(32))


@pytest.fixture(scope="module")
def sim() -> Iterator[Simulator]:
    with simulator(quotas={"cloudhsm.clusters": 40, "cloudhsm.hsms": 40}) as one:
        yield one


def user(sim: Simulator, hsm: dict[str, Any]) -> Client:
    """Alice, on this HSM."""
    client = sim.hsm(hsm["HsmId"])
    client.login("alice")
    return client


def test_from_nothing_to_an_active_cluster(sim: Simulator) -> None:
    hsm_api = sim.client()
    made = hsm_api.create_cluster(
        HsmType="hsm2m.medium", SubnetIds=sim.subnets[:2], TagList=[{"Key": "team", "Value": "blue"}], Mode="FIPS"
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
        "SubnetMapping": {f"{REGION}a": sim.subnets[0], f"{REGION}b": sim.subnets[1]},
        "VpcId": sim.vpc,
        "NetworkType": "IPV4",
        "Certificates": {},
        "TagList": [{"Key": "team", "Value": "blue"}],
        "Mode": "FIPS",
    }
    assert sim.until(id_, "UNINITIALIZED")["CreateTimestamp"] == stamp
    hsm = hsm_api.create_hsm(ClusterId=id_, AvailabilityZone=f"{REGION}b", IpAddress="10.0.1.77")["Hsm"]
    assert hsm["State"] == "CREATE_IN_PROGRESS"
    assert (hsm["SubnetId"], hsm["EniIp"], hsm["HsmType"]) == (sim.subnets[1], "10.0.1.77", "hsm2m.medium")
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
    shown = sim.groups()[group]
    assert (shown["GroupName"], shown["VpcId"]) == (f"cloudhsm-{id_}-sg", sim.vpc)
    for direction in ("IpPermissions", "IpPermissionsEgress"):
        (rule,) = shown[direction]
        assert (rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) == ("tcp", 2223, 2225)
        assert [pair["GroupId"] for pair in rule["UserIdGroupPairs"]] == [group]
    (interface,) = (one for one in sim.interfaces() if one["NetworkInterfaceId"] == hsm["EniId"])
    assert (interface["PrivateIpAddress"], interface["SubnetId"]) == ("10.0.1.77", sim.subnets[1])
    assert interface["RequesterManaged"] is True
    with refused("InvalidParameterValue", "is currently in use"):
        sim.client("ec2").delete_network_interface(NetworkInterfaceId=hsm["EniId"])
    wanted = [{"AttributeKey": "EventName", "AttributeValue": "CreateHsm"}]
    (event,) = (
        one
        for one in sim.client("cloudtrail").lookup_events(LookupAttributes=wanted)["Events"]
        if id_ in one["CloudTrailEvent"]
    )
    assert event["EventSource"] == "cloudhsm.amazonaws.com"
    told = json.loads(event["CloudTrailEvent"])
    assert told["requestParameters"]["ipAddress"] == "10.0.1.77"
    assert told["responseElements"]["hsm"]["hsmId"] == hsm["HsmId"]


def test_hsms_come_and_go_with_users_keys_and_backups(sim: Simulator) -> None:
    id_, first = sim.active()
    with user(sim, first) as alice:
        public, private = alice.ec(token=True)
    second = sim.add(id_, "b")
    assert second["EniId"] != first["EniId"]
    with user(sim, second) as alice:
        alice.verify(public, DIGEST, alice.sign(private, DIGEST))
    assert len(sim.backups(clusterIds=[id_], states=["READY"])) == 2
    assert sim.client().delete_hsm(ClusterId=id_, EniIp=first["EniIp"])["HsmId"] == first["HsmId"]
    shown = sim.when(id_, lambda found: len(found["Hsms"]) == 1)
    assert [hsm["HsmId"] for hsm in shown["Hsms"]] == [second["HsmId"]]
    with user(sim, second) as alice:
        alice.ec(token=True)
    sim.client().delete_hsm(ClusterId=id_, EniId=second["EniId"])
    shown = sim.when(id_, lambda found: not found["Hsms"])
    assert shown["State"] == "ACTIVE"
    assert {first["EniId"], second["EniId"]}.isdisjoint(one["NetworkInterfaceId"] for one in sim.interfaces())
    assert len(sim.backups(clusterIds=[id_], states=["READY"])) == 4
    again = sim.add(id_, "a", IpAddress=first["EniIp"])
    assert again["EniIp"] == first["EniIp"]
    with user(sim, again) as alice:
        alice.verify(public, DIGEST, alice.sign(private, DIGEST))
        assert len(alice.find()) == 4
    # A cluster of its own from a backup: the first, of before the keys.
    oldest, *_, newest = sim.backups(clusterIds=[id_])
    twin = sim.create(SourceBackupId=newest["BackupArn"])
    shown = sim.cluster(twin)
    assert shown["SourceBackupId"] == newest["BackupId"]
    assert shown["Certificates"] == sim.cluster(id_)["Certificates"]
    assert shown["Hsms"] == []
    with user(sim, sim.add(twin)) as alice:
        alice.verify(public, DIGEST, alice.sign(private, DIGEST))
    with refused("CloudHsmInvalidRequestException", "A backup of hsm2m.medium cannot be restored to hsm1.medium."):
        sim.create(HsmType="hsm1.medium", SourceBackupId=oldest["BackupId"])
    older = sim.create(SourceBackupId=oldest["BackupId"])
    with user(sim, sim.add(older)) as alice:
        assert alice.find() == ()


def test_a_cluster_ends_without_hsms_and_its_backups_outlive_it(sim: Simulator) -> None:
    id_, hsm = sim.active()
    with refused("CloudHsmInvalidRequestException", f"{id_} has 1 HSM(s). Delete them first."):
        sim.client().delete_cluster(ClusterId=id_)
    sim.remove(id_, hsm["HsmId"])
    group = sim.cluster(id_)["SecurityGroup"]
    answer = sim.client().delete_cluster(ClusterId=id_)["Cluster"]
    assert (answer["State"], answer["StateMessage"]) == ("DELETE_IN_PROGRESS", "The cluster is being deleted.")
    assert "StateMessage" not in sim.until(id_, "DELETED")
    assert group not in sim.groups()
    with refused("CloudHsmResourceNotFoundException", f"Cluster {id_} not found."):
        sim.client().delete_cluster(ClusterId=id_)
    newest = sim.backups(clusterIds=[id_])[-1]
    assert newest["BackupState"] == "READY"
    twin = sim.create(SourceBackupId=newest["BackupId"])
    with user(sim, sim.add(twin)):
        pass


def test_a_cluster_that_was_never_active_begins_again(sim: Simulator) -> None:
    id_ = sim.create()
    hsm = sim.add(id_)
    csr = sim.cluster(id_)["Certificates"]["ClusterCsr"]
    assert sim.remove(id_, hsm["HsmId"])["Certificates"] == {}
    hsm = sim.add(id_, "b")
    assert sim.cluster(id_)["Certificates"]["ClusterCsr"] != csr
    sim.initialize(id_)
    with refused("CloudHsmInvalidRequestException", f"Cluster '{id_}' already contains an HSM but has not yet been"):
        sim.client().create_hsm(ClusterId=id_, AvailabilityZone=f"{REGION}a")
    sim.remove(id_, hsm["HsmId"])
    assert sim.until(id_, "UNINITIALIZED")["Certificates"] == {}
    assert sim.backups(clusterIds=[id_]) == []
    sim.client().delete_cluster(ClusterId=id_)
    sim.until(id_, "DELETED")


def test_another_hsm_type_and_back(sim: Simulator) -> None:
    id_, first = sim.active(HsmType="hsm1.medium")
    with user(sim, first) as alice:
        public, private = alice.ec(token=True)
    second = sim.add(id_, "b")
    before = len(sim.backups(clusterIds=[id_]))
    began = sim.client().modify_cluster(ClusterId=id_, HsmType="hsm2m.medium")["Cluster"]
    assert (began["State"], began["HsmType"]) == ("MODIFY_IN_PROGRESS", "hsm1.medium")
    with refused("CloudHsmInvalidRequestException", "MODIFY_IN_PROGRESS"):
        sim.client().create_hsm(ClusterId=id_, AvailabilityZone=f"{REGION}c")
    shown = sim.until(id_, "ACTIVE")
    assert shown["HsmType"] == "hsm2m.medium"
    assert [hsm["HsmType"] for hsm in shown["Hsms"]] == ["hsm2m.medium"] * 2
    for name in ("EniIp", "EniId", "AvailabilityZone"):
        assert [hsm[name] for hsm in shown["Hsms"]] == [first[name], second[name]]
    assert not {hsm["HsmId"] for hsm in shown["Hsms"]} & {first["HsmId"], second["HsmId"]}
    assert shown["HsmTypeRollbackExpiration"] == began["HsmTypeRollbackExpiration"]
    assert len(sim.backups(clusterIds=[id_])) == before + 2
    with user(sim, shown["Hsms"][1]) as alice:
        alice.verify(public, DIGEST, alice.sign(private, DIGEST))
        alice.ec(token=True)
        assert len(alice.find()) == 4
    answer = sim.client().modify_cluster(ClusterId=id_, HsmType="hsm1.medium")["Cluster"]
    assert answer["State"] == "ROLLBACK_IN_PROGRESS"
    shown = sim.until(id_, "ACTIVE")
    assert [(hsm["HsmType"], hsm["EniIp"]) for hsm in shown["Hsms"]] == [
        ("hsm1.medium", first["EniIp"]),
        ("hsm1.medium", second["EniIp"]),
    ]
    assert "HsmTypeRollbackExpiration" not in shown
    for hsm in shown["Hsms"]:
        with user(sim, hsm) as alice:
            alice.verify(public, DIGEST, alice.sign(private, DIGEST))
            assert len(alice.find()) == 2
    with user(sim, shown["Hsms"][0]) as alice:
        patiently(lambda: alice.ec(token=True))


def test_a_rollback_has_24_hours(sim: Simulator) -> None:
    id_, hsm = sim.active(HsmType="hsm1.medium")
    sim.client().modify_cluster(ClusterId=id_, HsmType="hsm2m.medium")
    sim.until(id_, "ACTIVE")
    sim.advance(hours=25)
    with refused("CloudHsmInvalidRequestException", "within 24 hours; not to hsm1.medium now"):
        sim.client().modify_cluster(ClusterId=id_, HsmType="hsm1.medium")
    assert "HsmTypeRollbackExpiration" not in sim.cluster(id_)
    assert sim.cluster(id_)["Hsms"][0]["EniIp"] == hsm["EniIp"]


def test_an_hsm_that_dies_is_degraded_until_it_serves_again(sim: Simulator) -> None:
    id_, first = sim.active()
    second = sim.add(id_, "b")
    sim.fleet.do(p.KillHsm(first["HsmId"]))
    shown = sim.when(id_, lambda found: found["Hsms"][0]["State"] == "DEGRADED")
    assert shown["State"] == "ACTIVE"
    assert shown["Hsms"][0]["StateMessage"] == f"The HSM does not serve. Start it: hsmsim hsm start {first['HsmId']}"
    sim.fleet.do(p.StopHsm(second["HsmId"]))
    sim.until(id_, "DEGRADED")
    assert sim.client().describe_clusters(Filters={"clusterIds": [id_], "states": ["ACTIVE"]})["Clusters"] == []
    with refused("CloudHsmInvalidRequestException", f"{id_} is DEGRADED."):
        sim.client().create_hsm(ClusterId=id_, AvailabilityZone=f"{REGION}c")
    sim.fleet.do(p.StartHsm(first["HsmId"]))
    shown = sim.until(id_, "ACTIVE")
    assert "StateMessage" not in shown["Hsms"][0]
    backups = len(sim.backups(clusterIds=[id_]))
    sim.remove(id_, second["HsmId"])
    assert len(sim.backups(clusterIds=[id_])) == backups + 1
    # The last one dies and is deleted: no backup is made, and the latest that there is brings the cluster back.
    sim.fleet.do(p.KillHsm(first["HsmId"]))
    sim.until(id_, "DEGRADED")
    sim.remove(id_, first["HsmId"])
    assert len(sim.backups(clusterIds=[id_])) == backups + 1
    with user(sim, sim.add(id_)):
        pass


def test_a_cluster_whose_hsm_hangs_delays_no_other_and_no_copy(sim: Simulator) -> None:
    hanging, hsm = sim.active()
    sim.settled(hanging)
    source, far = sim.backups(clusterIds=[hanging], states=["READY"])[0]["BackupId"], sim.client(region="us-west-2")
    pid = launch.pid_of(sim.fleet.places, hsm["HsmId"])
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        second = sim.client().create_hsm(ClusterId=hanging, AvailabilityZone=f"{REGION}b")["Hsm"]["HsmId"]
        other, _ = sim.active()  # the fleet and the gateway's worker do all that this takes
        sim.add(other, "b")
        sim.client().copy_backup_to_region(DestinationRegion="us-west-2", BackupId=source)
        sim.eventually(lambda: far.describe_backups(Filters={"states": ["READY"]})["Backups"])
        found = {one["HsmId"]: one["State"] for one in sim.cluster(hanging)["Hsms"]}
        assert found[second] == "CREATE_IN_PROGRESS"
    finally:
        os.kill(pid, signal.SIGCONT)
    shown = sim.when(hanging, lambda found: all(one["State"] == "ACTIVE" for one in found["Hsms"]))
    assert {one["HsmId"] for one in shown["Hsms"]} == {hsm["HsmId"], second}
