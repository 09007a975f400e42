"""CloudHSM by the AWS CLI: every operation, every error of the model, pages and formats, with HSM processes behind."""

from __future__ import annotations

import json
import re
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from support.aws_cli import Aws
from support.aws_values import botocore_model
from support.cloudhsm import ACCOUNT, NO_BACKUP, NO_CLUSTER, REGION, Simulator, signed, simulator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def sim() -> Iterator[Simulator]:
    with simulator(quotas={"cloudhsm.hsms_per_cluster": 2}) as one:
        yield one


def cli(sim: Simulator, keys: dict[str, str] | None = None, **more: str) -> Aws:
    return Aws(sim.url, keys or sim.root, REGION, more)


@pytest.fixture(scope="module")
def aws(sim: Simulator) -> Aws:
    return cli(sim)


@pytest.fixture(scope="module")
def active(sim: Simulator) -> str:
    """An ACTIVE cluster of one HSM, with two backups."""
    id_, _ = sim.active(subnets=sim.subnets[:2])
    second = sim.add(id_, "b")
    sim.remove(id_, second["HsmId"])
    sim.settled(id_)
    return id_


@pytest.fixture
def tags(sim: Simulator, active: str) -> Iterator[list[str]]:
    """As many tags as the cluster can have, for a test; their keys."""
    keys = [f"key{number:02}" for number in range(50)]
    sim.client().tag_resource(ResourceId=active, TagList=[{"Key": key, "Value": ""} for key in keys])
    yield keys
    sim.client().untag_resource(ResourceId=active, TagKeyList=keys)


def test_a_cluster_s_life(sim: Simulator, aws: Aws, tmp_path: Path) -> None:
    made = aws(
        *("create-cluster", "--hsm-type", "hsm2m.medium", "--mode", "NON_FIPS", "--subnet-ids", *sim.subnets[:2]),
        *("--backup-retention-policy", "Type=DAYS,Value=30", "--tag-list", "Key=team,Value=blue", "Key=cost,Value="),
    )["Cluster"]
    id_ = made["ClusterId"]
    assert made["State"] == "CREATE_IN_PROGRESS"
    assert made["TagList"] == [{"Key": "team", "Value": "blue"}, {"Key": "cost", "Value": ""}]
    assert (made["Mode"], made["BackupRetentionPolicy"]) == ("NON_FIPS", {"Type": "DAYS", "Value": "30"})
    described = ("describe-clusters", "--filters", f"clusterIds={id_}", "--query")
    aws.until("UNINITIALIZED", *described, "Clusters[0].State")
    by_cluster = ("--cluster-id", id_)
    hsm = aws("create-hsm", *by_cluster, "--availability-zone", f"{REGION}b", "--ip-address", "10.0.1.9")["Hsm"]
    assert (hsm["State"], hsm["EniIp"], hsm["SubnetId"]) == ("CREATE_IN_PROGRESS", "10.0.1.9", sim.subnets[1])
    aws.until("ACTIVE", *described, "Clusters[0].Hsms[0].State")
    csr = aws.text(*described, "Clusters[0].Certificates.ClusterCsr", "--output", "text")
    signed(tmp_path, csr)
    files = ("--signed-cert", f"file://{tmp_path}/signed.crt", "--trust-anchor", f"file://{tmp_path}/root.crt")
    assert aws("initialize-cluster", *by_cluster, *files)["State"] == "INITIALIZE_IN_PROGRESS"
    sim.until(id_, "INITIALIZED")
    text = aws.error("create-hsm", *by_cluster, "--availability-zone", f"{REGION}a")
    assert text.startswith(
        "An error occurred (CloudHsmInvalidRequestException) when calling the CreateHsm operation: "
        f"Cluster '{id_}' already contains an HSM but has not yet been fully activated"
    )
    sim.activate(hsm["HsmId"])
    sim.until(id_, "ACTIVE")
    second = aws("create-hsm", *by_cluster, "--availability-zone", f"{REGION}a")["Hsm"]
    sim.settled(id_)
    with sim.hsm(second["HsmId"]) as alice:
        alice.login("alice")
    days = aws("modify-cluster", *by_cluster, "--backup-retention-policy", "Type=DAYS,Value=8")["Cluster"]
    assert (days["State"], days["BackupRetentionPolicy"]["Value"]) == ("ACTIVE", "8")
    assert aws("delete-hsm", *by_cluster, "--hsm-id", hsm["HsmId"]) == {"HsmId": hsm["HsmId"]}
    assert aws("delete-hsm", *by_cluster, "--eni-ip", second["EniIp"]) == {"HsmId": second["HsmId"]}
    aws.until("0", *described, "length(Clusters[0].Hsms)")
    own = ("describe-backups", "--filters", f"clusterIds={id_},states=READY", "--sort-ascending")
    backups = aws(*own)["Backups"]
    assert [one["Mode"] for one in backups] == ["NON_FIPS"] * len(backups)
    assert len(backups) == 4
    gone = aws("delete-cluster", *by_cluster)["Cluster"]
    assert (gone["State"], gone["StateMessage"]) == ("DELETE_IN_PROGRESS", "The cluster is being deleted.")
    sim.until(id_, "DELETED")
    again = aws(
        *("create-cluster", "--hsm-type", "hsm2m.medium", "--subnet-ids", sim.subnets[0]),
        *("--source-backup-id", backups[-1]["BackupId"]),
    )["Cluster"]
    assert (again["SourceBackupId"], again["Mode"]) == (backups[-1]["BackupId"], "NON_FIPS")
    assert again["Certificates"] == {"ClusterCertificate": (tmp_path / "signed.crt").read_text()}


