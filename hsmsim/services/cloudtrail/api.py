"""CloudTrail's operations. There is one event history and there are no trails: all but LookupEvents is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from msgspec import field

from hsmsim.services.cloudtrail import rules, store
from hsmsim.services.cloudtrail.model import RETENTION_S, Entry, Query
from hsmsim.services.kernel import Call, Mode, Request, Response, Service


class LookupAttribute(Request, frozen=True):
    """What to look up by."""

    attribute_key: str
    attribute_value: str


class LookupEvents(Request, frozen=True):
    """LookupEvents's members."""

    lookup_attributes: list[LookupAttribute] = field(default_factory=list)
    start_time: datetime | None = None
    end_time: datetime | None = None
    event_category: str | None = None
    max_results: int | None = None
    next_token: str | None = None


def build() -> Service:
    """Return the service."""
    service = Service(
        "cloudtrail",
        "cloudtrail",
        "cloudtrail.amazonaws.com",
        "cloudtrail",
        unsupported="UnsupportedOperationException",
    )
    service.operation(LookupEvents, Mode.READ)(lookup_events)
    return service


def lookup_events(call: Call, request: LookupEvents) -> Response:
    """LookupEvents: the account's events in the region that is called, of the last 90 days, newest first."""
    rules.category(request.event_category)
    most = rules.page_size(request.max_results)
    attribute, value = rules.attribute([(one.attribute_key, one.attribute_value) for one in request.lookup_attributes])
    start, end = rules.times(request.start_time, request.end_time)
    query = Query(call.account, call.region, start, end, attribute, value)
    after = rules.position(query, request.next_token)
    found = store.lookup(call.tx, query, after, call.clock.time() - RETENTION_S, most + 1)
    members: dict[str, Any] = {"Events": [_event(entry) for _, entry in found[:most]]}
    if len(found) > most:
        members["NextToken"] = rules.token(query, found[most - 1][0])
    return members


def _event(entry: Entry) -> dict[str, Any]:
    shown = {
        "EventId": entry.id,
        "EventName": entry.name,
        "ReadOnly": "true" if entry.read_only else "false",
        "EventTime": datetime.fromtimestamp(entry.time, UTC),
        "EventSource": entry.source,
        "Resources": [{"ResourceType": one.type, "ResourceName": one.name} for one in entry.resources],
        "CloudTrailEvent": entry.body,
    }
    known = {"AccessKeyId": entry.access_key, "Username": entry.username}
    return shown | {name: value for name, value in known.items() if value}
