"""Subnets."""

from __future__ import annotations

from typing import Any, Final

from msgspec import field

from hsmsim.errors import AwsError
from hsmsim.services.ec2 import founding, rules, store
from hsmsim.services.ec2.model import SUBNETS_PER_VPC, Kind, Subnet
from hsmsim.services.ec2.service import (
    Describe,
    Described,
    Dry,
    Tagging,
    arn,
    default_vpc,
    describe,
    in_vpc,
    members,
    need_subnet,
    need_vpc,
    on,
    on_new,
    operation,
    place_of,
    tag_list,
    tag_new,
)
from hsmsim.services.ec2.zones import region_of, zone_named
from hsmsim.services.kernel import Access, Call, Mode, Response

_OPTIONS: Final = "PrivateDnsNameOptionsOnLaunch"
_DESCRIBED: Final = Described(
    Kind.SUBNET,
    "subnetIds",
    "SubnetId",
    {
        "availability-zone": members("AvailabilityZone"),
        "availabilityZone": members("AvailabilityZone"),
        "availability-zone-id": members("AvailabilityZoneId"),
        "availabilityZoneId": members("AvailabilityZoneId"),
        "available-ip-address-count": members("AvailableIpAddressCount"),
        "cidr": members("CidrBlock"),
        "cidr-block": members("CidrBlock"),
        "cidrBlock": members("CidrBlock"),
        "customer-owned-ipv4-pool": members("CustomerOwnedIpv4Pool"),
        "default-for-az": members("DefaultForAz"),
        "defaultForAz": members("DefaultForAz"),
        "enable-dns64": members("EnableDns64"),
        "enable-lni-at-device-index": members("EnableLniAtDeviceIndex"),
        "ipv6-cidr-block-association.ipv6-cidr-block": members("Ipv6CidrBlockAssociationSet"),
        "ipv6-cidr-block-association.association-id": members("Ipv6CidrBlockAssociationSet"),
        "ipv6-cidr-block-association.state": members("Ipv6CidrBlockAssociationSet"),
        "ipv6-native": members("Ipv6Native"),
        "map-customer-owned-ip-on-launch": members("MapCustomerOwnedIpOnLaunch"),
        "map-public-ip-on-launch": members("MapPublicIpOnLaunch"),
        "outpost-arn": members("OutpostArn"),
        "owner-id": members("OwnerId"),
        "private-dns-name-options-on-launch.hostname-type": members(_OPTIONS, "HostnameType"),
        "private-dns-name-options-on-launch.enable-resource-name-dns-a-record": members(
            _OPTIONS, "EnableResourceNameDnsARecord"
        ),
        "private-dns-name-options-on-launch.enable-resource-name-dns-aaaa-record": members(
            _OPTIONS, "EnableResourceNameDnsAAAARecord"
        ),
        "state": members("State"),
        "subnet-arn": members("SubnetArn"),
        "subnet-id": members("SubnetId"),
        "vpc-id": members("VpcId"),
    },
)


class CreateSubnet(Tagging, frozen=True, kw_only=True):
    """A new subnet with an IPv4 block."""

    vpc_id: str
    cidr_block: str = ""
    availability_zone: str = ""
    availability_zone_id: str = ""


class CreateDefaultSubnet(Dry, frozen=True):
    """A default subnet again, after it was deleted."""

    availability_zone: str = ""
    availability_zone_id: str = ""


class OfSubnet(Dry, frozen=True, kw_only=True):
    """A subnet."""

    subnet_id: str


class DescribeSubnets(Describe, frozen=True):
    """Subnets."""

    subnet_ids: list[str] = field(default_factory=list)


def shown(call: Call, subnet: Subnet, used: int, tags: dict[str, str]) -> dict[str, Any]:
    """Return a subnet's members."""
    zone = zone_named(region_of(subnet.region), subnet.zone, "")
    assert zone is not None  # noqa: S101 - it was checked when the subnet was made
    return {
        "SubnetId": subnet.id,
        "SubnetArn": arn(call, Kind.SUBNET, subnet.id),
        "OwnerId": subnet.account,
        "VpcId": subnet.vpc,
        "AvailabilityZone": zone.name,
        "AvailabilityZoneId": zone.id,
        "CidrBlock": subnet.cidr,
        "AvailableIpAddressCount": rules.available(subnet.cidr, used),
        "DefaultForAz": subnet.default,
        "MapPublicIpOnLaunch": subnet.default,
        "MapCustomerOwnedIpOnLaunch": False,
        "AssignIpv6AddressOnCreation": False,
        "Ipv6CidrBlockAssociationSet": [],
        "Ipv6Native": False,
        "EnableDns64": False,
        _OPTIONS: {
            "HostnameType": "ip-name",
            "EnableResourceNameDnsARecord": False,
            "EnableResourceNameDnsAAAARecord": False,
        },
        "State": "available",
        "Tags": tag_list(tags),
    }