def test_tags_policies_and_the_end_of_backups(sim: Simulator, aws: Aws, active: str, tmp_path: Path) -> None:
    backup = sim.backups(clusterIds=[active])[0]
    named, arn = ("--backup-id", backup["BackupId"]), ("--resource-arn", backup["BackupArn"])
    resource = ("--resource-id", backup["BackupId"])
    assert aws.text("tag-resource", *resource, "--tag-list", "Key=a,Value=1", "Key=b,Value=x y") == ""
    assert aws("list-tags", *resource)["TagList"] == [{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "x y"}]
    assert aws.text("untag-resource", *resource, "--tag-key-list", "a", "never-there") == ""
    assert aws.text("list-tags", *resource, "--output", "text") == "TAGLIST\tb\tx y\n"
    kept = aws("modify-backup-attributes", *named, "--never-expires")["Backup"]
    assert (kept["NeverExpires"], kept["TagList"]) == (True, [{"Key": "b", "Value": "x y"}])
    ids = ("describe-backups", "--query", "Backups[].BackupId", "--output", "text", "--filters")
    assert aws.text(*ids, f"clusterIds={active},neverExpires=true").split() == [backup["BackupId"]]
    assert aws("modify-backup-attributes", *named, "--no-never-expires")["Backup"]["NeverExpires"] is False
    gone = aws("delete-backup", *named)["Backup"]
    assert gone["BackupState"] == "PENDING_DELETION"
    assert gone["DeleteTimestamp"] - gone["CreateTimestamp"] > 7 * 86_400
    back = aws("restore-backup", *named)["Backup"]
    assert back["BackupState"] == "READY"
    assert "DeleteTimestamp" not in back
    allowed = {"Effect": "Allow", "Action": "cloudhsm:DescribeBackups", "Resource": backup["BackupArn"]}
    principal = {"Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [{**allowed, **principal}]})
    (tmp_path / "policy.json").write_text(policy)
    put = aws("put-resource-policy", *arn, "--policy", f"file://{tmp_path}/policy.json")
    assert put == {"ResourceArn": backup["BackupArn"], "Policy": policy}
    assert aws.text("get-resource-policy", *arn, "--query", "Policy", "--output", "text") == policy + "\n"
    assert aws("delete-resource-policy", *arn) == put
    assert aws.error("get-resource-policy", *arn) == (
        "An error occurred (CloudHsmResourceNotFoundException) when calling the GetResourcePolicy operation: "
        f"The resource policy of {backup['BackupArn']} not found."
    )
    assert aws("copy-backup-to-region", *named, "--destination-region", "us-east-1")["DestinationBackup"] == {
        "CreateTimestamp": gone["CreateTimestamp"],
        "SourceRegion": REGION,
        "SourceBackup": backup["BackupId"],
        "SourceCluster": active,
    }
    sim.client().untag_resource(ResourceId=backup["BackupId"], TagKeyList=["b"])


def at_once(*calls: Any) -> list[Any]:
    """What these answer; the CLI takes its time to start."""
    with ThreadPoolExecutor(2) as pool:
        return [one.result() for one in [pool.submit(*call) for call in calls]]


def test_pages_and_formats(sim: Simulator, aws: Aws, active: str, tags: list[str]) -> None:
    own = ("describe-backups", "--filters", f"clusterIds={active}")
    wanted = [one["BackupId"] for one in sim.backups(clusterIds=[active])][::-1]
    assert len(wanted) == 3
    listed = ("list-tags", "--resource-id", active)
    whole, first, rest, raw, by_tag, ascending, table, text, too_large = at_once(
        (aws, *own, "--page-size", "1"),
        (aws, *own, "--max-items", "2"),
        (aws, *own, "--max-items", "1", "--page-size", "1"),
        (aws, *own, "--no-paginate", "--max-results", "1"),
        (aws, *listed, "--page-size", "20", "--query", "TagList[].Key"),
        (aws, *own, "--sort-ascending", "--query", "Backups[*].BackupId"),
        (aws.text, *own, "--output", "table", "--query", "Backups[].{Id:BackupId,State:BackupState}"),
        (aws.text, *own, "--output", "text", "--query", "Backups[].[BackupId,BackupState]"),
        (aws.error, *own, "--page-size", "51"),
    )
    assert [one["BackupId"] for one in whole["Backups"]] == wanted
    assert "NextToken" not in whole
    assert [one["BackupId"] for one in first["Backups"]] == wanted[:2]
    assert [one["BackupId"] for one in raw["Backups"]] == wanted[:1]
    assert by_tag == tags
    assert ascending == wanted[::-1]
    rows = [line.replace("|", " ").split() for line in table.splitlines() if line.startswith("|")]
    assert rows == [["DescribeBackups"], ["Id", "State"], *([one, "READY"] for one in wanted)]
    assert text == "".join(f"{one}\tREADY\n" for one in wanted)
    assert too_large.startswith("An error occurred (ValidationException) when calling the DescribeBackups operation: ")
    assert "Member must have value less than or equal to 50" in too_large
    assert [one["BackupId"] for one in rest["Backups"]] == wanted[:1]
    after, second, clusters = at_once(
        (aws, *own, "--starting-token", first["NextToken"]),
        (aws, *own, "--max-items", "1", "--starting-token", rest["NextToken"]),
        (aws, "describe-clusters", "--filters", f"states=ACTIVE,clusterIds={active},{NO_CLUSTER}", "--max-items", "1"),
    )
    assert [one["BackupId"] for one in after["Backups"]] == wanted[2:]
    assert [one["BackupId"] for one in second["Backups"]] == wanted[1:2]
    assert [one["ClusterId"] for one in clusters["Clusters"]] == [active]
    assert "NextToken" not in clusters


@pytest.mark.usefixtures("tags")
def test_errors(sim: Simulator, aws: Aws, active: str) -> None:
    """One of each kind, and those of each operation that only its own parameters have."""
    iam = sim.client("iam")
    iam.create_user(UserName="ann")
    ann = cli(sim, iam.create_access_key(UserName="ann")["AccessKey"])
    backup = sim.backups(clusterIds=[active])[0]["BackupId"]
    create = ("create-cluster", "--hsm-type", "hsm2m.medium", "--subnet-ids", sim.subnets[0])
    made = (*create, "--mode", "FIPS")
    hsm = ("create-hsm", "--cluster-id", active, "--availability-zone", f"{REGION}a")
    tag = ("tag-resource", "--resource-id", active, "--tag-list")
    calls = [
        (ann, "AccessDenied", "is not authorized to perform: cloudhsm:DescribeClusters", ("describe-clusters",)),
        (
            aws,
            "InvalidRequest",
            f"{active} has 1 HSM(s). Delete them first.",
            ("delete-cluster", "--cluster-id", active),
        ),
        (aws, "InvalidRequest", "Mode is a required argument for this hsm type.", create),
        (aws, "InvalidRequest", "does not fall within the subnet's address range", (*hsm, "--ip-address", "10.9.9.9")),
        (aws, "InvalidRequest", "needs exactly one of HsmId, EniId and EniIp", ("delete-hsm", "--cluster-id", active)),
        (aws, "InvalidRequest", "PENDING_DELETION", ("restore-backup", "--backup-id", backup)),
        (aws, "ResourceNotFound", f"Backup {NO_BACKUP} not found.", (*made, "--source-backup-id", NO_BACKUP)),
        (aws, "ResourceNotFound", f"Cluster {NO_CLUSTER} not found.", ("delete-cluster", "--cluster-id", NO_CLUSTER)),
        (aws, "Tag", "begin with aws: are AWS's own", (*made, "--tag-list", "Key=aws:x,Value=1")),
        (aws, "Tag", "A tag key is given twice.", (*tag, "Key=a,Value=1", "Key=a,Value=2")),
        (aws, "ResourceLimitExceeded", "A resource has 50 tags at most.", (*tag, "Key=more,Value=1")),
    ]
    said = at_once(*((who.error, *arguments) for who, _, _, arguments in calls))
    for (_, kind, sentence, arguments), text in zip(calls, said, strict=True):
        code, operation = f"CloudHsm{kind}Exception", "".join(part.capitalize() for part in arguments[0].split("-"))
        assert code in {shape.name for shape in botocore_model("cloudhsmv2").operation_model(operation).error_shapes}
        assert text.startswith(f"An error occurred ({code}) when calling the {operation} operation: "), text
        assert sentence in text


def test_a_failure_inside_is_cloudhsm_s_own(sim: Simulator, aws: Aws, active: str) -> None:
    """What is in the gateway's database cannot be read: the caller learns which request it was, the log says why."""
    backup = sim.backups(clusterIds=[active])[0]["BackupId"]

    def put(policy: str) -> None:
        with closing(sqlite3.connect(sim.fleet.places.home / "gateway.db")) as database, database:
            database.execute("UPDATE cloudhsm_backups SET policy = ? WHERE id = ?", (policy, backup))

    put("{")
    try:
        text = aws.error("list-tags", "--resource-id", backup)
    finally:
        put("")
    found = re.fullmatch(
        r"An error occurred \(CloudHsmInternalFailureException\) when calling the ListTags operation \(reached max "
        r"retries: 0\): The gateway failed on request ([-0-9a-f]{36}); its log says why\.",
        text,
    )
    assert found, text
    assert f"Request {found[1]} failed." in sim.log
    assert aws("list-tags", "--resource-id", backup)["TagList"] == []
