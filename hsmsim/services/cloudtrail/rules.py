"""Decisions of CloudTrail without I/O: what is kept of an event, and what LookupEvents may be asked.

The sentences of the errors are ours: AWS documents the codes only.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from hsmsim.errors import AwsError
from hsmsim.services.cloudtrail import resources
from hsmsim.services.cloudtrail.model import PAGE, VALUE_SIZE, Attribute, Entry, Position, Query

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_DOUBLE: Final = frozenset("_ ,\n")
_TOKEN: Final = struct.Struct(">16sdq")


# ---- what is kept ------------------------------------------------------------------------------------------------


def entry(event: Mapping[str, Any]) -> Entry:
    """What is kept of a record (gateway.audit makes them)."""
    identity = event["userIdentity"]
    return Entry(
        account=event["recipientAccountId"],
        region=event["awsRegion"],
        time=datetime.fromisoformat(event["eventTime"]).timestamp(),
        id=event["eventID"],
        name=event["eventName"],
        source=event["eventSource"],
        read_only=event["readOnly"],
        username=username(identity),
        access_key=identity.get("accessKeyId", ""),
        resources=resources.of(event),
        body=msgspec.json.encode(event).decode(),
    )


def username(identity: Mapping[str, Any]) -> str:
    """Username: a user's name, `root`, the session's name of a role or federated user; empty for an AWS service."""
    if "userName" in identity:
        return str(identity["userName"])
    if identity["type"] == "Root":
        return "root"
    return str(identity.get("arn", "")).rpartition("/")[2]


# ---- what is asked -----------------------------------------------------------------------------------------------


def attribute(asked: Sequence[tuple[str, str]]) -> tuple[Attribute | None, str]:
    """Check LookupAttributes; InvalidLookupAttributesException."""
    if not asked:
        return None, ""
    if len(asked) > 1:
        raise _invalid_attribute(f"One lookup attribute at a time can be specified, not {len(asked)}.")
    ((key, value),) = asked
    try:
        known = Attribute(key)
    except ValueError:
        raise _invalid_attribute(f"{key[:64]!r} is none of {', '.join(Attribute)}.") from None
    size = len(value) + sum(sign in _DOUBLE for sign in value)
    if not 1 <= size <= VALUE_SIZE:
        raise _invalid_attribute(f"The value of {known} must have 1 to {VALUE_SIZE} characters, not {size}.")
    if known is Attribute.READ_ONLY and value not in {"true", "false"}:
        raise _invalid_attribute(f"The value of {known} must be true or false, not {value[:64]!r}.")
    return known, value


def _invalid_attribute(text: str) -> AwsError:
    return AwsError("InvalidLookupAttributesException", text)


def times(start: datetime | None, end: datetime | None) -> tuple[float | None, float | None]:
    """Check StartTime and EndTime; InvalidTimeRangeException."""
    if start is not None and end is not None and start > end:
        raise AwsError("InvalidTimeRangeException", f"The start time {start} is after the end time {end}.")
    return (start.timestamp() if start else None, end.timestamp() if end else None)


def page_size(asked: int | None) -> int:
    """Check MaxResults; InvalidMaxResultsException."""
    if asked is not None and not 1 <= asked <= PAGE:
        raise AwsError("InvalidMaxResultsException", f"MaxResults must be 1 to {PAGE}, not {asked}.")
    return asked or PAGE


def category(asked: str | None) -> None:
    """Check EventCategory: there are management events only, and they have none."""
    if asked == "insight":
        raise AwsError(
            "UnsupportedOperationException",
            "hsmsim has no Insights events; leave EventCategory out to look up management events.",
        )
    if asked is not None:
        raise AwsError("InvalidEventCategoryException", f"{asked[:64]!r} is no event category; there is insight.")


# ---- pages -------------------------------------------------------------------------------------------------------


def token(query: Query, position: Position) -> str:
    """NextToken: a position, and which query it belongs to. It gives no right: the query names the account."""
    return base64.urlsafe_b64encode(_TOKEN.pack(_digest(query), position.time, position.sequence)).decode()


def position(query: Query, text: str | None) -> Position | None:
    """Read NextToken; InvalidNextTokenException where it is none, or of another query."""
    if text is None:
        return None
    try:
        digest, time, sequence = _TOKEN.unpack(base64.b64decode(text, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, struct.error):
        digest, time, sequence = b"", 0.0, 0
    if digest != _digest(query):
        raise AwsError(
            "InvalidNextTokenException",
            "The token is not valid, or the call that it comes from had other parameters. Start without a token.",
        )
    return Position(time, sequence)


def _digest(query: Query) -> bytes:
    return hashlib.sha256(msgspec.json.encode(query)).digest()[:16]
