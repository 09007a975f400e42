"""How EC2's operations are registered, and what they share.

Every operation first sees to it that the region has been founded for the account. A DryRun does all that the operation
would do, and undoes it: it succeeds (DryRunOperation) exactly where the operation would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from msgspec import field

from hsmsim.authz.context import tag_keys
from hsmsim.errors import AwsError
from hsmsim.services.ec2 import filters, founding, rules, store
from hsmsim.services.ec2.model import Group, Interface, Kind, Subnet, Vpc
from hsmsim.services.kernel import Access, Call, Mode, Request, Response, Service
from hsmsim.services.network import Place

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from hsmsim.storage.database import Database

Run: TypeAlias = Callable[[Call, Any], Response | None]
AccessOf: TypeAlias = Callable[[Call, Any], Iterable[Access]]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Registered:
    name: str
    request: type[Request]
    mode: Mode
    access: AccessOf
    run: Run


_OPERATIONS: Final[list[_Registered]] = []


def anywhere(call: Call, _request: object) -> list[Access]:
    """The rights of an operation that EC2 does not narrow to resources."""
    return [Access(f"ec2:{call.operation}")]


def operation(
    request: type[Request], mode: Mode, access: AccessOf = anywhere, *, name: str = ""
) -> Callable[[Run], Run]:
    """Register the decorated function as the operation of its name in PascalCase, or of `name`."""

    def register(run: Run) -> Run:
        known = name or "".join(part.capitalize() for part in run.__name__.split("_"))
        _OPERATIONS.append(_Registered(known, request, mode, access, run))
        return run

    return register


def build(database: Database) -> Service:
    """Return the service."""
    service = Service(
        "ec2", "ec2", "ec2.amazonaws.com", "ec2", denied="UnauthorizedOperation", unsupported="Unsupported"
    )
    for one in _OPERATIONS:
        if one.mode is Mode.WRITE:
            service.operation(one.request, Mode.WRITE, _founded(one.access), name=one.name)(_tried(one.run))
        else:  # BLOCK, since the first look writes
            service.operation(one.request, Mode.BLOCK, one.access, name=one.name, read_only=True)(
                _looking(database, _tried(one.run))
            )
    return service


def _founded(access: AccessOf) -> AccessOf:
    def founded(call: Call, request: Any) -> Iterable[Access]:  # noqa: ANN401 - any request
        founding.ensure(call.tx, place_of(call), call.ids)
        return access(call, request)

    return founded


def _tried(run: Run) -> Run:
    def tried(call: Call, request: Any) -> Response | None:  # noqa: ANN401 - any request
        response = run(call, request)
        if getattr(request, "dry_run", False):
            raise AwsError("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412)
        return response

    return tried


def _looking(database: Database, run: Run) -> Run:
    def looking(call: Call, request: Any) -> Response | None:  # noqa: ANN401 - any request
        with database.read() as tx:
            if store.dhcp_options(tx, place_of(call)) is not None:
                return run(replace(call, _connection=tx), request)
        call.writer.write(lambda tx: founding.ensure(tx, place_of(call), call.ids))
        with database.read() as tx:
            return run(replace(call, _connection=tx), request)

    return looking


def place_of(call: Call) -> Place:
    """Return whose network a call is about."""
    return Place(call.account, call.region)


# ---- requests ----------------------------------------------------------------------------------------------------


class Tag(Request, frozen=True):
    """A tag; where tags are removed, its value may be left open."""

    key: str
    value: str | None = None


class TagSpecification(Request, frozen=True):
    """The tags that a new resource of this type gets."""

    resource_type: str = ""
    tags: list[Tag] = field(default_factory=list)


class Filter(Request, frozen=True):
    """What a resource must be like."""

    name: str = ""
    values: list[str] = field(default_factory=list)


class Dry(Request, frozen=True):
    """A request that may be tried only."""

    dry_run: bool = False


class Tagging(Dry, frozen=True):
    """A request for a new resource."""

    tag_specifications: list[TagSpecification] = field(default_factory=list)


class Describe(Dry, frozen=True):
    """A request that is answered in pages."""

    filters: list[Filter] = field(default_factory=list)
    next_token: str | None = None
    max_results: int | None = None


class OfVpc(Dry, frozen=True, kw_only=True):
    """A VPC."""

    vpc_id: str


class BooleanValue(Request, frozen=True):
    """An attribute's value."""

    value: bool


# ---- what is there -----------------------------------------------------------------------------------------------


def _one(found: Sequence[T], kind: Kind, id_: str) -> T:
    if not found:
        raise rules.missing(kind, id_)
    return found[0]


def need_vpc(tx: Connection, place: Place, id_: str) -> Vpc:
    """Return the VPC; InvalidVpcID.NotFound."""
    return _one(store.vpcs(tx, *store.of(place, store.VPCS), store.VPCS.c.id == id_), Kind.VPC, id_)


def need_subnet(tx: Connection, place: Place, id_: str) -> Subnet:
    """Return the subnet; InvalidSubnetID.NotFound."""
    return _one(store.subnets(tx, *store.of(place, store.SUBNETS), store.SUBNETS.c.id == id_), Kind.SUBNET, id_)


def need_group(tx: Connection, place: Place, id_: str) -> Group:
    """Return the security group; InvalidGroup.NotFound."""
    return _one(store.groups(tx, *store.of(place, store.GROUPS), store.GROUPS.c.id == id_), Kind.GROUP, id_)


