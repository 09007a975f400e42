"""Makes HSM processes, images and rows follow each other, step by step as plan.py says.

Rules: what is done outside of the database is named by an id that is in a row already, and can be asked for again; then
one transaction writes what came of it. A gateway that is killed between the two does it again. A cluster that cannot go
on (its fleet is away, no HSM answers) says why in the StateMessage of what is under way, and is tried again; it
holds up no other.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from hsmsim.errors import HsmsimError
from hsmsim.fleet import protocol
from hsmsim.ids import new_id
from hsmsim.services.cloudhsm import rules, store
from hsmsim.services.cloudhsm.loose import Fleet, Loose
from hsmsim.services.cloudhsm.model import (
    WEEK_S,
    Backup,
    BackupState,
    Certificates,
    ClusterState,
    Hsm,
    HsmState,
    Scene,
    Seen,
    Settings,
)
from hsmsim.services.cloudhsm.plan import Do, Step, next_due, next_step
from hsmsim.services.cloudhsm.service import WORKER
from hsmsim.services.network import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy.engine import Connection

    from hsmsim.clock import Clock
    from hsmsim.services.cloudhsm.model import Cluster
    from hsmsim.services.kernel import Ids, Writer
    from hsmsim.services.network import Network
    from hsmsim.storage.database import Database

_LOG: Final = logging.getLogger("hsmsim.cloudhsm")
POLL_S: Final = 0.5
"""How often the HSMs are looked at: for an activation, or one that does not serve any more."""
STEPS: Final = 8
"""Of one cluster, before the others have their turn."""
MESSAGE_CHARS: Final = 300
RETRY_S: Final = (0.5, 5.0)
"""Until a step that failed is tried again: at first, doubled by each failure, and at most."""
LOOSE: Final = "loose"
"""The part that is no cluster: the backups that none rules."""


class Worker:
    """The reconciler of all clusters, each a part of its own, and of the backups that no cluster rules, one part."""

    name = WORKER

    def __init__(
        self,
        database: Database,
        writer: Writer,
        clock: Clock,
        ids: Ids,
        fleet: Fleet,
        network: Network,
        settings: Settings,
    ) -> None:
        self._database = database
        self._writer = writer
        self._clock = clock
        self._ids = ids
        self._fleet = fleet
        self._network = network
        self._settings = settings
        self._loose = Loose(database, writer, clock, fleet)
        self._retry = RETRY_S
        self._failures: dict[str, tuple[int, float]] = {}
        self._steps: Mapping[Do, Callable[[Scene, str], None]] = {
            Do.CREATED: self._created,
            Do.RESTORED: self._restored,
            Do.INITIALIZE: self._initialize,
            Do.ACTIVATED: self._activated,
            Do.DELETE_CLUSTER: self._delete_cluster,
            Do.BACKUP: self._backup,
            Do.BACKUP_FOR: self._backup_for,
            Do.WRITE_IMAGE: self._write_image,
            Do.ABANDON: self._abandon,
            Do.CREATE_HSM: self._create_hsm,
            Do.DELETE_HSM: self._delete_hsm,
            Do.LIMIT: self._limit,
            Do.UNLIMIT: self._unlimit,
            Do.REPLACE: self._replace,
            Do.RETIRE: self._retire,
            Do.MIGRATED: self._migrated,
            Do.END_ROLLBACK: self._end_rollback,
            Do.HEALTH: self._health,
            Do.EXPIRE: self._expire,
            Do.REMOVE: self._remove,
            Do.WIPE: self._wipe,
        }

    # ---- going on ------------------------------------------------------------------------------------------------

    def parts(self) -> list[str]:
        """Return the clusters' ids, and LOOSE."""
        with self._database.read() as tx:
            return [*(cluster.id for cluster in store.clusters(tx)), LOOSE]

    def step(self, part: str) -> float | None:
        """Do some steps of one part; seconds until it needs another look, None where only a wake can bring one."""
        return self._loose.step() if part == LOOSE else self._follow(part)

    def _follow(self, cluster_id: str) -> float | None:
        failures, until = self._failures.get(cluster_id, (0, 0.0))
        left = until - self._clock.monotonic_ns() / 1e9
        if left > 0:
            return left
        try:
            pause = self._go_on(cluster_id)
        except HsmsimError as error:
            pause = min(self._retry[0] * 2**failures, self._retry[1])
            self._failures[cluster_id] = failures + 1, self._clock.monotonic_ns() / 1e9 + pause
            self._tell(cluster_id, error)
        else:
            self._failures.pop(cluster_id, None)
        return pause

    def _go_on(self, cluster_id: str) -> float | None:
        for _ in range(STEPS):
            scene, wanted = self._look(cluster_id)
            step = next_step(scene, wanted)
            if step is None:
                due = next_due(scene)
                pauses = [] if due is None else [max(0.0, due - scene.now)]
                return min(pauses + ([POLL_S] if scene.hsms else []), default=None)
            self._do(scene, step)
        return 0.0

    def _look(self, cluster_id: str) -> tuple[Scene, frozenset[str]]:
        with self._database.read() as tx:
            cluster = store.cluster(tx, cluster_id)
            hsms = store.hsms_of(tx, cluster_id)
            backups = store.backups_of(tx, cluster_id)
            wanted = store.wanted_images(tx)
        assert cluster is not None  # noqa: S101 - the rows of clusters are never removed
        views = self._fleet.call(protocol.ListHsms(cluster_id), list[protocol.HsmView]) if hsms else []
        own = {hsm.id for hsm in hsms}
        seen = {view.hsm_id: _seen(view) for view in views if view.hsm_id in own}
        return Scene(cluster, tuple(hsms), tuple(backups), seen, self._clock.time()), wanted

    def _do(self, scene: Scene, step: Step) -> None:
        _LOG.info("%s (%s): %s %s", scene.cluster.id, scene.cluster.state, step.do.name, step.id)
        self._steps[step.do](scene, step.id)

    def _tell(self, cluster_id: str, error: Exception) -> None:
        """Say why a cluster does not go on, on whatever is under way."""
        _LOG.warning("%s does not go on now: %s", cluster_id, error)
        text = str(error)[:MESSAGE_CHARS]
        moving = (HsmState.CREATE_IN_PROGRESS.value, HsmState.DELETE_IN_PROGRESS.value)

        def work(tx: Connection) -> None:
            store.change_hsms(tx, store.HSMS.c.cluster == cluster_id, store.HSMS.c.state.in_(moving), message=text)
            cluster = store.cluster(tx, cluster_id)
            if cluster is not None and cluster.state.value.endswith("_IN_PROGRESS"):
                store.change_cluster(tx, cluster, message=text)

        self._writer.write(work)

    def _ask(self, request: protocol.Request) -> None:
        self._fleet.call(request, Any)

    def _due(self, what: str) -> float:
        return self._clock.time() + self._settings.time_scale * rules.DURATION_S[what]

    def _set(self, cluster: Cluster, **values: Any) -> None:  # noqa: ANN401 - the fields' own
        """Set fields of a cluster, unless an operation changed its state meanwhile."""

        def work(tx: Connection) -> None:
            now = store.cluster(tx, cluster.id)
            if now is not None and now.state is cluster.state:
                store.change_cluster(tx, now, **values)

        self._writer.write(work)

    # ---- clusters ------------------------------------------------------------------------------------------------

    def _created(self, scene: Scene, _id: str) -> None:
        restored = bool(scene.cluster.source_backup)
        state = ClusterState.INITIALIZE_IN_PROGRESS if restored else ClusterState.UNINITIALIZED
        due = self._due("InitializeCluster") if restored else 0.0
        self._set(scene.cluster, state=state, message="", due=due)

    def _restored(self, scene: Scene, _id: str) -> None:
        self._set(scene.cluster, state=ClusterState.ACTIVE, message="")

    def _initialize(self, scene: Scene, _id: str) -> None:
        cluster = scene.cluster
        self._ask(protocol.Initialize(cluster.id, cluster.signed.encode(), cluster.anchor.encode()))
        shown = self._fleet.call(protocol.Certificates(cluster.id), protocol.CertificatesView)
        found = Certificates(cluster=shown.cluster.decode())
        self._set(cluster, state=ClusterState.INITIALIZED, message="", certificates=found, signed="")

    def _activated(self, scene: Scene, _id: str) -> None:
        def work(tx: Connection) -> None:
            store.change_cluster(tx, scene.cluster, state=ClusterState.ACTIVE)
            self._add_backup(tx, scene)

        self._writer.write(work)

    def _delete_cluster(self, scene: Scene, _id: str) -> None:
        cluster = scene.cluster
        self._ask(protocol.DeleteCluster(cluster.id))

        def work(tx: Connection) -> None:
            self._network.delete_group(tx, Place(cluster.account, cluster.region), cluster.group)
            store.change_cluster(
                tx, cluster, state=ClusterState.DELETED, message="", rollback_until=0.0, ended=self._clock.time()
            )

        self._writer.write(work)

    # ---- backups -------------------------------------------------------------------------------------------------

    def _add_backup(self, tx: Connection, scene: Scene) -> str:
        """A backup that is to be made; its id."""
        cluster = scene.cluster
        new = Backup(
            id=new_id("backup", self._ids.below),
            account=cluster.account,
            region=cluster.region,
            cluster=cluster.id,
            state=BackupState.CREATE_IN_PROGRESS,
            due=self._due("Backup"),
            created=self._clock.time(),
            hsm_type=next((hsm.hsm_type for hsm in scene.hsms), cluster.hsm_type),
            mode=cluster.mode,
            certificate=cluster.certificates.cluster,
            never_expires=False,
            delete_at=0.0,
            policy="",
            image=True,
        )
        store.add_backup(tx, new)
        return new.id

    def _backup(self, scene: Scene, _id: str) -> None:
        self._writer.write(partial(self._add_backup, scene=scene))

    def _backup_for(self, scene: Scene, id_: str) -> None:
        def work(tx: Connection) -> None:
            store.change_hsm(tx, _hsm(scene, id_), backup=self._add_backup(tx, scene))

        self._writer.write(work)

    def _write_image(self, scene: Scene, id_: str) -> None:
        self._fleet.call(protocol.Backup(scene.cluster.id, id_, scene.cluster.region), protocol.ImageView)
        self._set_backup(scene, id_, state=BackupState.READY)

    def _abandon(self, scene: Scene, id_: str) -> None:
        """No HSM can write it any more."""
        self._set_backup(scene, id_, state=BackupState.DELETED, delete_at=scene.now)

    def _expire(self, scene: Scene, id_: str) -> None:
        self._set_backup(scene, id_, state=BackupState.PENDING_DELETION, delete_at=scene.now + WEEK_S)

    def _remove(self, scene: Scene, id_: str) -> None:
        self._set_backup(scene, id_, state=BackupState.DELETED)

    def _wipe(self, scene: Scene, id_: str) -> None:
        self._ask(protocol.DeleteImage(id_))
        self._set_backup(scene, id_, image=False)

    def _set_backup(self, scene: Scene, id_: str, **values: Any) -> None:  # noqa: ANN401 - the fields' own
        """Set fields of a backup, unless an operation changed its state meanwhile."""
        found = next(backup for backup in scene.backups if backup.id == id_)

        def work(tx: Connection) -> None:
            now = store.backup(tx, id_)
            if now is not None and (now.state, now.never_expires) == (found.state, found.never_expires):
                store.change_backup(tx, now, **values)

        self._writer.write(work)

    # ---- HSMs ----------------------------------------------------------------------------------------------------

    def _create_hsm(self, scene: Scene, id_: str) -> None:
        cluster, hsm = scene.cluster, _hsm(scene, id_)
        self._fleet.call(
            protocol.CreateHsm(
                cluster.id, id_, model=hsm.hsm_type, mode=cluster.mode, image_id=hsm.image, region=cluster.region
            ),
            protocol.HsmView,
        )
        found = cluster.certificates
        if cluster.state is ClusterState.UNINITIALIZED:
            shown = self._fleet.call(protocol.Certificates(cluster.id), protocol.CertificatesView)
            found = Certificates(
                shown.csr.decode(),
                shown.hsm.decode(),
                shown.aws_hardware.decode(),
                shown.manufacturer_hardware.decode(),
            )

        def work(tx: Connection) -> None:
            (now,) = store.hsms(tx, store.HSMS.c.id == id_)
            if now.state is HsmState.CREATE_IN_PROGRESS:
                store.change_hsm(tx, now, state=HsmState.ACTIVE, message="", backup="", image="")
            store.change_cluster(tx, cluster, certificates=found)

        self._writer.write(work)

    def _delete_hsm(self, scene: Scene, id_: str) -> None:
        """A cluster that was never active begins again when its last HSM goes: nobody has its key then."""
        cluster, hsm = scene.cluster, _hsm(scene, id_)
        self._ask(protocol.DeleteHsm(id_))

        def work(tx: Connection) -> None:
            store.remove_hsm(tx, id_)
            self._network.delete_interface(tx, Place(cluster.account, cluster.region), hsm.eni)
            if cluster.state is not ClusterState.ACTIVE and not store.hsms_of(tx, cluster.id):
                store.change_cluster(
                    tx, cluster, state=ClusterState.UNINITIALIZED, certificates=Certificates(), anchor=""
                )

        self._writer.write(work)

    def _health(self, scene: Scene, id_: str) -> None:
        hsm = _hsm(scene, id_)
        if hsm.state is HsmState.DEGRADED:
            state, message = HsmState.ACTIVE, ""
        else:
            state, message = HsmState.DEGRADED, "The HSM does not serve. Start it: hsmsim hsm start " + id_

        def work(tx: Connection) -> None:
            now = store.hsms(tx, store.HSMS.c.id == id_)
            if now and now[0].state is hsm.state:
                store.change_hsm(tx, hsm, state=state, message=message)

        self._writer.write(work)

    # ---- another HSM type ----------------------------------------------------------------------------------------

    def _limit(self, scene: Scene, id_: str) -> None:
        """Limited writes begin after the first backup, which a rollback goes back to."""
        if not scene.cluster.former_image:
            self._set(scene.cluster, former_image=_hsm(scene, id_).backup)
        self._ask(protocol.LimitedWrite(scene.cluster.id, on=True))

    def _unlimit(self, scene: Scene, _id: str) -> None:
        self._ask(protocol.LimitedWrite(scene.cluster.id, on=False))

    def _replace(self, scene: Scene, id_: str) -> None:
        """The successor's row: the same interface, the new type."""
        cluster, hsm = scene.cluster, _hsm(scene, id_)
        back = cluster.state is ClusterState.ROLLBACK_IN_PROGRESS
        values = {name: getattr(hsm, name) for name in ("cluster", "zone", "subnet", "eni", "ip")}

        def work(tx: Connection) -> None:
            store.add_hsm(
                tx,
                Hsm(
                    **values,
                    id=new_id("hsm", self._ids.below),
                    state=HsmState.CREATE_IN_PROGRESS,
                    message="",
                    due=self._due("Migration"),
                    created=self._clock.time(),
                    hsm_type=cluster.target,
                    backup="",
                    image=cluster.former_image if back else "",
                    replaces=id_,
                ),
            )

        self._writer.write(work)

    def _retire(self, _scene: Scene, id_: str) -> None:
        """End an HSM whose interface is its successor's."""
        self._ask(protocol.DeleteHsm(id_))
        self._writer.write(lambda tx: store.remove_hsm(tx, id_))

    def _migrated(self, scene: Scene, _id: str) -> None:
        cluster = scene.cluster
        back = cluster.state is ClusterState.ROLLBACK_IN_PROGRESS
        ended: dict[str, Any] = {"former": "", "former_image": "", "rollback_until": 0.0} if back else {}

        def work(tx: Connection) -> None:
            store.change_hsms(tx, store.HSMS.c.cluster == cluster.id, backup="", replaces="")
            store.change_cluster(
                tx, cluster, state=ClusterState.ACTIVE, hsm_type=cluster.target, target="", message="", **ended
            )

        self._writer.write(work)

    def _end_rollback(self, scene: Scene, _id: str) -> None:
        self._set(scene.cluster, former="", former_image="", rollback_until=0.0)


def _hsm(scene: Scene, id_: str) -> Hsm:
    return next(hsm for hsm in scene.hsms if hsm.id == id_)


def _seen(view: protocol.HsmView) -> Seen:
    return Seen(view.state == "RUNNING", view.cluster_state == "ACTIVE", view.limited_write)
