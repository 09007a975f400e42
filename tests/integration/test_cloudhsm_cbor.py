"""CloudHSM for clients that take the first protocol of its model, Smithy RPC v2 CBOR, as AWS's newer SDKs do.

botocore prefers JSON of the two; here its model says that there is CBOR alone, and all else is boto3 as it is.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import boto3
import botocore.session
import pytest
from botocore import xform_name
from support.aws_cli import Aws
from support.cloudhsm import NO_BACKUP, NOWHERE, ONCE, REGION, Simulator, refused, simulator

from hsmsim.gateway import catalog

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME, VERSION, CBOR = "cloudhsmv2", "2017-04-28", "smithy-rpc-v2-cbor"


@pytest.fixture(scope="module")
def sim() -> Iterator[Simulator]:
    with simulator() as one:
        yield one


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for botocore's loader, with CloudHSM's model less its second protocol."""
    model = botocore.session.Session().get_component("data_loader").load_service_model(NAME, "service-2", VERSION)
    assert model["metadata"]["protocols"] == [CBOR, "json"]
    folder = tmp_path_factory.mktemp("models")
    (folder / NAME / VERSION).mkdir(parents=True)
    metadata = {**model["metadata"], "protocols": [CBOR]}
    (folder / NAME / VERSION / "service-2.json").write_text(json.dumps({**model, "metadata": metadata}))
    return folder


def client(sim: Simulator, models: Path, keys: dict[str, str]) -> Any:
    session = botocore.session.Session()
    session.get_component("data_loader").search_paths.insert(0, str(models))
    return boto3.Session(botocore_session=session).client(
        NAME,
        endpoint_url=sim.url,
        region_name=REGION,
        aws_access_key_id=keys["AccessKeyId"],
        aws_secret_access_key=keys["SecretAccessKey"],
        config=ONCE,
    )


@pytest.fixture(scope="module")
def api(sim: Simulator, models: Path) -> Any:
    return client(sim, models, sim.root)


def test_no_other_service_speaks_it() -> None:
    """Another one whose model lists it wants tests like these."""
    assert [service.name for service in catalog.catalog() if CBOR in service.protocols] == [NAME]


def test_what_is_on_the_wire(sim: Simulator, api: Any) -> None:
    sent: list[Any] = []

    def look(request: Any, **_: Any) -> None:
        sent.append(request)

    api.meta.events.register("before-send.cloudhsmv2.DescribeClusters", look)
    answer = api.describe_clusters(Filters={"states": ["DEGRADED"]})
    api.meta.events.unregister("before-send.cloudhsmv2.DescribeClusters", look)
    (request,) = sent
    assert request.url == f"{sim.url}/service/BaldrApiService/operation/DescribeClusters"
    assert request.headers["smithy-protocol"] == b"rpc-v2-cbor"
    assert answer["Clusters"] == []
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    assert (headers["content-type"], headers["smithy-protocol"]) == ("application/cbor", "rpc-v2-cbor")


def test_the_same_in_both_protocols(sim: Simulator, api: Any) -> None:
    made = api.create_cluster(
        HsmType="hsm2m.medium", Mode="FIPS", SubnetIds=sim.subnets[:2], TagList=[{"Key": "team", "Value": "blau grün"}]
    )["Cluster"]
    id_ = made["ClusterId"]
    assert made["SubnetMapping"] == {f"{REGION}a": sim.subnets[0], f"{REGION}b": sim.subnets[1]}
    assert abs(made["CreateTimestamp"] - datetime.now(UTC)) < timedelta(minutes=5)
    shown = sim.until(id_, "UNINITIALIZED")
    assert api.describe_clusters(Filters={"clusterIds": [id_]})["Clusters"] == [shown]
    assert shown["TagList"] == [{"Key": "team", "Value": "blau grün"}]
    made_hsm = api.create_hsm(ClusterId=id_, AvailabilityZone=f"{REGION}a")["Hsm"]
    certificate, root = sim.sign(sim.when(id_, lambda found: found["Certificates"])["ClusterId"])
    answer = api.initialize_cluster(ClusterId=id_, SignedCert=certificate, TrustAnchor=root)
    assert answer["State"] == "INITIALIZE_IN_PROGRESS"
    sim.until(id_, "INITIALIZED")
    sim.activate(made_hsm["HsmId"])
    sim.until(id_, "ACTIVE")
    sim.settled(id_)
    backup = api.describe_backups(Filters={"clusterIds": [id_]}, SortAscending=True)["Backups"][0]
    assert sim.backups(clusterIds=[id_]) == [backup]
    kept = api.modify_backup_attributes(BackupId=backup["BackupId"], NeverExpires=True)["Backup"]
    assert kept == {**backup, "NeverExpires": True}
    deleted = api.delete_backup(BackupId=backup["BackupId"])["Backup"]
    assert deleted["DeleteTimestamp"] > deleted["CreateTimestamp"] + timedelta(days=7)
    assert sim.client().restore_backup(BackupId=backup["BackupId"])["Backup"] == kept
    wanted = [{"AttributeKey": "EventName", "AttributeValue": "ModifyBackupAttributes"}]
    found = sim.client("cloudtrail").lookup_events(LookupAttributes=wanted)["Events"]
    parameters = [json.loads(event["CloudTrailEvent"])["requestParameters"] for event in found]
    assert {"backupId": backup["BackupId"], "neverExpires": True} in parameters


