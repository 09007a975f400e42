"""Network interfaces."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import field

from hsmsim.errors import AwsError
from hsmsim.services.ec2 import rules, store
from hsmsim.services.ec2.model import DEFAULT_GROUP, GROUPS_PER_INTERFACE, INTERFACES, Interface, Kind, Subnet
from hsmsim.services.ec2.service import (
    BooleanValue,
    Describe,
    Described,
    Dry,
    Tagging,
    describe,
    in_vpc,
    members,
    need_group,
    need_interface,
    need_subnet,
    on,
    on_new,
    operation,
    place_of,
    tag_list,
    tag_new,
)
from hsmsim.services.ec2.zones import region_of, zone_named
from hsmsim.services.kernel import Access, Call, Mode, Request, Response

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy.engine import Connection

    from hsmsim.services.kernel import Ids
    from hsmsim.services.network import Place

_TOKEN: Final = 64
_OWNER: Final = "amazon-aws"
"""InstanceOwnerId of what a service of AWS attached."""
_ASSOCIATION: Final = ("Association",)
_ADDRESSES: Final = "PrivateIpAddresses"
_DESCRIBED: Final = Described(
    Kind.INTERFACE,
    "networkInterfaceIds",
    "NetworkInterfaceId",
    {
        "association.allocation-id": members(*_ASSOCIATION, "AllocationId"),
        "association.association-id": members(*_ASSOCIATION, "AssociationId"),
        "association.ip-owner-id": members(*_ASSOCIATION, "IpOwnerId"),
        "association.public-dns-name": members(*_ASSOCIATION, "PublicDnsName"),
        "association.public-ip": members(*_ASSOCIATION, "PublicIp"),
        "addresses.association.owner-id": members(_ADDRESSES, *_ASSOCIATION, "IpOwnerId"),
        "addresses.association.public-ip": members(_ADDRESSES, *_ASSOCIATION, "PublicIp"),
        "addresses.primary": members(_ADDRESSES, "Primary"),
        "addresses.private-ip-address": members(_ADDRESSES, "PrivateIpAddress"),
        "attachment.attach-time": lambda one: [
            one["Attachment"]["AttachTime"].strftime("%Y-%m-%dT%H:%M:%S.000Z") for _ in members("Attachment")(one)
        ],
        "attachment.attachment-id": members("Attachment", "AttachmentId"),
        "attachment.delete-on-termination": members("Attachment", "DeleteOnTermination"),
        "attachment.device-index": members("Attachment", "DeviceIndex"),
        "attachment.instance-id": members("Attachment", "InstanceId"),
        "attachment.instance-owner-id": members("Attachment", "InstanceOwnerId"),
        "attachment.status": members("Attachment", "Status"),
        "availability-zone": members("AvailabilityZone"),
        "availability-zone-id": members("AvailabilityZoneId"),
        "description": members("Description"),
        "group-id": members("Groups", "GroupId"),
        "group-name": members("Groups", "GroupName"),
        "interface-type": members("InterfaceType"),
        "ipv6-addresses.ipv6-address": members("Ipv6Addresses"),
        "mac-address": members("MacAddress"),
        "network-interface-id": members("NetworkInterfaceId"),
        "operator.managed": members("Operator", "Managed"),
        "operator.principal": members("Operator", "Principal"),
        "owner-id": members("OwnerId"),
        "private-dns-name": members("PrivateDnsName"),
        "private-ip-address": members("PrivateIpAddress"),
        "requester-id": members("RequesterId"),
        "requester-managed": members("RequesterManaged"),
        "source-dest-check": members("SourceDestCheck"),
        "status": members("Status"),
        "subnet-id": members("SubnetId"),
        "vpc-id": members("VpcId"),
    },
    tags="TagSet",
)


class CreateNetworkInterface(Tagging, frozen=True, kw_only=True):
    """A new interface with one address; without groups in the VPC's default one."""

    subnet_id: str
    description: str = ""
    private_ip_address: str = ""
    groups: list[str] = field(default_factory=list)
    client_token: str | None = None


class OfInterface(Dry, frozen=True, kw_only=True):
    """An interface."""

    network_interface_id: str


class Value(Request, frozen=True):
    """An attribute's value."""

    value: str = ""


class ModifyNetworkInterfaceAttribute(OfInterface, frozen=True, kw_only=True):
    """An interface and one of its attributes."""

    description: Value | None = None
    source_dest_check: BooleanValue | None = None
    groups: list[str] | None = None


class DescribeNetworkInterfaces(Describe, frozen=True):
    """Interfaces."""

    network_interface_ids: list[str] = field(default_factory=list)


# ---- making ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class New:
    """What an interface is made of. address: "" for any that is free. requester: the service that manages it."""

    subnet: str
    groups: Sequence[str]
    description: str
    address: str
    now: float
    requester: str = ""
    token: str | None = None
    digest: str = ""


