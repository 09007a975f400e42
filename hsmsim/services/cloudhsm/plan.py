"""What happens to a cluster next, as a pure function of its rows and of what its HSMs' processes say.

Rules: one step at a time; each step leaves rows from which the same function finds the next one, so that a gateway that
was killed anywhere goes on. A step whose time has not come is none (`next_due` says when). A backup that something
waits for is a row first (Hsm.backup), then an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from hsmsim.services.cloudhsm.model import DAY_S, BackupState, ClusterState, HsmState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from hsmsim.services.cloudhsm.model import Backup, Hsm, Scene


class Do(Enum):
    """Kinds of steps; what each does is in worker.py."""

    CREATED = auto()
    RESTORED = auto()
    INITIALIZE = auto()
    ACTIVATED = auto()
    DELETE_CLUSTER = auto()
    BACKUP = auto()
    BACKUP_FOR = auto()
    WRITE_IMAGE = auto()
    COPY_IMAGE = auto()
    ABANDON = auto()
    CREATE_HSM = auto()
    DELETE_HSM = auto()
    LIMIT = auto()
    UNLIMIT = auto()
    REPLACE = auto()
    RETIRE = auto()
    MIGRATED = auto()
    END_ROLLBACK = auto()
    HEALTH = auto()
    EXPIRE = auto()
    REMOVE = auto()
    WIPE = auto()


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do. id: of the HSM or the backup that it is about, if it is about one."""

    do: Do
    id: str = ""


def next_step(scene: Scene, wanted_images: frozenset[str] = frozenset()) -> Step | None:
    """Return what is due, if anything is. wanted_images: backups that an HSM is being made from."""
    for part in (_images, _STATES.get(scene.cluster.state, _nothing), _periodic, _retention):
        step = next(part(scene), None)
        if step is not None:
            return step
    return next(_wipe(scene.backups, wanted_images), None)


def next_of_loose(backup: Backup, now: float, wanted_images: frozenset[str] = frozenset()) -> Step | None:
    """Return what is due to a backup that no cluster rules."""
    if backup.state is BackupState.CREATE_IN_PROGRESS and backup.due <= now:
        return Step(Do.COPY_IMAGE, backup.id)
    return next(_removal([backup], now), None) or next(_wipe([backup], wanted_images), None)


def loose_due(backup: Backup, now: float) -> float | None:
    """Return the next time at which something may be due to a backup that no cluster rules."""
    times = [backup.due] + ([backup.delete_at] if backup.state is BackupState.PENDING_DELETION else [])
    return min((time for time in times if time > now), default=None)


def next_due(scene: Scene) -> float | None:
    """Return the next time at which something may be due; None if only a change of rows or processes can make it so."""
    times = [scene.cluster.due, scene.cluster.rollback_until]
    times += [hsm.due for hsm in scene.hsms]
    for backup in scene.backups:
        times.append(backup.due)
        if backup.state is BackupState.READY and not backup.never_expires:
            times.append(_expiry(scene, backup))
        if backup.state is BackupState.PENDING_DELETION:
            times.append(backup.delete_at)
    if scene.hsms:
        times.append(_last_backup(scene) + DAY_S)
    later = [time for time in times if time > scene.now]
    return min(later) if later else None


# ---- backups ---------------------------------------------------------------------------------------------------------


def _images(scene: Scene) -> Iterator[Step]:
    """A backup waits for an HSM that serves, and is given up once none can come back."""
    lost = all(hsm.state is HsmState.DELETE_IN_PROGRESS for hsm in scene.hsms)
    for backup in scene.backups:
        if backup.state is not BackupState.CREATE_IN_PROGRESS or backup.due > scene.now:
            continue
        if _serves(scene):
            yield Step(Do.WRITE_IMAGE, backup.id)
        elif lost:
            yield Step(Do.ABANDON, backup.id)


