"""Tags of all kinds of resources."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hsmsim.errors import AwsError
from hsmsim.services.ec2 import filters, rules, store
from hsmsim.services.ec2.model import TAGGED_AT_ONCE, Kind
from hsmsim.services.ec2.service import (
    Describe,
    Dry,
    Tag,
    arn,
    members,
    named,
    need_group,
    need_interface,
    need_subnet,
    need_vpc,
    on,
    operation,
    place_of,
    request_tags,
)
from hsmsim.services.kernel import Access, Call, Mode, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy.engine import Connection

    from hsmsim.services.network import Place

_FILTERS: Final = {
    "key": members("Key"),
    "resource-id": members("ResourceId"),
    "resource-type": members("ResourceType"),
    "value": members("Value"),
}


class _OfResources(Dry, frozen=True, kw_only=True):
    """Resources, by their ids, and tags."""

    resources: list[str]


class CreateTags(_OfResources, frozen=True, kw_only=True):
    """Tags to set."""

    tags: list[Tag]


class DeleteTags(_OfResources, frozen=True, kw_only=True):
    """Tags to remove; without any all of them."""

    tags: list[Tag] | None = None


def _need_rule(tx: Connection, place: Place, id_: str) -> None:
    if not any(rule.id == id_ for rule in store.rules_in(tx, place)):
        raise rules.missing(Kind.RULE, id_)


_NEED: Final[dict[Kind, Callable[[Connection, Place, str], object]]] = {
    Kind.VPC: need_vpc,
    Kind.SUBNET: need_subnet,
    Kind.GROUP: need_group,
    Kind.RULE: _need_rule,
    Kind.INTERFACE: need_interface,
}


def _on_resources(call: Call, request: CreateTags | DeleteTags) -> list[Access]:
    asked = request_tags({tag.key: tag.value or "" for tag in request.tags or ()})
    return [_on_resource(call, id_, asked) for id_ in request.resources]


def _on_resource(call: Call, id_: str, asked: Mapping[str, str | list[str]]) -> Access:
    kind = rules.kind_of(id_)
    if kind is None:
        return Access(f"ec2:{call.operation}")
    there = on(call, kind, id_)
    return Access(there.action, arn(call, kind, id_), call.account, context={**there.context, **asked})


def _checked(call: Call, ids: list[str]) -> list[str]:
    """Return the resources, if all are there."""
    if not ids:
        raise rules.lacking("resourceIdSet")
    if len(ids) > TAGGED_AT_ONCE:
        raise rules.invalid(f"No more than {TAGGED_AT_ONCE} resources can be tagged in one call.")
    for id_ in ids:
        kind = rules.kind_of(id_)
        if kind is None:
            raise AwsError("InvalidID", f"The ID '{id_}' is not valid")
        _NEED[kind](call.tx, place_of(call), id_)
    return list(dict.fromkeys(ids))


@operation(CreateTags, Mode.WRITE, _on_resources)
def create_tags(call: Call, request: CreateTags) -> None:
    """CreateTags."""
    if not request.tags:
        raise rules.lacking("tagSet")
    wanted = [(tag.key, tag.value or "") for tag in request.tags]
    for id_ in _checked(call, request.resources):
        after = rules.merged_tags(store.tags(call.tx, id_), wanted)
        store.set_tags(call.tx, place_of(call), id_, after)


@operation(DeleteTags, Mode.WRITE, _on_resources)
def delete_tags(call: Call, request: DeleteTags) -> None:
    """DeleteTags; a tag that is not there, or has another value than is named, stays as it is."""
    for id_ in _checked(call, request.resources):
        before = store.tags(call.tx, id_)
        gone = [(tag.key, tag.value) for tag in request.tags] if request.tags else [(key, None) for key in before]
        store.set_tags(call.tx, place_of(call), id_, rules.without_tags(before, gone))


@operation(Describe, Mode.READ, name="DescribeTags")
def describe_tags(call: Call, request: Describe) -> Response:
    """DescribeTags."""
    found: list[Mapping[str, Any]] = [
        {"ResourceId": id_, "ResourceType": kind.value, "Key": key, "Value": value}
        for id_, tags in store.all_tags(call.tx, place_of(call)).items()
        if (kind := rules.kind_of(id_)) is not None
        for key, value in tags.items()
    ]
    wanted = [(name, values) for name, values in named(request.filters) if name != "tag-key"]
    if len(wanted) < len(request.filters):
        raise rules.invalid("The filter 'tag-key' is invalid")
    kept = filters.chosen(found, wanted, _FILTERS, lambda one: {one["Key"]: one["Value"]})
    shown, more = filters.page(
        kept, lambda one: f"{one['ResourceId']} {one['Key']}", request.next_token, request.max_results
    )
    return {"Tags": shown, **more}