def need_interface(tx: Connection, place: Place, id_: str) -> Interface:
    """Return the interface; InvalidNetworkInterfaceID.NotFound."""
    mine = store.of(place, store.INTERFACES)
    return _one(store.interfaces(tx, *mine, store.INTERFACES.c.id == id_), Kind.INTERFACE, id_)


def default_vpc(tx: Connection, place: Place) -> Vpc | None:
    """Return the default VPC, if the account has one."""
    found = store.vpcs(tx, *store.of(place, store.VPCS), store.VPCS.c.default)
    return found[0] if found else None


# ---- tags --------------------------------------------------------------------------------------------------------


def pairs(specifications: Iterable[TagSpecification], kind: Kind) -> list[tuple[str, str]]:
    """Return the tags for a new resource of this kind; InvalidParameterValue where they are for another."""
    for one in specifications:
        if one.resource_type != kind.value:
            raise rules.invalid(f"'{one.resource_type}' is not a valid taggable resource type for this operation.")
    return [(tag.key, tag.value or "") for one in specifications for tag in one.tags]


def tag_new(call: Call, kind: Kind, id_: str, specifications: Iterable[TagSpecification]) -> dict[str, str]:
    """Tag a new resource; returns its tags."""
    wanted = rules.merged_tags({}, pairs(specifications, kind))
    store.set_tags(call.tx, place_of(call), id_, wanted)
    return wanted


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Return tags as responses have them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


# ---- access ------------------------------------------------------------------------------------------------------


def arn(call: Call, kind: Kind, id_: str = "*") -> str:
    """Return the ARN of a resource of the caller's."""
    return f"arn:aws:ec2:{call.region}:{call.account}:{kind}/{id_}"


def on(call: Call, kind: Kind, id_: str, **more: str) -> Access:
    """The operation on a resource that there is; more: its condition keys without the prefix ec2."""
    tags = store.tags(call.tx, id_)
    context: dict[str, str | list[str]] = {
        "ec2:Region": call.region,
        **tag_keys("aws:ResourceTag", tags),
        **tag_keys("ec2:ResourceTag", tags),
        **{f"ec2:{key}": value for key, value in more.items()},
    }
    return Access(f"ec2:{call.operation}", arn(call, kind, id_), call.account, context=context)


def on_new(call: Call, kind: Kind, specifications: Iterable[TagSpecification], **more: str) -> list[Access]:
    """The operation on what it makes; with tags, CreateTags as well."""
    context = _new_keys(call, specifications) | {f"ec2:{key}": value for key, value in more.items()}
    new = Access(f"ec2:{call.operation}", arn(call, kind), call.account, context=context)
    return [new, *on_tags(call, kind, specifications)]


def on_tags(call: Call, kind: Kind, specifications: Iterable[TagSpecification]) -> list[Access]:
    """CreateTags on what an operation makes, if it makes it with tags."""
    if not any(one.tags for one in specifications):
        return []
    context = _new_keys(call, specifications) | {"ec2:CreateAction": call.operation}
    return [Access("ec2:CreateTags", arn(call, kind), call.account, context=context)]


def _new_keys(call: Call, specifications: Iterable[TagSpecification]) -> dict[str, str | list[str]]:
    tags = {tag.key: tag.value or "" for one in specifications for tag in one.tags}
    return {"ec2:Region": call.region, **request_tags(tags)}


def request_tags(tags: Mapping[str, str]) -> dict[str, str | list[str]]:
    """Return the condition keys of tags that a request gives."""
    keys: dict[str, str | list[str]] = {**tag_keys("aws:RequestTag", tags)}
    return keys | ({"aws:TagKeys": list(tags)} if tags else {})


def in_vpc(call: Call, id_: str) -> dict[str, str]:
    """Return the condition key ec2:Vpc."""
    return {"Vpc": arn(call, Kind.VPC, id_)}


# ---- describing --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Described:
    """How a kind is described. parameter: the one that lists ids. filters: by name, of the members of a response."""

    kind: Kind
    parameter: str
    id: str
    filters: Mapping[str, filters.Values[Mapping[str, Any]]]
    tags: str = "Tags"


def members(*names: str) -> filters.Values[Mapping[str, Any]]:
    """A filter on a member of the response; several names lead through structures and lists, whose items count all."""

    def values(shown: Mapping[str, Any]) -> Iterable[object]:
        found: list[Any] = [shown]
        for name in names:
            inner = [one[name] for one in found if name in one]
            found = [item for one in inner for item in (one if isinstance(one, list) else [one])]
        return found

    return values


def describe(
    how: Described, request: Describe, ids: Sequence[str], found: Iterable[Mapping[str, Any]]
) -> tuple[list[Mapping[str, Any]], dict[str, str]]:
    """Return a page of what is shown, and NextToken: those with the ids, or all, that meet the filters."""
    if ids and request.max_results is not None:
        raise rules.clash(f"The parameter {how.parameter} cannot be used with the parameter maxResults")
    known = {one[how.id]: one for one in found}
    for id_ in ids:
        if id_ not in known:
            raise rules.missing(how.kind, id_)
    wanted = [known[id_] for id_ in dict.fromkeys(ids)] if ids else list(known.values())
    kept = filters.chosen(wanted, named(request.filters), how.filters, lambda one: _tags(one[how.tags]))
    return filters.page(kept, lambda one: str(one[how.id]), request.next_token, request.max_results)


def named(wanted: Iterable[Filter]) -> list[tuple[str, list[str]]]:
    """Return filters as names and values."""
    return [(one.name, one.values) for one in wanted]


def _tags(shown: Iterable[Mapping[str, str]]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in shown}
