"""Backups beyond their cluster's region and account: copies, shares, clusters made from them."""

from __future__ import annotations

import datetime as dt
import json
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from support.cloudhsm import ACCOUNT, PATIENCE_S, REGION, Simulator, refused, simulator
from support.hsm import USERS, patiently

from hsmsim.errors import CkrError
from hsmsim.hsm import messages as m
from hsmsim.hsm.cryptoki import CKA, CKR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.hsm import Client

INVALID = "CloudHsmInvalidRequestException"
MISSING = "CloudHsmResourceNotFoundException"
DENIED = "CloudHsmAccessDeniedException"
FAR = "us-west-2"
OTHER = "999999999999"
DIGEST = bytes(range(32))
Keys = dict[str, str]


@pytest.fixture(scope="module")
def sim() -> Iterator[Simulator]:
    with simulator(quotas={"cloudhsm.clusters": 40, "cloudhsm.hsms": 40}) as one:
        yield one


@pytest.fixture(scope="module")
def origin(sim: Simulator) -> tuple[str, dict[str, Any]]:
    """A cluster that is ACTIVE, and its HSM."""
    return sim.active(Mode="NON_FIPS")


@pytest.fixture(scope="module")
def other(sim: Simulator) -> Keys:
    """The root user's key of another account."""
    made = sim.manage("POST", "/_hsmsim/accounts", account=OTHER)
    return {"AccessKeyId": made["access_key_id"], "SecretAccessKey": made["secret_access_key"]}


def user(sim: Simulator, hsm_id: str, name: str = "alice") -> Client:
    client = sim.hsm(hsm_id)
    client.login(name)
    return client


def backup_now(sim: Simulator, id_: str) -> dict[str, Any]:
    """What is in the cluster, in a backup: an HSM comes and goes."""
    hsm = sim.add(id_, "b")
    sim.remove(id_, hsm["HsmId"])
    sim.settled(id_)
    return sim.backups(clusterIds=[id_], states=["READY"])[-1]


def copied(sim: Simulator, id_: str, region: str = FAR, state: str = "READY", **more: Any) -> dict[str, Any]:
    """A new copy of a backup, in this state."""
    api = sim.client(region=region)

    def copies() -> list[dict[str, Any]]:
        return list(api.describe_backups(Filters={"sourceBackupIds": [id_]})["Backups"])

    before = {one["BackupId"] for one in copies()}
    sim.client().copy_backup_to_region(DestinationRegion=region, BackupId=id_, **more)

    def met() -> dict[str, Any] | None:
        new = [one for one in copies() if one["BackupId"] not in before]
        return new[0] if new and new[0]["BackupState"] == state else None

    return dict(sim.eventually(met))


def alive(sim: Simulator, source: str, *, region: str = REGION, keys: Keys | None = None) -> tuple[str, str]:
    """A cluster made from a backup in a region's default VPC, ACTIVE, and its HSM, ACTIVE."""
    api, ec2 = (sim.client(service, keys=keys, region=region) for service in ("cloudhsmv2", "ec2"))
    subnet = ec2.describe_subnets(Filters=[{"Name": "default-for-az", "Values": ["true"]}])["Subnets"][0]
    wanted = {"HsmType": "hsm2m.medium", "SubnetIds": [subnet["SubnetId"]], "SourceBackupId": source}
    id_ = str(api.create_cluster(**wanted)["Cluster"]["ClusterId"])

    def shown() -> dict[str, Any]:
        return dict(api.describe_clusters(Filters={"clusterIds": [id_]})["Clusters"][0])

    sim.eventually(lambda: shown()["State"] == "ACTIVE")
    hsm = api.create_hsm(ClusterId=id_, AvailabilityZone=subnet["AvailabilityZone"])["Hsm"]["HsmId"]
    sim.eventually(lambda: [one["State"] for one in shown()["Hsms"]] == ["ACTIVE"])
    return id_, str(hsm)


# ---- another region --------------------------------------------------------------------------------------------------