def make(tx: Connection, place: Place, ids: Ids, new: New) -> Interface:
    """Make an interface."""
    subnet = need_subnet(tx, place, new.subnet)
    groups = checked_groups(tx, place, subnet.vpc, new.groups)
    if store.count(tx, store.INTERFACES, *store.of(place, store.INTERFACES)) >= INTERFACES:
        raise rules.quota("NetworkInterfaceLimitExceeded", "network interfaces")
    address = _address(tx, subnet, new.address, ids)
    made = Interface(
        id=rules.new_id("eni", ids.below),
        account=place.account,
        region=place.region,
        subnet=subnet.id,
        address=address,
        mac=rules.mac(address, ids.below(256)),
        description=new.description,
        created=new.now,
        requester=new.requester,
        attachment=rules.new_id("ela-attach", ids.below) if new.requester else "",
        token=new.token,
        digest=new.digest,
        groups=groups,
    )
    store.add_interface(tx, made)
    return made


def _address(tx: Connection, subnet: Subnet, wanted: str, ids: Ids) -> str:
    taken = store.taken_addresses(tx, subnet.id)
    if wanted:
        address = rules.usable_address(subnet.cidr, wanted)
        if address in taken:
            raise AwsError("InvalidIPAddress.InUse", "The specified address is already in use.")
        return address
    free = rules.free_address(subnet.cidr, taken, ids.below)
    if free is None:
        raise AwsError(
            "InsufficientFreeAddressesInSubnet",
            "The specified subnet does not have enough free addresses to satisfy the request.",
        )
    return free


