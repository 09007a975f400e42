"""EC2's security groups by real boto3. Each test has an account of its own, as its root."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from support.assembled import Gateway
from support.ec2 import ACCOUNTS, NOBODY, OPEN, client_of, code, new_group, new_subnet, new_vpc, refusal, tcp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Client = Any


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    one = Gateway(tmp_path_factory.mktemp("gateway"), accept_any_credentials=True)
    yield one
    one.stop()


@pytest.fixture
def account() -> str:
    return next(ACCOUNTS)


@pytest.fixture
def ec2(gateway: Gateway, account: str) -> Client:
    return client_of(gateway, account)


# ---- security groups -----------------------------------------------------------------------------------------------


def test_a_group_from_its_making_to_its_end(ec2: Client, account: str) -> None:
    vpc = new_vpc(ec2)
    specification = [{"ResourceType": "security-group", "Tags": [{"Key": "a", "Value": "1"}]}]
    made = ec2.create_security_group(
        VpcId=vpc, GroupName="web", Description="for the web", TagSpecifications=specification
    )
    id_ = made["GroupId"]
    assert made["SecurityGroupArn"] == f"arn:aws:ec2:eu-west-1:{account}:security-group/{id_}"
    assert made["Tags"] == [{"Key": "a", "Value": "1"}]
    (group,) = ec2.describe_security_groups(GroupIds=[id_])["SecurityGroups"]
    assert group == {
        "GroupId": id_,
        "GroupName": "web",
        "Description": "for the web",
        "OwnerId": account,
        "VpcId": vpc,
        "SecurityGroupArn": made["SecurityGroupArn"],
        "Tags": made["Tags"],
        "IpPermissions": [],
        "IpPermissionsEgress": [
            {
                "IpProtocol": "-1",
                "IpRanges": [{"CidrIp": "0.0.0.0/0"}],
                "Ipv6Ranges": [],
                "PrefixListIds": [],
                "UserIdGroupPairs": [],
            }
        ],
    }
    assert refusal(lambda: new_group(ec2, vpc))[:2] == (
        "InvalidGroup.Duplicate",
        f"The security group 'web' already exists for VPC '{vpc}'",
    )
    user = new_group(ec2, vpc, "user")
    ec2.authorize_security_group_ingress(GroupId=user, IpPermissions=tcp(443, UserIdGroupPairs=[{"GroupId": id_}]))
    dependent = ("DependencyViolation", f"resource {id_} has a dependent object", 400)
    assert refusal(lambda: ec2.delete_security_group(GroupId=id_)) == dependent
    ec2.delete_security_group(GroupId=user)
    interface = ec2.create_network_interface(SubnetId=new_subnet(ec2, vpc), Groups=[id_])["NetworkInterface"]
    assert refusal(lambda: ec2.delete_security_group(GroupId=id_)) == dependent
    ec2.delete_network_interface(NetworkInterfaceId=interface["NetworkInterfaceId"])
    answer = ec2.delete_security_group(GroupId=id_)
    assert (answer["Return"], answer["GroupId"]) == (True, id_)
    assert refusal(lambda: ec2.delete_security_group(GroupId=id_))[:2] == (
        "InvalidGroup.NotFound",
        f"The security group '{id_}' does not exist",
    )


def test_groups_by_name_are_in_the_default_vpc(ec2: Client) -> None:
    home = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    id_ = ec2.create_security_group(GroupName="mine", Description="d")["GroupId"]
    ec2.authorize_security_group_ingress(GroupName="mine", IpProtocol="tcp", FromPort=1, ToPort=2, CidrIp="10.0.0.9/8")
    (group,) = ec2.describe_security_groups(GroupNames=["mine"])["SecurityGroups"]
    assert (group["GroupId"], group["VpcId"]) == (id_, home)
    assert group["IpPermissions"][0]["IpRanges"] == [{"CidrIp": "10.0.0.0/8"}]
    assert refusal(lambda: ec2.delete_security_group(GroupName="other"))[:2] == (
        "InvalidGroup.NotFound",
        f"The security group 'other' does not exist in default VPC '{home}'",
    )
    ec2.delete_security_group(GroupName="mine")
    assert code(ec2.delete_security_group) == "MissingParameter"
    for name in ("default", "sg-12345678", "ü", "x" * 256):
        assert code(lambda name=name: ec2.create_security_group(GroupName=name, Description="d")) == (
            "InvalidParameterValue"
        )


def test_rules_come_and_go(ec2: Client, account: str) -> None:
    group = new_group(ec2, new_vpc(ec2))
    specification = [{"ResourceType": "security-group-rule", "Tags": [{"Key": "for", "Value": "hsm"}]}]
    wanted = [
        {
            "IpProtocol": "tcp",
            "FromPort": 2223,
            "ToPort": 2225,
            "UserIdGroupPairs": [{"GroupId": group, "UserId": account, "Description": "members"}],
            "IpRanges": [{"CidrIp": "10.0.0.7/24"}],
            "Ipv6Ranges": [{"CidrIpv6": "fd00::1/64"}],
        }
    ]
    answer = ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=wanted, TagSpecifications=specification)
    assert answer["Return"] is True
    block, block6, member = answer["SecurityGroupRules"]
    assert re.fullmatch(r"sgr-0[0-9a-f]{16}", member["SecurityGroupRuleId"])
    assert member == {
        "SecurityGroupRuleId": member["SecurityGroupRuleId"],
        "SecurityGroupRuleArn": f"arn:aws:ec2:eu-west-1:{account}:security-group-rule/{member['SecurityGroupRuleId']}",
        "GroupId": group,
        "GroupOwnerId": account,
        "IsEgress": False,
        "IpProtocol": "tcp",
        "FromPort": 2223,
        "ToPort": 2225,
        "ReferencedGroupInfo": {"GroupId": group, "UserId": account},
        "Description": "members",
        "Tags": [{"Key": "for", "Value": "hsm"}],
    }
    assert (block["CidrIpv4"], block6["CidrIpv6"]) == ("10.0.0.0/24", "fd00::/64")
    mine = [{"Name": "group-id", "Values": [group]}]
    shown = ec2.describe_security_group_rules(Filters=mine)["SecurityGroupRules"]
    assert sorted((one["IsEgress"], one["IpProtocol"]) for one in shown) == [(False, "tcp")] * 3 + [(True, "-1")]
    assert ec2.describe_security_group_rules(SecurityGroupRuleIds=[member["SecurityGroupRuleId"]])[
        "SecurityGroupRules"
    ] == [member]
    gone = ec2.revoke_security_group_ingress(GroupId=group, SecurityGroupRuleIds=[block6["SecurityGroupRuleId"]])
    assert [one["CidrIpv6"] for one in gone["RevokedSecurityGroupRules"]] == ["fd00::/64"]
    kept = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]
    assert [(one["FromPort"], one["ToPort"]) for one in kept] == [(2223, 2225)]
    gone = ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=kept)
    assert {one["SecurityGroupRuleId"] for one in gone["RevokedSecurityGroupRules"]} == {
        block["SecurityGroupRuleId"],
        member["SecurityGroupRuleId"],
    }
    assert ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"] == []
    assert ec2.describe_tags(Filters=[{"Name": "resource-type", "Values": ["security-group-rule"]}])["Tags"] == []


def test_egress(ec2: Client) -> None:
    group = new_group(ec2, new_vpc(ec2))
    everything = [{"IpProtocol": "-1", **OPEN}]
    assert refusal(lambda: ec2.authorize_security_group_egress(GroupId=group, IpPermissions=everything))[:2] == (
        "InvalidPermission.Duplicate",
        'the specified rule "peer: 0.0.0.0/0, ALL, ALLOW" already exists',
    )
    ec2.revoke_security_group_egress(GroupId=group, IpPermissions=everything)
    ec2.authorize_security_group_egress(GroupId=group, IpPermissions=tcp(443, **OPEN))
    (kept,) = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissionsEgress"]
    assert (kept["IpProtocol"], kept["FromPort"], kept["IpRanges"]) == ("tcp", 443, [{"CidrIp": "0.0.0.0/0"}])


def test_rules_that_are_refused(ec2: Client) -> None:
    vpc = new_vpc(ec2)
    group, elsewhere = new_group(ec2, vpc), new_group(ec2, new_vpc(ec2, "10.1.0.0/16"))

    def authorize(permissions: list[dict[str, Any]]) -> Callable[[], object]:
        return lambda: ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=permissions)

    authorize(tcp(22, **OPEN))()
    assert refusal(authorize(tcp(22, **OPEN)))[:2] == (
        "InvalidPermission.Duplicate",
        'the specified rule "peer: 0.0.0.0/0, TCP, from port: 22, to port: 22, ALLOW" already exists',
    )
    assert refusal(authorize([*tcp(23, **OPEN), *tcp(23, **OPEN)]))[:2] == (
        "InvalidParameterValue",
        "The same permission must not appear multiple times",
    )
    assert refusal(authorize(tcp(22, IpRanges=[{"CidrIp": "10.0.0.0/40"}])))[:2] == (
        "InvalidParameterValue",
        "CIDR block 10.0.0.0/40 is malformed",
    )
    assert code(authorize([{"IpProtocol": "tcp", **OPEN}])) == "InvalidParameterValue"
    assert code(authorize([])) == "MissingParameter"
    assert code(authorize(tcp(22))) == "MissingParameter"
    assert code(authorize(tcp(1, UserIdGroupPairs=[{"GroupId": f"sg-{NOBODY}"}]))) == "InvalidGroup.NotFound"
    assert code(authorize(tcp(1, UserIdGroupPairs=[{"GroupId": elsewhere}]))) == "InvalidGroup.NotFound"
    pair = {"GroupId": group, "UserId": "999988887777"}
    assert code(authorize(tcp(1, UserIdGroupPairs=[pair]))) == "InvalidGroup.NotFound"
    assert refusal(authorize(tcp(1, PrefixListIds=[{"PrefixListId": "pl-1"}])))[::2] == ("Unsupported", 501)
    kept = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]
    assert [one["FromPort"] for one in kept] == [22]
    authorize([permission for port in range(100, 159) for permission in tcp(port, **OPEN)])()
    assert refusal(authorize(tcp(99, **OPEN)))[:2] == (
        "RulesPerSecurityGroupLimitExceeded",
        "The maximum number of rules per security group has been reached.",
    )


def test_revoking_what_is_not_there(ec2: Client) -> None:
    group = new_group(ec2, new_vpc(ec2))
    assert refusal(lambda: ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=tcp(1, **OPEN)))[:2] == (
        "InvalidPermission.NotFound",
        "The specified rule does not exist in this security group.",
    )
    no_rule = f"sgr-{NOBODY}"
    assert code(lambda: ec2.revoke_security_group_ingress(GroupId=group, SecurityGroupRuleIds=[no_rule])) == (
        "InvalidSecurityGroupRuleId.NotFound"
    )
    home = ec2.create_security_group(GroupName="g", Description="d")["GroupId"]
    answer = ec2.revoke_security_group_ingress(GroupId=home, IpPermissions=tcp(1, **OPEN))
    assert answer["RevokedSecurityGroupRules"] == []
    assert [one["FromPort"] for one in answer["UnknownIpPermissions"]] == [1]
