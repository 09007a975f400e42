"""EC2's rows."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    ForeignKey,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    delete,
    func,
    insert,
    select,
    update,
)

from hsmsim.services.ec2.model import Group, Interface, Opening, Rule, Subnet, Vpc
from hsmsim.storage.gateway import GATEWAY

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy.engine import Connection
    from sqlalchemy.sql import ColumnElement

    from hsmsim.services.network import Place

# An account has looked at a region: its default VPC was made. dhcp: the id of its DHCP options.
REGIONS: Final = Table(
    "ec2_regions",
    GATEWAY,
    Column("account", Text, primary_key=True),
    Column("region", Text, primary_key=True),
    Column("dhcp", Text, nullable=False),
)
VPCS: Final = Table(
    "ec2_vpcs",
    GATEWAY,
    Column("id", Text, primary_key=True),
    Column("account", Text, nullable=False),
    Column("region", Text, nullable=False),
    Column("cidr", Text, nullable=False),
    Column("association", Text, nullable=False),
    Column("default", Boolean, nullable=False),
    Column("tenancy", Text, nullable=False),
    Column("dns_support", Boolean, nullable=False),
    Column("dns_hostnames", Boolean, nullable=False),
    Column("usage_metrics", Boolean, nullable=False),
)
SUBNETS: Final = Table(
    "ec2_subnets",
    GATEWAY,
    Column("id", Text, primary_key=True),
    Column("account", Text, nullable=False),
    Column("region", Text, nullable=False),
    Column("vpc", Text, ForeignKey("ec2_vpcs.id"), nullable=False, index=True),
    Column("zone", Text, nullable=False),
    Column("cidr", Text, nullable=False),
    Column("default", Boolean, nullable=False),
)
GROUPS: Final = Table(
    "ec2_groups",
    GATEWAY,
    Column("id", Text, primary_key=True),
    Column("account", Text, nullable=False),
    Column("region", Text, nullable=False),
    Column("vpc", Text, ForeignKey("ec2_vpcs.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False),
    UniqueConstraint("vpc", "name"),
)
RULES: Final = Table(
    "ec2_rules",
    GATEWAY,
    Column("id", Text, primary_key=True),
    Column("group", Text, ForeignKey("ec2_groups.id"), nullable=False),
    Column("egress", Boolean, nullable=False),
    Column("protocol", Text, nullable=False),
    Column("first", Integer, nullable=False),
    Column("last", Integer, nullable=False),
    Column("cidr4", Text, nullable=False),
    Column("cidr6", Text, nullable=False),
    Column("peer", Text, nullable=False, index=True),
    Column("description", Text, nullable=False),
    UniqueConstraint("group", "egress", "protocol", "first", "last", "cidr4", "cidr6", "peer"),
)
INTERFACES: Final = Table(
    "ec2_interfaces",
    GATEWAY,
    Column("id", Text, primary_key=True),
    Column("account", Text, nullable=False),
    Column("region", Text, nullable=False),
    Column("subnet", Text, ForeignKey("ec2_subnets.id"), nullable=False),
    Column("address", Text, nullable=False),
    Column("mac", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("requester", Text, nullable=False),
    Column("attachment", Text, nullable=False),
    Column("source_check", Boolean, nullable=False),
    Column("token", Text),
    Column("digest", Text, nullable=False),
    UniqueConstraint("subnet", "address"),
    UniqueConstraint("account", "region", "token"),
)
MEMBERS: Final = Table(
    "ec2_interface_groups",
    GATEWAY,
    Column("interface", Text, ForeignKey("ec2_interfaces.id"), primary_key=True),
    Column("group", Text, ForeignKey("ec2_groups.id"), primary_key=True, index=True),
    Column("place", Integer, nullable=False),
)
TAGS: Final = Table(
    "ec2_tags",
    GATEWAY,
    Column("resource", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
    Column("account", Text, nullable=False),
    Column("region", Text, nullable=False),
)


def of(place: Place, table: Table) -> list[ColumnElement[bool]]:
    """Return the clauses for what an account has in a region."""
    return [table.c.account == place.account, table.c.region == place.region]


def count(tx: Connection, table: Table, *where: ColumnElement[bool]) -> int:
    """How many rows meet all of the clauses."""
    return tx.execute(select(func.count()).select_from(table).where(*where)).scalar_one()


def _add(tx: Connection, table: Table, new: object) -> None:
    tx.execute(insert(table).values({column.name: getattr(new, column.name) for column in table.columns}))


# ---- regions, VPCs, subnets --------------------------------------------------------------------------------------


def dhcp_options(tx: Connection, place: Place) -> str | None:
    """Return the id of the DHCP options; None where the account has never looked at the region."""
    return tx.execute(select(REGIONS.c.dhcp).where(*of(place, REGIONS))).scalar()


def add_region(tx: Connection, place: Place, dhcp: str) -> None:
    """Note the first look."""
    tx.execute(insert(REGIONS).values(account=place.account, region=place.region, dhcp=dhcp))


def vpcs(tx: Connection, *where: ColumnElement[bool]) -> list[Vpc]:
    """Those that meet all of the clauses."""
    return [Vpc(**row._mapping) for row in tx.execute(select(VPCS).where(*where))]  # noqa: SLF001 - its name


def add_vpc(tx: Connection, new: Vpc) -> None:
    """A new one."""
    _add(tx, VPCS, new)


def change_vpc(tx: Connection, id_: str, **values: bool) -> None:
    """Set attributes."""
    tx.execute(update(VPCS).where(VPCS.c.id == id_).values(values))


def remove_vpc(tx: Connection, id_: str) -> None:
    """Delete it; what is in it must be gone."""
    untag(tx, id_)
    tx.execute(delete(VPCS).where(VPCS.c.id == id_))


def subnets(tx: Connection, *where: ColumnElement[bool]) -> list[Subnet]:
    """Those that meet all of the clauses."""
    return [Subnet(**row._mapping) for row in tx.execute(select(SUBNETS).where(*where))]  # noqa: SLF001 - its name


def add_subnet(tx: Connection, new: Subnet) -> None:
    """A new one."""
    _add(tx, SUBNETS, new)


def remove_subnet(tx: Connection, id_: str) -> None:
    """Delete it; its interfaces must be gone."""
    untag(tx, id_)
    tx.execute(delete(SUBNETS).where(SUBNETS.c.id == id_))


def used_addresses(tx: Connection, place: Place) -> dict[str, int]:
    """Return how many interfaces each subnet has; one without any is not in it."""
    per_subnet = select(INTERFACES.c.subnet, func.count()).where(*of(place, INTERFACES)).group_by(INTERFACES.c.subnet)
    return {row[0]: row[1] for row in tx.execute(per_subnet)}


# ---- security groups ---------------------------------------------------------------------------------------------


def groups(tx: Connection, *where: ColumnElement[bool]) -> list[Group]:
    """Those that meet all of the clauses."""
    return [Group(**row._mapping) for row in tx.execute(select(GROUPS).where(*where))]  # noqa: SLF001 - its name


def group_named(tx: Connection, vpc: str, name: str) -> Group | None:
    """The one of this name."""
    found = groups(tx, GROUPS.c.vpc == vpc, GROUPS.c.name == name)
    return found[0] if found else None


def add_group(tx: Connection, new: Group) -> None:
    """A new one, without rules."""
    _add(tx, GROUPS, new)


def remove_group(tx: Connection, id_: str) -> None:
    """Delete it with its rules; no interface and no other group's rule may refer to it."""
    remove_rules(tx, list(tx.execute(select(RULES.c.id).where(RULES.c.group == id_)).scalars()))
    untag(tx, id_)
    tx.execute(delete(GROUPS).where(GROUPS.c.id == id_))


