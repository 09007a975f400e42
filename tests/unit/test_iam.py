"""IAM's operations: what they answer, refuse, and change about who may do what."""
# ruff: noqa: E501 - rows of a table

from __future__ import annotations

import json
import re
import stat
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest
from support.aws import ACCOUNT, Client, World

from hsmsim.authz.principal import account_of_key
from hsmsim.errors import AwsError
from hsmsim.services.iam.roles import LinkedRoles

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ADMIN = "arn:aws:iam::aws:policy/AdministratorAccess"


def document(action: Any = "*", resource: Any = "*", effect: str = "Allow", **more: Any) -> str:
    statement = {"Effect": effect, "Action": action, "Resource": resource, **more}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def trust(principal: Any, **more: Any) -> str:
    statement = {"Effect": "Allow", "Principal": principal, "Action": ["sts:AssumeRole", "sts:TagSession"], **more}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    one = World(tmp_path)
    yield one
    one.close()


@pytest.fixture
def root(world: World) -> Client:
    return world.root


def refused(code: str, status: int, words: str = "") -> Any:
    class Refusal:
        def __enter__(self) -> None:
            self.inner = pytest.raises(AwsError)
            self.found = self.inner.__enter__()

        def __exit__(self, *args: object) -> bool:
            done = self.inner.__exit__(*args)
            assert (self.found.value.code, self.found.value.status) == (code, status)
            assert words in str(self.found.value)
            return bool(done)

    return Refusal()


# ---- the first key -----------------------------------------------------------------------------------------------