def test_pages(sim: Simulator, api: Any) -> None:
    id_ = sim.create(subnets=sim.subnets[:1])
    tags = [{"Key": f"key{number:02}", "Value": str(number)} for number in range(50)]
    empty = api.tag_resource(ResourceId=id_, TagList=tags)
    assert empty["ResponseMetadata"]["HTTPStatusCode"] == 200
    pages = list(api.get_paginator("list_tags").paginate(ResourceId=id_, PaginationConfig={"PageSize": 20}))
    assert [len(page["TagList"]) for page in pages] == [20, 20, 10]
    assert [tag for page in pages for tag in page["TagList"]] == tags
    # A token is of the service and not of the protocol.
    token = api.list_tags(ResourceId=id_, MaxResults=49)["NextToken"]
    assert sim.client().list_tags(ResourceId=id_, NextToken=token)["TagList"] == tags[49:]


def test_every_operation_needs_its_right_and_what_it_is_about(sim: Simulator, models: Path, api: Any) -> None:
    asked = {**NOWHERE, "describe_clusters": {}, "describe_backups": {}}
    assert asked.keys() == {xform_name(name) for name in api.meta.service_model.operation_names}
    iam = sim.client("iam")
    iam.create_user(UserName="ann")
    ann = client(sim, models, iam.create_access_key(UserName="ann")["AccessKey"])
    for operation, members in asked.items():
        action = api.meta.method_to_api_mapping[operation]
        with refused("CloudHsmAccessDeniedException", f"is not authorized to perform: cloudhsm:{action}"):
            getattr(ann, operation)(**members)
        if operation in NOWHERE:
            with refused("CloudHsmResourceNotFoundException", " not found."):
                getattr(api, operation)(**members)


def test_errors(sim: Simulator, models: Path, api: Any) -> None:
    with pytest.raises(api.exceptions.CloudHsmInvalidRequestException, match=r"There is no filter names\."):
        api.describe_clusters(Filters={"names": ["x"]})
    with refused("ValidationException", "less than or equal to 25"):
        api.describe_clusters(MaxResults=26)
    with refused("NotImplementedException", "NetworkType DUALSTACK of cloudhsm:CreateCluster", 501):
        api.create_cluster(**NOWHERE["create_cluster"], NetworkType="DUALSTACK")
    with refused("InvalidSignatureException", "The request signature we calculated does not match"):
        client(sim, models, sim.root | {"SecretAccessKey": "wrong"}).describe_clusters()


def test_the_cli_in_cbor(sim: Simulator, models: Path) -> None:
    aws = Aws(sim.url, sim.root, REGION, {"AWS_DATA_PATH": str(models)})
    assert aws("describe-backups", "--filters", f"backupIds={NO_BACKUP}") == {"Backups": []}
    assert aws.error("delete-backup", "--backup-id", NO_BACKUP) == (
        "An error occurred (CloudHsmResourceNotFoundException) when calling the DeleteBackup operation: "
        f"Backup {NO_BACKUP} not found."
    )