def group_in_use(tx: Connection, id_: str) -> bool:
    """Whether an interface or another group's rule refers to it."""
    if count(tx, MEMBERS, MEMBERS.c.group == id_):
        return True
    return count(tx, RULES, RULES.c.peer == id_, RULES.c.group != id_) > 0


def rules(tx: Connection, *where: ColumnElement[bool]) -> list[Rule]:
    """Those that meet all of the clauses, in the order of their ids."""
    return [
        Rule(
            row.id,
            row.group,
            row.egress,
            Opening(row.protocol, row.first, row.last, row.cidr4, row.cidr6, row.peer),
            row.description,
        )
        for row in tx.execute(select(RULES).where(*where).order_by(RULES.c.id))
    ]


def rules_in(tx: Connection, place: Place) -> list[Rule]:
    """All that an account has in a region."""
    return rules(tx, RULES.c.group.in_(select(GROUPS.c.id).where(*of(place, GROUPS))))


def add_rule(tx: Connection, new: Rule) -> None:
    """A new one."""
    opening = {name: getattr(new.opening, name) for name in ("protocol", "first", "last", "cidr4", "cidr6", "peer")}
    values = {"id": new.id, "group": new.group, "egress": new.egress, "description": new.description}
    tx.execute(insert(RULES).values(values | opening))


