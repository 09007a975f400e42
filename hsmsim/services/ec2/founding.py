"""What comes into being by itself: the default VPC of a region at an account's first look, each VPC's default group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hsmsim.errors import AwsError
from hsmsim.services.ec2 import store
from hsmsim.services.ec2.model import (
    ALL,
    ALL_IPV4,
    DEFAULT_GROUP,
    DEFAULT_GROUP_DESCRIPTION,
    DEFAULT_SUBNET_PREFIX,
    DEFAULT_VPC_CIDR,
    GROUPS,
    Group,
    Opening,
    Rule,
    Subnet,
    Vpc,
)
from hsmsim.services.ec2.rules import free_block, new_id, quota
from hsmsim.services.ec2.zones import region_of

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from hsmsim.services.kernel import Ids
    from hsmsim.services.network import Place


def ensure(tx: Connection, place: Place, ids: Ids) -> None:
    """Make the default VPC, if the account has never looked at the region; later it may be deleted."""
    region_of(place.region)
    if store.dhcp_options(tx, place) is None:
        store.add_region(tx, place, new_id("dopt", ids.below))
        default_vpc(tx, place, ids)


def default_vpc(tx: Connection, place: Place, ids: Ids) -> Vpc:
    """Make the default VPC with a default subnet in each zone."""
    made = vpc(tx, place, ids, DEFAULT_VPC_CIDR, default=True)
    for zone in region_of(place.region).zones:
        default_subnet(tx, ids, made, zone.name)
    return made


def default_subnet(tx: Connection, ids: Ids, home: Vpc, zone: str) -> Subnet | None:
    """Make a default subnet in the first free block of the default VPC; None where there is none."""
    others = [one.cidr for one in store.subnets(tx, store.SUBNETS.c.vpc == home.id)]
    cidr = free_block(home.cidr, others, DEFAULT_SUBNET_PREFIX)
    if cidr is None:
        return None
    made = Subnet(new_id("subnet", ids.below), home.account, home.region, home.id, zone, cidr, default=True)
    store.add_subnet(tx, made)
    return made


def vpc(tx: Connection, place: Place, ids: Ids, cidr: str, *, tenancy: str = "default", default: bool = False) -> Vpc:
    """Make a VPC with its default security group, whose members reach each other and everything outside."""
    association = new_id("vpc-cidr-assoc", ids.below)
    id_ = new_id("vpc", ids.below)
    made = Vpc(id_, place.account, place.region, cidr, association, default, tenancy, dns_hostnames=default)
    store.add_vpc(tx, made)
    own = group(tx, ids, made, DEFAULT_GROUP, DEFAULT_GROUP_DESCRIPTION)
    store.add_rule(tx, Rule(new_id("sgr", ids.below), own.id, egress=False, opening=Opening(ALL, -1, -1, peer=own.id)))
    return made


def group(tx: Connection, ids: Ids, home: Vpc, name: str, description: str) -> Group:
    """Make a security group that lets everything out and nothing in."""
    made = closed_group(tx, ids, home, name, description)
    out = Opening(ALL, -1, -1, cidr4=ALL_IPV4)
    store.add_rule(tx, Rule(new_id("sgr", ids.below), made.id, egress=True, opening=out))
    return made


def closed_group(tx: Connection, ids: Ids, home: Vpc, name: str, description: str) -> Group:
    """Make a security group that lets nothing through; InvalidGroup.Duplicate, SecurityGroupLimitExceeded."""
    if store.group_named(tx, home.id, name) is not None:
        raise AwsError("InvalidGroup.Duplicate", f"The security group '{name}' already exists for VPC '{home.id}'")
    if (
        store.count(tx, store.GROUPS, store.GROUPS.c.account == home.account, store.GROUPS.c.region == home.region)
        >= GROUPS
    ):
        raise quota("SecurityGroupLimitExceeded", "security groups")
    made = Group(new_id("sg", ids.below), home.account, home.region, home.id, name, description)
    store.add_group(tx, made)
    return made
