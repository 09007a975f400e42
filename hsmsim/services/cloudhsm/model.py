"""CloudHSM's values. Times are simulated seconds since the epoch; `due`: when the state that a row is in may end."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

SERVICE: Final = "cloudhsm.amazonaws.com"
DAY_S: Final = 86_400.0
WEEK_S: Final = 7 * DAY_S


class ClusterState(StrEnum):
    """The model's, but those that are shown only (rules.shown_state): UPDATE_IN_PROGRESS and DEGRADED are no rows'."""

    CREATE_IN_PROGRESS = "CREATE_IN_PROGRESS"
    UNINITIALIZED = "UNINITIALIZED"
    INITIALIZE_IN_PROGRESS = "INITIALIZE_IN_PROGRESS"
    INITIALIZED = "INITIALIZED"
    ACTIVE = "ACTIVE"
    UPDATE_IN_PROGRESS = "UPDATE_IN_PROGRESS"
    MODIFY_IN_PROGRESS = "MODIFY_IN_PROGRESS"
    ROLLBACK_IN_PROGRESS = "ROLLBACK_IN_PROGRESS"
    DELETE_IN_PROGRESS = "DELETE_IN_PROGRESS"
    DELETED = "DELETED"
    DEGRADED = "DEGRADED"


class HsmState(StrEnum):
    """The model's; an HSM that is DELETED has no row."""

    CREATE_IN_PROGRESS = "CREATE_IN_PROGRESS"
    ACTIVE = "ACTIVE"
    DEGRADED = "DEGRADED"
    DELETE_IN_PROGRESS = "DELETE_IN_PROGRESS"


class BackupState(StrEnum):
    """The model's."""

    CREATE_IN_PROGRESS = "CREATE_IN_PROGRESS"
    READY = "READY"
    PENDING_DELETION = "PENDING_DELETION"
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM, each empty until the cluster has it."""

    csr: str = ""
    hsm: str = ""
    aws_hardware: str = ""
    manufacturer_hardware: str = ""
    cluster: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A cluster. subnets: by availability zone. signed, anchor: what InitializeCluster was given, both PEM.

    target: the HSM type that a migration or rollback goes to. former, former_image, rollback_until: what a rollback
    goes back to, with which backup, and until when; empty without one.
    """

    id: str
    account: str
    region: str
    state: ClusterState
    message: str
    due: float
    created: float
    hsm_type: str
    mode: str
    retention: int
    source_backup: str
    vpc: str
    group: str
    subnets: Mapping[str, str]
    certificates: Certificates
    signed: str
    anchor: str
    target: str
    former: str
    former_image: str
    rollback_until: float
    ended: float

    @property
    def arn(self) -> str:
        """Its ARN."""
        return arn_of("cluster", self.account, self.region, self.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hsm:
    """An HSM.

    backup: the one that must be READY before what is under way goes on. image: what the first HSM of a cluster is made
    from. replaces: the HSM whose place it takes in a migration.
    """

    id: str
    cluster: str
    state: HsmState
    message: str
    due: float
    created: float
    hsm_type: str
    zone: str
    subnet: str
    eni: str
    ip: str
    backup: str
    image: str
    replaces: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """A backup. certificate: the cluster certificate of its cluster. image: whether its file is there, or will be.

    delete_at: when PENDING_DELETION ends, or when the backup was deleted. restored: when RestoreBackup took it back,
    else 0. source_backup, source_region, source_cluster, copied: of a copy from another region, and when it was asked
    for. loose: no cluster's retention rules it, and no cluster comes back from it by itself: a copy, or an import.
    """

    id: str
    account: str
    region: str
    cluster: str
    state: BackupState
    due: float
    created: float
    hsm_type: str
    mode: str
    certificate: str
    never_expires: bool
    delete_at: float
    policy: str
    image: bool
    source_backup: str = ""
    source_region: str = ""
    source_cluster: str = ""
    copied: float = 0.0
    restored: float = 0.0
    loose: bool = False

    @property
    def arn(self) -> str:
        """Its ARN."""
        return arn_of("backup", self.account, self.region, self.id)


def arn_of(kind: str, account: str, region: str, id_: str) -> str:
    """Return the ARN of a cluster or backup."""
    return f"arn:aws:cloudhsm:{region}:{account}:{kind}/{id_}"


@dataclass(frozen=True, slots=True)
class Seen:
    """An HSM's process as the fleet sees it now.

    activated: its cluster has an admin. limited: token keys and users stay as they are.
    """

    serves: bool
    activated: bool = False
    limited: bool = False


@dataclass(frozen=True, slots=True)
class Scene:
    """All that decides what happens to a cluster next. backups: as they were made."""

    cluster: Cluster
    hsms: tuple[Hsm, ...]
    backups: tuple[Backup, ...]
    seen: Mapping[str, Seen]
    now: float


@dataclass(frozen=True, slots=True)
class Quotas:
    """AWS's, "AWS CloudHSM quotas"; the first two are per account and region."""

    clusters: int = 4
    hsms: int = 6
    hsms_per_cluster: int = 28


@dataclass(frozen=True, slots=True)
class Unverified:
    """What no source that we read says of AWS: a decision that a client could trip over, so it can be taken otherwise.

    shows_update: a cluster that gains or loses an HSM shows UPDATE_IN_PROGRESS. shown_s: how long what is DELETED is
    still described. quota: the code of the error where a quota is reached (the model lists no better one for
    CreateCluster and CreateHsm). mode_from_backup: a cluster of a backup needs no Mode, it is the backup's.
    """

    shows_update: bool = False
    shown_s: float = DAY_S
    quota: str = "CloudHsmInvalidRequestException"
    mode_from_backup: bool = True


@dataclass(frozen=True, slots=True)
class Settings:
    """time_scale: the part of AWS's real time that a transition takes."""

    time_scale: float = 0.0
    quotas: Quotas = field(default_factory=Quotas)
    unverified: Unverified = field(default_factory=Unverified)