def remove_rules(tx: Connection, ids: list[str]) -> None:
    """Delete them."""
    for id_ in ids:
        untag(tx, id_)
        tx.execute(delete(RULES).where(RULES.c.id == id_))


# ---- network interfaces ------------------------------------------------------------------------------------------


def interfaces(tx: Connection, *where: ColumnElement[bool]) -> list[Interface]:
    """Those that meet all of the clauses."""
    members: dict[str, list[str]] = defaultdict(list)
    mine = select(INTERFACES.c.id).where(*where)
    for row in tx.execute(select(MEMBERS).where(MEMBERS.c.interface.in_(mine)).order_by(MEMBERS.c.place)):
        members[row.interface].append(row.group)
    found = tx.execute(select(INTERFACES).where(*where))
    return [Interface(**row._mapping, groups=tuple(members[row.id])) for row in found]  # noqa: SLF001 - its name


def taken_addresses(tx: Connection, subnet: str) -> set[str]:
    """Return the addresses of a subnet's interfaces."""
    return set(tx.execute(select(INTERFACES.c.address).where(INTERFACES.c.subnet == subnet)).scalars())


def add_interface(tx: Connection, new: Interface) -> None:
    """A new one, in its groups."""
    _add(tx, INTERFACES, new)
    set_members(tx, new.id, new.groups)


def change_interface(tx: Connection, id_: str, **values: object) -> None:
    """Set columns."""
    tx.execute(update(INTERFACES).where(INTERFACES.c.id == id_).values(values))


def set_members(tx: Connection, interface: str, group_ids: Iterable[str]) -> None:
    """Replace the groups of an interface."""
    tx.execute(delete(MEMBERS).where(MEMBERS.c.interface == interface))
    rows: list[dict[str, Any]] = [
        {"interface": interface, "group": group, "place": place} for place, group in enumerate(group_ids)
    ]
    if rows:
        tx.execute(insert(MEMBERS), rows)


def remove_interface(tx: Connection, id_: str) -> None:
    """Delete it."""
    set_members(tx, id_, ())
    untag(tx, id_)
    tx.execute(delete(INTERFACES).where(INTERFACES.c.id == id_))


# ---- tags --------------------------------------------------------------------------------------------------------


def tags(tx: Connection, resource: str) -> dict[str, str]:
    """The tags of a resource."""
    return {row.key: row.value for row in tx.execute(select(TAGS).where(TAGS.c.resource == resource))}


def all_tags(tx: Connection, place: Place) -> dict[str, dict[str, str]]:
    """The tags of all resources that have some."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for row in tx.execute(select(TAGS).where(*of(place, TAGS)).order_by(TAGS.c.resource, TAGS.c.key)):
        found[row.resource][row.key] = row.value
    return found


def set_tags(tx: Connection, place: Place, resource: str, wanted: Mapping[str, str]) -> None:
    """Replace all tags of a resource."""
    untag(tx, resource)
    rows = [
        {"resource": resource, "key": key, "value": value, "account": place.account, "region": place.region}
        for key, value in wanted.items()
    ]
    if rows:
        tx.execute(insert(TAGS), rows)


def untag(tx: Connection, resource: str) -> None:
    """Remove all tags of a resource."""
    tx.execute(delete(TAGS).where(TAGS.c.resource == resource))
