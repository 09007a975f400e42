"""Inline policies, attached policies, boundaries and tags: the same operations for users, groups and roles.

Their requests differ in one member's name only (UserName, GroupName, RoleName), so each is made once per kind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import msgspec

from hsmsim.services.iam import rules, store
from hsmsim.services.iam.model import PAGE, QUOTAS, Entity, EntityKind
from hsmsim.services.iam.policies import attachable
from hsmsim.services.iam.service import Iam, Tag, changeable, need, on_entity, operation, pairs, tag_list
from hsmsim.services.kernel import Call, Mode, Request, Response

if TYPE_CHECKING:
    from collections.abc import Sequence

Work: TypeAlias = Callable[[Iam, Call, Entity, Any], Response | None]

_PAGED: Final[list[tuple[str, Any, Any]]] = [("marker", str | None, None), ("max_items", int, PAGE)]
_ALL: Final = tuple(EntityKind)
_TAGGED: Final = (EntityKind.USER, EntityKind.ROLE)


def _each(
    pattern: str,
    mode: Mode,
    fields: Sequence[tuple[str, Any] | tuple[str, Any, Any]],
    kinds: Sequence[EntityKind] = _ALL,
    *,
    protected: bool = False,
) -> Callable[[Work], Work]:
    """Register an operation for each kind; {} in its name is User, Group or Role. protected: not for service roles."""

    def register(work: Work) -> Work:
        for kind in kinds:
            name = pattern.format(kind.capitalize())
            members = [(f"{kind}_name", str), *fields]
            request = msgspec.defstruct(name, members, bases=(Request,), frozen=True, kw_only=True)

            def run(iam: Iam, call: Call, asked: Any, kind: EntityKind = kind) -> Response | None:  # noqa: ANN401 - made above
                found = need(call, kind, getattr(asked, f"{kind}_name"))
                return work(iam, call, changeable(found) if protected else found, asked)

            operation(cast(type[Request], request), mode, on_entity(kind), name=name)(run)
        return work

    return register


def _name(found: Entity) -> dict[str, str]:
    return {f"{found.kind.capitalize()}Name": found.name}


# ---- inline policies ---------------------------------------------------------------------------------------------


@_each("Put{}Policy", Mode.WRITE, [("policy_name", str), ("policy_document", str)], protected=True)
def put_policy(iam: Iam, call: Call, found: Entity, request: Any) -> None:  # noqa: ANN401 - made by _each
    """Add or replace; the quota counts all inline policies of the entity together."""
    rules.read_document(request.policy_document)
    others = store.inline(call.tx, found.id) | {request.policy_name: request.policy_document}
    most = QUOTAS[found.kind].inline
    if sum(rules.size(document) for document in others.values()) > most:
        raise rules.limit(f"Maximum policy size of {most} bytes exceeded for {found.kind} {found.name}")
    store.put_inline(call.tx, found.id, request.policy_name, request.policy_document)
    iam.directory.changed(call, entity=found.id)


@_each("Get{}Policy", Mode.READ, [("policy_name", str)])
def get_policy(_iam: Iam, call: Call, found: Entity, request: Any) -> Response:  # noqa: ANN401 - made by _each
    """One document."""
    documents = store.inline(call.tx, found.id)
    if request.policy_name not in documents:
        raise _no_inline(found, request.policy_name)
    document = rules.encoded(documents[request.policy_name])
    return {**_name(found), "PolicyName": request.policy_name, "PolicyDocument": document}


@_each("Delete{}Policy", Mode.WRITE, [("policy_name", str)], protected=True)
def delete_policy(iam: Iam, call: Call, found: Entity, request: Any) -> None:  # noqa: ANN401 - made by _each
    """Remove one."""
    if not store.drop_inline(call.tx, found.id, request.policy_name):
        raise _no_inline(found, request.policy_name)
    iam.directory.changed(call, entity=found.id)


def _no_inline(found: Entity, name: str) -> Exception:
    return rules.no_such(f"The {found.kind} policy with name {name} cannot be found.")


@_each("List{}Policies", Mode.READ, _PAGED)
def list_policies(_iam: Iam, call: Call, found: Entity, request: Any) -> Response:  # noqa: ANN401 - made by _each
    """The names."""
    taken, members = rules.page(list(store.inline(call.tx, found.id)), str, request.marker, request.max_items)
    return {"PolicyNames": list(taken), **members}


# ---- managed policies --------------------------------------------------------------------------------------------


@_each("Attach{}Policy", Mode.WRITE, [("policy_arn", str)], protected=True)
def attach_policy(iam: Iam, call: Call, found: Entity, request: Any) -> None:  # noqa: ANN401 - made by _each
    """Attach; again changes nothing."""
    attachable(call, request.policy_arn)
    before = store.attached(call.tx, found.id)
    if request.policy_arn in before:
        return
    if len(before) >= QUOTAS[found.kind].attached:
        raise rules.quota(f"PoliciesPer{found.kind.capitalize()}", QUOTAS[found.kind].attached)
    store.attach(call.tx, found.id, request.policy_arn)
    iam.directory.changed(call, entity=found.id)


@_each("Detach{}Policy", Mode.WRITE, [("policy_arn", str)], protected=True)
def detach_policy(iam: Iam, call: Call, found: Entity, request: Any) -> None:  # noqa: ANN401 - made by _each
    """Take off."""
    if not store.detach(call.tx, found.id, request.policy_arn):
        raise rules.no_such(f"Policy {request.policy_arn} was not found.")
    iam.directory.changed(call, entity=found.id)


@_each("ListAttached{}Policies", Mode.READ, [("path_prefix", str, "/"), *_PAGED])
def list_attached_policies(_iam: Iam, call: Call, found: Entity, request: Any) -> Response:  # noqa: ANN401 - made by _each
    """Names and ARNs."""
    shown = [{"PolicyName": arn.rpartition("/")[2], "PolicyArn": arn} for arn in store.attached(call.tx, found.id)]
    kept = [one for one in shown if _path(one["PolicyArn"]).startswith(request.path_prefix)]
    taken, members = rules.page(kept, lambda one: one["PolicyArn"], request.marker, request.max_items)
    return {"AttachedPolicies": list(taken), **members}


def _path(arn: str) -> str:
    return arn.partition(":policy")[2].rpartition("/")[0] + "/"


# ---- boundaries --------------------------------------------------------------------------------------------------


@_each("Put{}PermissionsBoundary", Mode.WRITE, [("permissions_boundary", str)], _TAGGED, protected=True)
def put_boundary(iam: Iam, call: Call, found: Entity, request: Any) -> None:  # noqa: ANN401 - made by _each
    """Set or replace."""
    attachable(call, request.permissions_boundary, boundary=True)
    store.change_entity(call.tx, found.id, boundary=request.permissions_boundary)
    iam.directory.changed(call, entity=found.id)


@_each("Delete{}PermissionsBoundary", Mode.WRITE, [], _TAGGED, protected=True)
def delete_boundary(iam: Iam, call: Call, found: Entity, _request: Any) -> None:  # noqa: ANN401 - made by _each
    """Remove."""
    if not found.boundary:
        raise rules.no_such(f"{found.kind.capitalize()} {found.name} does not have a permissions boundary.")
    store.change_entity(call.tx, found.id, boundary="")
    iam.directory.changed(call, entity=found.id)


# ---- tags --------------------------------------------------------------------------------------------------------


@_each("Tag{}", Mode.WRITE, [("tags", list[Tag])], _TAGGED, protected=True)
def tag(iam: Iam, call: Call, found: Entity, request: Any) -> None:  # noqa: ANN401 - made by _each
    """Add or replace."""
    before, quota = store.tags(call.tx, found.id), QUOTAS[found.kind].tags
    after = rules.merged_tags(before, pairs(request.tags), quota, f"TagsPer{found.kind.capitalize()}")
    store.set_tags(call.tx, found.id, after)
    iam.directory.changed(call, entity=found.id)


@_each("Untag{}", Mode.WRITE, [("tag_keys", list[str])], _TAGGED, protected=True)
def untag(iam: Iam, call: Call, found: Entity, request: Any) -> None:  # noqa: ANN401 - made by _each
    """Remove; those that are not there do not matter."""
    store.set_tags(call.tx, found.id, rules.without_tags(store.tags(call.tx, found.id), request.tag_keys))
    iam.directory.changed(call, entity=found.id)


@_each("List{}Tags", Mode.READ, _PAGED, _TAGGED)
def list_tags(_iam: Iam, call: Call, found: Entity, request: Any) -> Response:  # noqa: ANN401 - made by _each
    """The tags."""
    tags = store.tags(call.tx, found.id)
    taken, members = rules.page(sorted(tags), str, request.marker, request.max_items)
    return {"Tags": tag_list({key: tags[key] for key in taken}), **members}