def checked_groups(tx: Connection, place: Place, vpc: str, wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the groups of an interface, the VPC's default one where none is wanted."""
    if not wanted:
        own = store.group_named(tx, vpc, DEFAULT_GROUP)
        assert own is not None  # noqa: S101 - a VPC has one as long as it is there
        return (own.id,)
    if len(wanted) > GROUPS_PER_INTERFACE:
        raise rules.quota("SecurityGroupsPerInterfaceLimitExceeded", "security groups per interface")
    if len(set(wanted)) < len(wanted):
        raise rules.invalid("The security group list contains duplicates.")
    for id_ in wanted:
        if need_group(tx, place, id_).vpc != vpc:
            text = "You have specified two resources that belong to different networks."
            raise AwsError("InvalidGroup.NotFound", text)
    return tuple(wanted)


# ---- operations --------------------------------------------------------------------------------------------------


def _on_new_interface(call: Call, request: CreateNetworkInterface) -> list[Access]:
    where = _of_subnet(call, request.subnet_id)
    new = on_new(call, Kind.INTERFACE, request.tag_specifications, **where)
    groups = [on(call, Kind.GROUP, id_, **where) for id_ in request.groups]
    return [*new, on(call, Kind.SUBNET, request.subnet_id, **where), *groups]


def _of_subnet(call: Call, id_: str) -> dict[str, str]:
    found = store.subnets(call.tx, *store.of(place_of(call), store.SUBNETS), store.SUBNETS.c.id == id_)
    return in_vpc(call, found[0].vpc) | {"AvailabilityZone": found[0].zone} if found else {}


@operation(CreateNetworkInterface, Mode.WRITE, _on_new_interface)
def create_network_interface(call: Call, request: CreateNetworkInterface) -> Response:
    """CreateNetworkInterface; the same request with the same token again answers with the interface that it made."""
    place = place_of(call)
    token = request.client_token
    if token is not None and len(token) > _TOKEN:
        raise rules.bad(token, "clientToken", f"Must be no more than {_TOKEN} characters long.")
    digest = hashlib.sha256(msgspec.json.encode(request)).hexdigest()
    made = _made_before(call, token, digest) if token else None
    if made is None:
        new = New(
            subnet=request.subnet_id,
            groups=request.groups,
            description=request.description,
            address=request.private_ip_address,
            now=call.clock.time(),
            token=token or None,
            digest=digest,
        )
        made = make(call.tx, place, call.ids, new)
        tag_new(call, Kind.INTERFACE, made.id, request.tag_specifications)
    shown = _shown(_Facts.of(call), made, store.tags(call.tx, made.id)) | {"Status": "pending"}
    return {"NetworkInterface": shown, "ClientToken": token}


def _made_before(call: Call, token: str, digest: str) -> Interface | None:
    mine = store.of(place_of(call), store.INTERFACES)
    for found in store.interfaces(call.tx, *mine, store.INTERFACES.c.token == token):
        if found.digest != digest:
            raise AwsError(
                "IdempotentParameterMismatch",
                "The request uses the same client token as a previous, but non-identical request. "
                "Do not reuse a client token with different requests, unless the requests are identical.",
            )
        return found
    return None


def _on_interface(call: Call, request: OfInterface) -> list[Access]:
    id_ = request.network_interface_id
    found = store.interfaces(call.tx, *store.of(place_of(call), store.INTERFACES), store.INTERFACES.c.id == id_)
    return [on(call, Kind.INTERFACE, id_, **(_of_subnet(call, found[0].subnet) if found else {}))]


def _on_changed_interface(call: Call, request: ModifyNetworkInterfaceAttribute) -> list[Access]:
    groups = [on(call, Kind.GROUP, id_) for id_ in request.groups or ()]
    return [*_on_interface(call, request), *groups]


@operation(OfInterface, Mode.WRITE, _on_interface)
def delete_network_interface(call: Call, request: OfInterface) -> None:
    """DeleteNetworkInterface; one that a service manages is attached, and stays until the service lets go of it."""
    found = need_interface(call.tx, place_of(call), request.network_interface_id)
    if found.requester:
        raise AwsError("InvalidParameterValue", f"Network interface '{found.id}' is currently in use.")
    store.remove_interface(call.tx, found.id)


@operation(ModifyNetworkInterfaceAttribute, Mode.WRITE, _on_changed_interface)
def modify_network_interface_attribute(call: Call, request: ModifyNetworkInterfaceAttribute) -> None:
    """ModifyNetworkInterfaceAttribute: one attribute a call."""
    found = need_interface(call.tx, place_of(call), request.network_interface_id)
    given = [one for one in (request.description, request.source_dest_check, request.groups) if one is not None]
    if len(given) != 1:
        raise rules.clash("Exactly one attribute must be specified: description, sourceDestCheck or groups.")
    if found.requester:
        raise rules.managed()
    if request.description is not None:
        store.change_interface(call.tx, found.id, description=request.description.value)
    elif request.source_dest_check is not None:
        store.change_interface(call.tx, found.id, source_check=request.source_dest_check.value)
    else:
        vpc = need_subnet(call.tx, place_of(call), found.subnet).vpc
        store.set_members(call.tx, found.id, checked_groups(call.tx, place_of(call), vpc, request.groups or ()))


@operation(DescribeNetworkInterfaces, Mode.READ)
def describe_network_interfaces(call: Call, request: DescribeNetworkInterfaces) -> Response:
    """DescribeNetworkInterfaces."""
    place = place_of(call)
    tags, facts = store.all_tags(call.tx, place), _Facts.of(call)
    found = [
        _shown(facts, one, tags.get(one.id, {}))
        for one in store.interfaces(call.tx, *store.of(place, store.INTERFACES))
    ]
    shown, more = describe(_DESCRIBED, request, request.network_interface_ids, found)
    return {"NetworkInterfaces": shown, **more}


@dataclass(frozen=True, slots=True)
class _Facts:
    """What interfaces show of their surroundings: subnets by id, names of groups, VPCs whose hosts have names."""

    subnets: Mapping[str, Subnet]
    groups: Mapping[str, str]
    named: frozenset[str]

    @classmethod
    def of(cls, call: Call) -> _Facts:
        place = place_of(call)
        return cls(
            {one.id: one for one in store.subnets(call.tx, *store.of(place, store.SUBNETS))},
            {one.id: one.name for one in store.groups(call.tx, *store.of(place, store.GROUPS))},
            frozenset(
                one.id
                for one in store.vpcs(call.tx, *store.of(place, store.VPCS))
                if one.dns_support and one.dns_hostnames
            ),
        )


def _shown(facts: _Facts, one: Interface, tags: Mapping[str, str]) -> dict[str, Any]:
    subnet, region = facts.subnets[one.subnet], region_of(one.region)
    zone = zone_named(region, subnet.zone, "")
    assert zone is not None  # noqa: S101 - it was checked when the subnet was made
    name = {"PrivateDnsName": rules.private_name(one.address, region.host_domain)} if subnet.vpc in facts.named else {}
    return {
        "NetworkInterfaceId": one.id,
        "OwnerId": one.account,
        "SubnetId": subnet.id,
        "VpcId": subnet.vpc,
        "AvailabilityZone": zone.name,
        "AvailabilityZoneId": zone.id,
        "Description": one.description,
        "InterfaceType": "interface",
        "MacAddress": one.mac,
        **name,
        "PrivateIpAddress": one.address,
        _ADDRESSES: [{"Primary": True, "PrivateIpAddress": one.address, **name}],
        "Ipv6Addresses": [],
        "Groups": [{"GroupId": id_, "GroupName": facts.groups[id_]} for id_ in one.groups],
        "RequesterManaged": bool(one.requester),
        **({"RequesterId": one.requester, "Attachment": _attachment(one)} if one.requester else {}),
        "SourceDestCheck": one.source_check,
        "Operator": {"Managed": False},
        "Status": "in-use" if one.attachment else "available",
        "TagSet": tag_list(tags),
    }


def _attachment(one: Interface) -> dict[str, Any]:
    return {
        "AttachmentId": one.attachment,
        "AttachTime": datetime.fromtimestamp(int(one.created), UTC),
        "DeleteOnTermination": False,
        "DeviceIndex": 1,
        "InstanceOwnerId": _OWNER,
        "Status": "attached",
    }
