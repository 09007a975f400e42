"""Timestamps: datetimes in UTC inside, and three ways to write them outside.

AWS keeps milliseconds; what a service hands out (a datetime, or seconds since the epoch) is rounded to them.
"""

from __future__ import annotations

import datetime as dt
import re
from email.utils import format_datetime, parsedate_to_datetime
from typing import Final

EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_ISO: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[Tt ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?)?\s*([Zz]|[+-]\d\d:?\d\d)?", re.ASCII
)
ISO: Final = "iso8601"
UNIX: Final = "unixTimestamp"
HTTP: Final = "rfc822"


def from_seconds(value: float) -> dt.datetime:
    """A datetime; ValueError where no calendar has it."""
    try:
        whole = int(value // 1)
        return EPOCH + dt.timedelta(seconds=whole, microseconds=round((value - whole) * 1e6))
    except (OverflowError, ValueError) as error:
        raise ValueError(f"{value} is no time") from error


def from_text(text: str) -> dt.datetime:
    """ISO 8601, RFC 822 or seconds since the epoch, as AWS takes them all; ValueError where it is none of them."""
    found = _ISO.fullmatch(text)
    if found:
        return _from_iso(found)
    try:
        return from_seconds(float(text))
    except ValueError:
        pass
    try:
        value = parsedate_to_datetime(text)
    except (IndexError, TypeError, OverflowError) as error:
        raise ValueError(f"{text!r} is no time") from error
    return value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)


def _from_iso(found: re.Match[str]) -> dt.datetime:
    year, month, day, hour, minute, second = (int(part or 0) for part in found.group(1, 2, 3, 4, 5, 6))
    fraction, zone = found.group(7) or "", found.group(8) or "Z"
    value = dt.datetime(year, month, day, hour, minute, second, int(fraction.ljust(6, "0")[:6] or 0), tzinfo=dt.UTC)
    if zone in "Zz":
        return value
    offset = dt.timedelta(hours=int(zone[1:3]), minutes=int(zone[-2:]))
    try:
        return value - offset if zone[0] == "+" else value + offset
    except OverflowError as error:
        raise ValueError(f"{found.group()!r} is no time") from error


def of(value: dt.datetime | float) -> dt.datetime:
    """What a service handed out, in UTC and whole milliseconds."""
    time = value.astimezone(dt.UTC) if isinstance(value, dt.datetime) else from_seconds(value)
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


def to_seconds(value: dt.datetime | float) -> int | float:
    """Seconds since the epoch: an int where there is no fraction."""
    since = of(value) - EPOCH
    whole = since.days * 86400 + since.seconds
    return (whole * 1000 + since.microseconds // 1000) / 1000 if since.microseconds else whole


def to_iso(value: dt.datetime | float) -> str:
    """2026-11-25T09:22:16Z, with milliseconds where there are any."""
    time = of(value)
    fraction = f".{time.microsecond // 1000:03d}" if time.microsecond else ""
    return f"{time.year:04d}-{time:%m-%dT%H:%M:%S}{fraction}Z"


def to_text(value: dt.datetime | float, style: str) -> str:
    """As the model's timestampFormat says."""
    if style == HTTP:
        return format_datetime(of(value).replace(microsecond=0), usegmt=True)
    return str(to_seconds(value)) if style == UNIX else to_iso(value)
