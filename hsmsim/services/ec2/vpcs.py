"""VPCs."""

from __future__ import annotations

from typing import Any, Final

from msgspec import field

from hsmsim.errors import AwsError
from hsmsim.services.ec2 import founding, rules, store
from hsmsim.services.ec2.model import DEFAULT_GROUP, VPCS, Kind, Vpc
from hsmsim.services.ec2.service import (
    BooleanValue,
    Describe,
    Described,
    Dry,
    OfVpc,
    Tagging,
    arn,
    default_vpc,
    describe,
    members,
    need_vpc,
    on,
    on_new,
    operation,
    place_of,
    tag_list,
    tag_new,
)
from hsmsim.services.kernel import Access, Call, Mode, Request, Response

_DESCRIBED: Final = Described(
    Kind.VPC,
    "vpcIds",
    "VpcId",
    {
        "cidr": members("CidrBlock"),
        "cidr-block": members("CidrBlock"),
        "cidrBlock": members("CidrBlock"),
        "cidr-block-association.cidr-block": members("CidrBlockAssociationSet", "CidrBlock"),
        "cidr-block-association.association-id": members("CidrBlockAssociationSet", "AssociationId"),
        "cidr-block-association.state": members("CidrBlockAssociationSet", "CidrBlockState", "State"),
        "dhcp-options-id": members("DhcpOptionsId"),
        "dhcpOptionsId": members("DhcpOptionsId"),
        "ipv6-cidr-block-association.ipv6-cidr-block": members("Ipv6CidrBlockAssociationSet"),
        "ipv6-cidr-block-association.ipv6-pool": members("Ipv6CidrBlockAssociationSet"),
        "ipv6-cidr-block-association.association-id": members("Ipv6CidrBlockAssociationSet"),
        "ipv6-cidr-block-association.state": members("Ipv6CidrBlockAssociationSet"),
        "is-default": members("IsDefault"),
        "isDefault": members("IsDefault"),
        "owner-id": members("OwnerId"),
        "state": members("State"),
        "vpc-id": members("VpcId"),
    },
)
# The attribute's name in requests, its member, its column.
_ATTRIBUTES: Final = {
    "enableDnsSupport": ("EnableDnsSupport", "dns_support"),
    "enableDnsHostnames": ("EnableDnsHostnames", "dns_hostnames"),
    "enableNetworkAddressUsageMetrics": ("EnableNetworkAddressUsageMetrics", "usage_metrics"),
}


class CreateVpc(Tagging, frozen=True):
    """A new VPC with an IPv4 block."""

    cidr_block: str = ""
    instance_tenancy: str = "default"


class DescribeVpcs(Describe, frozen=True):
    """VPCs."""

    vpc_ids: list[str] = field(default_factory=list)


class ModifyVpcAttribute(Request, frozen=True, kw_only=True):
    """A VPC and one of its attributes."""

    vpc_id: str
    enable_dns_support: BooleanValue | None = None
    enable_dns_hostnames: BooleanValue | None = None
    enable_network_address_usage_metrics: BooleanValue | None = None


class DescribeVpcAttribute(OfVpc, frozen=True, kw_only=True):
    """A VPC and the name of an attribute."""

    attribute: str


def _on_vpc(call: Call, request: OfVpc | ModifyVpcAttribute) -> list[Access]:
    return [on(call, Kind.VPC, request.vpc_id)]


def shown(call: Call, vpc: Vpc, tags: dict[str, str], state: str = "available") -> dict[str, Any]:
    """Return a VPC's members."""
    association = {"AssociationId": vpc.association, "CidrBlock": vpc.cidr, "CidrBlockState": {"State": "associated"}}
    return {
        "VpcId": vpc.id,
        "OwnerId": vpc.account,
        "CidrBlock": vpc.cidr,
        "CidrBlockAssociationSet": [association],
        "Ipv6CidrBlockAssociationSet": [],
        "DhcpOptionsId": store.dhcp_options(call.tx, place_of(call)),
        "InstanceTenancy": vpc.tenancy,
        "IsDefault": vpc.default,
        "State": state,
        "Tags": tag_list(tags),
    }


