"""What CloudHSM's operations refuse, and how they list: filters, pages, tags, policies, quotas, rights."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from support.cloudhsm import (
    ACCOUNT,
    NO_BACKUP,
    NO_CLUSTER,
    NOWHERE,
    REGION,
    Simulator,
    backup_arn,
    openssl,
    refused,
    signed,
    simulator,
)

from hsmsim.hsm.roots import AWS_ROOT, MANUFACTURER_ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

INVALID = "CloudHsmInvalidRequestException"
MISSING = "CloudHsmResourceNotFoundException"


@pytest.fixture(scope="module")
def sim() -> Iterator[Simulator]:
    with simulator(quotas={"cloudhsm.hsms": 3, "cloudhsm.hsms_per_cluster": 2}) as one:
        yield one


@pytest.fixture(scope="module")
def new(sim: Simulator) -> str:
    """A cluster without HSMs, UNINITIALIZED."""
    return sim.create(subnets=sim.subnets[:2])


@pytest.fixture(scope="module")
def active(sim: Simulator) -> str:
    """A cluster of one HSM, ACTIVE, in mode NON_FIPS."""
    return sim.active(subnets=sim.subnets[:2], Mode="NON_FIPS")[0]


@pytest.fixture(scope="module")
def backup(sim: Simulator, active: str) -> str:
    return str(sim.backups(clusterIds=[active])[0]["BackupId"])


def cluster(sim: Simulator) -> dict[str, Any]:
    """What a cluster is made of."""
    return {"HsmType": "hsm2m.medium", "SubnetIds": sim.subnets[:2], "Mode": "FIPS"}


@pytest.mark.parametrize(
    ("operation", "members"),
    [
        *NOWHERE.items(),
        ("create_cluster", NOWHERE["create_cluster"] | {"SourceBackupId": backup_arn(NO_BACKUP, region="us-east-1")}),
        ("delete_resource_policy", {"ResourceArn": backup_arn(NO_BACKUP, account="999999999999")}),
    ],
)
def test_what_is_not_there(sim: Simulator, operation: str, members: dict[str, Any]) -> None:
    with refused(MISSING, " not found."):
        getattr(sim.client(), operation)(**members)


@pytest.mark.parametrize(
    ("members", "code", "text"),
    [
        (
            {"HsmType": "hsm9.medium"},
            INVALID,
            "Provided HsmType is not supported. Available are: hsm1.medium, hsm2m.medium.",
        ),
        ({"HsmType": "hsm1.medium", "Mode": "NON_FIPS"}, INVALID, "Clusters of hsm1.medium are in mode FIPS"),
        (
            {"SubnetIds": ["subnet-0123456789abcdef0"]},
            INVALID,
            "The subnet ID 'subnet-0123456789abcdef0' does not exist",
        ),
        ({"SubnetIds": [0, 4]}, INVALID, "must be in one VPC"),
        ({"SubnetIds": [0, 3]}, INVALID, "two of these are in the same one"),
        ({"BackupRetentionPolicy": {"Type": "DAYS", "Value": "6"}}, INVALID, "from 7 to 379"),
        ({"BackupRetentionPolicy": {"Type": "DAYS", "Value": "380"}}, INVALID, "from 7 to 379"),
        ({"BackupRetentionPolicy": {"Value": "7"}}, INVALID, "must have the type DAYS"),
        ({"TagList": [{"Key": "aws:x", "Value": ""}]}, "CloudHsmTagException", "begin with aws:"),
        ({"TagList": [{"Key": "x", "Value": ""}] * 2}, "CloudHsmTagException", "given twice"),
        ({"Mode": "fips"}, "ValidationException", "Member must satisfy enum value set: [FIPS, NON_FIPS]"),
    ],
)
def test_clusters_that_cannot_be(sim: Simulator, members: dict[str, Any], code: str, text: str) -> None:
    wanted = cluster(sim) | members
    wanted["SubnetIds"] = [sim.subnets[one] if isinstance(one, int) else one for one in wanted["SubnetIds"]]
    before = sim.groups()
    with refused(code, text):
        sim.client().create_cluster(**wanted)
    assert sim.groups() == before


def test_what_is_not_built_is_refused_by_name(sim: Simulator) -> None:
    api = sim.client()
    with refused("NotImplementedException", "NetworkType DUALSTACK of cloudhsm:CreateCluster", 501):
        api.create_cluster(**cluster(sim), NetworkType="DUALSTACK")


def test_what_a_state_does_not_allow(sim: Simulator, new: str, active: str, backup: str) -> None:
    api = sim.client()
    with refused(INVALID, f"InitializeCluster needs a cluster that is UNINITIALIZED; {active} is ACTIVE."):
        api.initialize_cluster(ClusterId=active, SignedCert="a", TrustAnchor="a")
    with refused(INVALID, f"{new} has no CSR yet"):
        api.initialize_cluster(ClusterId=new, SignedCert="a", TrustAnchor="a")
    with refused(INVALID, "A change of the HSM type needs a cluster that is ACTIVE"):
        api.modify_cluster(ClusterId=new, HsmType="hsm2m.medium")
    with refused(INVALID, f"{active} is a cluster of hsm2m.medium already."):
        api.modify_cluster(ClusterId=active, HsmType="hsm2m.medium")
    with refused(INVALID, "cannot become a cluster of hsm1.medium in mode NON_FIPS"):
        api.modify_cluster(ClusterId=active, HsmType="hsm1.medium")
    with refused(INVALID, "needs a BackupRetentionPolicy or an HsmType"):
        api.modify_cluster(ClusterId=active)
    with refused(INVALID, "from 7 to 379"):
        api.modify_cluster(ClusterId=active, BackupRetentionPolicy={"Type": "DAYS", "Value": "0"})
    with refused(INVALID, "it cannot become one in mode FIPS"):
        api.create_cluster(**cluster(sim), SourceBackupId=backup)
    with refused(INVALID, f"RestoreBackup needs a backup that is PENDING_DELETION; {backup} is READY."):
        api.restore_backup(BackupId=backup)


def test_retention_and_backups_that_end_and_return(sim: Simulator, active: str, backup: str) -> None:
    api = sim.client()
    days = {"Type": "DAYS", "Value": "379"}
    assert api.modify_cluster(ClusterId=active, BackupRetentionPolicy=days)["Cluster"]["BackupRetentionPolicy"] == days
    assert sim.cluster(active)["BackupRetentionPolicy"] == days
    assert api.modify_backup_attributes(BackupId=backup, NeverExpires=True)["Backup"]["NeverExpires"] is True
    assert [one["BackupId"] for one in sim.backups(neverExpires=["true"])] == [backup]
    deleted = api.delete_backup(BackupId=backup)["Backup"]
    assert deleted["BackupState"] == "PENDING_DELETION"
    assert (deleted["DeleteTimestamp"] - deleted["CreateTimestamp"]).days in {7, 8}
    for operation in ("delete_backup", "modify_backup_attributes", "create_cluster"):
        restored = {**cluster(sim), "Mode": "NON_FIPS", "SourceBackupId": backup}
        members = {"create_cluster": restored}.get(operation, {"BackupId": backup})
        more = {"NeverExpires": False} if operation == "modify_backup_attributes" else {}
        with refused(INVALID, "PENDING_DELETION"):
            getattr(api, operation)(**members, **more)
    with refused(INVALID, "PENDING_DELETION"):
        api.put_resource_policy(ResourceArn=backup_arn(backup), Policy="{}")
    restored = api.restore_backup(BackupId=backup)["Backup"]
    assert restored["BackupState"] == "READY"
    assert "DeleteTimestamp" not in restored
    api.modify_backup_attributes(BackupId=backup, NeverExpires=False)


def test_hsms_that_cannot_be(sim: Simulator, new: str, active: str) -> None:
    api = sim.client()
    for members, text in [
        ({"AvailabilityZone": f"{REGION}c"}, f"has no subnet in {REGION}c. It has: {REGION}a, {REGION}b."),
        (
            {"AvailabilityZone": f"{REGION}a", "IpAddress": "10.9.9.9"},
            "does not fall within the subnet's address range",
        ),
    ]:
        with refused(INVALID, text):
            api.create_hsm(ClusterId=active, **members)
    used = sim.cluster(active)["Hsms"][0]["EniIp"]
    with refused(INVALID, "The specified address is already in use."):
        api.create_hsm(ClusterId=active, AvailabilityZone=f"{REGION}a", IpAddress=used)
    for members, code, text in [
        ({}, INVALID, "exactly one of HsmId, EniId and EniIp"),
        ({"HsmId": "hsm-aaaaaaaaaaa", "EniIp": used}, INVALID, "exactly one of HsmId, EniId and EniIp"),
        ({"HsmId": "hsm-aaaaaaaaaaa"}, MISSING, "HSM hsm-aaaaaaaaaaa not found."),
        ({"EniIp": "10.0.0.254"}, MISSING, "HSM 10.0.0.254 not found."),
    ]:
        with refused(code, text):
            api.delete_hsm(ClusterId=active, **members)
    # The quotas: two HSMs in a cluster, three in the region; and one HSM until a cluster is ACTIVE.
    second = sim.add(active, "b")
    with refused(INVALID, "HSMs of a cluster can be 2 at most"):
        api.create_hsm(ClusterId=active, AvailabilityZone=f"{REGION}a")
    first = sim.add(new)
    with refused(INVALID, f"Cluster '{new}' already contains an HSM but has not yet been fully activated"):
        api.create_hsm(ClusterId=new, AvailabilityZone=f"{REGION}b")
    other = sim.create()
    with refused(INVALID, "HSMs of an account in a region can be 3 at most"):
        api.create_hsm(ClusterId=other, AvailabilityZone=f"{REGION}a")
    api.delete_cluster(ClusterId=other)
    sim.until(other, "DELETED")
    sim.remove(new, first["HsmId"])
    sim.remove(active, second["HsmId"])


def test_the_quota_of_clusters(sim: Simulator, new: str, active: str) -> None:
    api = sim.client()
    alive = [one for one in api.describe_clusters()["Clusters"] if one["State"] != "DELETED"]
    assert {new, active} <= {one["ClusterId"] for one in alive}
    more = [sim.create() for _ in range(4 - len(alive))]
    with refused(INVALID, "clusters of an account in a region can be 4 at most"):
        api.create_cluster(**cluster(sim))
    elsewhere = sim.client(region="us-east-1")
    assert elsewhere.describe_clusters()["Clusters"] == []
    for id_ in more:
        api.delete_cluster(ClusterId=id_)
        sim.until(id_, "DELETED")


def test_a_region_does_not_reach_another_s(sim: Simulator, active: str, backup: str) -> None:
    elsewhere = sim.client(region="us-east-1")
    assert elsewhere.describe_clusters(Filters={"clusterIds": [active]})["Clusters"] == []
    assert elsewhere.describe_backups()["Backups"] == []
    for operation, members in (
        ("delete_hsm", {"ClusterId": active, "HsmId": sim.cluster(active)["Hsms"][0]["HsmId"]}),
        ("list_tags", {"ResourceId": active}),
        ("delete_backup", {"BackupId": backup}),
    ):
        with refused(MISSING):
            getattr(elsewhere, operation)(**members)


def test_filters_and_pages(sim: Simulator, new: str, active: str, backup: str) -> None:
    api = sim.client()

    def ids(**filters: list[str]) -> set[str]:
        return {one["ClusterId"] for one in api.describe_clusters(Filters=filters)["Clusters"]}

    assert ids(clusterIds=[new, NO_CLUSTER]) == {new}
    assert ids(states=["UNINITIALIZED"]) >= {new}
    assert active not in ids(states=["UNINITIALIZED"])
    assert ids(states=["ACTIVE"], clusterIds=[new, active]) == {active}
    assert ids(vpcIds=["vpc-00000000000000000"]) == set()
    with refused(INVALID, "There is no filter names."):
        ids(names=["x"])
    pages = list(api.get_paginator("describe_clusters").paginate(PaginationConfig={"PageSize": 1}))
    assert all(len(page["Clusters"]) == 1 for page in pages)
    assert [page["Clusters"][0]["ClusterId"] for page in pages] == [
        one["ClusterId"] for one in api.describe_clusters()["Clusters"]
    ]
    for operation in ("describe_clusters", "describe_backups"):
        with refused(INVALID, "NextToken is none that this operation gave"):
            getattr(api, operation)(NextToken="x")
    with refused("ValidationException", "less than or equal to 25"):
        api.describe_clusters(MaxResults=26)
    own = {"clusterIds": [active]}
    newest_first = [one["BackupId"] for one in api.describe_backups(Filters=own)["Backups"]]
    oldest_first = [one["BackupId"] for one in sim.backups(**own)]
    assert oldest_first == newest_first[::-1]
    assert oldest_first[0] == backup
    pages = list(api.get_paginator("describe_backups").paginate(Filters=own, PaginationConfig={"PageSize": 1}))
    assert [page["Backups"][0]["BackupId"] for page in pages] == newest_first
    assert sim.backups(backupIds=[backup], states=["READY"])[0]["Mode"] == "NON_FIPS"
    assert sim.backups(sourceBackupIds=[backup]) == []


def test_tags(sim: Simulator, active: str, backup: str) -> None:
    api = sim.client()
    for id_ in (active, backup):
        tags = [{"Key": f"key{number:02}", "Value": str(number)} for number in range(50)]
        assert api.tag_resource(ResourceId=id_, TagList=tags)["ResponseMetadata"]["HTTPStatusCode"] == 200
        with refused("CloudHsmResourceLimitExceededException", "50 tags at most"):
            api.tag_resource(ResourceId=id_, TagList=[{"Key": "one more", "Value": ""}])
        api.tag_resource(ResourceId=id_, TagList=[{"Key": "key00", "Value": "new"}])
        tags[0]["Value"] = "new"
        assert api.list_tags(ResourceId=id_)["TagList"] == tags
        pages = list(api.get_paginator("list_tags").paginate(ResourceId=id_, PaginationConfig={"PageSize": 20}))
        assert [len(page["TagList"]) for page in pages] == [20, 20, 10]
        assert [tag for page in pages for tag in page["TagList"]] == tags
        api.untag_resource(ResourceId=id_, TagKeyList=[tag["Key"] for tag in tags[1:]] + ["never there"])
        assert api.list_tags(ResourceId=id_)["TagList"] == [{"Key": "key00", "Value": "new"}]
        with refused("CloudHsmTagException", "begin with aws:"):
            api.tag_resource(ResourceId=id_, TagList=[{"Key": "AWS:x", "Value": ""}])
    assert sim.cluster(active)["TagList"] == [{"Key": "key00", "Value": "new"}]
    assert sim.backups(backupIds=[backup])[0]["TagList"] == [{"Key": "key00", "Value": "new"}]
    for id_ in (active, backup):
        api.untag_resource(ResourceId=id_, TagKeyList=["key00"])


def test_policies_of_backups(sim: Simulator, active: str, backup: str) -> None:
    api = sim.client()
    arn = backup_arn(backup)

    def policy(principal: str) -> str:
        statement = {"Effect": "Allow", "Action": "cloudhsm:CreateCluster", "Resource": arn}
        return json.dumps({"Version": "2012-10-17", "Statement": {**statement, "Principal": {"AWS": principal}}})

    own = policy(f"arn:aws:iam::{ACCOUNT}:root")
    with refused(MISSING, "The resource policy of"):
        api.get_resource_policy(ResourceArn=arn)
    answer = api.put_resource_policy(ResourceArn=arn, Policy=own)
    assert (answer["ResourceArn"], answer["Policy"]) == (arn, own)
    assert api.get_resource_policy(ResourceArn=arn)["Policy"] == own
    for stranger in ("*", "arn:aws:iam::999999999999:root", "999999999999"):
        api.put_resource_policy(ResourceArn=arn, Policy=policy(stranger))
        assert api.get_resource_policy(ResourceArn=arn)["Policy"] == policy(stranger)
    api.put_resource_policy(ResourceArn=arn, Policy=own)
    with refused(INVALID, "The policy is malformed"):
        api.put_resource_policy(ResourceArn=arn, Policy="{}")
    with refused(INVALID, "Only backups have resource policies"):
        api.put_resource_policy(ResourceArn=arn.replace("backup/", "cluster/").replace(backup, active), Policy=own)
    with refused(INVALID, "ResourceArn is needed."):
        api.get_resource_policy()
    answer = api.delete_resource_policy(ResourceArn=arn)
    assert (answer["ResourceArn"], answer["Policy"]) == (arn, own)
    with refused(MISSING):
        api.delete_resource_policy(ResourceArn=arn)


def test_rights(sim: Simulator, new: str, active: str, backup: str) -> None:
    iam, api = sim.client("iam"), sim.client()
    assert (
        iam.get_role(RoleName="AWSServiceRoleForCloudHSM")["Role"]["Path"]
        == "/aws-service-role/cloudhsm.amazonaws.com/"
    )
    iam.create_user(UserName="ann")
    keys = iam.create_access_key(UserName="ann")["AccessKey"]
    ann = sim.client(keys=keys)
    with refused("CloudHsmAccessDeniedException", "is not authorized to perform: cloudhsm:DescribeClusters"):
        ann.describe_clusters()
    allowed = [
        {
            "Effect": "Allow",
            "Action": ["cloudhsm:ListTags", "cloudhsm:ModifyCluster"],
            "Resource": f"arn:aws:cloudhsm:{REGION}:{ACCOUNT}:cluster/*",
            "Condition": {"StringEquals": {"aws:ResourceTag/team": "blue"}},
        },
        {
            "Effect": "Allow",
            "Action": "cloudhsm:TagResource",
            "Resource": f"arn:aws:cloudhsm:{REGION}:{ACCOUNT}:cluster/{new}",
            "Condition": {
                "StringEquals": {"aws:RequestTag/team": "blue"},
                "ForAllValues:StringEquals": {"aws:TagKeys": ["team"]},
            },
        },
    ]
    document = json.dumps({"Version": "2012-10-17", "Statement": allowed})
    iam.put_user_policy(UserName="ann", PolicyName="p", PolicyDocument=document)
    for attempt in (
        lambda: ann.list_tags(ResourceId=new),
        lambda: ann.tag_resource(ResourceId=new, TagList=[{"Key": "team", "Value": "red"}]),
        lambda: ann.tag_resource(
            ResourceId=new, TagList=[{"Key": "team", "Value": "blue"}, {"Key": "cost", "Value": "1"}]
        ),
        lambda: ann.tag_resource(ResourceId=active, TagList=[{"Key": "team", "Value": "blue"}]),
        lambda: ann.delete_backup(BackupId=backup),
        lambda: ann.create_cluster(**cluster(sim)),
    ):
        with refused("CloudHsmAccessDeniedException", "is not authorized to perform: cloudhsm:"):
            attempt()
    ann.tag_resource(ResourceId=new, TagList=[{"Key": "team", "Value": "blue"}])
    assert ann.list_tags(ResourceId=new)["TagList"] == [{"Key": "team", "Value": "blue"}]
    days = {"Type": "DAYS", "Value": "8"}
    ann.modify_cluster(ClusterId=new, BackupRetentionPolicy=days)
    assert sim.cluster(new)["BackupRetentionPolicy"] == days
    # A backup's own policy allows what the user's does not.
    user = f"arn:aws:iam::{ACCOUNT}:user/ann"
    statement = {"Effect": "Allow", "Action": "cloudhsm:ListTags", "Resource": "*", "Principal": {"AWS": user}}
    text = json.dumps({"Version": "2012-10-17", "Statement": statement})
    api.put_resource_policy(ResourceArn=backup_arn(backup), Policy=text)
    assert ann.list_tags(ResourceId=backup)["TagList"] == []
    api.delete_resource_policy(ResourceArn=backup_arn(backup))
    with refused("CloudHsmAccessDeniedException"):
        ann.list_tags(ResourceId=backup)


# ---- InitializeCluster -----------------------------------------------------------------------------------------------


def authority(folder: Path, name: str, issuer: str = "", *more: str) -> str:
    """A certificate authority in a folder, self-signed or issued by another one there; its certificate."""
    openssl(
        folder,
        "req",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-keyout",
        f"{name}.key",
        "-out",
        f"{name}.csr",
        "-subj",
        f"/CN={name}",
    )
    (folder / "ca.ext").write_text("basicConstraints=critical,CA:TRUE\n")
    by = ("-CA", f"{issuer}.crt", "-CAkey", f"{issuer}.key", "-CAcreateserial") if issuer else ("-key", f"{name}.key")
    openssl(
        folder,
        "x509",
        "-req",
        "-in",
        f"{name}.csr",
        *by,
        "-extfile",
        "ca.ext",
        "-days",
        "99",
        "-sha256",
        *more,
        "-out",
        f"{name}.crt",
    )
    return (folder / f"{name}.crt").read_text()


def test_certificates_that_a_cluster_takes_and_does_not(sim: Simulator, new: str, tmp_path: Path) -> None:
    hsm = sim.add(new)
    csr = sim.cluster(new)["Certificates"]["ClusterCsr"]
    good, root = signed(tmp_path / "good", csr)
    _, stranger = signed(tmp_path / "stranger", csr)
    openssl(
        tmp_path, "req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", "x.key", "-out", "x.csr", "-subj", "/CN=x"
    )
    foreign, foreign_root = signed(tmp_path / "foreign", (tmp_path / "x.csr").read_text())
    names = ["issuer", "third", "second", "root"]
    for name, issuer in zip(names[::-1], ["", "root", "second", "third"], strict=True):
        authority(tmp_path, name, issuer)
    authority(tmp_path, "fourth", "issuer")
    (tmp_path / "cluster.csr").write_text(csr)
    for name in ("issuer", "fourth"):
        by = ("-CA", f"{name}.crt", "-CAkey", f"{name}.key", "-CAcreateserial")
        openssl(tmp_path, "x509", "-req", "-in", "cluster.csr", *by, "-sha256", "-out", f"by_{name}.crt")
    chain = "".join((tmp_path / f"{name}.crt").read_text() for name in names)
    by_issuer = (tmp_path / "by_issuer.crt").read_text()
    weak = signed(tmp_path / "weak", csr, key=("rsa:1024",))
    sha1 = signed(tmp_path / "sha1", csr, digest="-sha1")
    api = sim.client()
    for certificate, anchor, text in [
        (good, stranger, "was not issued by"),
        (foreign, foreign_root, "is for another key than the cluster's CSR: sign that CSR."),
        (good + good, root, "The signed certificate is one certificate; 2 were given."),
        ("not PEM", root, "The signed certificate is no certificate in PEM"),
        (good, "not PEM", "The trust anchor is no certificate in PEM"),
        ((tmp_path / "by_fourth.crt").read_text(), (tmp_path / "fourth.crt").read_text() + chain, "at most 4"),
        (by_issuer, "".join((tmp_path / f"{name}.crt").read_text() for name in names[::-1]), "the last one"),
        (by_issuer, (tmp_path / "issuer.crt").read_text(), "the last one, and only that, is self-signed"),
        (good, root + "\n" * 16_384, "a chain 16384 bytes"),
        (*weak, "Allowed are RSA keys of 2048, 3072 and 4096 bits"),
        (*sha1, "signed with SHA-224 to SHA-512"),
    ]:
        with refused(INVALID, text):
            api.initialize_cluster(ClusterId=new, SignedCert=certificate, TrustAnchor=anchor)
    with refused("ValidationException", "less than or equal to 20000"):
        api.initialize_cluster(ClusterId=new, SignedCert=good, TrustAnchor=root + "\n" * 20_000)
    assert sim.cluster(new)["State"] == "UNINITIALIZED"
    api.initialize_cluster(ClusterId=new, SignedCert=by_issuer, TrustAnchor=chain)
    assert sim.until(new, "INITIALIZED")["Certificates"] == {"ClusterCertificate": by_issuer}
    sim.remove(new, hsm["HsmId"])
    sim.until(new, "UNINITIALIZED")


def test_the_hardware_s_certificates_lead_to_their_roots(sim: Simulator, new: str, tmp_path: Path) -> None:
    """AWS's guide, "Verify the identity and authenticity of your cluster's HSM", by openssl."""
    hsm = sim.add(new)
    found = sim.cluster(new)["Certificates"]
    for name, text in found.items():
        (tmp_path / name).write_text(text)
    for hardware, root in (
        ("AwsHardwareCertificate", AWS_ROOT),
        ("ManufacturerHardwareCertificate", MANUFACTURER_ROOT),
    ):
        certificate = sim.fleet.places.run / root
        verified = openssl(tmp_path, "verify", "-CAfile", str(certificate), "-untrusted", hardware, "HsmCertificate")
        assert verified == "HsmCertificate: OK\n"
    keys = openssl(tmp_path, "x509", "-in", "HsmCertificate", "-pubkey", "-noout")
    assert keys == openssl(tmp_path, "req", "-in", "ClusterCsr", "-pubkey", "-noout")
    sim.remove(new, hsm["HsmId"])