def _periodic(scene: Scene) -> Iterator[Step]:
    """At least one in 24 hours, of a cluster to which nothing happens."""
    quiet = scene.cluster.state is ClusterState.ACTIVE and all(
        hsm.state in {HsmState.ACTIVE, HsmState.DEGRADED} for hsm in scene.hsms
    )
    busy = any(backup.state is BackupState.CREATE_IN_PROGRESS for backup in scene.backups)
    last = _last_backup(scene)
    set_back = scene.now < last  # the clock: else there would be none until it has come so far again
    if quiet and not busy and _serves(scene) and (scene.now >= last + DAY_S or set_back):
        yield Step(Do.BACKUP)


def _last_backup(scene: Scene) -> float:
    return scene.backups[-1].created if scene.backups else scene.cluster.created


def _expiry(scene: Scene, backup: Backup) -> float:
    """One that was taken back is kept for as long again: else retention would take it away at once."""
    return max(backup.created, backup.restored) + scene.cluster.retention * DAY_S


def _retention(scene: Scene) -> Iterator[Step]:
    ready = [backup for backup in scene.backups if backup.state is BackupState.READY]
    for backup in ready[:-1]:
        if not backup.never_expires and scene.now >= _expiry(scene, backup):
            yield Step(Do.EXPIRE, backup.id)
    yield from _removal(scene.backups, scene.now)


def _removal(backups: Iterable[Backup], now: float) -> Iterator[Step]:
    for backup in backups:
        if backup.state is BackupState.PENDING_DELETION and now >= backup.delete_at:
            yield Step(Do.REMOVE, backup.id)


def _wipe(backups: Iterable[Backup], wanted_images: frozenset[str]) -> Iterator[Step]:
    for backup in backups:
        if backup.state is BackupState.DELETED and backup.image and backup.id not in wanted_images:
            yield Step(Do.WIPE, backup.id)


# ---- clusters --------------------------------------------------------------------------------------------------------


def _nothing(_scene: Scene) -> Iterator[Step]:
    yield from ()


def _due(scene: Scene) -> bool:
    return scene.cluster.due <= scene.now


def _creating(scene: Scene) -> Iterator[Step]:
    if _due(scene):
        yield Step(Do.CREATED)


def _initializing(scene: Scene) -> Iterator[Step]:
    if _due(scene) and scene.cluster.source_backup:
        yield Step(Do.RESTORED)
    elif _due(scene) and _serves(scene):
        yield Step(Do.INITIALIZE)


def _deleting(scene: Scene) -> Iterator[Step]:
    if _due(scene):
        yield Step(Do.DELETE_CLUSTER)


def _settled(scene: Scene) -> Iterator[Step]:
    """UNINITIALIZED, INITIALIZED, ACTIVE: HSMs come and go."""
    if scene.cluster.state is ClusterState.INITIALIZED and any(seen.activated for seen in scene.seen.values()):
        yield Step(Do.ACTIVATED)
    for hsm in scene.hsms:
        if hsm.state is HsmState.CREATE_IN_PROGRESS:
            yield from _arriving(scene, hsm)
        elif hsm.state is HsmState.DELETE_IN_PROGRESS:
            yield from _leaving(scene, hsm)
    yield from _health(scene)
    if any(seen.limited for seen in scene.seen.values()):
        yield Step(Do.UNLIMIT)
    if 0 < scene.cluster.rollback_until <= scene.now:
        yield Step(Do.END_ROLLBACK)


def _arriving(scene: Scene, hsm: Hsm) -> Iterator[Step]:
    """A new HSM: from the others after a backup of them, from an image, or as the first of all."""
    others = [other for other in scene.hsms if other.id != hsm.id and other.state is HsmState.ACTIVE]
    active = scene.cluster.state is ClusterState.ACTIVE
    if active and any(_up(scene, other) for other in others):
        yield from _backed_up(scene, hsm, Do.CREATE_HSM)
    elif hsm.due <= scene.now and (hsm.image or not active or _up(scene, hsm)):
        yield Step(Do.CREATE_HSM, hsm.id)


def _leaving(scene: Scene, hsm: Hsm) -> Iterator[Step]:
    if scene.cluster.state is ClusterState.ACTIVE and (hsm.backup or _serves(scene)):
        yield from _backed_up(scene, hsm, Do.DELETE_HSM)
    elif hsm.due <= scene.now:
        yield Step(Do.DELETE_HSM, hsm.id)