def test_a_cluster_comes_to_life_in_another_region(sim: Simulator, origin: tuple[str, dict[str, Any]]) -> None:
    id_, hsm = origin
    with user(sim, hsm["HsmId"]) as alice:
        public, private = alice.ec(token=True, label="payments", id=b"\x71\x01")
        signature = alice.sign(private, DIGEST)
        alice.call(m.KeyShareRequest(private, b"bob"))
    source = backup_now(sim, id_)
    with user(sim, hsm["HsmId"]) as alice:
        alice.aes(token=True, label="after the backup")
    tags = [{"Key": "team", "Value": "blue"}]
    sim.client().tag_resource(ResourceId=source["BackupId"], TagList=tags)
    sim.client().modify_backup_attributes(BackupId=source["BackupId"], NeverExpires=True)

    asked = {"DestinationRegion": FAR, "BackupId": source["BackupId"]}
    answer = sim.client().copy_backup_to_region(**asked)["DestinationBackup"]
    origin_of = {"SourceRegion": REGION, "SourceBackup": source["BackupId"], "SourceCluster": id_}
    assert answer == {"CreateTimestamp": source["CreateTimestamp"], **origin_of}
    far = sim.client(region=FAR)
    filters = {"sourceBackupIds": [source["BackupId"]], "states": ["READY"]}
    (copy,) = sim.eventually(lambda: far.describe_backups(Filters=filters)["Backups"])
    assert dt.timedelta() <= copy["CopyTimestamp"] - source["CreateTimestamp"] < dt.timedelta(minutes=10)
    assert copy == {
        **origin_of,
        "BackupId": copy["BackupId"],
        "BackupArn": f"arn:aws:cloudhsm:{FAR}:{ACCOUNT}:backup/{copy['BackupId']}",
        "BackupState": "READY",
        "ClusterId": id_,
        "CreateTimestamp": source["CreateTimestamp"],
        "CopyTimestamp": copy["CopyTimestamp"],
        "NeverExpires": False,
        "TagList": tags,
        "HsmType": "hsm2m.medium",
        "Mode": "NON_FIPS",
    }
    assert copy["BackupId"] != source["BackupId"]
    assert sim.backups(backupIds=[copy["BackupId"]]) == []
    with refused(MISSING, f"Backup {copy['BackupId']} not found."):
        sim.client().delete_backup(BackupId=copy["BackupId"])

    cluster, restored = alive(sim, copy["BackupId"], region=FAR)
    (shown,) = far.describe_clusters(Filters={"clusterIds": [cluster]})["Clusters"]
    assert shown["Certificates"] == sim.cluster(id_)["Certificates"]
    assert (shown["SourceBackupId"], shown["Mode"]) == (copy["BackupId"], "NON_FIPS")
    with user(sim, restored) as alice:
        assert set(alice.find(label="payments")) == set(alice.find(id=b"\x71\x01")) == {public, private}
        assert alice.find(label="after the backup") == ()
        alice.verify(public, DIGEST, signature)
        later = alice.sign(private, DIGEST)
        assert alice.get(private, CKA.LABEL) == (b"payments",)
    with user(sim, hsm["HsmId"], "bob") as bob:
        bob.verify(public, DIGEST, later)
        bob.sign(private, DIGEST)
    with user(sim, restored, "bob") as bob:
        bob.verify(public, DIGEST, bob.sign(private, DIGEST))
    with sim.hsm(restored) as client:
        client.admin()
    with sim.hsm(restored) as stranger, pytest.raises(CkrError) as caught:
        stranger.login("alice", "another password")
    assert caught.value.rv == CKR.PIN_INCORRECT

    with user(sim, restored) as alice:
        alice.destroy(private)
    with user(sim, hsm["HsmId"]) as alice:
        alice.sign(private, DIGEST)


def test_a_cluster_is_of_its_region(sim: Simulator, origin: tuple[str, dict[str, Any]]) -> None:
    id_, far = origin[0], sim.client(region=FAR)
    copy = copied(sim, backup_now(sim, id_)["BackupId"])
    cluster, hsm = alive(sim, copy["BackupId"], region=FAR)
    for here, there, own in ((sim.client(), cluster, id_), (far, id_, cluster)):
        assert there not in {one["ClusterId"] for one in here.describe_clusters()["Clusters"]}
        assert own in {one["ClusterId"] for one in here.describe_clusters()["Clusters"]}
        for operation, more in (
            ("create_hsm", {"AvailabilityZone": f"{REGION}a"}),
            ("delete_hsm", {"HsmId": hsm}),
            ("delete_cluster", {}),
            ("modify_cluster", {"BackupRetentionPolicy": {"Type": "DAYS", "Value": "9"}}),
        ):
            with refused(MISSING, f"Cluster {there} not found."):
                getattr(here, operation)(ClusterId=there, **more)

    # A copy of the copy, back home: the same cluster once more.
    far.copy_backup_to_region(DestinationRegion=REGION, BackupId=copy["BackupId"])
    (home,) = sim.eventually(lambda: sim.backups(sourceBackupIds=[copy["BackupId"]], states=["READY"]))
    assert (home["SourceRegion"], home["SourceCluster"], home["ClusterId"]) == (FAR, id_, id_)
    _, third = alive(sim, home["BackupId"])
    with user(sim, third) as alice:
        assert set(alice.call(m.UserListRequest()).names) == {b"admin", b"app_user", *(name.encode() for name in USERS)}


