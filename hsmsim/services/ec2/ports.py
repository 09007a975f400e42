"""What EC2 gives to other services: the port of services.network."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hsmsim.errors import AwsError
from hsmsim.services.ec2 import founding, interfaces, rules, store
from hsmsim.services.ec2.model import ALL, Interface, Opening, Rule
from hsmsim.services.ec2.service import need_group, need_interface, need_subnet, need_vpc
from hsmsim.services.ec2.zones import REGIONS
from hsmsim.services.network import (
    InterfaceFacts,
    NetworkError,
    NewGroup,
    NewInterface,
    Place,
    Refusal,
    SubnetFacts,
    TcpOpening,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqlalchemy.engine import Connection

    from hsmsim.clock import Clock
    from hsmsim.services.kernel import Ids
    from hsmsim.services.network import Network

_REFUSALS: Final = {
    "InvalidVpcID.Malformed": Refusal.NO_VPC,
    "InvalidVpcID.NotFound": Refusal.NO_VPC,
    "InvalidSubnetID.Malformed": Refusal.NO_SUBNET,
    "InvalidSubnetID.NotFound": Refusal.NO_SUBNET,
    "InvalidGroupId.Malformed": Refusal.NO_GROUP,
    "InvalidGroup.NotFound": Refusal.NO_GROUP,
    "InvalidNetworkInterfaceId.Malformed": Refusal.NO_INTERFACE,
    "InvalidNetworkInterfaceID.NotFound": Refusal.NO_INTERFACE,
    "InvalidGroup.Duplicate": Refusal.EXISTS,
    "InvalidParameterValue": Refusal.BAD_ADDRESS,
    "InvalidIPAddress.InUse": Refusal.IN_USE,
    "InsufficientFreeAddressesInSubnet": Refusal.NO_ADDRESS,
    "SecurityGroupLimitExceeded": Refusal.LIMIT,
    "NetworkInterfaceLimitExceeded": Refusal.LIMIT,
}
_LAST_PORT: Final = 65535


@contextmanager
def _told() -> Iterator[None]:
    """EC2's errors as the port has them."""
    try:
        yield
    except AwsError as error:
        raise NetworkError(_REFUSALS[error.code], str(error)) from error


@dataclass(frozen=True, slots=True)
class Ec2Network:
    """Implements services.network.Network over EC2's rows."""

    clock: Clock
    ids: Ids

    def has_region(self, region: str) -> bool:
        """Whether there is a region of this name."""
        return region in REGIONS

    def subnets(self, tx: Connection, place: Place, ids: Iterable[str]) -> list[SubnetFacts]:
        """Return the subnets in the order of the ids."""
        with _told():
            found = [need_subnet(tx, place, id_) for id_ in ids]
        used = store.used_addresses(tx, place)
        return [
            SubnetFacts(one.id, one.vpc, one.zone, one.cidr, rules.available(one.cidr, used.get(one.id, 0)))
            for one in found
        ]

    def create_group(self, tx: Connection, place: Place, new: NewGroup) -> str:
        """Make a security group that reaches itself."""
        with _told():
            home = need_vpc(tx, place, new.vpc)
            made = founding.closed_group(tx, self.ids, home, new.name, new.description)
        within = Opening("tcp", new.first_port, new.last_port, peer=made.id)
        for egress in (False, True):
            store.add_rule(tx, Rule(rules.new_id("sgr", self.ids.below), made.id, egress, within))
        return made.id

    def delete_group(self, tx: Connection, place: Place, group: str) -> bool:
        """Remove a security group, if nothing else refers to it; one that is gone stays gone."""
        if not store.groups(tx, *store.of(place, store.GROUPS), store.GROUPS.c.id == group):
            return True
        if store.group_in_use(tx, group):
            return False
        store.remove_group(tx, group)
        return True

    def openings(self, tx: Connection, place: Place, group: str) -> list[TcpOpening]:
        """Return what a security group lets in and out by TCP."""
        with _told():
            found = need_group(tx, place, group)
        return [
            _tcp(rule)
            for rule in store.rules(tx, store.RULES.c.group == found.id)
            if rule.opening.protocol in {"tcp", ALL}
        ]

    def create_interface(self, tx: Connection, place: Place, new: NewInterface) -> InterfaceFacts:
        """Put an interface into a subnet."""
        wanted = interfaces.New(
            subnet=new.subnet,
            groups=(new.group,),
            description=new.description,
            address=new.address,
            now=self.clock.time(),
            requester=new.requester,
        )
        with _told():
            return _facts(interfaces.make(tx, place, self.ids, wanted))

    def interface(self, tx: Connection, place: Place, interface: str) -> InterfaceFacts:
        """Return an interface."""
        with _told():
            return _facts(need_interface(tx, place, interface))

    def delete_interface(self, tx: Connection, place: Place, interface: str) -> None:
        """Remove an interface that a service manages."""
        with _told():
            found = need_interface(tx, place, interface)
        if not found.requester:
            raise NetworkError(Refusal.NO_INTERFACE, f"{found.id} is the customer's own interface.")
        store.remove_interface(tx, found.id)


def network(clock: Clock, ids: Ids) -> Network:
    """Return the port for assembly."""
    return Ec2Network(clock, ids)


def _facts(found: Interface) -> InterfaceFacts:
    return InterfaceFacts(found.id, found.subnet, found.address, found.groups)


def _tcp(rule: Rule) -> TcpOpening:
    opening = rule.opening
    first, last = (0, _LAST_PORT) if opening.protocol == ALL else (opening.first, opening.last)
    return TcpOpening(rule.egress, first, last, opening.peer, opening.cidr4 or opening.cidr6)
