"""IAM and STS through the gateway's process and real boto3."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError
from botocore.session import get_session
from support.assembled import ACCOUNT, Gateway

from hsmsim.clock import ManualClock
from hsmsim.crypto.seal import Seal
from hsmsim.services.iam import api as iam
from hsmsim.services.iam.directory import Directory
from hsmsim.services.sts import api as sts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FULL = json.dumps({"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}})


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    one = Gateway(tmp_path_factory.mktemp("gateway"))
    yield one
    one.stop()


def refusal(error: Any) -> tuple[str, int]:
    response = error.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def test_from_root_to_a_role_s_session(gateway: Gateway) -> None:
    root = gateway.client("iam", gateway.root)
    user = root.create_user(UserName="ann", Path="/flow/", Tags=[{"Key": "team", "Value": "blue"}])["User"]
    assert user["Arn"] == f"arn:aws:iam::{ACCOUNT}:user/flow/ann"
    assert root.get_user(UserName="ann")["User"] == user
    key = root.create_access_key(UserName="ann")["AccessKey"]
    ann = gateway.client("sts", key)
    assert ann.get_caller_identity()["UserId"] == user["UserId"]
    trust = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": user["Arn"]}}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    role = root.create_role(RoleName="Deploy", AssumeRolePolicyDocument=document)["Role"]
    assert role["AssumeRolePolicyDocument"] == json.loads(document)
    root.attach_role_policy(RoleName="Deploy", PolicyArn="arn:aws:iam::aws:policy/IAMReadOnlyAccess")
    session = ann.assume_role(RoleArn=role["Arn"], RoleSessionName="s1", ExternalId="x1")
    assert session["AssumedRoleUser"]["Arn"] == f"arn:aws:sts::{ACCOUNT}:assumed-role/Deploy/s1"
    deploy = gateway.client("iam", session["Credentials"])
    assert [one["UserName"] for one in deploy.list_users(PathPrefix="/flow/")["Users"]] == ["ann"]
    with pytest.raises(ClientError) as error:
        deploy.delete_user(UserName="ann")
    assert refusal(error) == ("AccessDenied", 403)
    assert error.value.response["Error"]["Message"] == (
        f"User: arn:aws:sts::{ACCOUNT}:assumed-role/Deploy/s1 is not authorized to perform: iam:DeleteUser on "
        f"resource: arn:aws:iam::{ACCOUNT}:user/flow/ann "
        "because no identity-based policy allows the iam:DeleteUser action"
    )
    for secret in (key["SecretAccessKey"], session["Credentials"]["SecretAccessKey"]):
        assert secret not in gateway.log()


def test_documents_are_read_by_boto(gateway: Gateway) -> None:
    root = gateway.client("iam", gateway.root)
    root.create_user(UserName="docs")
    root.put_user_policy(UserName="docs", PolicyName="p", PolicyDocument=FULL)
    assert root.get_user_policy(UserName="docs", PolicyName="p")["PolicyDocument"] == json.loads(FULL)
    policy = root.create_policy(PolicyName="docs", PolicyDocument=FULL)["Policy"]
    shown = root.get_policy_version(PolicyArn=policy["Arn"], VersionId="v1")["PolicyVersion"]
    assert (shown["Document"], shown["IsDefaultVersion"]) == (json.loads(FULL), True)


@pytest.mark.parametrize(
    ("operation", "members", "code", "status"),
    [
        ("get_user", {"UserName": "nobody"}, "NoSuchEntity", 404),
        ("create_user", {"UserName": "a b"}, "ValidationError", 400),
        ("create_policy", {"PolicyName": "p", "PolicyDocument": "{"}, "MalformedPolicyDocument", 400),
        ("create_service_linked_role", {"AWSServiceName": "x.amazonaws.com"}, "InvalidInput", 400),
        ("create_login_profile", {"UserName": "ann", "Password": "p"}, "NotImplemented", 501),
        ("create_service_linked_role", {"AWSServiceName": "x", "CustomSuffix": "y"}, "NotImplemented", 501),
    ],
)
def test_errors(gateway: Gateway, operation: str, members: dict[str, str], code: str, status: int) -> None:
    with pytest.raises(ClientError) as error:
        getattr(gateway.client("iam", gateway.root), operation)(**members)
    assert refusal(error) == (code, status)


def test_paginators_work(gateway: Gateway) -> None:
    root = gateway.client("iam", gateway.root)
    for number in range(5):
        root.create_group(GroupName=f"g{number}")
    pages = list(root.get_paginator("list_groups").paginate(PaginationConfig={"PageSize": 2}))
    assert [[group["GroupName"] for group in page["Groups"]] for page in pages] == [["g0", "g1"], ["g2", "g3"], ["g4"]]


def test_keys_and_tokens_outlive_a_restart(tmp_path: Path) -> None:
    first = Gateway(tmp_path)
    session = first.client("sts", first.root).get_session_token()["Credentials"]
    first.stop()
    second = Gateway(tmp_path)
    try:
        arn = second.client("sts", session).get_caller_identity()["Arn"]
    finally:
        second.stop()
    assert arn == f"arn:aws:iam::{ACCOUNT}:root"


def test_requests_have_no_member_that_aws_does_not_have() -> None:
    directory = Directory(Seal(bytes(32)), ManualClock())
    for service in (iam.build(directory), sts.build(directory)):
        model = get_session().get_service_model(service.model)
        for name, operation in service.operations.items():
            shape = model.operation_model(name).input_shape
            known = set(shape.members) if shape else set()
            assert set(operation.request.__struct_encode_fields__) <= known, name
