"""Decisions of IAM without I/O: ids, errors, documents, tags, pages."""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import quote

from hsmsim.authz.document import MalformedPolicy, Policy, Purpose, parse
from hsmsim.errors import AwsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hsmsim.services.iam.model import EntityKind

_ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_SUFFIX: Final = 17
_VERSION_ID: Final = re.compile(r"v([1-9]\d{0,8})")
T = TypeVar("T")


# ---- ids ---------------------------------------------------------------------------------------------------------


def unique_id(prefix: str, below: Callable[[int], int]) -> str:
    """AIDA..., AROA...: the prefix and 17 signs of base 32."""
    return prefix + "".join(_ALPHABET[below(len(_ALPHABET))] for _ in range(_SUFFIX))


# ---- errors ------------------------------------------------------------------------------------------------------


def no_such(text: str) -> AwsError:
    """NoSuchEntity."""
    return AwsError("NoSuchEntity", text, 404)


def no_entity(kind: EntityKind, name: str) -> AwsError:
    """NoSuchEntity of a user, group or role."""
    return no_such(f"The {kind} with name {name} cannot be found.")


def exists(text: str) -> AwsError:
    """EntityAlreadyExists."""
    return AwsError("EntityAlreadyExists", text, 409)


def conflict(text: str) -> AwsError:
    """DeleteConflict."""
    return AwsError("DeleteConflict", text, 409)


def limit(text: str) -> AwsError:
    """LimitExceeded."""
    return AwsError("LimitExceeded", text, 409)


def quota(name: str, most: int) -> AwsError:
    """LimitExceeded by a count."""
    return limit(f"Cannot exceed quota for {name}: {most}")


def invalid(text: str) -> AwsError:
    """ValidationError."""
    return AwsError("ValidationError", text)


def protected(name: str) -> AwsError:
    """UnmodifiableEntity: a service-linked role."""
    text = f"Cannot perform the operation on the protected role '{name}' - this role is only modifiable by AWS"
    return AwsError("UnmodifiableEntity", text)


# ---- documents ---------------------------------------------------------------------------------------------------


def read_document(text: str, purpose: Purpose = Purpose.IDENTITY) -> Policy:
    """Parse; AwsError MalformedPolicyDocument."""
    try:
        return parse(text, purpose)
    except MalformedPolicy as error:
        raise AwsError("MalformedPolicyDocument", str(error)) from None


def renamed_principal(document: str, arn: str, instead: str) -> str:
    """Replace a principal of a policy; the text stays as it is where the principal is not in it."""
    policy = json.loads(document)
    statements = policy["Statement"] if isinstance(policy["Statement"], list) else [policy["Statement"]]
    found = False
    for statement in statements:
        principal = statement.get("Principal")
        named = principal.get("AWS") if isinstance(principal, dict) else None
        if named == arn or (isinstance(named, list) and arn in named):
            found = True
            principal["AWS"] = instead if named == arn else [instead if one == arn else one for one in named]
    return json.dumps(policy, separators=(",", ":")) if found else document


def size(document: str) -> int:
    """Count characters as IAM's quotas do: without white space."""
    return len(re.sub(r"\s", "", document))


def encoded(document: str) -> str:
    """Documents leave IAM URL-encoded (RFC 3986)."""
    return quote(document, safe="-_.~")


def version_number(text: str) -> int:
    """Read v3; NoSuchEntity where it is none."""
    found = _VERSION_ID.fullmatch(text)
    if found is None:
        raise no_such(f"Policy version {text} cannot be found.")
    return int(found[1])


# ---- tags --------------------------------------------------------------------------------------------------------


def merged_tags(
    before: Mapping[str, str], more: Sequence[tuple[str, str]], most: int, quota_name: str
) -> dict[str, str]:
    """Add or replace; keys are the same whatever their case. InvalidInput on reserved or repeated ones."""
    seen: set[str] = set()
    after = {key.lower(): (key, value) for key, value in before.items()}
    for key, value in more:
        if key.lower() in seen:
            raise AwsError("InvalidInput", "Duplicate tag keys found. Please note that Tag keys are case insensitive.")
        if key.lower().startswith("aws:"):
            raise AwsError("InvalidInput", "System tags are not modifiable by user actions.")
        seen.add(key.lower())
        after[key.lower()] = (key, value)
    if len(after) > most:
        raise quota(quota_name, most)
    return dict(after.values())


def without_tags(before: Mapping[str, str], keys: Sequence[str]) -> dict[str, str]:
    """Remove these, whatever their case."""
    gone = {key.lower() for key in keys}
    return {key: value for key, value in before.items() if key.lower() not in gone}


# ---- pages -------------------------------------------------------------------------------------------------------


def page(
    found: Sequence[T], key: Callable[[T], str], marker: str | None, most: int
) -> tuple[Sequence[T], dict[str, object]]:
    """Return the items behind the marker, in order of `key`, and the members IsTruncated and Marker."""
    after = _read_marker(marker) if marker else ""
    rest = sorted((one for one in found if not marker or key(one) > after), key=key)
    taken, more = rest[:most], len(rest) > most
    members: dict[str, object] = {"IsTruncated": more}
    if more:
        members["Marker"] = base64.b64encode(b"\x01" + key(taken[-1]).encode()).decode()
    return taken, members


def _read_marker(marker: str) -> str:
    try:
        mark, name = base64.b64decode(marker, validate=True)[:1], base64.b64decode(marker)[1:].decode()
    except (binascii.Error, ValueError):
        mark, name = b"", ""
    if mark != b"\x01":
        raise invalid("Invalid Marker.")
    return name
