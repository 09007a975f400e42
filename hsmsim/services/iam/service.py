"""How IAM's operations are registered, and what they share.

An operation is a function of Iam (what the service holds), the call and the request. Its rights are asked for on the
resource that the request names, with the condition keys that IAM documents: tags, iam:PolicyARN and
iam:PermissionsBoundary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from hsmsim.authz.context import tag_keys
from hsmsim.authz.principal import Kind
from hsmsim.services.iam import rules, store
from hsmsim.services.iam.model import PAGE, Entity, EntityKind
from hsmsim.services.kernel import Access, Call, Mode, Request, Response, Service

if TYPE_CHECKING:
    from hsmsim.services.iam.directory import Directory, Principal


@dataclass(frozen=True, slots=True)
class Iam:
    """What the service holds."""

    directory: Directory


Run: TypeAlias = Callable[[Iam, Call, Any], Response | None]
AccessOf: TypeAlias = Callable[[Iam, Call, Any], Access]


@dataclass(frozen=True, slots=True)
class _Registered:
    name: str
    request: type[Request]
    mode: Mode
    access: AccessOf
    run: Run


_OPERATIONS: Final[list[_Registered]] = []


def operation(request: type[Request], mode: Mode, access: AccessOf, *, name: str = "") -> Callable[[Run], Run]:
    """Register the decorated function as the operation of its name in PascalCase, or of `name`."""

    def register(run: Run) -> Run:
        known = name or "".join(part.capitalize() for part in run.__name__.split("_"))
        _OPERATIONS.append(_Registered(known, request, mode, access, run))
        return run

    return register


def build(directory: Directory) -> Service:
    """Return the service over what is in the directory."""
    service = Service(
        "iam",
        "iam",
        "iam.amazonaws.com",
        "iam",
        denied="AccessDenied",
        unsupported="NotImplemented",
        failure="ServiceFailure",
        region="us-east-1",
    )
    iam = Iam(directory)

    def accessed(access: AccessOf) -> Callable[[Call, Any], Iterable[Access]]:
        return lambda call, request: (access(iam, call, request),)

    for one in _OPERATIONS:
        service.operation(one.request, one.mode, accessed(one.access), name=one.name)(partial(one.run, iam))
    return service


# ---- requests ----------------------------------------------------------------------------------------------------


class Tag(Request, frozen=True):
    """A tag."""

    key: str
    value: str


class Paged(Request, frozen=True):
    """A request that is answered in pages."""

    marker: str | None = None
    max_items: int = PAGE


def pairs(tags: Iterable[Tag]) -> list[tuple[str, str]]:
    """Return keys and values."""
    return [(tag.key, tag.value) for tag in tags]


# ---- access ------------------------------------------------------------------------------------------------------


def on_entity(kind: EntityKind) -> AccessOf:
    """The user, group or role that the request names; a new one where it has a path; the caller where it names none."""

    def access(iam: Iam, call: Call, request: Any) -> Access:  # noqa: ANN401 - any request with the name in it
        name = getattr(request, f"{kind}_name") or own_name(call, required=False)
        known = iam.directory.named(call.account, kind, name)
        path = known.entity.path if known else getattr(request, "path", "/")
        arn = f"arn:aws:iam::{call.account}:{kind}{path}{name}"
        context = _request_keys(request) | (_resource_keys(known) if known else {})
        return Access(f"iam:{call.operation}", arn, call.account, context=context)

    return access


def on_policy(iam: Iam, call: Call, request: Any) -> Access:  # noqa: ANN401 - any request with policy_arn
    """The managed policy that the request names."""
    managed = iam.directory.managed(request.policy_arn)
    context = _request_keys(request) | (_tag_context(managed.tags) if managed else {})
    context.pop("iam:PolicyARN", None)
    return Access(f"iam:{call.operation}", request.policy_arn, call.account, context=context)


def on(resource: str) -> AccessOf:
    """One that does not depend on the request; {account} in it is the caller's."""
    return lambda _iam, call, _request: Access(f"iam:{call.operation}", resource.format(account=call.account))


def _tag_context(tags: Mapping[str, str]) -> dict[str, str | list[str]]:
    return {**tag_keys("aws:ResourceTag", tags), **tag_keys("iam:ResourceTag", tags)}


def _resource_keys(known: Principal) -> dict[str, str | list[str]]:
    keys = _tag_context(known.tags)
    if known.entity.boundary:
        keys["iam:PermissionsBoundary"] = known.entity.boundary
    return keys


def _request_keys(request: Any) -> dict[str, str | list[str]]:  # noqa: ANN401 - whatever request
    keys: dict[str, str | list[str]] = {}
    tags = pairs(getattr(request, "tags", ()))
    keys |= tag_keys("aws:RequestTag", dict(tags))
    named = [key for key, _ in tags] or list(getattr(request, "tag_keys", ()))
    if named:
        keys["aws:TagKeys"] = named
    for member, key in (("policy_arn", "iam:PolicyARN"), ("permissions_boundary", "iam:PermissionsBoundary")):
        if getattr(request, member, None):
            keys[key] = getattr(request, member)
    return keys


# ---- what operations share ---------------------------------------------------------------------------------------


def own_name(call: Call, *, required: bool = True) -> str:
    """Return the name of the user who calls; ValidationError where a session of a role does."""
    if call.caller.kind is Kind.USER:
        return call.caller.name
    if required:
        raise rules.invalid("Must specify userName when calling with non-User credentials")
    return ""


def need(call: Call, kind: EntityKind, name: str) -> Entity:
    """Return the entity of this name; NoSuchEntity."""
    found = store.entity(call.tx, call.account, kind, name)
    if found is None:
        raise rules.no_entity(kind, name)
    return found


def changeable(found: Entity) -> Entity:
    """Return it, if it is not a service-linked role, which nobody but its service changes."""
    if found.service:
        raise rules.protected(found.name)
    return found


def now(call: Call) -> float:
    """Return the time as IAM keeps it: whole seconds."""
    return float(int(call.clock.time()))


def stamp(seconds: float) -> datetime:
    """Return a timestamp for a response."""
    return datetime.fromtimestamp(seconds, UTC)


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Return tags as responses have them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def boundary_members(found: Entity) -> dict[str, Any]:
    """Return PermissionsBoundary, if there is one."""
    if not found.boundary:
        return {}
    return {"PermissionsBoundary": {"PermissionsBoundaryType": "Policy", "PermissionsBoundaryArn": found.boundary}}


def new_id(call: Call, prefix: str) -> str:
    """Return an id of IAM's shape."""
    return rules.unique_id(prefix, call.ids.below)
