"""The port through which services reach the customer's network without knowing EC2 (DESIGN D10).

Everything happens in the caller's open transaction: an HSM's interface and its row are there together or not at all.
Refusals are NetworkError, which the service tells in its own words.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from hsmsim.errors import HsmsimError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.engine import Connection


class Refusal(StrEnum):
    """Why the network does not do it."""

    NO_VPC = "no VPC"
    NO_SUBNET = "no subnet"
    NO_GROUP = "no security group"
    NO_INTERFACE = "no interface"
    EXISTS = "exists"
    BAD_ADDRESS = "bad address"
    """Not an address of the subnet, or one that EC2 keeps for itself."""
    IN_USE = "in use"
    NO_ADDRESS = "no address"
    LIMIT = "limit"


class NetworkError(HsmsimError):
    """Something that the network refuses. The message is EC2's."""

    def __init__(self, reason: Refusal, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Place:
    """Whose network: an account in a region."""

    account: str
    region: str


@dataclass(frozen=True, slots=True)
class SubnetFacts:
    """A subnet as others need it. cidr: IPv4. free: addresses that an interface could have."""

    id: str
    vpc: str
    zone: str
    cidr: str
    free: int


@dataclass(frozen=True, slots=True)
class NewGroup:
    """A security group whose members reach each other on these TCP ports, and nothing else."""

    vpc: str
    name: str
    description: str
    first_port: int
    last_port: int


@dataclass(frozen=True, slots=True)
class NewInterface:
    """An interface that a service manages in a customer's subnet. address: "" for any that is free."""

    subnet: str
    group: str
    description: str
    requester: str
    address: str = ""


@dataclass(frozen=True, slots=True)
class InterfaceFacts:
    """An interface that is there. groups: the ids of its security groups."""

    id: str
    subnet: str
    address: str
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TcpOpening:
    """What a rule of a security group lets through by TCP: to or from a group's members, or a block of addresses."""

    egress: bool
    first_port: int
    last_port: int
    group: str
    cidr: str


class Network(Protocol):
    """What EC2 does for other services."""

    def has_region(self, region: str) -> bool:
        """Whether there is a region of this name."""

    def subnets(self, tx: Connection, place: Place, ids: Iterable[str]) -> list[SubnetFacts]:
        """Return the subnets in the order of the ids; NO_SUBNET."""

    def create_group(self, tx: Connection, place: Place, new: NewGroup) -> str:
        """Make a security group that reaches itself; returns its id. NO_VPC, EXISTS, LIMIT."""

    def delete_group(self, tx: Connection, place: Place, group: str) -> bool:
        """Remove a security group; False where an interface or another group's rule still refers to it."""

    def openings(self, tx: Connection, place: Place, group: str) -> list[TcpOpening]:
        """Return what a security group lets in and out by TCP; NO_GROUP."""

    def create_interface(self, tx: Connection, place: Place, new: NewInterface) -> InterfaceFacts:
        """Put an interface into a subnet; NO_SUBNET, NO_GROUP, BAD_ADDRESS, IN_USE, NO_ADDRESS, LIMIT."""

    def interface(self, tx: Connection, place: Place, interface: str) -> InterfaceFacts:
        """Return an interface; NO_INTERFACE."""

    def delete_interface(self, tx: Connection, place: Place, interface: str) -> None:
        """Remove an interface that a service manages; NO_INTERFACE where there is none."""
