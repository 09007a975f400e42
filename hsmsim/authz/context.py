"""The global condition keys of a request (IAM's "AWS global condition context keys"); names in lower case.

Keys that a request does not have are left out, as AWS does: aws:username of a role, aws:TokenIssueTime and
aws:MultiFactorAuthPresent of a long-term key.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from hsmsim.authz.principal import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hsmsim.authz.principal import Caller

_PRINCIPAL_TYPES: Final = {
    Kind.ROOT: "Account",
    Kind.USER: "User",
    Kind.ROLE: "AssumedRole",
    Kind.FEDERATED: "FederatedUser",
}


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What the request itself shows. now: seconds since the epoch. owner: the account of the resource."""

    now: float
    region: str
    source_ip: str
    user_agent: str
    secure: bool
    owner: str


def global_keys(caller: Caller, around: Circumstances) -> dict[str, tuple[str, ...]]:
    """Return the keys of this caller and request."""
    keys = {
        "aws:currenttime": _iso(around.now),
        "aws:epochtime": str(int(around.now)),
        "aws:securetransport": _boolean(around.secure),
        "aws:sourceip": around.source_ip,
        "aws:useragent": around.user_agent,
        "aws:requestedregion": around.region,
        "aws:resourceaccount": around.owner,
        "aws:viaawsservice": "false",
    } | _principal(caller)
    return {key: (value,) for key, value in keys.items() if value}


def _principal(caller: Caller) -> dict[str, str]:
    if caller.kind is Kind.SERVICE:
        return {"aws:principalisawsservice": "true", "aws:principalservicename": caller.arn}
    keys = {
        "aws:principalarn": caller.issuer if caller.kind is Kind.ROLE else caller.arn,
        "aws:principalaccount": caller.account,
        "aws:principaltype": _PRINCIPAL_TYPES[caller.kind],
        "aws:principalisawsservice": "false",
        "aws:userid": caller.user_id,
        "aws:username": caller.name if caller.kind is Kind.USER else "",
        "aws:sourceidentity": caller.source_identity,
    }
    if caller.issued:
        keys |= {"aws:tokenissuetime": _iso(caller.issued), "aws:multifactorauthpresent": "false"}
    return keys | {f"aws:principaltag/{key.lower()}": value for key, value in caller.tags.items()}


def lowered(keys: Mapping[str, str | list[str]]) -> dict[str, tuple[str, ...]]:
    """Bring the keys of a service into the evaluation's shape."""
    return {key.lower(): (value,) if isinstance(value, str) else tuple(value) for key, value in keys.items()}


def tag_keys(prefix: str, tags: Mapping[str, str]) -> dict[str, str]:
    """Return aws:RequestTag/... or aws:ResourceTag/... of these tags."""
    return {f"{prefix}/{key}": value for key, value in tags.items()}


def _boolean(value: bool) -> str:  # noqa: FBT001 - the value itself
    return "true" if value else "false"


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