def _backed_up(scene: Scene, hsm: Hsm, do: Do) -> Iterator[Step]:
    """The step, once its backup was made, and its time has come."""
    if not hsm.backup:
        yield Step(Do.BACKUP_FOR, hsm.id)
    elif _written(scene, hsm.backup) and hsm.due <= scene.now:
        yield Step(do, hsm.id)


def _health(scene: Scene) -> Iterator[Step]:
    """HSMs that do not serve are DEGRADED until they do."""
    for hsm in scene.hsms:
        if hsm.state in {HsmState.ACTIVE, HsmState.DEGRADED} and (hsm.state is HsmState.ACTIVE) != _up(scene, hsm):
            yield Step(Do.HEALTH, hsm.id)


def _up(scene: Scene, hsm: Hsm) -> bool:
    seen = scene.seen.get(hsm.id)
    return seen is not None and seen.serves


def _serves(scene: Scene) -> bool:
    return any(seen.serves for seen in scene.seen.values())


def _written(scene: Scene, backup_id: str) -> bool:
    """Whether a backup is there, or can never be."""
    return all(backup.id != backup_id or backup.state is not BackupState.CREATE_IN_PROGRESS for backup in scene.backups)


# ---- another HSM type ------------------------------------------------------------------------------------------------


def _former(scene: Scene) -> list[Hsm]:
    """The HSMs that are still of another type than the one that is wanted."""
    return [hsm for hsm in scene.hsms if hsm.hsm_type != scene.cluster.target]


def _coming(scene: Scene) -> Iterator[Step]:
    for hsm in scene.hsms:
        if hsm.state is HsmState.CREATE_IN_PROGRESS and hsm.due <= scene.now:
            yield Step(Do.CREATE_HSM, hsm.id)


def _migrating(scene: Scene) -> Iterator[Step]:
    """HSM by HSM: backup, its successor, its end. Writes are limited from after the first backup to the end."""
    successors = {hsm.replaces: hsm for hsm in scene.hsms if hsm.replaces}
    for hsm in _former(scene):
        successor = successors.get(hsm.id)
        if successor is None:
            yield from _replaced(scene, hsm)
        elif successor.state is HsmState.ACTIVE:
            yield Step(Do.RETIRE, hsm.id)
        elif successor.due <= scene.now:
            yield Step(Do.CREATE_HSM, successor.id)
        yield from _health(scene)
        return
    if any(seen.limited for seen in scene.seen.values()):
        yield Step(Do.UNLIMIT)
    yield Step(Do.MIGRATED)


def _replaced(scene: Scene, hsm: Hsm) -> Iterator[Step]:
    if not _serves(scene):
        return
    if not hsm.backup:
        yield Step(Do.BACKUP_FOR, hsm.id)
    elif _written(scene, hsm.backup):
        limited = all(seen.limited for seen in scene.seen.values() if seen.serves)
        yield Step(Do.REPLACE if limited else Do.LIMIT, hsm.id)


def _rolling_back(scene: Scene) -> Iterator[Step]:
    """All HSMs end; their successors grow from the backup that was made before the migration."""
    replaced = {hsm.replaces for hsm in scene.hsms}
    for hsm in _former(scene):
        yield Step(Do.RETIRE if hsm.id in replaced else Do.REPLACE, hsm.id)
    yield from _coming(scene)
    if all(hsm.state is not HsmState.CREATE_IN_PROGRESS for hsm in scene.hsms):
        yield Step(Do.MIGRATED)


_STATES: Final[Mapping[ClusterState, Callable[[Scene], Iterator[Step]]]] = {
    ClusterState.CREATE_IN_PROGRESS: _creating,
    ClusterState.UNINITIALIZED: _settled,
    ClusterState.INITIALIZE_IN_PROGRESS: _initializing,
    ClusterState.INITIALIZED: _settled,
    ClusterState.ACTIVE: _settled,
    ClusterState.MODIFY_IN_PROGRESS: _migrating,
    ClusterState.ROLLBACK_IN_PROGRESS: _rolling_back,
    ClusterState.DELETE_IN_PROGRESS: _deleting,
}
