"""Values of EC2's network, and the quotas of an account in a region."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

DEFAULT_VPC_CIDR: Final = "172.31.0.0/16"
DEFAULT_SUBNET_PREFIX: Final = 20
DEFAULT_GROUP: Final = "default"
DEFAULT_GROUP_DESCRIPTION: Final = "default VPC security group"
WIDEST: Final = 16
NARROWEST: Final = 28
RESERVED_FIRST: Final = 4
"""Network, router, DNS, future use; the last address, broadcast, is the fifth."""
RESERVED: Final = RESERVED_FIRST + 1

VPCS: Final = 5
SUBNETS_PER_VPC: Final = 200
GROUPS: Final = 2500
RULES_PER_GROUP: Final = 60
"""For each direction, and for IPv4 and IPv6 apart."""
GROUPS_PER_INTERFACE: Final = 5
INTERFACES: Final = 5000
TAGS: Final = 50
TAG_KEY: Final = 128
TAG_VALUE: Final = 256
TAGGED_AT_ONCE: Final = 1000
FILTER_VALUES: Final = 200
LEAST_RESULTS: Final = 5
MOST_RESULTS: Final = 1000
GROUP_TEXT: Final = 255
"""Characters of a group's name and of its description."""

ALL: Final = "-1"
"""Every protocol."""
ALL_IPV4: Final = "0.0.0.0/0"


class Kind(StrEnum):
    """Resource types, as tags and ARNs name them."""

    VPC = "vpc"
    SUBNET = "subnet"
    GROUP = "security-group"
    RULE = "security-group-rule"
    INTERFACE = "network-interface"


@dataclass(frozen=True, slots=True)
class Naming:
    """How a kind is spelt: its id's prefix, the codes for an id of the wrong shape and of nothing, the words."""

    prefix: str
    malformed: str
    missing: str
    sentence: str


NAMES: Final = {
    Kind.VPC: Naming("vpc", "InvalidVpcID.Malformed", "InvalidVpcID.NotFound", "The vpc ID '{}' does not exist"),
    Kind.SUBNET: Naming(
        "subnet", "InvalidSubnetID.Malformed", "InvalidSubnetID.NotFound", "The subnet ID '{}' does not exist"
    ),
    Kind.GROUP: Naming(
        "sg", "InvalidGroupId.Malformed", "InvalidGroup.NotFound", "The security group '{}' does not exist"
    ),
    Kind.RULE: Naming(
        "sgr",
        "InvalidSecurityGroupRuleId.Malformed",
        "InvalidSecurityGroupRuleId.NotFound",
        "The security group rule ID '{}' does not exist",
    ),
    Kind.INTERFACE: Naming(
        "eni",
        "InvalidNetworkInterfaceId.Malformed",
        "InvalidNetworkInterfaceID.NotFound",
        "The networkInterface ID '{}' does not exist",
    ),
}


@dataclass(frozen=True, slots=True)
class Vpc:
    """A VPC. association: the id of its one CIDR block. dns_support, dns_hostnames, usage_metrics: its attributes."""

    id: str
    account: str
    region: str
    cidr: str
    association: str
    default: bool
    tenancy: str = "default"
    dns_support: bool = True
    dns_hostnames: bool = False
    usage_metrics: bool = False


@dataclass(frozen=True, slots=True)
class Subnet:
    """A subnet. default: its zone's in the default VPC, where instances get public addresses."""

    id: str
    account: str
    region: str
    vpc: str
    zone: str
    cidr: str
    default: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """A security group."""

    id: str
    account: str
    region: str
    vpc: str
    name: str
    description: str


@dataclass(frozen=True, slots=True)
class Opening:
    """What a rule lets through. Exactly one of cidr4, cidr6 and peer (a group's id) is not empty.

    first, last: ports, ICMP's type and code, -1 for all.
    """

    protocol: str
    first: int
    last: int
    cidr4: str = ""
    cidr6: str = ""
    peer: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """A security group's rule. Two of one group and direction never have the same opening."""

    id: str
    group: str
    egress: bool
    opening: Opening
    description: str = ""


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface. requester: the service that manages it, else empty.

    token, digest: of the request that made it, so that a repetition finds it.
    """

    id: str
    account: str
    region: str
    subnet: str
    address: str
    mac: str
    description: str
    created: float
    requester: str = ""
    attachment: str = ""
    source_check: bool = True
    token: str | None = None
    digest: str = ""
    groups: tuple[str, ...] = field(default=())
