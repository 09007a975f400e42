"""STS: sessions, what they may do, and for how long."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest
from support.aws import ACCOUNT, Client, World

from hsmsim.authz.principal import Kind, account_of_key
from hsmsim.errors import AwsError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROLE = f"arn:aws:iam::{ACCOUNT}:role/team/R"
FULL = json.dumps({"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}})


def limited(action: str) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": action, "Resource": "*"}})


def trust(principal: Any, action: Any = "sts:*", **more: Any) -> str:
    statement = {"Effect": "Allow", "Principal": principal, "Action": action, **more}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    one = World(tmp_path)
    yield one
    one.close()


@pytest.fixture
def ann(world: World) -> Client:
    """A user who may do everything, and the role that she may assume."""
    one = world.root.new_user("ann", FULL)
    world.root.iam(
        "CreateRole",
        RoleName="R",
        Path="/team/",
        AssumeRolePolicyDocument=trust({"AWS": ACCOUNT}),
        MaxSessionDuration=43200,
        Tags=[{"Key": "team", "Value": "blue"}, {"Key": "cost", "Value": "7"}],
    )
    world.root.iam("PutRolePolicy", RoleName="R", PolicyName="p", PolicyDocument=FULL)
    return one


def assume(client: Client, **members: Any) -> Client:
    return client.session("AssumeRole", **{"RoleArn": ROLE, "RoleSessionName": "s1", **members})


def test_who_am_i(world: World, ann: Client) -> None:
    assert world.root.sts("GetCallerIdentity") == {
        "UserId": ACCOUNT,
        "Account": ACCOUNT,
        "Arn": f"arn:aws:iam::{ACCOUNT}:root",
    }
    nobody = world.root.new_user("nobody")
    assert nobody.sts("GetCallerIdentity")["Arn"] == f"arn:aws:iam::{ACCOUNT}:user/nobody"
    assert assume(ann).sts("GetCallerIdentity")["Arn"] == f"arn:aws:sts::{ACCOUNT}:assumed-role/R/s1"


def test_assume_role(world: World, ann: Client) -> None:
    found = ann.sts("AssumeRole", RoleArn=ROLE, RoleSessionName="s1")
    role_id = world.root.iam("GetRole", RoleName="R")["Role"]["RoleId"]
    assert found["AssumedRoleUser"] == {
        "AssumedRoleId": f"{role_id}:s1",
        "Arn": f"arn:aws:sts::{ACCOUNT}:assumed-role/R/s1",
    }
    keys = found["Credentials"]
    assert re.fullmatch(r"ASIA[A-Z2-7]{16}", keys["AccessKeyId"])
    assert keys["Expiration"].timestamp() == world.clock.real() + 3600
    assert "PackedPolicySize" not in found
    caller = world.directory.find(keys["AccessKeyId"], keys["SessionToken"]).caller
    assert (caller.kind, caller.issuer, caller.issuer_id) == (Kind.ROLE, ROLE, role_id)
    assert caller.tags == {"team": "blue", "cost": "7"}


def test_a_token_opens_for_its_key_only_and_until_it_expires(world: World, ann: Client) -> None:
    one, other = assume(ann), assume(ann)
    assert world.directory.find(one.access_key_id, one.token).secret == one.secret
    assert one.token
    for key, token in [
        (other.access_key_id, one.token),
        (one.access_key_id, one.token[:-8] + "AAAAAAA="),
        (one.access_key_id, "nonsense"),
        (one.access_key_id, "A" * 100_000),
        (one.access_key_id, None),
        (ann.access_key_id, one.token),
    ]:
        with pytest.raises(AwsError) as error:
            world.directory.find(key, token)
        assert (error.value.code, error.value.status) == ("InvalidClientTokenId", 403)
    world.clock.advance(3599)
    one.sts("GetCallerIdentity")
    world.clock.advance(1)
    with pytest.raises(AwsError, match="The security token included in the request is expired") as error:
        one.sts("GetCallerIdentity")
    assert error.value.code == "ExpiredToken"


def test_a_deleted_role_ends_its_sessions(world: World, ann: Client) -> None:
    session = assume(ann)
    world.root.iam("DeleteRolePolicy", RoleName="R", PolicyName="p")
    world.root.iam("DeleteRole", RoleName="R")
    with pytest.raises(AwsError) as error:
        session.sts("GetCallerIdentity")
    assert error.value.code == "InvalidClientTokenId"


@pytest.mark.parametrize(
    ("members", "code", "words"),
    [
        ({"DurationSeconds": 43201}, "ValidationError", "exceeds the MaxSessionDuration set for this role"),
        ({"DurationSeconds": 899}, "ValidationError", "at least 900"),
        ({"RoleArn": ROLE + "x"}, "AccessDenied", f"perform: sts:AssumeRole on resource: {ROLE}x"),
        ({"RoleArn": "R"}, "ValidationError", "R is invalid"),
        ({"Policy": "{}"}, "MalformedPolicyDocument", "Statement"),
        ({"PolicyArns": [{"arn": "arn:aws:iam::aws:policy/Nothing"}]}, "InvalidParameterValue", "policy/Nothing"),
        ({"Policy": FULL + " " * 2048}, "PackedPolicyTooLarge", "2048"),
        ({"Tags": [{"Key": "a", "Value": ""}, {"Key": "A", "Value": ""}]}, "InvalidParameterValue", "Duplicate"),
        ({"TransitiveTagKeys": ["a"]}, "InvalidParameterValue", "The transitive tag key a must be"),
    ],
)
def test_what_assume_role_refuses(ann: Client, members: dict[str, Any], code: str, words: str) -> None:
    with pytest.raises(AwsError, match=re.escape(words)) as error:
        assume(ann, **members)
    assert error.value.code == code


def test_root_assumes_no_role(world: World, ann: Client) -> None:
    assert ann
    with pytest.raises(AwsError, match=r"Roles may not be assumed by root accounts\."):
        assume(world.root)


def test_the_trust_policy_must_allow(world: World, ann: Client) -> None:
    rule = {"StringEquals": {"sts:ExternalId": "x1"}}
    world.root.iam(
        "UpdateAssumeRolePolicy",
        RoleName="R",
        PolicyDocument=trust({"AWS": f"arn:aws:iam::{ACCOUNT}:user/ann"}, "sts:AssumeRole", Condition=rule),
    )
    for members in ({}, {"ExternalId": "x2"}):
        with pytest.raises(AwsError) as error:
            assume(ann, **members)
        assert str(error.value) == (
            f"User: arn:aws:iam::{ACCOUNT}:user/ann is not authorized to perform: sts:AssumeRole on resource: {ROLE}"
        )
    assume(ann, ExternalId="x1").sts("GetCallerIdentity")
    with pytest.raises(AwsError, match="sts:TagSession"):
        assume(ann, ExternalId="x1", Tags=[{"Key": "a", "Value": "b"}])
    with pytest.raises(AwsError, match="sts:SetSourceIdentity"):
        assume(ann, ExternalId="x1", SourceIdentity="ann")


def test_who_is_named_in_the_trust_policy_needs_no_other(world: World, ann: Client) -> None:
    assert ann
    bob = world.root.new_user("bob")
    with pytest.raises(AwsError):
        assume(bob)
    named = trust({"AWS": f"arn:aws:iam::{ACCOUNT}:user/bob"})
    world.root.iam("UpdateAssumeRolePolicy", RoleName="R", PolicyDocument=named)
    assume(bob).sts("GetCallerIdentity")


def test_who_takes_a_name_over_does_not_take_its_trust(world: World, ann: Client) -> None:
    named = trust({"AWS": [f"arn:aws:iam::{ACCOUNT}:user/bob", f"arn:aws:iam::{ACCOUNT}:user/ann"]})
    bob = world.root.new_user("bob")
    world.root.iam("UpdateAssumeRolePolicy", RoleName="R", PolicyDocument=named.replace("user/bob", "user\\/bob"))
    world.root.iam("UpdateUser", UserName="bob", NewUserName="robert")
    assume(bob).sts("GetCallerIdentity")
    bob_id = bob.sts("GetCallerIdentity")["UserId"]
    world.root.iam("DeleteAccessKey", UserName="robert", AccessKeyId=bob.access_key_id)
    world.root.iam("DeleteUser", UserName="robert")
    shown = json.loads(unquote(world.root.iam("GetRole", RoleName="R")["Role"]["AssumeRolePolicyDocument"]))
    assert shown["Statement"][0]["Principal"]["AWS"] == [bob_id, f"arn:aws:iam::{ACCOUNT}:user/ann"]
    for name in ("bob", "robert"):
        with pytest.raises(AwsError, match="is not authorized to perform: sts:AssumeRole"):
            assume(world.root.new_user(name))
    assume(ann).sts("GetCallerIdentity")


def test_session_policies_narrow(ann: Client) -> None:
    assume(ann, Policy=limited("iam:ListUsers")).iam("ListUsers")
    with pytest.raises(AwsError, match="because no session policy allows the iam:ListRoles action"):
        assume(ann, Policy=limited("iam:ListUsers")).iam("ListRoles")
    by_arn = {"PolicyArns": [{"arn": "arn:aws:iam::aws:policy/IAMReadOnlyAccess"}]}
    assume(ann, **by_arn).iam("ListRoles")
    with pytest.raises(AwsError, match="because no session policy allows the iam:DeleteUser action"):
        assume(ann, **by_arn).iam("DeleteUser", UserName="ann")
    packed = ann.sts("AssumeRole", RoleArn=ROLE, RoleSessionName="s", **by_arn)["PackedPolicySize"]
    assert 0 < packed < 100


def test_tags_and_chaining(world: World, ann: Client) -> None:
    tags = [{"Key": "Team", "Value": "red"}, {"Key": "ticket", "Value": "1"}]
    first = assume(ann, Tags=tags, TransitiveTagKeys=["team"], SourceIdentity="ann")
    assert first.caller.tags == {"Team": "red", "cost": "7", "ticket": "1"}
    second = assume(first, RoleSessionName="s2")
    assert second.caller.tags == {"Team": "red", "cost": "7"}
    assert (second.caller.source_identity, second.caller.transitive) == ("ann", ("Team",))
    with pytest.raises(AwsError, match="conflicts with a transitive tag key from the calling session"):
        assume(first, Tags=[{"Key": "TEAM", "Value": "green"}])
    with pytest.raises(AwsError, match="cannot be changed"):
        assume(first, SourceIdentity="bob")
    with pytest.raises(AwsError, match="exceeds the 1 hour session limit for roles assumed by role chaining"):
        assume(first, DurationSeconds=3601)
    world.clock.advance(3600)
    assume(ann, DurationSeconds=43200).sts("GetCallerIdentity")


def test_get_session_token(world: World, ann: Client) -> None:
    session = ann.session("GetSessionToken")
    assert session.sts("GetCallerIdentity") == ann.sts("GetCallerIdentity")
    assert (session.caller.kind, session.caller.issued) == (Kind.USER, world.clock.real())
    with pytest.raises(AwsError, match="The security token included in the request is invalid"):
        session.iam("ListUsers")
    with pytest.raises(AwsError, match="Cannot call GetSessionToken with session credentials"):
        session.sts("GetSessionToken")
    root = world.root.sts("GetSessionToken", DurationSeconds=129600)["Credentials"]
    assert root["Expiration"].timestamp() == world.clock.real() + 3600
    world.root.iam("UpdateUser", UserName="ann", NewUserName="anna")
    assert session.caller.arn == f"arn:aws:iam::{ACCOUNT}:user/anna"


def test_get_federation_token(world: World, ann: Client) -> None:
    found = ann.sts("GetFederationToken", Name="Bob", Policy=limited("sts:*"))
    assert found["FederatedUser"] == {
        "FederatedUserId": f"{ACCOUNT}:Bob",
        "Arn": f"arn:aws:sts::{ACCOUNT}:federated-user/Bob",
    }
    keys = found["Credentials"]
    bob = Client(world, keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"])
    assert bob.caller.issuer == ann.caller.arn
    assert bob.sts("GetAccessKeyInfo", AccessKeyId=ann.access_key_id) == {"Account": ACCOUNT}
    with pytest.raises(AwsError, match="federated user"):
        assume(bob)
    bare = ann.session("GetFederationToken", Name="Eve")
    with pytest.raises(AwsError, match="because no session policy allows"):
        bare.sts("GetAccessKeyInfo", AccessKeyId=ann.access_key_id)


def test_access_key_info_reads_ids_of_aws_too(ann: Client) -> None:
    assert ann.sts("GetAccessKeyInfo", AccessKeyId="ASIAQNZGKIQY56JQ7WML") == {"Account": "029608264753"}
    assert account_of_key(ann.access_key_id) == ACCOUNT
    with pytest.raises(AwsError, match="is no access key id"):
        ann.sts("GetAccessKeyInfo", AccessKeyId="nonsense")