def test_the_root_key_is_made_once_and_kept_private(tmp_path: Path) -> None:
    first = World(tmp_path)
    made = first.root_key
    assert made is not None
    assert made.secret_access_key not in repr(made)
    assert re.fullmatch(r"AKIA[A-Z2-7]{16}", made.access_key_id)
    assert re.fullmatch(r"[A-Za-z0-9+/]{40}", made.secret_access_key)
    assert stat.S_IMODE(first.places.root_key_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(first.places.gateway_key_file.stat().st_mode) == 0o600
    first.close()
    again = World(tmp_path)
    assert again.root_key is None
    found = again.directory.find(made.access_key_id, None)
    assert (found.secret, found.caller.arn) == (made.secret_access_key, f"arn:aws:iam::{ACCOUNT}:root")
    assert made.secret_access_key not in repr(found)
    again.close()


def test_no_secret_is_in_the_database(world: World, root: Client, tmp_path: Path) -> None:
    ann = root.new_user("ann")
    session = ann.session("GetSessionToken")
    files = b"".join(path.read_bytes() for path in tmp_path.glob("gateway.db*"))
    for secret in (root.secret, ann.secret, session.secret):
        assert secret.encode() not in files
    assert world.directory.find(ann.access_key_id, None).secret == ann.secret


def test_a_crash_between_file_and_row_loses_no_key(tmp_path: Path) -> None:
    first = World(tmp_path)
    first.close()
    for path in tmp_path.glob("gateway.db*"):
        path.unlink()
    second = World(tmp_path)
    assert second.root_key == first.root_key
    assert second.root.sts("GetCallerIdentity")["Arn"] == f"arn:aws:iam::{ACCOUNT}:root"
    second.close()


# ---- users -------------------------------------------------------------------------------------------------------


def test_a_user_s_life(world: World, root: Client) -> None:
    world.clock.now = 1_700_000_000.75
    made = root.iam("CreateUser", UserName="Ann", Path="/team/", Tags=[{"Key": "Team", "Value": "Blue"}])["User"]
    assert re.fullmatch(r"AIDA[A-Z2-7]{17}", made["UserId"])
    assert made == {
        "Path": "/team/",
        "UserName": "Ann",
        "UserId": made["UserId"],
        "Arn": f"arn:aws:iam::{ACCOUNT}:user/team/Ann",
        "CreateDate": datetime.fromtimestamp(1_700_000_000, UTC),
        "Tags": [{"Key": "Team", "Value": "Blue"}],
    }
    assert root.iam("GetUser", UserName="Ann")["User"] == made
    with refused("EntityAlreadyExists", 409, "User with name ANN already exists."):
        root.iam("CreateUser", UserName="ANN")
    root.iam("UpdateUser", UserName="Ann", NewUserName="Anna", NewPath="/")
    assert root.iam("GetUser", UserName="anna")["User"]["Arn"] == f"arn:aws:iam::{ACCOUNT}:user/Anna"
    root.iam("DeleteUser", UserName="Anna")
    with refused("NoSuchEntity", 404, "The user with name Anna cannot be found."):
        root.iam("GetUser", UserName="Anna")


def test_root_and_a_user_see_themselves(root: Client) -> None:
    assert root.iam("GetUser")["User"]["Arn"] == f"arn:aws:iam::{ACCOUNT}:root"
    ann = root.new_user("ann", document("iam:GetUser", f"arn:aws:iam::{ACCOUNT}:user/${{aws:username}}"))
    assert ann.iam("GetUser")["User"]["UserName"] == "ann"
    with refused("AccessDenied", 403):
        ann.iam("GetUser", UserName="bob")


def test_users_come_in_pages(root: Client) -> None:
    names = [f"u{number}" for number in range(7)]
    for name in reversed(names):
        root.iam("CreateUser", UserName=name, Path="/a/" if name != "u3" else "/b/")
    first = root.iam("ListUsers", MaxItems=3)
    assert [user["UserName"] for user in first["Users"]] == names[:3]
    assert first["IsTruncated"] is True
    rest = root.iam("ListUsers", Marker=first["Marker"])
    assert [user["UserName"] for user in rest["Users"]] == names[3:]
    assert (rest["IsTruncated"], "Marker" in rest) == (False, False)
    assert [user["UserName"] for user in root.iam("ListUsers", PathPrefix="/b/")["Users"]] == ["u3"]
    for marker in ("nonsense", "YWJj"):
        with refused("ValidationError", 400, "Invalid Marker."):
            root.iam("ListUsers", Marker=marker)


def test_a_user_with_something_left_is_not_deleted(root: Client) -> None:
    ann = root.new_user("ann", document())
    root.iam("CreateGroup", GroupName="g")
    root.iam("AddUserToGroup", GroupName="g", UserName="ann")
    root.iam("AttachUserPolicy", UserName="ann", PolicyArn=ADMIN)
    steps: list[tuple[str, str, dict[str, Any]]] = [
        ("must delete access keys first", "DeleteAccessKey", {"AccessKeyId": ann.access_key_id}),
        ("must remove users from group first", "RemoveUserFromGroup", {"GroupName": "g"}),
        ("must detach all policies first", "DetachUserPolicy", {"PolicyArn": ADMIN}),
        ("must delete policies first", "DeleteUserPolicy", {"PolicyName": "own"}),
    ]
    for words, operation, members in steps:
        with refused("DeleteConflict", 409, words):
            root.iam("DeleteUser", UserName="ann")
        root.iam(operation, UserName="ann", **members)
    root.iam("DeleteUser", UserName="ann")
    assert root.iam("ListUsers")["Users"] == []


def test_access_keys(world: World, root: Client) -> None:
    ann = root.new_user("ann", document("iam:*AccessKey*"))
    assert account_of_key(ann.access_key_id) == ACCOUNT
    second = ann.iam("CreateAccessKey")["AccessKey"]
    with refused("LimitExceeded", 409, "Cannot exceed quota for AccessKeysPerUser: 2"):
        ann.iam("CreateAccessKey")
    ann.iam("UpdateAccessKey", AccessKeyId=second["AccessKeyId"], Status="Inactive")
    shown = {key["AccessKeyId"]: key["Status"] for key in ann.iam("ListAccessKeys")["AccessKeyMetadata"]}
    assert shown == {ann.access_key_id: "Active", second["AccessKeyId"]: "Inactive"}
    with refused("InvalidClientTokenId", 403, "The security token included in the request is invalid."):
        world.directory.find(second["AccessKeyId"], None)
    ann.iam("UpdateAccessKey", AccessKeyId=second["AccessKeyId"], Status="Active")
    assert world.directory.find(second["AccessKeyId"], None).secret == second["SecretAccessKey"]
    root.iam("DeleteAccessKey", UserName="ann", AccessKeyId=ann.access_key_id)
    with refused("InvalidClientTokenId", 403):
        ann.sts("GetCallerIdentity")
    with refused("NoSuchEntity", 404, f"The Access Key with id {ann.access_key_id} cannot be found."):
        root.iam("DeleteAccessKey", UserName="ann", AccessKeyId=ann.access_key_id)


# ---- policies ----------------------------------------------------------------------------------------------------


def test_rights_follow_every_change_at_once(root: Client) -> None:
    ann = root.new_user("ann")

    def may() -> bool:
        try:
            ann.iam("ListUsers")
        except AwsError as error:
            return error.code != "AccessDenied"
        return True

    arn = root.iam("CreatePolicy", PolicyName="list", PolicyDocument=document("iam:List*"))["Policy"]["Arn"]
    root.iam("CreateGroup", GroupName="g")
    sentence = (
        f"User: arn:aws:iam::{ACCOUNT}:user/ann is not authorized to perform: iam:ListUsers on resource: "
        f"arn:aws:iam::{ACCOUNT}:user/ because no identity-based policy allows the iam:ListUsers action"
    )
    with refused("AccessDenied", 403, sentence):
        ann.iam("ListUsers")
    steps: list[tuple[bool, str, dict[str, Any]]] = [
        (True, "AttachUserPolicy", {"UserName": "ann", "PolicyArn": arn}),
        (False, "DetachUserPolicy", {"UserName": "ann", "PolicyArn": arn}),
        (False, "AttachGroupPolicy", {"GroupName": "g", "PolicyArn": arn}),
        (True, "AddUserToGroup", {"GroupName": "g", "UserName": "ann"}),
        (False, "CreatePolicyVersion", {"PolicyArn": arn, "PolicyDocument": document("s3:*"), "SetAsDefault": True}),
        (True, "SetDefaultPolicyVersion", {"PolicyArn": arn, "VersionId": "v1"}),
        (False, "PutUserPermissionsBoundary", {"UserName": "ann", "PermissionsBoundary": "arn:aws:iam::aws:policy/AWSCloudHSMFullAccess"}),
        (True, "DeleteUserPermissionsBoundary", {"UserName": "ann"}),
        (False, "PutGroupPolicy", {"GroupName": "g", "PolicyName": "p", "PolicyDocument": document("iam:*", effect="Deny")}),
        (True, "DeleteGroupPolicy", {"GroupName": "g", "PolicyName": "p"}),
        (False, "RemoveUserFromGroup", {"GroupName": "g", "UserName": "ann"}),
    ]  # fmt: skip
    for expected, operation, members in steps:
        root.iam(operation, **members)
        assert may() is expected, operation


def test_inline_policies(root: Client) -> None:
    root.iam("CreateUser", UserName="ann")
    text = document("s3:*", "arn:aws:s3:::a b/*")
    root.iam("PutUserPolicy", UserName="ann", PolicyName="p", PolicyDocument=text)
    shown = root.iam("GetUserPolicy", UserName="ann", PolicyName="p")
    assert shown["PolicyDocument"].startswith("%7B%22Version%22%3A%20%222012-10-17%22")
    assert unquote(shown["PolicyDocument"]) == text
    assert root.iam("ListUserPolicies", UserName="ann") == {"PolicyNames": ["p"], "IsTruncated": False}
    with refused("MalformedPolicyDocument", 400, "Effect must be Allow or Deny. (at Statement[0].Effect)"):
        root.iam("PutUserPolicy", UserName="ann", PolicyName="q", PolicyDocument=document(effect="Perhaps"))
    with refused("LimitExceeded", 409, "Maximum policy size of 2048 bytes exceeded for user ann"):
        root.iam("PutUserPolicy", UserName="ann", PolicyName="q", PolicyDocument=document([f"s3:Get{'x' * 1900}"]))
    root.iam("DeleteUserPolicy", UserName="ann", PolicyName="p")
    with refused("NoSuchEntity", 404, "The user policy with name p cannot be found."):
        root.iam("GetUserPolicy", UserName="ann", PolicyName="p")


def test_managed_policies_and_their_versions(root: Client) -> None:
    made = root.iam("CreatePolicy", PolicyName="P", Path="/x/", PolicyDocument=document("s3:*"), Description="d")[
        "Policy"
    ]
    arn = made["Arn"]
    assert arn == f"arn:aws:iam::{ACCOUNT}:policy/x/P"
    assert re.fullmatch(r"ANPA[A-Z2-7]{17}", made["PolicyId"])
    assert (made["DefaultVersionId"], made["AttachmentCount"], made["Description"]) == ("v1", 0, "d")
    with refused("EntityAlreadyExists", 409, "A policy called p already exists."):
        root.iam("CreatePolicy", PolicyName="p", PolicyDocument=document())
    for number in range(2, 6):
        version = root.iam("CreatePolicyVersion", PolicyArn=arn, PolicyDocument=document(f"s3:Get{number}"))
        assert version["PolicyVersion"]["VersionId"] == f"v{number}"
    with refused("LimitExceeded", 409, "A managed policy can have up to 5 versions."):
        root.iam("CreatePolicyVersion", PolicyArn=arn, PolicyDocument=document())
    with refused("DeleteConflict", 409, "Cannot delete the default version of a policy."):
        root.iam("DeletePolicyVersion", PolicyArn=arn, VersionId="v1")
    with refused("DeleteConflict", 409, "This policy has more than one version."):
        root.iam("DeletePolicy", PolicyArn=arn)
    for number in range(2, 6):
        root.iam("DeletePolicyVersion", PolicyArn=arn, VersionId=f"v{number}")
    again = root.iam("CreatePolicyVersion", PolicyArn=arn, PolicyDocument=document("s3:Put"), SetAsDefault=True)
    assert again["PolicyVersion"] | {"CreateDate": None} == {
        "VersionId": "v6",
        "IsDefaultVersion": True,
        "CreateDate": None,
    }
    listed = root.iam("ListPolicyVersions", PolicyArn=arn)["Versions"]
    assert [(one["VersionId"], one["IsDefaultVersion"]) for one in listed] == [("v6", True), ("v1", False)]
    shown = root.iam("GetPolicyVersion", PolicyArn=arn, VersionId="v6")["PolicyVersion"]
    assert unquote(shown["Document"]) == document("s3:Put")
    root.iam("CreateUser", UserName="ann")
    root.iam("AttachUserPolicy", UserName="ann", PolicyArn=arn)
    root.iam("DeletePolicyVersion", PolicyArn=arn, VersionId="v1")
    with refused("DeleteConflict", 409, "Cannot delete a policy attached to entities."):
        root.iam("DeletePolicy", PolicyArn=arn)
    assert root.iam("GetPolicy", PolicyArn=arn)["Policy"]["AttachmentCount"] == 1
    having = root.iam("ListEntitiesForPolicy", PolicyArn=arn)
    assert [(user["UserName"], having["PolicyRoles"]) for user in having["PolicyUsers"]] == [("ann", [])]
    root.iam("DetachUserPolicy", UserName="ann", PolicyArn=arn)
    root.iam("DeletePolicy", PolicyArn=arn)
    with refused("NoSuchEntity", 404, f"Policy {arn} was not found."):
        root.iam("GetPolicy", PolicyArn=arn)


def test_aws_s_policies_are_there_and_nobody_s_to_change(root: Client) -> None:
    listed = root.iam("ListPolicies", Scope="AWS")["Policies"]
    assert ADMIN in {policy["Arn"] for policy in listed}
    shown = root.iam("GetPolicyVersion", PolicyArn=ADMIN, VersionId="v1")["PolicyVersion"]["Document"]
    assert json.loads(unquote(shown))["Statement"] == [{"Effect": "Allow", "Action": ["*"], "Resource": "*"}]
    with refused("AccessDenied", 403):
        root.iam("DeletePolicy", PolicyArn=ADMIN)
    with refused("NoSuchEntity", 404, "does not exist or is not attachable"):
        root.iam("CreateUser", UserName="x", PermissionsBoundary="arn:aws:iam::aws:policy/Nothing")


def test_tags(root: Client) -> None:
    root.iam("CreateUser", UserName="ann", Tags=[{"Key": "Team", "Value": "Blue"}])
    root.iam("TagUser", UserName="ann", Tags=[{"Key": "TEAM", "Value": "Red"}, {"Key": "b", "Value": ""}])
    assert root.iam("ListUserTags", UserName="ann")["Tags"] == [
        {"Key": "TEAM", "Value": "Red"},
        {"Key": "b", "Value": ""},
    ]
    root.iam("UntagUser", UserName="ann", TagKeys=["team", "none"])
    assert root.iam("ListUserTags", UserName="ann")["Tags"] == [{"Key": "b", "Value": ""}]
    with refused("InvalidInput", 400, "Duplicate tag keys found."):
        root.iam("TagUser", UserName="ann", Tags=[{"Key": "x", "Value": "1"}, {"Key": "X", "Value": "2"}])
    with refused("LimitExceeded", 409, "Cannot exceed quota for TagsPerUser: 50"):
        root.iam("TagUser", UserName="ann", Tags=[{"Key": f"k{number}", "Value": ""} for number in range(50)])


def test_rights_by_tag(root: Client) -> None:
    same = {"StringEquals": {"aws:ResourceTag/team": "${aws:PrincipalTag/team}"}}
    ann = root.new_user("ann", document("iam:GetUser", Condition=same), Tags=[{"Key": "team", "Value": "blue"}])
    for name, team in (("bob", "blue"), ("eve", "red")):
        root.iam("CreateUser", UserName=name, Tags=[{"Key": "Team", "Value": team}])
    assert ann.iam("GetUser", UserName="bob")["User"]["UserName"] == "bob"
    with refused("AccessDenied", 403):
        ann.iam("GetUser", UserName="eve")


# ---- roles -------------------------------------------------------------------------------------------------------


def test_a_role_s_life(root: Client) -> None:
    text = trust({"AWS": ACCOUNT})
    made = root.iam("CreateRole", RoleName="R", AssumeRolePolicyDocument=text, MaxSessionDuration=7200)["Role"]
    assert re.fullmatch(r"AROA[A-Z2-7]{17}", made["RoleId"])
    assert (unquote(made["AssumeRolePolicyDocument"]), made["MaxSessionDuration"]) == (text, 7200)
    root.iam("UpdateRole", RoleName="R", Description="d")
    assert root.iam("GetRole", RoleName="R")["Role"]["MaxSessionDuration"] == 3600
    with refused("MalformedPolicyDocument", 400, "Has prohibited field Resource"):
        root.iam("UpdateAssumeRolePolicy", RoleName="R", PolicyDocument=document(Principal="*"))
    with refused("MalformedPolicyDocument", 400, "AssumeRole policy may only specify STS AssumeRole actions."):
        root.iam("UpdateAssumeRolePolicy", RoleName="R", PolicyDocument=trust("*").replace("sts:TagSession", "s3:Get"))
    nobody = f"arn:aws:iam::{ACCOUNT}:user/nobody"
    with refused("MalformedPolicyDocument", 400, f'Invalid principal in policy: "AWS":"{nobody}"'):
        root.iam("CreateRole", RoleName="S", AssumeRolePolicyDocument=trust({"AWS": nobody}))
    root.iam("DeleteRole", RoleName="R")
    assert root.iam("ListRoles")["Roles"] == []


def test_cloudhsm_s_own_role(root: Client) -> None:
    made = root.iam("CreateServiceLinkedRole", AWSServiceName="cloudhsm.amazonaws.com")["Role"]
    path = "/aws-service-role/cloudhsm.amazonaws.com/"
    assert made["Arn"] == f"arn:aws:iam::{ACCOUNT}:role{path}AWSServiceRoleForCloudHSM"
    with refused("InvalidInput", 400, "has been taken in this account"):
        root.iam("CreateServiceLinkedRole", AWSServiceName="cloudhsm.amazonaws.com")
    with refused("InvalidInput", 400, "Service Name nothing.amazonaws.com is not valid."):
        root.iam("CreateServiceLinkedRole", AWSServiceName="nothing.amazonaws.com")
    attached = root.iam("ListAttachedRolePolicies", RoleName="AWSServiceRoleForCloudHSM")["AttachedPolicies"]
    assert [policy["PolicyName"] for policy in attached] == ["CloudHSMServiceRolePolicy"]
    for operation, members in (("DeleteRole", {}), ("DetachRolePolicy", {"PolicyArn": ADMIN})):
        with refused("UnmodifiableEntity", 400, "only modifiable by AWS"):
            root.iam(operation, RoleName="AWSServiceRoleForCloudHSM", **members)
    with refused("PolicyNotAttachable", 400):
        root.new_user("ann").world.root.iam(
            "AttachUserPolicy",
            UserName="ann",
            PolicyArn="arn:aws:iam::aws:policy/aws-service-role/CloudHSMServiceRolePolicy",
        )


def test_a_service_gets_its_role_when_it_needs_it(world: World, root: Client) -> None:
    linked, after = LinkedRoles(world.directory), list[Any]()
    arn = f"arn:aws:iam::{ACCOUNT}:role/aws-service-role/cloudhsm.amazonaws.com/AWSServiceRoleForCloudHSM"
    (needed,) = linked.access(world.call("cloudhsmv2", "CreateCluster", root.caller, after), "cloudhsm.amazonaws.com")
    assert (needed.action, needed.resource) == ("iam:CreateServiceLinkedRole", arn)
    for _ in range(2):
        made = world.writer.write(
            lambda tx: linked.ensure(
                world.call("cloudhsmv2", "CreateCluster", root.caller, after, tx), "cloudhsm.amazonaws.com"
            )
        )
        assert made == arn
    for work in after:
        work()
    call = world.call("cloudhsmv2", "CreateCluster", root.caller, after)
    assert linked.access(call, "cloudhsm.amazonaws.com") == []
    assert [role["Arn"] for role in root.iam("ListRoles")["Roles"]] == [arn]


# ---- simulation --------------------------------------------------------------------------------------------------


def test_simulating_a_user_s_policies(root: Client) -> None:
    rule = {"Bool": {"aws:SecureTransport": "true"}}
    root.new_user("ann", document("kms:*", Condition=rule))
    source = f"arn:aws:iam::{ACCOUNT}:user/ann"

    def decisions(**members: Any) -> dict[str, str]:
        asked = {"PolicySourceArn": source, "ActionNames": ["kms:Sign", "s3:GetObject"], **members}
        found = root.iam("SimulatePrincipalPolicy", **asked)["EvaluationResults"]
        return {one["EvalActionName"]: one["EvalDecision"] for one in found}

    secure = {"ContextKeyName": "AWS:SecureTransport", "ContextKeyType": "boolean", "ContextKeyValues": ["true"]}
    assert decisions() == {"kms:Sign": "implicitDeny", "s3:GetObject": "implicitDeny"}
    assert decisions(ContextEntries=[secure]) == {"kms:Sign": "allowed", "s3:GetObject": "implicitDeny"}
    assert decisions(ContextEntries=[secure], PolicyInputList=[document("kms:*", effect="Deny")]) == {
        "kms:Sign": "explicitDeny",
        "s3:GetObject": "implicitDeny",
    }
    bounded = root.iam(
        "SimulatePrincipalPolicy",
        PolicySourceArn=source,
        ActionNames=["kms:Sign"],
        PermissionsBoundaryPolicyInputList=[document("s3:*")],
    )["EvaluationResults"]
    assert bounded == [
        {
            "EvalActionName": "kms:Sign",
            "EvalResourceName": "*",
            "EvalDecision": "implicitDeny",
            "MissingContextValues": ["aws:SecureTransport"],
            "PermissionsBoundaryDecisionDetail": {"AllowedByPermissionsBoundary": False},
        }
    ]
    with refused("NoSuchEntity", 404, "The user with name eve cannot be found."):
        root.iam("SimulatePrincipalPolicy", PolicySourceArn=source[:-3] + "eve", ActionNames=["kms:Sign"])
    with refused("InvalidInput", 400, "does not clearly define entity type and name"):
        root.iam("SimulatePrincipalPolicy", PolicySourceArn="ann", ActionNames=["kms:Sign"])


def test_simulating_policies_across_accounts(root: Client) -> None:
    owner, eve = "444455556666", "arn:aws:iam::111122223333:user/eve"
    bucket = document(Principal={"AWS": eve})

    def decision(*inputs: str) -> str:
        found = root.iam(
            "SimulateCustomPolicy",
            PolicyInputList=list(inputs),
            ActionNames=["s3:GetObject"],
            ResourceArns=["arn:aws:s3:::b/x"],
            ResourcePolicy=bucket,
            ResourceOwner=owner,
            CallerArn=eve,
        )
        return str(found["EvaluationResults"][0]["EvalDecision"])

    assert decision(document("kms:*")) == "implicitDeny"
    assert decision(document("s3:*")) == "allowed"


def test_what_was_written_is_read_at_the_next_start(tmp_path: Path) -> None:
    first = World(tmp_path)
    ann = first.root.new_user("ann", document("iam:ListUsers"), Tags=[{"Key": "a", "Value": "b"}])
    session = ann.session("GetSessionToken")
    first.close()
    second = World(tmp_path)
    again = Client(second, ann.access_key_id, ann.secret)
    assert [user["UserName"] for user in again.iam("ListUsers")["Users"]] == ["ann"]
    caller = second.directory.find(session.access_key_id, session.token).caller
    assert (caller.arn, caller.tags) == (f"arn:aws:iam::{ACCOUNT}:user/ann", {"a": "b"})
    second.close()


def test_changes_that_take_effect_out_of_order_end_right(world: World, root: Client) -> None:
    root.new_user("ann", document("s3:*"))
    late: list[Any] = []
    after: list[Any] = []
    operations = world.services["iam"].operations
    put, drop = operations["PutUserPolicy"], operations["DeleteUserPolicy"]
    caller = root.caller
    body = {"user_name": "ann", "policy_name": "own"}
    world.writer.write(
        lambda tx: put.run(
            world.call("iam", "PutUserPolicy", caller, late, tx),
            put.request(**body, policy_document=document("iam:*")),
        )
    )
    world.writer.write(
        lambda tx: drop.run(world.call("iam", "DeleteUserPolicy", caller, after, tx), drop.request(**body))
    )
    for work in after + late:
        work()
    known = world.directory.principal(root.iam("GetUser", UserName="ann")["User"]["UserId"])
    assert known is not None
    assert known.inline == ()