@operation(CreateVpc, Mode.WRITE, lambda call, request: on_new(call, Kind.VPC, request.tag_specifications))
def create_vpc(call: Call, request: CreateVpc) -> Response:
    """CreateVpc."""
    if not request.cidr_block:
        raise rules.lacking("cidrBlock")
    cidr = str(rules.vpc_network(request.cidr_block))
    if request.instance_tenancy not in {"default", "dedicated"}:
        raise rules.bad(request.instance_tenancy, "instanceTenancy")
    _check_quota(call)
    made = founding.vpc(call.tx, place_of(call), call.ids, cidr, tenancy=request.instance_tenancy)
    tags = tag_new(call, Kind.VPC, made.id, request.tag_specifications)
    return {"Vpc": shown(call, made, tags, "pending")}


def _check_quota(call: Call) -> None:
    if store.count(call.tx, store.VPCS, *store.of(place_of(call), store.VPCS)) >= VPCS:
        raise rules.quota("VpcLimitExceeded", "VPCs")


@operation(Dry, Mode.WRITE)
def create_default_vpc(call: Call, _request: Dry) -> Response:
    """CreateDefaultVpc: again, after it was deleted."""
    if default_vpc(call.tx, place_of(call)) is not None:
        raise AwsError("DefaultVpcAlreadyExists", "A Default VPC already exists for this account in this region.")
    _check_quota(call)
    return {"Vpc": shown(call, founding.default_vpc(call.tx, place_of(call), call.ids), {}, "pending")}


@operation(OfVpc, Mode.WRITE, _on_vpc)
def delete_vpc(call: Call, request: OfVpc) -> None:
    """DeleteVpc: with its default security group, which the account cannot delete by itself."""
    vpc = need_vpc(call.tx, place_of(call), request.vpc_id)
    own = store.group_named(call.tx, vpc.id, DEFAULT_GROUP)
    assert own is not None  # noqa: S101 - a VPC has one as long as it is there
    others = store.count(call.tx, store.GROUPS, store.GROUPS.c.vpc == vpc.id, store.GROUPS.c.id != own.id)
    if others or store.count(call.tx, store.SUBNETS, store.SUBNETS.c.vpc == vpc.id):
        raise rules.dependent(f"The vpc '{vpc.id}' has dependencies and cannot be deleted.")
    store.remove_group(call.tx, own.id)
    store.remove_vpc(call.tx, vpc.id)


@operation(DescribeVpcs, Mode.READ)
def describe_vpcs(call: Call, request: DescribeVpcs) -> Response:
    """DescribeVpcs."""
    place = place_of(call)
    tags = store.all_tags(call.tx, place)
    found = [shown(call, one, tags.get(one.id, {})) for one in store.vpcs(call.tx, *store.of(place, store.VPCS))]
    vpcs, more = describe(_DESCRIBED, request, request.vpc_ids, found)
    return {"Vpcs": vpcs, **more}


@operation(ModifyVpcAttribute, Mode.WRITE, _on_vpc)
def modify_vpc_attribute(call: Call, request: ModifyVpcAttribute) -> None:
    """ModifyVpcAttribute: one attribute a call."""
    vpc = need_vpc(call.tx, place_of(call), request.vpc_id)
    wanted = {
        "dns_support": request.enable_dns_support,
        "dns_hostnames": request.enable_dns_hostnames,
        "usage_metrics": request.enable_network_address_usage_metrics,
    }
    given = {column: one.value for column, one in wanted.items() if one is not None}
    if not given:
        raise rules.lacking("enableDnsSupport", "enableDnsHostnames", "enableNetworkAddressUsageMetrics")
    if len(given) > 1:
        raise rules.clash("Fields for multiple attribute types specified: only one attribute can be modified at a time")
    store.change_vpc(call.tx, vpc.id, **given)


def _on_shown_vpc(call: Call, request: DescribeVpcAttribute) -> list[Access]:
    return [Access(f"ec2:{call.operation}", arn(call, Kind.VPC, request.vpc_id), call.account)]


@operation(DescribeVpcAttribute, Mode.READ, _on_shown_vpc)
def describe_vpc_attribute(call: Call, request: DescribeVpcAttribute) -> Response:
    """DescribeVpcAttribute."""
    vpc = need_vpc(call.tx, place_of(call), request.vpc_id)
    member, column = _ATTRIBUTES[request.attribute]
    return {"VpcId": vpc.id, member: {"Value": getattr(vpc, column)}}