def test_what_a_copy_is_refused(sim: Simulator, origin: tuple[str, dict[str, Any]], other: Keys) -> None:
    api = sim.client()
    source = sim.backups(clusterIds=[origin[0]], states=["READY"])[0]["BackupId"]
    for destination, members, code, text in [
        (REGION, {}, INVALID, f"{source} is in {REGION}. A copy is made in another region."),
        ("us-gov-west-1", {}, INVALID, "us-gov-west-1 is no region that backups of eu-west-1 can be copied to."),
        ("us-west-7", {}, INVALID, "us-west-7 is no region"),
        (FAR, {"TagList": [{"Key": "aws:x", "Value": ""}]}, "CloudHsmTagException", "begin with aws:"),
        (FAR, {"BackupId": "backup-aaaaaaaaaaa"}, MISSING, "Backup backup-aaaaaaaaaaa not found."),
        ("nowhere", {}, "ValidationException", "Member must satisfy regular expression pattern"),
    ]:
        with refused(code, text):
            api.copy_backup_to_region(**{"DestinationRegion": destination, "BackupId": source, **members})
    with refused(MISSING, f"Backup {source} not found."):
        sim.client(keys=other).copy_backup_to_region(DestinationRegion=FAR, BackupId=source)
    sim.client("iam").create_user(UserName="copier")
    keys = sim.client("iam").create_access_key(UserName="copier")["AccessKey"]
    arn = f"arn:aws:cloudhsm:{REGION}:{ACCOUNT}:backup/{source}"
    statement = {"Effect": "Allow", "Action": "cloudhsm:CopyBackupToRegion", "Resource": arn}
    document = json.dumps({"Version": "2012-10-17", "Statement": statement})
    sim.client("iam").put_user_policy(UserName="copier", PolicyName="p", PolicyDocument=document)
    asked = {"DestinationRegion": FAR, "BackupId": source}
    tags = [{"Key": "a", "Value": "b"}]
    with refused(DENIED, f"cloudhsm:TagResource on resource: arn:aws:cloudhsm:{FAR}:{ACCOUNT}:backup/*", 400):
        sim.client(keys=keys).copy_backup_to_region(**asked, TagList=tags)
    sim.client(keys=keys).copy_backup_to_region(**asked)
    assert copied(sim, source, TagList=tags)["TagList"] == tags
    doomed = copied(sim, source)["BackupId"]
    far = sim.client(region=FAR)
    far.delete_backup(BackupId=doomed)
    with refused(INVALID, f"CopyBackupToRegion needs a backup that is READY; {doomed} is PENDING_DELETION."):
        far.copy_backup_to_region(DestinationRegion=REGION, BackupId=doomed)
    assert far.restore_backup(BackupId=doomed)["Backup"]["BackupState"] == "READY"


def test_a_copy_whose_gateway_is_killed_is_made_once(sim: Simulator, origin: tuple[str, dict[str, Any]]) -> None:
    source = sim.backups(clusterIds=[origin[0]], states=["READY"])[0]["BackupId"]
    before = set(sim.fleet.places.images_folder.iterdir())
    known = {one["BackupId"] for one in sim.client(region=FAR).describe_backups()["Backups"]}
    with sim.dying("COPY_IMAGE before", "COPY_IMAGE between", "COPY_IMAGE after"):
        sim.client().copy_backup_to_region(DestinationRegion=FAR, BackupId=source)
    far = sim.client(region=FAR)
    (new,) = (one for one in far.describe_backups()["Backups"] if one["BackupId"] not in known)
    assert new["BackupState"] == "READY"
    assert {path.stem for path in set(sim.fleet.places.images_folder.iterdir()) - before} == {new["BackupId"]}


