"""Decisions of STS without I/O: how long a session lasts, what it carries."""

from __future__ import annotations

import math
import zlib
from typing import TYPE_CHECKING

from hsmsim.authz.document import MalformedPolicy, parse
from hsmsim.authz.principal import Kind
from hsmsim.errors import AwsError
from hsmsim.services.sts.model import HOUR_S, LEAST_S, POLICY_ARNS, POLICY_SIZE, TAGS, USER_SESSION_MOST_S

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hsmsim.authz.principal import Caller, Role


def denied(text: str) -> AwsError:
    """AccessDenied."""
    return AwsError("AccessDenied", text, 403)


def role_duration(asked: int, role: Role, caller: Caller) -> int:
    """Check DurationSeconds of AssumeRole."""
    if caller.kind is Kind.ROLE and asked > HOUR_S:
        raise AwsError(
            "ValidationError",
            "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining",
        )
    if asked > role.max_session:
        raise AwsError(
            "ValidationError", "The requested DurationSeconds exceeds the MaxSessionDuration set for this role."
        )
    return _at_least(asked)


def user_duration(asked: int, caller: Caller) -> int:
    """Check DurationSeconds of GetSessionToken and GetFederationToken; root's sessions end after an hour at most."""
    if asked > USER_SESSION_MOST_S:
        raise AwsError("ValidationError", f"DurationSeconds must be at most {USER_SESSION_MOST_S}, not {asked}.")
    return min(_at_least(asked), HOUR_S) if caller.kind is Kind.ROOT else _at_least(asked)


def _at_least(asked: int) -> int:
    if asked < LEAST_S:
        raise AwsError("ValidationError", f"DurationSeconds must be at least {LEAST_S}, not {asked}.")
    return asked


def session_tags(
    caller: Caller, role_tags: Mapping[str, str], asked: Sequence[tuple[str, str]], transitive: Sequence[str]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the tags of a role's session and which of them are transitive.

    Transitive tags of the calling session come along and cannot be replaced; others replace the role's own.
    """
    keys = [key.lower() for key, _ in asked]
    kept = {key.lower(): (key, value) for key, value in caller.tags.items() if key in caller.transitive}
    if len(keys) != len(set(keys)):
        raise AwsError("InvalidParameterValue", "Duplicate tag keys found. Tag keys are case insensitive.")
    if len(keys) > TAGS:
        raise AwsError("ValidationError", f"A session has {TAGS} tags at most.")
    if kept.keys() & set(keys):
        raise AwsError(
            "InvalidParameterValue",
            "One of the specified transitive tag keys can't be set because it conflicts with a transitive tag key from "
            "the calling session.",
        )
    unknown = sorted(key for key in transitive if key.lower() not in keys)
    if unknown:
        raise AwsError(
            "InvalidParameterValue", f"The transitive tag key {unknown[0]} must be in the requested tags as well."
        )
    merged = {key.lower(): (key, value) for key, value in role_tags.items()}
    merged |= kept | {key.lower(): (key, value) for key, value in asked}
    along = {*kept, *(key.lower() for key in transitive)}
    return dict(merged.values()), tuple(key for low, (key, _) in merged.items() if low in along)


def session_policies(document: str, arns: Sequence[str]) -> tuple[str, ...]:
    """Check what narrows a session; MalformedPolicyDocument, PackedPolicyTooLarge."""
    if len(arns) > POLICY_ARNS:
        raise AwsError("ValidationError", f"A session has {POLICY_ARNS} managed policies at most.")
    if not document:
        return ()
    if len(document) > POLICY_SIZE:
        raise AwsError("PackedPolicyTooLarge", f"The session policy has more than {POLICY_SIZE} characters.")
    try:
        parse(document)
    except MalformedPolicy as error:
        raise AwsError("MalformedPolicyDocument", str(error)) from None
    return (document,)


def packed_size(policies: Sequence[str], tags: Sequence[tuple[str, str]]) -> int:
    """Return PackedPolicySize, in percent; PackedPolicyTooLarge above 100."""
    text = "".join([*policies, *(f"{key}={value};" for key, value in tags)])
    percent = math.ceil(len(zlib.compress(text.encode(), 9)) * 100 / POLICY_SIZE) if text else 0
    if percent > 100:  # noqa: PLR2004 - percent
        raise AwsError("PackedPolicyTooLarge", f"Policies and tags take {percent} percent of the allowed space.")
    return percent


def long_term(caller: Caller, operation: str) -> None:
    """AccessDenied where a session asks for what only a user or root with a long-term key gets."""
    if caller.issued or caller.kind not in {Kind.USER, Kind.ROOT}:
        raise denied(f"Cannot call {operation} with session credentials")


def same_source(caller: Caller, asked: str) -> str:
    """Return the session's source identity, which the sessions it makes cannot change."""
    if caller.source_identity and asked not in {"", caller.source_identity}:
        raise denied("The source identity of the calling session cannot be changed.")
    return asked or caller.source_identity
