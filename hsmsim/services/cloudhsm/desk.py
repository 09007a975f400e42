"""What the operator of the simulator does with backups, whosever they are: looks at them all, registers an image.

The image itself is the fleet's business (hsmsim.fleet.custody), and in its place before it is registered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from hsmsim.errors import HsmsimError
from hsmsim.ids import is_id
from hsmsim.services.cloudhsm import store
from hsmsim.services.cloudhsm.model import Backup, BackupState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy.engine import Connection

    from hsmsim.services.cloudhsm.service import CloudHsm
    from hsmsim.services.kernel import Writer

PATH: Final = "/_hsmsim/backups"


class Shown(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A backup as the calls have it; times: simulated seconds since the epoch, 0 for never."""

    backup_id: str
    account: str
    region: str
    cluster_id: str
    state: str
    created: float
    hsm_type: str
    mode: str
    certificate: str
    tags: dict[str, str]
    never_expires: bool = False
    delete_at: float = 0.0
    copied: float = 0.0
    source_backup: str = ""
    source_region: str = ""
    source_cluster: str = ""
    shared: bool = False


class Desk:
    """The calls."""

    def __init__(self, writer: Writer, holds: CloudHsm) -> None:
        self._writer = writer
        self._holds = holds

    def routes(self) -> dict[tuple[str, str], Callable[[Mapping[str, Any]], Mapping[str, Any]]]:
        """What the gateway answers by them."""
        return {("GET", PATH): self.list, ("POST", PATH): self.register}

    def list(self, _members: Mapping[str, Any]) -> Mapping[str, Any]:
        """All backups, the oldest first, those that are DELETED too."""

        def work(tx: Connection) -> list[Shown]:
            return [_shown(one, store.tags(tx, one.id)) for one in store.backups(tx)]

        return {"backups": msgspec.to_builtins(self._writer.write(work))}

    def register(self, members: Mapping[str, Any]) -> Mapping[str, Any]:
        """Make a backup of an image that is there. One of that id may be here as one that was DELETED only."""
        try:
            new = msgspec.convert(dict(members), Shown)
        except msgspec.ValidationError as error:
            raise HsmsimError(f"This describes no backup: {error}.") from error
        if not is_id(new.backup_id, "backup") or not is_id(new.cluster_id, "cluster"):
            raise HsmsimError(f"{new.backup_id!r} of {new.cluster_id!r} is no backup of a cluster.")
        if not self._holds.network.has_region(new.region):
            raise HsmsimError(f"There is no region {new.region}.")

        def work(tx: Connection) -> None:
            former = store.backup(tx, new.backup_id)
            if former is not None and (former.state is not BackupState.DELETED or former.image):
                raise HsmsimError(f"{new.backup_id} is here already, {former.state}.")
            (store.add_backup if former is None else store.replace_backup)(tx, _imported(new))
            store.set_tags(tx, new.backup_id, new.tags)

        self._writer.write(work)
        return {"backup_id": new.backup_id}


def _shown(one: Backup, tags: Mapping[str, str]) -> Shown:
    return Shown(
        one.id,
        one.account,
        one.region,
        one.cluster,
        one.state.value,
        one.created,
        one.hsm_type,
        one.mode,
        one.certificate,
        dict(tags),
        one.never_expires,
        one.delete_at,
        one.copied,
        one.source_backup,
        one.source_region,
        one.source_cluster,
        bool(one.policy),
    )


def _imported(new: Shown) -> Backup:
    """A backup that no cluster rules, READY."""
    return Backup(
        id=new.backup_id,
        account=new.account,
        region=new.region,
        cluster=new.cluster_id,
        state=BackupState.READY,
        due=0.0,
        created=new.created,
        hsm_type=new.hsm_type,
        mode=new.mode,
        certificate=new.certificate,
        never_expires=False,
        delete_at=0.0,
        policy="",
        image=True,
        source_backup=new.source_backup,
        source_region=new.source_region,
        source_cluster=new.source_cluster,
        copied=new.copied,
        loose=True,
    )
