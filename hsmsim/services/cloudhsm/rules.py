"""What CloudHSM allows and shows: states, limits, and the sentences of its errors.

AWS documents none of these. Three are known from users, who quote them: of the HSM type, of the mode, and of the second
HSM (issue 7437 of hashicorp/terraform-provider-aws); they are AWS's, and then say what to do.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from hsmsim.errors import AwsError, HsmsimError
from hsmsim.services.cloudhsm.model import (
    BackupState,
    Cluster,
    ClusterState,
    Hsm,
    HsmState,
    Quotas,
    Settings,
    Unverified,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from hsmsim.services.cloudhsm.model import Backup

RETENTION_DAYS: Final = range(7, 380)
DEFAULT_RETENTION: Final = 90
TAGS: Final = 50
MIGRATED_HSMS: Final = 27
FIPS: Final = "FIPS"
MODES_OF: Final = {"hsm1.medium": (FIPS,), "hsm2m.medium": (FIPS, "NON_FIPS")}
LATEST_TYPE: Final = "hsm2m.medium"
PORTS: Final = (2223, 2225)


_PREFIX: Final = "cloudhsm."
_Named = TypeVar("_Named", Quotas, Unverified)

DURATION_S: Final[Mapping[str, float]] = {
    "CreateCluster": 60.0,
    "InitializeCluster": 180.0,
    "DeleteCluster": 60.0,
    "CreateHsm": 420.0,
    "DeleteHsm": 180.0,
    "Backup": 120.0,
    "CopyBackup": 300.0,
    "Migration": 1800.0,
}
"""What AWS takes, about; migration by HSM ("about 30 minutes per HSM" in AWS's guide)."""


def settings(time_scale: float, quotas: Mapping[str, object], unverified: Mapping[str, object]) -> Settings:
    """Return the service's settings; quotas and unverified have those of other services, too, by cloudhsm.NAME.

    HsmsimError for a name that there is not, or a value of the wrong type.
    """
    return Settings(time_scale, _own("quota", quotas, Quotas), _own("unverified decision", unverified, Unverified))


def _own(what: str, given: Mapping[str, object], type_: type[_Named]) -> _Named:
    own = {name.removeprefix(_PREFIX): value for name, value in given.items() if name.startswith(_PREFIX)}
    known = [one.name for one in fields(type_)]
    for name in own:
        if name not in known:
            raise HsmsimError(f"There is no {what} {_PREFIX}{name}. There are: {', '.join(known)}.")
    try:
        return msgspec.convert(own, type_)
    except msgspec.ValidationError as error:
        raise HsmsimError(f"A {what} of CloudHSM has the wrong type: {error}.") from error


# ---- errors ----------------------------------------------------------------------------------------------------------


def invalid(message: str) -> AwsError:
    """The error for a request that cannot be met."""
    return AwsError("CloudHsmInvalidRequestException", message)


def missing(what: str, id_: str) -> AwsError:
    """The error for a resource that is not there."""
    return AwsError("CloudHsmResourceNotFoundException", f"{what} {id_} not found.")


def unsupported(what: str) -> AwsError:
    """The error for what AWS has and hsmsim has not."""
    return AwsError("NotImplementedException", f"hsmsim does not support {what}.", 501)


def _quota(settings: Settings, what: str, limit: int) -> AwsError:
    return AwsError(settings.unverified.quota, f"The quota is reached: {what} can be {limit} at most.")


# ---- clusters --------------------------------------------------------------------------------------------------------


def state_of(cluster: Cluster, hsms: Iterable[Hsm]) -> ClusterState:
    """Return the state that decides what is allowed: an active cluster of HSMs of which none serves is DEGRADED."""
    states = {hsm.state for hsm in hsms}
    if cluster.state is ClusterState.ACTIVE and HsmState.DEGRADED in states and HsmState.ACTIVE not in states:
        return ClusterState.DEGRADED
    return cluster.state


def shown_state(cluster: Cluster, hsms: Iterable[Hsm], unverified: Unverified) -> ClusterState:
    """Return the state that clients see."""
    listed = list(hsms)
    state, states = state_of(cluster, listed), {hsm.state for hsm in listed}
    changes = states & {HsmState.CREATE_IN_PROGRESS, HsmState.DELETE_IN_PROGRESS}
    if unverified.shows_update and changes and state is ClusterState.ACTIVE:
        return ClusterState.UPDATE_IN_PROGRESS
    return state


def is_shown(ended: float, now: float, unverified: Unverified) -> bool:
    """Return whether what ended then (0: not yet) is still described."""
    return ended == 0 or now < ended + unverified.shown_s


def check_state(cluster: Cluster, hsms: Iterable[Hsm], operation: str, *allowed: ClusterState) -> None:
    """Refuse an operation that the cluster's state does not allow."""
    state = state_of(cluster, hsms)
    if state not in allowed:
        names = " or ".join(allowed)
        raise invalid(f"{operation} needs a cluster that is {names}; {cluster.id} is {state}.")


def retention_days(kind: str | None, value: str | None) -> int:
    """Return the days of a BackupRetentionPolicy."""
    days = int(value) if kind == "DAYS" and value else 0
    if days not in RETENTION_DAYS:
        low, high = RETENTION_DAYS[0], RETENTION_DAYS[-1]
        raise invalid(f"BackupRetentionPolicy must have the type DAYS and a value from {low} to {high}.")
    return days


def mode_of(hsm_type: str, wanted: str | None, source: Backup | None, unverified: Unverified) -> str:
    """Return the mode of a new cluster: the one asked for or the backup's; a type with a single one needs neither."""
    if hsm_type not in MODES_OF:
        raise invalid(f"Provided HsmType is not supported. Available are: {', '.join(MODES_OF)}.")
    modes, known = MODES_OF[hsm_type], wanted or (source and unverified.mode_from_backup)
    if len(modes) > 1 and not known:
        raise invalid(f"Mode is a required argument for this hsm type. It is {' or '.join(modes)}.")
    mode = wanted or (source.mode if source else FIPS)
    if source is not None and mode != source.mode:
        raise invalid(f"{source.id} is of a cluster in mode {source.mode}; it cannot become one in mode {mode}.")
    if mode not in modes:
        raise invalid(f"Clusters of {hsm_type} are in mode {' or '.join(modes)}, not {mode}.")
    return mode


def check_source(source: Backup, hsm_type: str) -> None:
    """Refuse a backup that no cluster of this type can be made from."""
    if source.state is not BackupState.READY:
        raise invalid(f"A cluster is made from a backup that is READY; {source.id} is {source.state}.")
    if source.hsm_type == LATEST_TYPE != hsm_type:
        raise invalid(f"A backup of {source.hsm_type} cannot be restored to {hsm_type}.")


def check_cluster_quota(count: int, settings: Settings) -> None:
    """Refuse one cluster more than there may be."""
    limit = settings.quotas.clusters
    if count >= limit:
        raise _quota(settings, "clusters of an account in a region", limit)


def subnet_mapping(subnets: Sequence[tuple[str, str, str]]) -> tuple[str, dict[str, str]]:
    """Return the VPC and the subnets by zone, given (subnet, VPC, zone) of each."""
    vpcs = {vpc for _, vpc, _ in subnets}
    if len(vpcs) != 1:
        raise invalid("The subnets of a cluster must be in one VPC.")
    mapping = {zone: subnet for subnet, _, zone in subnets}
    if len(mapping) != len(subnets):
        raise invalid("A cluster has one subnet in an availability zone; two of these are in the same one.")
    return vpcs.pop(), mapping


def check_delete(cluster: Cluster, hsms: Sequence[Hsm]) -> None:
    """Refuse to delete a cluster that has HSMs, or that something happens to."""
    if hsms:
        raise invalid(f"{cluster.id} has {len(hsms)} HSM(s). Delete them first.")
    check_state(
        cluster, hsms, "DeleteCluster", ClusterState.UNINITIALIZED, ClusterState.INITIALIZED, ClusterState.ACTIVE
    )


def check_migration(cluster: Cluster, hsms: Sequence[Hsm], hsm_type: str, now: float) -> ClusterState:
    """Return the state that a change of the HSM type begins with; refuse one that cannot be."""
    check_state(cluster, hsms, "A change of the HSM type", ClusterState.ACTIVE)
    if hsm_type not in MODES_OF or cluster.mode not in MODES_OF[hsm_type]:
        raise invalid(f"{cluster.id} cannot become a cluster of {hsm_type} in mode {cluster.mode}.")
    if hsm_type == cluster.hsm_type:
        raise invalid(f"{cluster.id} is a cluster of {hsm_type} already.")
    if not hsms or any(hsm.state is not HsmState.ACTIVE for hsm in hsms):
        raise invalid("A change of the HSM type needs HSMs, all of them ACTIVE.")
    if len(hsms) > MIGRATED_HSMS:
        raise invalid(f"A change of the HSM type needs room: {MIGRATED_HSMS} HSMs at most.")
    if hsm_type == LATEST_TYPE:
        return ClusterState.MODIFY_IN_PROGRESS
    if hsm_type != cluster.former or now >= cluster.rollback_until:
        raise invalid(f"{cluster.id} can go back to the HSM type that it had, within 24 hours; not to {hsm_type} now.")
    return ClusterState.ROLLBACK_IN_PROGRESS


# ---- HSMs ------------------------------------------------------------------------------------------------------------

_NOT_ACTIVATED: Final = {ClusterState.UNINITIALIZED, ClusterState.INITIALIZE_IN_PROGRESS, ClusterState.INITIALIZED}


def check_create_hsm(cluster: Cluster, hsms: Sequence[Hsm], zone: str, in_region: int, settings: Settings) -> None:
    """Refuse an HSM that the cluster cannot have now."""
    if hsms and cluster.state in _NOT_ACTIVATED:
        raise invalid(
            f"Cluster '{cluster.id}' already contains an HSM but has not yet been fully activated. Initialize and "
            "activate it first."
        )
    check_state(cluster, hsms, "CreateHsm", ClusterState.UNINITIALIZED, ClusterState.ACTIVE)
    if zone not in cluster.subnets:
        raise invalid(f"{cluster.id} has no subnet in {zone}. It has: {', '.join(sorted(cluster.subnets))}.")
    quotas = settings.quotas
    if in_region >= quotas.hsms:
        raise _quota(settings, "HSMs of an account in a region", quotas.hsms)
    if len(hsms) >= quotas.hsms_per_cluster:
        raise _quota(settings, "HSMs of a cluster", quotas.hsms_per_cluster)


def source_of(cluster: Cluster, hsms: Sequence[Hsm], own: Sequence[Backup], source: Backup | None) -> str:
    """Return the backup that a new HSM grows from where the cluster is ACTIVE and has none: the latest; else empty.

    own: the cluster's backups, as they were made; source: the one that it was made from itself.
    """
    if cluster.state is not ClusterState.ACTIVE or any(hsm.state is not HsmState.CREATE_IN_PROGRESS for hsm in hsms):
        return ""
    ready = [one for one in (*([source] if source else []), *own) if one.state is BackupState.READY]
    if not ready:
        raise invalid(f"{cluster.id} has no HSM, and no backup that is READY: take back a deletion with RestoreBackup.")
    return ready[-1].id


def chosen_hsm(hsms: Sequence[Hsm], hsm_id: str | None, eni: str | None, ip: str | None) -> Hsm:
    """Return the HSM that DeleteHsm names by exactly one of three."""
    given = [(name, value) for name, value in (("id", hsm_id), ("eni", eni), ("ip", ip)) if value]
    if len(given) != 1:
        raise invalid("DeleteHsm needs exactly one of HsmId, EniId and EniIp.")
    name, value = given[0]
    found = next((hsm for hsm in hsms if getattr(hsm, name) == value), None)
    if found is None:
        raise missing("HSM", value)
    return found


def check_delete_hsm(cluster: Cluster, hsms: Sequence[Hsm], hsm: Hsm) -> None:
    """Refuse to delete an HSM while something happens to its cluster. One that does not come up may be deleted."""
    states = [ClusterState.UNINITIALIZED, ClusterState.INITIALIZED, ClusterState.ACTIVE, ClusterState.DEGRADED]
    check_state(cluster, hsms, "DeleteHsm", *states)
    if hsm.state is HsmState.DELETE_IN_PROGRESS:
        raise invalid(f"{hsm.id} is being deleted already.")


# ---- backups, tags ---------------------------------------------------------------------------------------------------


def check_backup(backup: Backup, operation: str, wanted: BackupState) -> None:
    """Refuse an operation that needs the backup in another state."""
    if backup.state is not wanted:
        raise invalid(f"{operation} needs a backup that is {wanted}; {backup.id} is {backup.state}.")


def check_copy(backup: Backup, destination: str, *, there: bool) -> None:
    """Refuse a copy that cannot be made. there: whether there is such a region."""
    check_backup(backup, "CopyBackupToRegion", BackupState.READY)
    if destination == backup.region:
        raise invalid(f"{backup.id} is in {destination}. A copy is made in another region.")
    if not there:
        raise invalid(f"{destination} is no region that backups of {backup.region} can be copied to.")


def tag_error(message: str) -> AwsError:
    """The error for tags that cannot be."""
    return AwsError("CloudHsmTagException", message)


def check_tags(new: Sequence[tuple[str, str]], existing: Mapping[str, str]) -> dict[str, str]:
    """Return the new tags; refuse those that AWS keeps for itself, those given twice, and too many."""
    tags = dict(new)
    if len(tags) != len(new):
        raise tag_error("A tag key is given twice.")
    if any(key.lower().startswith("aws:") for key in tags):
        raise tag_error("Tag keys that begin with aws: are AWS's own.")
    if len({**existing, **tags}) > TAGS:
        raise AwsError("CloudHsmResourceLimitExceededException", f"A resource has {TAGS} tags at most.")
    return tags


def check_filters(filters: Mapping[str, Sequence[str]], known: Iterable[str]) -> None:
    """Refuse a filter that there is not."""
    for name in filters:
        if name not in known:
            raise invalid(f"There is no filter {name}. There are: {', '.join(known)}.")
