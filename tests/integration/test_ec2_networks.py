"""EC2's regions, VPCs, subnets and interfaces by real boto3. Each test has an account of its own, as its root."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from support.assembled import Gateway
from support.ec2 import ACCOUNTS, NOBODY, client_of, code, new_group, new_subnet, new_vpc, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Client = Any
TAG = {"Key": "k", "Value": "v"}


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


# ---- regions and zones ---------------------------------------------------------------------------------------------


def test_regions(ec2: Client) -> None:
    found = {one["RegionName"]: one for one in ec2.describe_regions()["Regions"]}
    assert found["us-east-1"] == {
        "RegionName": "us-east-1",
        "Endpoint": "ec2.us-east-1.amazonaws.com",
        "OptInStatus": "opt-in-not-required",
    }
    assert len(found) == 33
    names = ec2.describe_regions(RegionNames=["eu-west-1", "eu-west-2"])["Regions"]
    assert [one["RegionName"] for one in names] == ["eu-west-1", "eu-west-2"]
    north = ec2.describe_regions(Filters=[{"Name": "endpoint", "Values": ["*eu-north*"]}])["Regions"]
    assert [one["RegionName"] for one in north] == ["eu-north-1"]
    chosen = ec2.describe_regions(AllRegions=True, Filters=[{"Name": "opt-in-status", "Values": ["opted-in"]}])
    assert "il-central-1" in {one["RegionName"] for one in chosen["Regions"]}
    assert code(lambda: ec2.describe_regions(RegionNames=["mars-1"])) == "InvalidParameterValue"


def test_zones(gateway: Gateway, account: str, ec2: Client) -> None:
    found = ec2.describe_availability_zones()["AvailabilityZones"]
    assert [(one["ZoneName"], one["ZoneId"], one["State"]) for one in found] == [
        ("eu-west-1a", "euw1-az1", "available"),
        ("eu-west-1b", "euw1-az2", "available"),
        ("eu-west-1c", "euw1-az3", "available"),
    ]
    one = ec2.describe_availability_zones(Filters=[{"Name": "zone-id", "Values": ["euw1-az2"]}])["AvailabilityZones"]
    assert [zone["ZoneName"] for zone in one] == ["eu-west-1b"]
    assert len(client_of(gateway, account, "us-east-1").describe_availability_zones()["AvailabilityZones"]) == 6
    assert code(lambda: ec2.describe_availability_zones(ZoneNames=["us-east-1a"])) == "InvalidParameterValue"
    nowhere = client_of(gateway, account, "eu-west-9")
    assert refusal(nowhere.describe_vpcs)[::2] == ("AuthFailure", 401)


# ---- VPCs ----------------------------------------------------------------------------------------------------------


def test_the_first_look_finds_a_default_vpc(ec2: Client, account: str) -> None:
    (vpc,) = ec2.describe_vpcs()["Vpcs"]
    assert re.fullmatch(r"vpc-0[0-9a-f]{16}", vpc["VpcId"])
    assert (vpc["CidrBlock"], vpc["IsDefault"], vpc["State"]) == ("172.31.0.0/16", True, "available")
    assert (vpc["OwnerId"], vpc["InstanceTenancy"], vpc["Tags"]) == (account, "default", [])
    assert re.fullmatch(r"dopt-0[0-9a-f]{16}", vpc["DhcpOptionsId"])
    (block,) = vpc["CidrBlockAssociationSet"]
    assert (block["CidrBlock"], block["CidrBlockState"]) == ("172.31.0.0/16", {"State": "associated"})
    subnets = ec2.describe_subnets()["Subnets"]
    assert {(one["AvailabilityZone"], one["CidrBlock"]) for one in subnets} == {
        ("eu-west-1a", "172.31.0.0/20"),
        ("eu-west-1b", "172.31.16.0/20"),
        ("eu-west-1c", "172.31.32.0/20"),
    }
    assert {(one["VpcId"], one["DefaultForAz"], one["MapPublicIpOnLaunch"]) for one in subnets} == {
        (vpc["VpcId"], True, True)
    }
    (group,) = ec2.describe_security_groups()["SecurityGroups"]
    assert (group["GroupName"], group["Description"]) == ("default", "default VPC security group")
    assert ec2.describe_vpcs()["Vpcs"] == [vpc]


def test_accounts_and_regions_are_apart(gateway: Gateway, account: str, ec2: Client) -> None:
    vpc = new_vpc(ec2)
    others = [client_of(gateway, next(ACCOUNTS)), client_of(gateway, account, "us-west-2")]
    for other in others:
        assert vpc not in {one["VpcId"] for one in other.describe_vpcs()["Vpcs"]}
        missing = ("InvalidVpcID.NotFound", f"The vpc ID '{vpc}' does not exist", 400)
        assert refusal(lambda other=other: other.describe_vpcs(VpcIds=[vpc])) == missing
        assert refusal(lambda other=other: other.delete_vpc(VpcId=vpc)) == missing
        assert refusal(lambda other=other: other.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/24")) == missing
        assert refusal(lambda other=other: other.create_tags(Resources=[vpc], Tags=[TAG])) == missing
    assert [one["VpcId"] for one in ec2.describe_vpcs(VpcIds=[vpc])["Vpcs"]] == [vpc]


def test_a_vpc_from_its_making_to_its_end(ec2: Client) -> None:
    specification = [{"ResourceType": "vpc", "Tags": [{"Key": "Name", "Value": "hsm"}]}]
    made = ec2.create_vpc(CidrBlock="10.7.9.9/20", InstanceTenancy="dedicated", TagSpecifications=specification)["Vpc"]
    assert (made["CidrBlock"], made["State"], made["IsDefault"]) == ("10.7.0.0/20", "pending", False)
    assert (made["InstanceTenancy"], made["Tags"]) == ("dedicated", [{"Key": "Name", "Value": "hsm"}])
    id_ = made["VpcId"]
    assert ec2.describe_vpcs(VpcIds=[id_])["Vpcs"] == [made | {"State": "available"}]
    ec2.get_waiter("vpc_available").wait(VpcIds=[id_])
    group = ec2.describe_security_groups(Filters=[{"Name": "vpc-id", "Values": [id_]}])["SecurityGroups"][0]
    assert (group["GroupName"], code(lambda: ec2.delete_security_group(GroupId=group["GroupId"]))) == (
        "default",
        "CannotDelete",
    )
    subnet = new_subnet(ec2, id_, "10.7.0.0/24")
    dependent = ("DependencyViolation", f"The vpc '{id_}' has dependencies and cannot be deleted.", 400)
    assert refusal(lambda: ec2.delete_vpc(VpcId=id_)) == dependent
    ec2.delete_subnet(SubnetId=subnet)
    own = new_group(ec2, id_)
    assert refusal(lambda: ec2.delete_vpc(VpcId=id_)) == dependent
    ec2.delete_security_group(GroupId=own)
    ec2.delete_vpc(VpcId=id_)
    assert code(lambda: ec2.describe_vpcs(VpcIds=[id_])) == "InvalidVpcID.NotFound"
    assert ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [id_]}])["Tags"] == []
    assert code(lambda: ec2.describe_security_groups(GroupIds=[group["GroupId"]])) == "InvalidGroup.NotFound"


def test_vpcs_that_are_refused(ec2: Client) -> None:
    assert refusal(lambda: ec2.create_vpc(CidrBlock="10.0.0.0/8")) == (
        "InvalidVpc.Range",
        "The CIDR '10.0.0.0/8' is invalid.",
        400,
    )
    assert refusal(lambda: ec2.create_vpc(CidrBlock="10.0.0.0/99"))[:2] == (
        "InvalidParameterValue",
        "Value (10.0.0.0/99) for parameter cidrBlock is invalid. This is not a valid CIDR block.",
    )
    assert code(ec2.create_vpc) == "MissingParameter"
    assert code(lambda: ec2.create_vpc(CidrBlock="10.0.0.0/16", InstanceTenancy="host")) == "InvalidParameterValue"
    assert refusal(lambda: ec2.create_vpc(CidrBlock="10.0.0.0/16", AmazonProvidedIpv6CidrBlock=True))[::2] == (
        "Unsupported",
        501,
    )
    wrong = [{"ResourceType": "subnet", "Tags": [{"Key": "k", "Value": "v"}]}]
    assert refusal(lambda: ec2.create_vpc(CidrBlock="10.0.0.0/16", TagSpecifications=wrong))[:2] == (
        "InvalidParameterValue",
        "'subnet' is not a valid taggable resource type for this operation.",
    )
    assert len(ec2.describe_vpcs()["Vpcs"]) == 1
    for number in range(4):
        new_vpc(ec2, f"10.{number}.0.0/16")
    assert refusal(lambda: new_vpc(ec2)) == ("VpcLimitExceeded", "The maximum number of VPCs has been reached.", 400)
    assert code(lambda: ec2.describe_vpcs(VpcIds=["vpc-xyz"])) == "InvalidVpcID.Malformed"
    assert refusal(lambda: ec2.create_vpc_peering_connection(VpcId=f"vpc-{NOBODY}"))[::2] == ("Unsupported", 501)


def test_the_default_vpc_goes_and_comes_back(ec2: Client) -> None:
    (vpc,) = ec2.describe_vpcs()["Vpcs"]
    assert code(ec2.create_default_vpc) == "DefaultVpcAlreadyExists"
    assert code(lambda: ec2.create_default_subnet(AvailabilityZone="eu-west-1a")) == (
        "DefaultSubnetAlreadyExistsInAvailabilityZone"
    )
    for subnet in ec2.describe_subnets()["Subnets"]:
        ec2.delete_subnet(SubnetId=subnet["SubnetId"])
    again = ec2.create_default_subnet(AvailabilityZone="eu-west-1b")["Subnet"]
    assert (again["CidrBlock"], again["DefaultForAz"], again["AvailabilityZoneId"]) == (
        "172.31.0.0/20",
        True,
        "euw1-az2",
    )
    ec2.delete_subnet(SubnetId=again["SubnetId"])
    ec2.delete_vpc(VpcId=vpc["VpcId"])
    assert ec2.describe_vpcs()["Vpcs"] == []
    assert code(lambda: ec2.create_default_subnet(AvailabilityZone="eu-west-1b")) == "DefaultVpcDoesNotExist"
    assert code(lambda: ec2.create_security_group(GroupName="g", Description="d")) == "VPCIdNotSpecified"
    made = ec2.create_default_vpc()["Vpc"]
    assert (made["IsDefault"], made["CidrBlock"]) == (True, "172.31.0.0/16")
    assert len(ec2.describe_subnets()["Subnets"]) == 3


def test_attributes_of_a_vpc(ec2: Client) -> None:
    vpc = new_vpc(ec2)

    def shown(name: str) -> bool:
        answer = ec2.describe_vpc_attribute(VpcId=vpc, Attribute=name)
        assert answer["VpcId"] == vpc
        value: bool = answer[name[0].upper() + name[1:]]["Value"]
        return value

    assert (shown("enableDnsSupport"), shown("enableDnsHostnames")) == (True, False)
    assert not shown("enableNetworkAddressUsageMetrics")
    ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsHostnames={"Value": True})
    ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsSupport={"Value": False})
    assert (shown("enableDnsSupport"), shown("enableDnsHostnames")) == (False, True)
    assert code(lambda: ec2.modify_vpc_attribute(VpcId=vpc)) == "MissingParameter"
    both = {"EnableDnsSupport": {"Value": True}, "EnableDnsHostnames": {"Value": True}}
    assert code(lambda: ec2.modify_vpc_attribute(VpcId=vpc, **both)) == "InvalidParameterCombination"
    assert code(lambda: ec2.describe_vpc_attribute(VpcId=vpc, Attribute="x")) == "InvalidParameterValue"


# ---- subnets -------------------------------------------------------------------------------------------------------


def test_a_subnet_from_its_making_to_its_end(ec2: Client, account: str) -> None:
    vpc = new_vpc(ec2)
    specification = [{"ResourceType": "subnet", "Tags": [{"Key": "tier", "Value": "hsm"}]}]
    made = ec2.create_subnet(
        VpcId=vpc, CidrBlock="10.0.1.0/24", AvailabilityZoneId="euw1-az3", TagSpecifications=specification
    )["Subnet"]
    id_ = made["SubnetId"]
    assert made["SubnetArn"] == f"arn:aws:ec2:eu-west-1:{account}:subnet/{id_}"
    assert (made["AvailabilityZone"], made["AvailabilityZoneId"]) == ("eu-west-1c", "euw1-az3")
    assert (made["CidrBlock"], made["AvailableIpAddressCount"], made["State"]) == ("10.0.1.0/24", 251, "available")
    assert (made["VpcId"], made["DefaultForAz"], made["MapPublicIpOnLaunch"]) == (vpc, False, False)
    assert made["Tags"] == [{"Key": "tier", "Value": "hsm"}]
    assert ec2.describe_subnets(SubnetIds=[id_])["Subnets"] == [made]
    interface = ec2.create_network_interface(SubnetId=id_)["NetworkInterface"]["NetworkInterfaceId"]
    assert ec2.describe_subnets(SubnetIds=[id_])["Subnets"][0]["AvailableIpAddressCount"] == 250
    assert refusal(lambda: ec2.delete_subnet(SubnetId=id_))[:2] == (
        "DependencyViolation",
        f"The subnet '{id_}' has dependencies and cannot be deleted.",
    )
    ec2.delete_network_interface(NetworkInterfaceId=interface)
    ec2.delete_subnet(SubnetId=id_)
    assert refusal(lambda: ec2.delete_subnet(SubnetId=id_))[:2] == (
        "InvalidSubnetID.NotFound",
        f"The subnet ID '{id_}' does not exist",
    )


def test_subnets_spread_over_the_zones(ec2: Client) -> None:
    vpc = new_vpc(ec2)
    zones = [
        ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{number}.0/24")["Subnet"]["AvailabilityZone"]
        for number in range(4)
    ]
    assert zones == ["eu-west-1a", "eu-west-1b", "eu-west-1c", "eu-west-1a"]


def test_subnets_that_are_refused(ec2: Client) -> None:
    vpc = new_vpc(ec2)
    new_subnet(ec2, vpc, "10.0.0.0/24")
    assert refusal(lambda: new_subnet(ec2, vpc, "10.0.0.128/25"))[:2] == (
        "InvalidSubnet.Conflict",
        "The CIDR '10.0.0.128/25' conflicts with another subnet",
    )
    assert refusal(lambda: new_subnet(ec2, vpc, "10.1.0.0/24"))[:2] == (
        "InvalidSubnet.Range",
        "The CIDR '10.1.0.0/24' is invalid.",
    )
    sentence = (
        "Value (us-east-1a) for parameter availabilityZone is invalid. Subnets can currently only be created in the "
        "following availability zones: eu-west-1a, eu-west-1b, eu-west-1c."
    )
    assert refusal(lambda: new_subnet(ec2, vpc, "10.0.2.0/24", AvailabilityZone="us-east-1a"))[:2] == (
        "InvalidParameterValue",
        sentence,
    )
    assert code(lambda: new_subnet(ec2, f"vpc-{NOBODY}")) == "InvalidVpcID.NotFound"
    assert code(lambda: ec2.create_subnet(VpcId=vpc)) == "MissingParameter"


# ---- network interfaces --------------------------------------------------------------------------------------------


def test_an_interface_from_its_making_to_its_end(ec2: Client, account: str) -> None:
    vpc = new_vpc(ec2)
    ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsHostnames={"Value": True})
    subnet, group = new_subnet(ec2, vpc), new_group(ec2, vpc)
    specification = [{"ResourceType": "network-interface", "Tags": [{"Key": "k", "Value": "v"}]}]
    made = ec2.create_network_interface(
        SubnetId=subnet,
        Groups=[group],
        PrivateIpAddress="10.0.0.10",
        Description="client",
        TagSpecifications=specification,
    )["NetworkInterface"]
    id_ = made["NetworkInterfaceId"]
    assert re.fullmatch(r"eni-0[0-9a-f]{16}", id_)
    assert re.fullmatch(r"02(:[0-9a-f]{2}){5}", made["MacAddress"])
    assert (made["Status"], made["InterfaceType"], made["RequesterManaged"]) == ("pending", "interface", False)
    assert (made["OwnerId"], made["VpcId"], made["SubnetId"]) == (account, vpc, subnet)
    assert (made["AvailabilityZone"], made["Description"], made["SourceDestCheck"]) == ("eu-west-1a", "client", True)
    assert made["Groups"] == [{"GroupId": group, "GroupName": "web"}]
    name = "ip-10-0-0-10.eu-west-1.compute.internal"
    assert (made["PrivateIpAddress"], made["PrivateDnsName"]) == ("10.0.0.10", name)
    assert made["PrivateIpAddresses"] == [{"Primary": True, "PrivateIpAddress": "10.0.0.10", "PrivateDnsName": name}]
    assert made["TagSet"] == [{"Key": "k", "Value": "v"}]
    ec2.get_waiter("network_interface_available").wait(NetworkInterfaceIds=[id_])
    (shown,) = ec2.describe_network_interfaces(NetworkInterfaceIds=[id_])["NetworkInterfaces"]
    assert shown == made | {"Status": "available"}
    ec2.delete_network_interface(NetworkInterfaceId=id_)
    assert refusal(lambda: ec2.delete_network_interface(NetworkInterfaceId=id_))[:2] == (
        "InvalidNetworkInterfaceID.NotFound",
        f"The networkInterface ID '{id_}' does not exist",
    )


def test_interfaces_that_are_refused(ec2: Client) -> None:
    vpc = new_vpc(ec2)
    subnet = new_subnet(ec2, vpc, "10.0.0.0/28")
    elsewhere = new_group(ec2, new_vpc(ec2, "10.1.0.0/16"))

    def create(**more: Any) -> Callable[[], object]:
        return lambda: ec2.create_network_interface(**{"SubnetId": subnet} | more)

    create(PrivateIpAddress="10.0.0.5")()
    assert refusal(create(PrivateIpAddress="10.0.0.5"))[:2] == (
        "InvalidIPAddress.InUse",
        "The specified address is already in use.",
    )
    assert refusal(create(PrivateIpAddress="10.0.0.3"))[:2] == (
        "InvalidParameterValue",
        "Address is in subnet's reserved address range",
    )
    assert refusal(create(PrivateIpAddress="10.0.0.16"))[:2] == (
        "InvalidParameterValue",
        "Address does not fall within the subnet's address range",
    )
    assert code(create(SubnetId=f"subnet-{NOBODY}")) == "InvalidSubnetID.NotFound"
    assert code(create(Groups=[f"sg-{NOBODY}"])) == "InvalidGroup.NotFound"
    assert code(create(Groups=[elsewhere])) == "InvalidGroup.NotFound"
    groups = [new_group(ec2, vpc, f"g{number}") for number in range(6)]
    assert code(create(Groups=groups)) == "SecurityGroupsPerInterfaceLimitExceeded"
    assert code(create(Groups=groups[:1] * 2)) == "InvalidParameterValue"
    create(Groups=groups[:5])()
    for _ in range(9):
        create()()
    assert refusal(create())[:2] == (
        "InsufficientFreeAddressesInSubnet",
        "The specified subnet does not have enough free addresses to satisfy the request.",
    )
    assert refusal(create(Ipv6AddressCount=1))[::2] == ("Unsupported", 501)


def test_the_same_token_makes_one_interface(ec2: Client) -> None:
    subnet = new_subnet(ec2, new_vpc(ec2))
    first = ec2.create_network_interface(SubnetId=subnet, ClientToken="once")
    again = ec2.create_network_interface(SubnetId=subnet, ClientToken="once")
    assert again["ClientToken"] == "once"
    assert again["NetworkInterface"] == first["NetworkInterface"]
    assert len(ec2.describe_network_interfaces()["NetworkInterfaces"]) == 1
    assert code(lambda: ec2.create_network_interface(SubnetId=subnet, ClientToken="once", Description="x")) == (
        "IdempotentParameterMismatch"
    )


def test_attributes_of_an_interface(ec2: Client) -> None:
    vpc = new_vpc(ec2)
    id_ = ec2.create_network_interface(SubnetId=new_subnet(ec2, vpc))["NetworkInterface"]["NetworkInterfaceId"]
    groups = [new_group(ec2, vpc, name) for name in ("b", "a")]

    def modify(**members: Any) -> Callable[[], object]:
        return lambda: ec2.modify_network_interface_attribute(NetworkInterfaceId=id_, **members)

    modify(Groups=groups)()
    modify(Description={"Value": "new"})()
    modify(SourceDestCheck={"Value": False})()
    (shown,) = ec2.describe_network_interfaces()["NetworkInterfaces"]
    assert [one["GroupName"] for one in shown["Groups"]] == ["b", "a"]
    assert (shown["Description"], shown["SourceDestCheck"]) == ("new", False)
    assert code(modify()) == "InvalidParameterCombination"
    assert code(modify(Groups=groups, Description={"Value": "x"})) == "InvalidParameterCombination"
    assert code(modify(Groups=[f"sg-{NOBODY}"])) == "InvalidGroup.NotFound"
    assert refusal(modify(EnablePrimaryIpv6=True))[::2] == ("Unsupported", 501)
