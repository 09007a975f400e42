"""Values of CloudTrail: an event as it is kept, and what LookupEvents asks for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

RETENTION_S: Final = 90 * 86400.0
"""Of simulated time."""
PAGE: Final = 50
VALUE_SIZE: Final = 2000


class Attribute(StrEnum):
    """What events are looked up by."""

    EVENT_ID = "EventId"
    EVENT_NAME = "EventName"
    READ_ONLY = "ReadOnly"
    USERNAME = "Username"
    RESOURCE_TYPE = "ResourceType"
    RESOURCE_NAME = "ResourceName"
    EVENT_SOURCE = "EventSource"
    ACCESS_KEY_ID = "AccessKeyId"


@dataclass(frozen=True, slots=True)
class Resource:
    """Something that an event is about."""

    type: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An event as it is kept. time: simulated seconds. body: the whole record as JSON."""

    account: str
    region: str
    time: float
    id: str
    name: str
    source: str
    read_only: bool
    username: str
    access_key: str
    resources: tuple[Resource, ...]
    body: str


@dataclass(frozen=True, slots=True)
class Query:
    """Which events: of an account and region, between two times (both included, None for open), with an attribute."""

    account: str
    region: str
    start: float | None = None
    end: float | None = None
    attribute: Attribute | None = None
    value: str = ""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a page ended: behind this event, newest first."""

    time: float
    sequence: int
