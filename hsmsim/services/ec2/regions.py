"""Regions and availability zones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from msgspec import field

from hsmsim.errors import AwsError
from hsmsim.services.ec2 import filters
from hsmsim.services.ec2.rules import invalid
from hsmsim.services.ec2.service import Dry, Filter, members, named, operation
from hsmsim.services.ec2.zones import REGIONS, Region, Zone, region_of
from hsmsim.services.kernel import Call, Mode, Response

if TYPE_CHECKING:
    from collections.abc import Mapping

_REGION_FILTERS: Final = {
    "endpoint": members("Endpoint"),
    "opt-in-status": members("OptInStatus"),
    "region-name": members("RegionName"),
}
_ZONE_FILTERS: Final = {
    "group-name": members("GroupName"),
    "message": members("Messages", "Message"),
    "opt-in-status": members("OptInStatus"),
    "parent-zone-id": members("ParentZoneId"),
    "parent-zone-name": members("ParentZoneName"),
    "region-name": members("RegionName"),
    "state": members("State"),
    "zone-id": members("ZoneId"),
    "zone-type": members("ZoneType"),
    "zone-name": members("ZoneName"),
}


class DescribeRegions(Dry, frozen=True):
    """Regions; all_regions: those too that the account has not chosen, of which there are none here."""

    region_names: list[str] = field(default_factory=list)
    all_regions: bool = False
    filters: list[Filter] = field(default_factory=list)


class DescribeAvailabilityZones(Dry, frozen=True):
    """Zones of the region; all_availability_zones: those too that the account has not chosen, likewise."""

    zone_names: list[str] = field(default_factory=list)
    zone_ids: list[str] = field(default_factory=list)
    all_availability_zones: bool = False
    filters: list[Filter] = field(default_factory=list)


@operation(DescribeRegions, Mode.READ)
def describe_regions(_call: Call, request: DescribeRegions) -> Response:
    """DescribeRegions."""
    for name in request.region_names:
        if name not in REGIONS:
            raise invalid(f"Invalid region names: [{name}]")
    names = request.region_names or list(REGIONS)
    found = [_shown_region(REGIONS[name]) for name in dict.fromkeys(names)]
    return {"Regions": filters.chosen(found, named(request.filters), _REGION_FILTERS)}


def _shown_region(region: Region) -> Mapping[str, Any]:
    return {"RegionName": region.name, "Endpoint": region.endpoint, "OptInStatus": region.opt_in}


@operation(DescribeAvailabilityZones, Mode.READ)
def describe_availability_zones(call: Call, request: DescribeAvailabilityZones) -> Response:
    """DescribeAvailabilityZones."""
    region = region_of(call.region)
    if request.zone_names and request.zone_ids:
        raise AwsError("InvalidParameterCombination", "ZoneNames and ZoneIds cannot be given together.")
    _check(request.zone_names, {zone.name for zone in region.zones})
    _check(request.zone_ids, {zone.id for zone in region.zones})
    found = [
        _shown_zone(region, zone)
        for zone in region.zones
        if (not request.zone_names or zone.name in request.zone_names)
        and (not request.zone_ids or zone.id in request.zone_ids)
    ]
    return {"AvailabilityZones": filters.chosen(found, named(request.filters), _ZONE_FILTERS)}


def _check(wanted: list[str], known: set[str]) -> None:
    for one in wanted:
        if one not in known:
            raise invalid(f"Invalid availability zone: [{one}]")


def _shown_zone(region: Region, zone: Zone) -> Mapping[str, Any]:
    return {
        "State": "available",
        "OptInStatus": "opt-in-not-required",
        "Messages": [],
        "RegionName": region.name,
        "ZoneName": zone.name,
        "ZoneId": zone.id,
        "GroupName": f"{region.name}-zg-1",
        "NetworkBorderGroup": region.name,
        "ZoneType": "availability-zone",
    }