def test_a_copy_that_cannot_be_made_is_deleted(sim: Simulator, origin: tuple[str, dict[str, Any]]) -> None:
    source = backup_now(sim, origin[0])["BackupId"]
    image = sim.fleet.places.images_folder / f"{source}.image"
    content = bytearray(image.read_bytes())
    content[len(content) // 2] ^= 1
    image.write_bytes(content)
    failed = copied(sim, source, state="DELETED")
    assert f"{source} is not copied to {FAR}: {source}.image was changed or cut off" in sim.log
    with refused(INVALID, "RestoreBackup needs a backup that is PENDING_DELETION"):
        sim.client(region=FAR).restore_backup(BackupId=failed["BackupId"])
    # Nor does a cluster come of it: the HSM says why, until the image is what it was.
    id_ = sim.create(SourceBackupId=source)
    sim.client().create_hsm(ClusterId=id_, AvailabilityZone=f"{REGION}a")
    told = f"{source}.image was changed or cut off: its digest is another one."
    sim.when(id_, lambda found: found["Hsms"][0].get("StateMessage") == told)
    content[len(content) // 2] ^= 1
    image.write_bytes(content)
    (hsm,) = sim.when(id_, lambda found: found["Hsms"][0]["State"] == "ACTIVE")["Hsms"]
    with user(sim, hsm["HsmId"]) as alice:
        assert set(alice.call(m.UserListRequest()).names) == {b"admin", b"app_user", *(name.encode() for name in USERS)}


def test_copies_take_their_time_and_no_retention_takes_them() -> None:
    with simulator(time_scale=1) as sim:
        id_, far = slow_cluster(sim), sim.client(region=FAR)
        (source,) = sim.backups(clusterIds=[id_])

        def states() -> list[str]:
            filters = {"sourceBackupIds": [source["BackupId"]]}
            return [one["BackupState"] for one in far.describe_backups(Filters=filters)["Backups"]]

        sim.client().copy_backup_to_region(DestinationRegion=FAR, BackupId=source["BackupId"])
        sim.advance(minutes=4)
        assert states() == ["CREATE_IN_PROGRESS"]
        sim.restart()
        far = sim.client(region=FAR)
        (copy,) = far.describe_backups()["Backups"]
        with refused(INVALID, f"{copy['BackupId']} is CREATE_IN_PROGRESS."):
            far.delete_backup(BackupId=copy["BackupId"])
        sim.client().delete_backup(BackupId=source["BackupId"])
        sim.advance(minutes=1)
        sim.eventually(lambda: states() == ["READY"])
        # A year later the original is long gone, image and all. The copy is there until somebody deletes it.
        sim.advance(days=366)
        folder = sim.fleet.places.images_folder
        sim.eventually(lambda: not (folder / f"{source['BackupId']}.image").exists())
        assert states() == ["READY"]
        far.delete_backup(BackupId=copy["BackupId"])
        sim.advance(days=6, hours=23)
        assert states() == ["PENDING_DELETION"]
        assert (folder / f"{copy['BackupId']}.image").exists()
        sim.advance(hours=2)
        sim.eventually(lambda: states() == ["DELETED"])
        sim.eventually(lambda: not (folder / f"{copy['BackupId']}.image").exists())


def slow_cluster(sim: Simulator) -> str:
    """A cluster with a backup, where everything takes its time."""
    wanted = {"HsmType": "hsm2m.medium", "Mode": "FIPS", "SubnetIds": sim.subnets[:1]}
    id_ = str(sim.client().create_cluster(**wanted)["Cluster"]["ClusterId"])
    sim.advance(minutes=1)
    sim.until(id_, "UNINITIALIZED")
    hsm = sim.client().create_hsm(ClusterId=id_, AvailabilityZone=f"{REGION}a")["Hsm"]["HsmId"]
    sim.advance(minutes=7)
    sim.when(id_, lambda found: [one["State"] for one in found["Hsms"]] == ["ACTIVE"])
    certificate, root = sim.sign(id_)
    sim.client().initialize_cluster(ClusterId=id_, SignedCert=certificate, TrustAnchor=root)
    sim.advance(minutes=3)
    sim.until(id_, "INITIALIZED")
    sim.activate(hsm)
    sim.until(id_, "ACTIVE")
    sim.advance(minutes=2)
    sim.eventually(lambda: [one["BackupState"] for one in sim.backups(clusterIds=[id_])] == ["READY"])
    return id_


# ---- another account -------------------------------------------------------------------------------------------------


def share(arn: str, *actions: str, principal: str = f"arn:aws:iam::{OTHER}:root") -> str:
    allowed = [f"cloudhsm:{action}" for action in actions]
    statement = {"Effect": "Allow", "Principal": {"AWS": principal}, "Action": allowed, "Resource": arn}
    return json.dumps({"Version": "2012-10-17", "Statement": statement})


def test_a_backup_is_shared_by_its_policy(sim: Simulator, origin: tuple[str, dict[str, Any]], other: Keys) -> None:
    id_, hsm = origin
    with user(sim, hsm["HsmId"]) as alice:
        public, private = alice.ec(token=True)
        signature = alice.sign(private, DIGEST)
    source = backup_now(sim, id_)
    arn, owner, guest = source["BackupArn"], sim.client(), sim.client(keys=other)
    subnets = sim.client("ec2", keys=other).describe_subnets()["Subnets"]
    wanted = {"HsmType": "hsm2m.medium", "SubnetIds": [subnets[0]["SubnetId"]]}

    assert guest.describe_backups(Shared=True)["Backups"] == guest.describe_backups()["Backups"] == []
    for nobody in (arn, arn.replace(source["BackupId"], "backup-aaaaaaaaaaa")):
        with refused(DENIED, "because no resource-based policy allows the cloudhsm:CreateCluster action", 400):
            guest.create_cluster(**wanted, SourceBackupId=nobody)
    owner.put_resource_policy(ResourceArn=arn, Policy=share(arn, "DescribeBackups"))
    (shown,) = guest.describe_backups(Shared=True)["Backups"]
    assert shown == source | {"TagList": []}
    assert guest.describe_backups(Shared=True, Filters={"clusterIds": ["cluster-aaaaaaaaaaa"]})["Backups"] == []
    assert guest.describe_backups(Shared=False)["Backups"] == owner.describe_backups(Shared=True)["Backups"] == []
    assert sim.client(keys=other, region=FAR).describe_backups(Shared=True)["Backups"] == []
    with refused(DENIED, "cloudhsm:CreateCluster", 400):
        guest.create_cluster(**wanted, SourceBackupId=arn)

    owner.put_resource_policy(ResourceArn=arn, Policy=share(arn, "DescribeBackups", "CreateCluster"))
    with refused(MISSING, f"Backup {source['BackupId']} not found."):
        guest.create_cluster(**wanted, SourceBackupId=source["BackupId"])
    for operation, members in [
        ("copy_backup_to_region", {"DestinationRegion": FAR, "BackupId": source["BackupId"]}),
        ("delete_backup", {"BackupId": source["BackupId"]}),
        ("restore_backup", {"BackupId": source["BackupId"]}),
        ("modify_backup_attributes", {"BackupId": source["BackupId"], "NeverExpires": True}),
        ("list_tags", {"ResourceId": source["BackupId"]}),
        ("get_resource_policy", {"ResourceArn": arn}),
        ("put_resource_policy", {"ResourceArn": arn, "Policy": share(arn, "CreateCluster")}),
        ("delete_resource_policy", {"ResourceArn": arn}),
    ]:
        with refused(MISSING):
            getattr(guest, operation)(**members)
    cluster, restored = alive(sim, arn, keys=other)
    with user(sim, restored) as alice:
        alice.verify(public, DIGEST, signature)
        signature = alice.sign(private, DIGEST)
    with user(sim, hsm["HsmId"]) as alice:
        alice.verify(public, DIGEST, signature)
    assert owner.describe_clusters(Filters={"clusterIds": [cluster]})["Clusters"] == []

    # What was made of it stays when it is shared no longer; nothing more is made of it.
    assert json.loads(owner.delete_resource_policy(ResourceArn=arn)["Policy"])["Statement"]["Resource"] == arn
    assert guest.describe_backups(Shared=True)["Backups"] == []
    with refused(DENIED, "cloudhsm:CreateCluster", 400):
        guest.create_cluster(**wanted, SourceBackupId=arn)
    assert guest.describe_clusters(Filters={"clusterIds": [cluster]})["Clusters"][0]["SourceBackupId"] in arn
    with user(sim, restored) as alice:
        alice.sign(private, DIGEST)


def test_whom_a_policy_lets_in(sim: Simulator, origin: tuple[str, dict[str, Any]], other: Keys) -> None:
    source = sim.backups(clusterIds=[origin[0]], states=["READY"])[0]
    arn, owner, iam = source["BackupArn"], sim.client(), sim.client("iam", keys=other)
    made = {}
    for name in ("ann", "ben"):
        iam.create_user(UserName=name)
        made[name] = sim.client(keys=iam.create_access_key(UserName=name)["AccessKey"])
    statement = {"Effect": "Allow", "Action": "cloudhsm:*", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": statement})
    iam.put_user_policy(UserName="ann", PolicyName="p", PolicyDocument=document)
    with refused(DENIED, "because no identity-based policy allows the cloudhsm:DescribeBackups action", 400):
        made["ben"].describe_backups(Shared=True)
    iam.put_user_policy(UserName="ben", PolicyName="p", PolicyDocument=document)
    ann = f"arn:aws:iam::{OTHER}:user/ann"
    for principal, seen in ((ann, ["ann"]), (OTHER, ["ann", "ben"]), ("*", ["ann", "ben"]), (f"{ACCOUNT}", [])):
        owner.put_resource_policy(ResourceArn=arn, Policy=share(arn, "DescribeBackups", principal=principal))
        assert [name for name, api in made.items() if api.describe_backups(Shared=True)["Backups"]] == seen, principal
    owner.put_resource_policy(ResourceArn=arn, Policy=share(f"{arn}x", "DescribeBackups"))
    assert made["ann"].describe_backups(Shared=True)["Backups"] == []
    owner.put_resource_policy(ResourceArn=arn, Policy=share(arn, "DescribeBackups"))
    owner.delete_backup(BackupId=source["BackupId"])
    assert made["ann"].describe_backups(Shared=True)["Backups"] == []
    with refused(INVALID, f"PutResourcePolicy needs a backup that is READY; {source['BackupId']} is PENDING_DELETION"):
        owner.put_resource_policy(ResourceArn=arn, Policy=share(arn, "DescribeBackups"))
    owner.restore_backup(BackupId=source["BackupId"])
    assert len(made["ann"].describe_backups(Shared=True)["Backups"]) == 1
    owner.delete_resource_policy(ResourceArn=arn)


# ---- retention -------------------------------------------------------------------------------------------------------


def test_what_was_taken_back_from_retention_stays(sim: Simulator) -> None:
    id_, _ = sim.active(BackupRetentionPolicy={"Type": "DAYS", "Value": "7"})
    first = sim.backups(clusterIds=[id_])[0]["BackupId"]

    def state() -> str:
        return str(sim.backups(backupIds=[first])[0]["BackupState"])

    sim.advance(days=8)
    sim.eventually(lambda: state() == "PENDING_DELETION")
    sim.client().restore_backup(BackupId=first)
    sim.settled(id_)
    sim.advance(days=6)
    sim.settled(id_)
    assert state() == "READY"
    sim.advance(days=2)
    sim.eventually(lambda: state() == "PENDING_DELETION")


# ---- size ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "seconds"), [(1000, PATIENCE_S), pytest.param(10_000, 30.0, marks=[pytest.mark.soak, pytest.mark.slow])]
)
def test_a_cluster_of_many_keys_is_restored_and_signs(keys: int, seconds: float, tell: Callable[[str], None]) -> None:
    """From CreateCluster to signatures with its keys; the bound is for 10,000 of them."""
    with simulator() as sim:
        id_, hsm = sim.active()
        with user(sim, hsm["HsmId"]) as alice:
            pairs = [patiently(partial(alice.ec, token=True, label=f"key {number}")) for number in range(keys // 2)]
            signature = alice.sign(pairs[-1][1], DIGEST)
        source = backup_now(sim, id_)["BackupId"]
        began = time.monotonic()
        _, restored = alive(sim, source)
        with user(sim, restored) as alice:
            alice.verify(pairs[-1][0], DIGEST, signature)
            alice.verify(pairs[0][0], DIGEST, alice.sign(pairs[0][1], DIGEST))
            took = time.monotonic() - began
            tell(f"{keys} keys restored: ACTIVE and signing after {took:.1f} s")
            assert sorted(alice.find()) == sorted(handle for pair in pairs for handle in pair)
        assert took < seconds
