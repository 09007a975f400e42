"""How CloudHSM's operations are registered, and what they share.

An operation is a function of CloudHsm (what the service holds), the call and the request. The resources that it is
authorised on are those of AWS's service authorization reference: clusters and backups by their ARNs, "*" for what
describes; the condition keys are aws:ResourceTag, aws:RequestTag and aws:TagKeys.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, TypeVar

from hsmsim.authz.context import tag_keys
from hsmsim.ids import new_id
from hsmsim.services.cloudhsm import rules, store
from hsmsim.services.cloudhsm.model import Backup, Cluster, Hsm, Settings, arn_of
from hsmsim.services.kernel import Access, Call, Mode, Request, Response, Service

if TYPE_CHECKING:
    from hsmsim.services.network import Network

WORKER: Final = "cloudhsm"
T = TypeVar("T")


class LinkedRoles(Protocol):
    """IAM's part: the role of this service in the caller's account."""

    def access(self, call: Call, service: str) -> list[Access]:
        """What the caller must be allowed for `ensure`."""

    def ensure(self, call: Call, service: str) -> str:
        """Make the role in the call's transaction if there is none; returns its ARN."""


@dataclass(frozen=True, slots=True)
class CloudHsm:
    """What the service holds. wake: of the reconciler of this name."""

    network: Network
    roles: LinkedRoles
    settings: Settings
    wake: Callable[[str], None]

    def due(self, call: Call, what: str) -> float:
        """Return when a transition that begins now may end."""
        return call.clock.time() + self.settings.time_scale * rules.DURATION_S[what]

    def follow(self, call: Call) -> None:
        """Have the worker look at the rows once they are durable."""
        call.after(partial(self.wake, WORKER))


Run: TypeAlias = Callable[[CloudHsm, Call, Any], Response | None]
AccessOf: TypeAlias = Callable[[CloudHsm, Call, Any], Iterable[Access]]


@dataclass(frozen=True, slots=True)
class _Registered:
    name: str
    request: type[Request]
    mode: Mode
    access: AccessOf
    run: Run


_OPERATIONS: Final[list[_Registered]] = []


def operation(request: type[Request], mode: Mode, access: AccessOf) -> Callable[[Run], Run]:
    """Register the decorated function as the operation of its name in PascalCase."""

    def register(run: Run) -> Run:
        name = "".join(part.capitalize() for part in run.__name__.split("_"))
        _OPERATIONS.append(_Registered(name, request, mode, access, run))
        return run

    return register


def build(holds: CloudHsm) -> Service:
    """Return the service."""
    service = Service(
        "cloudhsmv2",
        "cloudhsm",
        "cloudhsm.amazonaws.com",
        "cloudhsm",
        denied="CloudHsmAccessDeniedException",
        failure="CloudHsmInternalFailureException",
    )
    for one in _OPERATIONS:
        service.operation(one.request, one.mode, partial(one.access, holds), name=one.name)(partial(one.run, holds))
    return service


# ---- requests --------------------------------------------------------------------------------------------------------


class Tag(Request, frozen=True):
    """A tag."""

    key: str
    value: str


def pairs(tags: Iterable[Tag]) -> list[tuple[str, str]]:
    """Return keys and values."""
    return [(tag.key, tag.value) for tag in tags]


# ---- access ----------------------------------------------------------------------------------------------------------


def everywhere(_holds: CloudHsm, call: Call, _request: Request) -> Iterable[Access]:
    """An operation that AWS authorises on no resource."""
    return (Access(f"cloudhsm:{call.operation}"),)


def on_cluster(_holds: CloudHsm, call: Call, request: Any) -> Iterable[Access]:  # noqa: ANN401 - any with cluster_id
    """The cluster that the request names."""
    return (access_to(call, request.cluster_id),)


def on_backup(_holds: CloudHsm, call: Call, request: Any) -> Iterable[Access]:  # noqa: ANN401 - any with backup_id
    """The backup that the request names."""
    return (access_to(call, request.backup_id),)


def on_resource(_holds: CloudHsm, call: Call, request: Any) -> Iterable[Access]:  # noqa: ANN401 - any with resource_id
    """The cluster or backup that a request about tags names."""
    keys = request_tags(pairs(getattr(request, "tag_list", ())))
    if named := list(getattr(request, "tag_key_list", ())):
        keys["aws:TagKeys"] = named
    return (access_to(call, request.resource_id, keys),)


def access_to(call: Call, id_: str, context: Mapping[str, str | list[str]] | None = None, action: str = "") -> Access:
    """Return the access to a cluster or backup of the caller's account, with its tags and its policy."""
    found = store.backup(call.tx, id_) if id_.startswith("backup-") else None
    tags = store.tags(call.tx, id_)
    return Access(
        f"cloudhsm:{action or call.operation}",
        arn_of(id_.partition("-")[0], call.account, call.region, id_),
        call.account,
        policy=found.policy or None if found and _own(call, found) else None,
        context={**tag_keys("aws:ResourceTag", tags), **(context or {})},
    )


def request_tags(tags: Sequence[tuple[str, str]]) -> dict[str, str | list[str]]:
    """Return the condition keys for tags that a request sets."""
    if not tags:
        return {}
    return {**tag_keys("aws:RequestTag", dict(tags)), "aws:TagKeys": [key for key, _ in tags]}


# ---- what operations share -------------------------------------------------------------------------------------------


def _own(call: Call, found: Cluster | Backup) -> bool:
    return (found.account, found.region) == (call.account, call.region)


def need_cluster(call: Call, id_: str) -> tuple[Cluster, list[Hsm]]:
    """Return the caller's cluster and its HSMs; CloudHsmResourceNotFoundException."""
    found = store.cluster(call.tx, id_)
    if found is None or not _own(call, found) or found.ended:
        raise rules.missing("Cluster", id_)
    return found, store.hsms_of(call.tx, id_)


def need_backup(call: Call, id_: str) -> Backup:
    """Return the caller's backup; CloudHsmResourceNotFoundException."""
    found = store.backup(call.tx, id_)
    if found is None or not _own(call, found):
        raise rules.missing("Backup", id_)
    return found


def fresh_id(call: Call, prefix: str) -> str:
    """Return a new id of AWS's shape."""
    return new_id(prefix, call.ids.below)


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Return tags as responses have them."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def page(items: Sequence[T], key: Callable[[T], str], token: str | None, size: int) -> tuple[Sequence[T], str | None]:
    """Return a page of what is in order, and the token of the next one. A token names the last item of its page."""
    start = 0
    if token is not None:
        try:
            last = base64.urlsafe_b64decode(token.encode()).decode()
        except (ValueError, binascii.Error) as error:
            raise rules.invalid("NextToken is none that this operation gave.") from error
        places = [number for number, item in enumerate(items) if key(item) == last]
        if not places:
            raise rules.invalid("NextToken is none that this operation gave, or what it stands for is gone.")
        start = places[0] + 1
    taken = items[start : start + size]
    more = start + size < len(items)
    return taken, base64.urlsafe_b64encode(key(taken[-1]).encode()).decode() if more else None
