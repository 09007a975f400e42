"""What holds for all of EC2, by real boto3: tags, filters, pages, trying, rights."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from support.assembled import ACCOUNT, Gateway
from support.ec2 import ACCOUNTS, NOBODY, OPEN, REGION, client_of, code, new_group, new_subnet, new_vpc, refusal, tcp

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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


# ---- tags, filters, pages, trying ----------------------------------------------------------------------------------


def test_tags(ec2: Client) -> None:
    vpc = new_vpc(ec2)
    subnet, group = new_subnet(ec2, vpc), new_group(ec2, vpc)
    both = [{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "2"}]
    ec2.create_tags(Resources=[vpc, subnet, group], Tags=both)
    ec2.create_tags(Resources=[vpc], Tags=[{"Key": "a", "Value": "3"}])
    assert ec2.describe_vpcs(VpcIds=[vpc])["Vpcs"][0]["Tags"] == [{"Key": "a", "Value": "3"}, both[1]]
    ec2.delete_tags(Resources=[vpc, subnet], Tags=[{"Key": "a", "Value": "1"}])
    ec2.delete_tags(Resources=[group])
    assert ec2.describe_tags()["Tags"] == sorted(
        [
            {"ResourceId": vpc, "ResourceType": "vpc", "Key": "a", "Value": "3"},
            {"ResourceId": vpc, "ResourceType": "vpc", "Key": "b", "Value": "2"},
            {"ResourceId": subnet, "ResourceType": "subnet", "Key": "b", "Value": "2"},
        ],
        key=lambda one: (one["ResourceId"], one["Key"]),
    )
    for name, value, count in [("key", "b", 2), ("value", "3", 1), ("resource-type", "subnet", 1), ("tag:b", "2", 2)]:
        assert len(ec2.describe_tags(Filters=[{"Name": name, "Values": [value]}])["Tags"]) == count
    for resources, expected in [
        (["nothing"], "InvalidID"),
        ([f"subnet-{NOBODY}"], "InvalidSubnetID.NotFound"),
        ([f"sgr-{NOBODY}"], "InvalidSecurityGroupRuleId.NotFound"),
    ]:
        assert code(lambda resources=resources: ec2.create_tags(Resources=resources, Tags=both)) == expected
    many = [{"Key": f"k{number}", "Value": ""} for number in range(51)]
    assert code(lambda: ec2.create_tags(Resources=[group], Tags=many)) == "TagLimitExceeded"
    reserved = [{"Key": "aws:x", "Value": ""}]
    assert code(lambda: ec2.create_tags(Resources=[group], Tags=reserved)) == "InvalidParameterValue"
    assert ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["Tags"] == []


def test_filters(ec2: Client) -> None:
    vpc = new_vpc(ec2)
    ec2.create_tags(Resources=[vpc], Tags=[{"Key": "Name", "Value": "hsm one"}])
    subnet, group = new_subnet(ec2, vpc, AvailabilityZone="eu-west-1b"), new_group(ec2, vpc)
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=tcp(443, UserIdGroupPairs=[{"GroupId": group}]))
    interface = ec2.create_network_interface(SubnetId=subnet, Groups=[group], PrivateIpAddress="10.0.0.9")
    interface_id = interface["NetworkInterface"]["NetworkInterfaceId"]
    describe = {
        "Vpcs": (ec2.describe_vpcs, "VpcId", vpc),
        "Subnets": (ec2.describe_subnets, "SubnetId", subnet),
        "SecurityGroups": (ec2.describe_security_groups, "GroupId", group),
        "NetworkInterfaces": (ec2.describe_network_interfaces, "NetworkInterfaceId", interface_id),
    }
    for kind, name, hit, miss in [
        ("Vpcs", "cidr", "10.0.0.0/16", "10.0.0.0/17"),
        ("Vpcs", "is-default", "false", "maybe"),
        ("Vpcs", "tag:Name", "hsm*", "HSM*"),
        ("Vpcs", "tag-key", "Nam?", "name"),
        ("Vpcs", "cidr-block-association.state", "associated", "failed"),
        ("Subnets", "availability-zone", "eu-west-1b", "us-east-1b"),
        ("Subnets", "vpc-id", vpc, "vpc-1"),
        ("Subnets", "available-ip-address-count", "250", "251"),
        ("SecurityGroups", "ip-permission.from-port", "443", "80"),
        ("SecurityGroups", "ip-permission.group-name", "web", "other"),
        ("SecurityGroups", "ip-permission.group-id", group, "sg-1"),
        ("SecurityGroups", "group-name", "w*", "x*"),
        ("NetworkInterfaces", "group-id", group, "sg-1"),
        ("NetworkInterfaces", "addresses.private-ip-address", "10.0.0.9", "10.0.0.8"),
        ("NetworkInterfaces", "requester-managed", "false", "true"),
        ("NetworkInterfaces", "status", "available", "in-use"),
    ]:
        call, member, id_ = describe[kind]
        for value, there in ((hit, True), (miss, False)):
            # Default VPCs and their subnets and groups meet some of them as well.
            found = call(Filters=[{"Name": name, "Values": [value]}])[kind]
            assert (id_ in {one[member] for one in found}) is there, (name, value)
    for call, _, _ in describe.values():
        assert refusal(lambda call=call: call(Filters=[{"Name": "colour", "Values": ["red"]}]))[:2] == (
            "InvalidParameterValue",
            "The filter 'colour' is invalid",
        )


def test_pages(ec2: Client) -> None:
    vpc = new_vpc(ec2)
    made = {new_group(ec2, vpc, f"g{number}") for number in range(12)}
    mine = [{"Name": "group-name", "Values": ["g*"]}]
    pages = list(ec2.get_paginator("describe_security_groups").paginate(Filters=mine, PaginationConfig={"PageSize": 5}))
    assert [len(page["SecurityGroups"]) for page in pages] == [5, 5, 2]
    assert {one["GroupId"] for page in pages for one in page["SecurityGroups"]} == made
    assert code(lambda: ec2.describe_tags(MaxResults=4)) == "InvalidParameterValue"
    assert code(lambda: ec2.describe_security_groups(NextToken="nonsense")) == "InvalidNextToken"
    assert refusal(lambda: ec2.describe_security_groups(GroupIds=list(made), MaxResults=5))[:2] == (
        "InvalidParameterCombination",
        "The parameter groupIds cannot be used with the parameter maxResults",
    )


def test_trying_changes_nothing(ec2: Client) -> None:
    would = ("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412)
    assert refusal(lambda: ec2.create_vpc(CidrBlock="10.0.0.0/16", DryRun=True)) == would
    assert refusal(lambda: ec2.describe_vpcs(DryRun=True)) == would
    assert len(ec2.describe_vpcs()["Vpcs"]) == 1
    vpc = new_vpc(ec2)
    assert refusal(lambda: ec2.delete_vpc(VpcId=vpc, DryRun=True)) == would
    assert refusal(lambda: ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24", DryRun=True)) == would
    assert refusal(lambda: ec2.create_tags(Resources=[vpc], Tags=[{"Key": "k", "Value": ""}], DryRun=True)) == would
    assert code(lambda: ec2.create_vpc(CidrBlock="10.0.0.0/8", DryRun=True)) == "InvalidVpc.Range"
    assert ec2.describe_vpcs(VpcIds=[vpc])["Vpcs"][0]["Tags"] == []


# ---- who may -------------------------------------------------------------------------------------------------------


def statement(action: str | list[str], resource: str | list[str] = "*", **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, "Resource": resource, **more}


def user(gateway: Gateway, name: str, *statements: dict[str, Any]) -> Client:
    """A user of the default account with these rights."""
    iam = gateway.client("iam", gateway.root)
    iam.create_user(UserName=name)
    document = json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
    iam.put_user_policy(UserName=name, PolicyName="own", PolicyDocument=document)
    return gateway.client("ec2", iam.create_access_key(UserName=name)["AccessKey"])


def denied_to(name: str, action: str, where: str = "") -> str:
    return (
        "You are not authorized to perform this operation. "
        f"User: arn:aws:iam::{ACCOUNT}:user/{name} is not authorized to perform: {action}{where} "
        f"because no identity-based policy allows the {action} action"
    )


def test_rights_on_resources(gateway: Gateway) -> None:
    root = gateway.client("ec2", gateway.root)
    vpc, other = new_vpc(root), new_vpc(root, "10.1.0.0/16")
    arn = f"arn:aws:ec2:{REGION}:{ACCOUNT}"
    ann = user(
        gateway,
        "ann",
        statement("ec2:CreateSubnet", [f"{arn}:subnet/*", f"{arn}:vpc/{vpc}"]),
        statement("ec2:Describe*"),
    )
    subnet = new_subnet(ann, vpc)
    assert refusal(lambda: new_subnet(ann, other, "10.1.0.0/24")) == (
        "UnauthorizedOperation",
        denied_to("ann", "ec2:CreateSubnet", f" on resource: {arn}:vpc/{other}"),
        403,
    )
    assert refusal(lambda: ann.delete_subnet(SubnetId=subnet))[::2] == ("UnauthorizedOperation", 403)
    assert refusal(lambda: ann.delete_subnet(SubnetId=subnet, DryRun=True))[::2] == ("UnauthorizedOperation", 403)
    specification = [{"ResourceType": "subnet", "Tags": [{"Key": "k", "Value": "v"}]}]
    message = refusal(lambda: new_subnet(ann, vpc, "10.0.9.0/24", TagSpecifications=specification))[1]
    assert f"ec2:CreateTags on resource: {arn}:subnet/*" in message
    blind = user(gateway, "blind", statement("iam:*"))
    assert refusal(blind.describe_vpcs) == (
        "UnauthorizedOperation",
        denied_to("blind", "ec2:DescribeVpcs"),
        403,
    )
    for leftover in (lambda: root.delete_subnet(SubnetId=subnet), lambda: root.delete_vpc(VpcId=vpc)):
        leftover()
    root.delete_vpc(VpcId=other)


def test_rights_by_tags_and_networks(gateway: Gateway) -> None:
    root = gateway.client("ec2", gateway.root)
    blue, red = new_vpc(root), new_vpc(root, "10.1.0.0/16")
    root.create_tags(Resources=[blue], Tags=[{"Key": "team", "Value": "blue"}])
    arn = f"arn:aws:ec2:{REGION}:{ACCOUNT}"
    bob = user(
        gateway,
        "bob",
        statement("ec2:DeleteVpc", Condition={"StringEquals": {"aws:ResourceTag/team": "blue"}}),
        statement("ec2:*SecurityGroup*", Condition={"ArnEquals": {"ec2:Vpc": f"{arn}:vpc/{blue}"}}),
        statement("ec2:CreateSecurityGroup", f"{arn}:vpc/*"),
        statement("ec2:CreateTags", Condition={"ForAllValues:StringEquals": {"aws:TagKeys": ["mine"]}}),
    )
    denied = ("UnauthorizedOperation", 403)
    assert refusal(lambda: bob.delete_vpc(VpcId=red))[::2] == denied
    group = new_group(bob, blue)
    assert refusal(lambda: new_group(bob, red))[::2] == denied
    foreign = new_group(root, red)
    assert (
        refusal(lambda: bob.authorize_security_group_ingress(GroupId=foreign, IpPermissions=tcp(1, **OPEN)))[::2]
        == denied
    )
    bob.authorize_security_group_ingress(GroupId=group, IpPermissions=tcp(1, **OPEN))
    bob.create_tags(Resources=[red], Tags=[{"Key": "mine", "Value": ""}])
    assert refusal(lambda: bob.create_tags(Resources=[red], Tags=[{"Key": "team", "Value": "blue"}]))[::2] == denied
    bob.delete_security_group(GroupId=group)
    bob.delete_vpc(VpcId=blue)
    root.delete_security_group(GroupId=foreign)
    root.delete_vpc(VpcId=red)


def test_what_is_not_built_is_refused_by_name(ec2: Client) -> None:
    assert refusal(lambda: ec2.run_instances(ImageId="ami-1", MinCount=1, MaxCount=1)) == (
        "Unsupported",
        "hsmsim does not have ec2:RunInstances. `hsmsim services` lists what it has.",
        501,
    )
    found, message, _ = refusal(lambda: ec2.describe_network_interfaces(IncludeManagedResources=True))
    assert (found, "IncludeManagedResources" in message) == ("Unsupported", True)


# ---- first looks and restarts ------------------------------------------------------------------------------------


def test_first_looks_at_once_make_one_default_vpc(gateway: Gateway, account: str) -> None:
    clients = [client_of(gateway, account) for _ in range(6)]
    with ThreadPoolExecutor(len(clients)) as pool:
        answers = list(pool.map(lambda one: one.describe_vpcs()["Vpcs"], clients))
    assert len(answers[0]) == 1
    assert answers == [answers[0]] * len(clients)


def test_a_killed_gateway_has_the_network_again(tmp_path: Path) -> None:
    first = Gateway(tmp_path)
    try:
        ec2 = first.client("ec2", first.root)
        vpc = new_vpc(ec2)
        made = ec2.create_network_interface(SubnetId=new_subnet(ec2, vpc), PrivateIpAddress="10.0.0.7")
        group = new_group(ec2, vpc)
    finally:
        first.process.kill()
        first.process.wait(30)
    second = Gateway(tmp_path)
    try:
        ec2 = second.client("ec2", second.root)
        assert len(ec2.describe_vpcs()["Vpcs"]) == 2
        (shown,) = ec2.describe_network_interfaces()["NetworkInterfaces"]
        assert shown == made["NetworkInterface"] | {"Status": "available"}
        assert [one["GroupId"] for one in ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]] == [group]
    finally:
        second.stop()
