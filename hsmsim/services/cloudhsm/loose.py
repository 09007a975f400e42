"""Backups that no cluster rules, copies and imports: their images follow their rows, by the rules of worker.py."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from sqlalchemy import or_

from hsmsim.errors import HsmsimError
from hsmsim.fleet import protocol
from hsmsim.services.cloudhsm import store
from hsmsim.services.cloudhsm.model import BackupState
from hsmsim.services.cloudhsm.plan import Do, loose_due, next_of_loose

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy.engine import Connection

    from hsmsim.clock import Clock
    from hsmsim.services.cloudhsm.model import Backup
    from hsmsim.services.kernel import Writer
    from hsmsim.storage.database import Database

_LOG: Final = logging.getLogger("hsmsim.cloudhsm")
RETRY_S: Final = 2.0
T = TypeVar("T")


class Fleet(Protocol):
    """What starts and stops HSMs. HsmsimError where it cannot, or is away."""

    def call(self, request: protocol.Request, result: type[T]) -> T:
        """Ask for something."""


class Loose:
    """The part of the worker that has no clusters."""

    def __init__(self, database: Database, writer: Writer, clock: Clock, fleet: Fleet) -> None:
        self._database = database
        self._writer = writer
        self._clock = clock
        self._fleet = fleet
        self._steps: Mapping[Do, Callable[[Backup], None]] = {
            Do.COPY_IMAGE: self._copy_image,
            Do.REMOVE: self._remove,
            Do.WIPE: self._wipe,
        }

    def step(self) -> float | None:
        """Do what is due; seconds until something is due again."""
        table = store.BACKUPS.c
        there = or_(table.state != BackupState.DELETED.value, table.image.is_(True))
        with self._database.read() as tx:
            found = store.backups(tx, table.loose.is_(True), there)
            wanted = store.wanted_images(tx)
        pauses = [pause for one in found if (pause := self._follow(one, wanted)) is not None]
        return min(pauses, default=None)

    def _follow(self, backup: Backup, wanted: frozenset[str]) -> float | None:
        now = self._clock.time()
        step = next_of_loose(backup, now, wanted)
        if step is None:
            due = loose_due(backup, now)
            return None if due is None else due - now
        _LOG.info("%s (%s): %s", backup.id, backup.state, step.do.name)
        try:
            self._steps[step.do](backup)
        except HsmsimError as error:
            _LOG.warning("%s does not go on now: %s", backup.id, error)
            return RETRY_S
        return 0.0

    def _copy_image(self, backup: Backup) -> None:
        """A copy that cannot be made is DELETED, as in AWS; why is in the log."""
        try:
            asked = protocol.CopyImage(backup.source_backup, backup.id, backup.region)
            self._fleet.call(asked, protocol.ImageView)
        except protocol.FleetError as error:
            _LOG.error("%s is not copied to %s: %s", backup.source_backup, backup.region, error)
            self._set(backup, state=BackupState.DELETED, delete_at=self._clock.time())
        else:
            self._set(backup, state=BackupState.READY)

    def _remove(self, backup: Backup) -> None:
        self._set(backup, state=BackupState.DELETED)

    def _wipe(self, backup: Backup) -> None:
        self._fleet.call(protocol.DeleteImage(backup.id), Any)
        self._set(backup, image=False)

    def _set(self, backup: Backup, **values: Any) -> None:  # noqa: ANN401 - the fields' own
        """Set fields, unless an operation changed the state meanwhile."""

        def work(tx: Connection) -> None:
            now = store.backup(tx, backup.id)
            if now is not None and now.state is backup.state:
                store.change_backup(tx, now, **values)

        self._writer.write(work)