def _on_new_subnet(call: Call, request: CreateSubnet) -> list[Access]:
    where = in_vpc(call, request.vpc_id)
    if request.availability_zone:
        where["AvailabilityZone"] = request.availability_zone
    new = on_new(call, Kind.SUBNET, request.tag_specifications, **where)
    return [*new, on(call, Kind.VPC, request.vpc_id)]


@operation(CreateSubnet, Mode.WRITE, _on_new_subnet)
def create_subnet(call: Call, request: CreateSubnet) -> Response:
    """CreateSubnet; without a zone in the one where the VPC has the fewest subnets."""
    place = place_of(call)
    vpc = need_vpc(call.tx, place, request.vpc_id)
    if not request.cidr_block:
        raise rules.lacking("cidrBlock")
    others = store.subnets(call.tx, store.SUBNETS.c.vpc == vpc.id)
    cidr = str(rules.subnet_network(request.cidr_block, vpc.cidr, [one.cidr for one in others]))
    if len(others) >= SUBNETS_PER_VPC:
        raise rules.quota("SubnetLimitExceeded", "subnets")
    zone = _zone(call, request.availability_zone, request.availability_zone_id, others)
    made = Subnet(rules.new_id("subnet", call.ids.below), place.account, place.region, vpc.id, zone, cidr)
    store.add_subnet(call.tx, made)
    return {"Subnet": shown(call, made, 0, tag_new(call, Kind.SUBNET, made.id, request.tag_specifications))}


def _zone(call: Call, name: str, id_: str, others: list[Subnet]) -> str:
    region = region_of(call.region)
    wanted = zone_named(region, name, id_)
    if wanted is not None:
        return wanted.name
    counted = [one.zone for one in others]
    return min((zone.name for zone in region.zones), key=counted.count)


@operation(CreateDefaultSubnet, Mode.WRITE)
def create_default_subnet(call: Call, request: CreateDefaultSubnet) -> Response:
    """CreateDefaultSubnet."""
    zone = zone_named(region_of(call.region), request.availability_zone, request.availability_zone_id)
    if zone is None:
        raise rules.lacking("availabilityZone", "availabilityZoneId")
    home = default_vpc(call.tx, place_of(call))
    if home is None:
        raise AwsError("DefaultVpcDoesNotExist", "No default VPC exists for this account in this region.")
    there = [one for one in store.subnets(call.tx, store.SUBNETS.c.vpc == home.id) if one.default]
    if any(one.zone == zone.name for one in there):
        raise AwsError(
            "DefaultSubnetAlreadyExistsInAvailabilityZone",
            f"'{next(one.id for one in there if one.zone == zone.name)}' is already the default subnet in {zone.name}.",
        )
    made = founding.default_subnet(call.tx, call.ids, home, zone.name)
    if made is None:
        raise AwsError("InsufficientFreeAddressesInVpc", f"The VPC '{home.id}' has no free block for a subnet.")
    return {"Subnet": shown(call, made, 0, {})}


def _on_subnet(call: Call, request: OfSubnet) -> list[Access]:
    found = store.subnets(call.tx, *store.of(place_of(call), store.SUBNETS), store.SUBNETS.c.id == request.subnet_id)
    more = in_vpc(call, found[0].vpc) | {"AvailabilityZone": found[0].zone} if found else {}
    return [on(call, Kind.SUBNET, request.subnet_id, **more)]


@operation(OfSubnet, Mode.WRITE, _on_subnet)
def delete_subnet(call: Call, request: OfSubnet) -> None:
    """DeleteSubnet."""
    subnet = need_subnet(call.tx, place_of(call), request.subnet_id)
    if store.taken_addresses(call.tx, subnet.id):
        raise rules.dependent(f"The subnet '{subnet.id}' has dependencies and cannot be deleted.")
    store.remove_subnet(call.tx, subnet.id)


@operation(DescribeSubnets, Mode.READ)
def describe_subnets(call: Call, request: DescribeSubnets) -> Response:
    """DescribeSubnets."""
    place = place_of(call)
    tags, used = store.all_tags(call.tx, place), store.used_addresses(call.tx, place)
    found = [
        shown(call, one, used.get(one.id, 0), tags.get(one.id, {}))
        for one in store.subnets(call.tx, *store.of(place, store.SUBNETS))
    ]
    subnets, more = describe(_DESCRIBED, request, request.subnet_ids, found)
    return {"Subnets": subnets, **more}
