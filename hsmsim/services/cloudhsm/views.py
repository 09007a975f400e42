"""Clusters, HSMs and backups as responses show them. A member that has no value is left out, as AWS does."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from hsmsim.services.cloudhsm import rules
from hsmsim.services.cloudhsm.model import BackupState, ClusterState
from hsmsim.services.cloudhsm.service import tag_list

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hsmsim.services.cloudhsm.model import Backup, Certificates, Cluster, Hsm, Unverified


def stamp(seconds: float) -> datetime:
    """Return a timestamp for a response."""
    return datetime.fromtimestamp(seconds, UTC)


def cluster(
    found: Cluster, hsms: Iterable[Hsm], tags: Mapping[str, str], now: float, unverified: Unverified
) -> dict[str, Any]:
    """Return a Cluster."""
    listed = list(hsms)
    members = {
        "BackupPolicy": "DEFAULT",
        "BackupRetentionPolicy": {"Type": "DAYS", "Value": str(found.retention)},
        "ClusterId": found.id,
        "CreateTimestamp": stamp(found.created),
        "Hsms": [hsm(one) for one in listed],
        "HsmType": found.hsm_type,
        "HsmTypeRollbackExpiration": stamp(found.rollback_until) if found.rollback_until > now else None,
        "SecurityGroup": found.group,
        "SourceBackupId": found.source_backup,
        "State": rules.shown_state(found, listed, unverified).value,
        "StateMessage": found.message,
        "SubnetMapping": dict(found.subnets),
        "VpcId": found.vpc,
        "NetworkType": "IPV4",
        "Certificates": _certificates(found.certificates, found.state),
        "TagList": tag_list(tags),
        "Mode": found.mode,
    }
    return _present(members)


def _present(members: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None and value != ""}


def _certificates(found: Certificates, state: ClusterState) -> dict[str, Any]:
    """The CSR and the hardware's certificates while the cluster waits for its own, then that one."""
    if state is ClusterState.UNINITIALIZED:
        return _present(
            {
                "ClusterCsr": found.csr,
                "HsmCertificate": found.hsm,
                "AwsHardwareCertificate": found.aws_hardware,
                "ManufacturerHardwareCertificate": found.manufacturer_hardware,
            }
        )
    return _present({"ClusterCertificate": found.cluster})


def hsm(found: Hsm) -> dict[str, Any]:
    """Return an Hsm."""
    return _present(
        {
            "AvailabilityZone": found.zone,
            "ClusterId": found.cluster,
            "SubnetId": found.subnet,
            "EniId": found.eni,
            "EniIp": found.ip,
            "HsmId": found.id,
            "HsmType": found.hsm_type,
            "State": found.state.value,
            "StateMessage": found.message,
        }
    )


def destination(copy: Backup) -> dict[str, Any]:
    """Return a DestinationBackup. CreateTimestamp is that of the backup that is copied."""
    return {
        "CreateTimestamp": stamp(copy.created),
        "SourceRegion": copy.source_region,
        "SourceBackup": copy.source_backup,
        "SourceCluster": copy.source_cluster,
    }


def backup(found: Backup, tags: Mapping[str, str]) -> dict[str, Any]:
    """Return a Backup. Of a copy, ClusterId is the cluster that was backed up: the model has it in every backup."""
    pending = found.state is BackupState.PENDING_DELETION
    return _present(
        {
            "BackupId": found.id,
            "BackupArn": found.arn,
            "BackupState": found.state.value,
            "ClusterId": found.cluster,
            "CreateTimestamp": stamp(found.created),
            "CopyTimestamp": stamp(found.copied) if found.copied else None,
            "NeverExpires": found.never_expires,
            "SourceRegion": found.source_region,
            "SourceBackup": found.source_backup,
            "SourceCluster": found.source_cluster,
            "DeleteTimestamp": stamp(found.delete_at) if pending else None,
            "TagList": tag_list(tags),
            "HsmType": found.hsm_type,
            "Mode": found.mode,
        }
    )
