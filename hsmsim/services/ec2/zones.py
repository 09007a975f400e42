"""AWS's regions and their availability zones ("AWS Regions and Availability Zones"; zone ids as AWS RAM lists them).

In AWS the letters of old regions are dealt to the zones by account; here letter and number go together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from hsmsim.errors import AwsError

_ALWAYS: Final = "opt-in-not-required"
_CHOSEN: Final = "opted-in"


@dataclass(frozen=True, slots=True)
class Zone:
    """An availability zone."""

    name: str
    id: str


@dataclass(frozen=True, slots=True)
class Region:
    """A region. opt_in: opted-in where an account must choose it in AWS; here every account has every region."""

    name: str
    opt_in: str
    zones: tuple[Zone, ...]

    @property
    def endpoint(self) -> str:
        """EC2's."""
        return f"ec2.{self.name}.amazonaws.com"

    @property
    def host_domain(self) -> str:
        """Where private DNS names end."""
        return "ec2.internal" if self.name == "us-east-1" else f"{self.name}.compute.internal"


def _region(name: str, short: str, opt_in: str = _ALWAYS, *, numbers: tuple[int, ...] = (1, 2, 3)) -> Region:
    letters = "abcdef"
    zones = tuple(Zone(f"{name}{letters[place]}", f"{short}-az{number}") for place, number in enumerate(numbers))
    return Region(name, opt_in, zones)


REGIONS: Final = {
    region.name: region
    for region in (
        _region("af-south-1", "afs1", _CHOSEN),
        _region("ap-east-1", "ape1", _CHOSEN),
        _region("ap-east-2", "ape2", _CHOSEN),
        _region("ap-northeast-1", "apne1", numbers=(4, 1, 2)),
        _region("ap-northeast-2", "apne2", numbers=(1, 2, 3, 4)),
        _region("ap-northeast-3", "apne3"),
        _region("ap-south-1", "aps1", numbers=(1, 3, 2)),
        _region("ap-south-2", "aps2", _CHOSEN),
        _region("ap-southeast-1", "apse1"),
        _region("ap-southeast-2", "apse2"),
        _region("ap-southeast-3", "apse3", _CHOSEN),
        _region("ap-southeast-4", "apse4", _CHOSEN),
        _region("ap-southeast-5", "apse5", _CHOSEN),
        _region("ap-southeast-7", "apse7", _CHOSEN),
        _region("ca-central-1", "cac1", numbers=(1, 2, 4)),
        _region("ca-west-1", "caw1", _CHOSEN),
        _region("eu-central-1", "euc1"),
        _region("eu-central-2", "euc2", _CHOSEN),
        _region("eu-north-1", "eun1"),
        _region("eu-south-1", "eus1", _CHOSEN),
        _region("eu-south-2", "eus2", _CHOSEN),
        _region("eu-west-1", "euw1"),
        _region("eu-west-2", "euw2"),
        _region("eu-west-3", "euw3"),
        _region("il-central-1", "ilc1", _CHOSEN),
        _region("me-central-1", "mec1", _CHOSEN),
        _region("me-south-1", "mes1", _CHOSEN),
        _region("mx-central-1", "mxc1", _CHOSEN),
        _region("sa-east-1", "sae1"),
        _region("us-east-1", "use1", numbers=(1, 2, 3, 4, 5, 6)),
        _region("us-east-2", "use2"),
        _region("us-west-1", "usw1", numbers=(1, 3)),
        _region("us-west-2", "usw2", numbers=(1, 2, 3, 4)),
    )
}


def region_of(name: str) -> Region:
    """Return the region; AuthFailure where AWS has none of that name."""
    found = REGIONS.get(name)
    if found is None:
        raise AwsError("AuthFailure", f"Credential should be scoped to a valid region, not '{name}'.", 401)
    return found


def zone_named(region: Region, name: str, id_: str) -> Zone | None:
    """Return the zone of this name or id; None where neither is given. InvalidParameterValue."""
    if not name and not id_:
        return None
    for zone in region.zones:
        if (not name or zone.name == name) and (not id_ or zone.id == id_):
            return zone
    member, value = ("availabilityZone", name) if name else ("availabilityZoneId", id_)
    known = ", ".join(zone.name if name else zone.id for zone in region.zones)
    raise AwsError(
        "InvalidParameterValue",
        f"Value ({value}) for parameter {member} is invalid. "
        f"Subnets can currently only be created in the following availability zones: {known}.",
    )
