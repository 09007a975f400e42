"""CloudHSM's rows."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    ForeignKey,
    Integer,
    Table,
    Text,
    delete,
    func,
    insert,
    select,
    text,
    update,
)

from hsmsim.services.cloudhsm.model import (
    Backup,
    BackupState,
    Certificates,
    Cluster,
    ClusterState,
    Hsm,
    HsmState,
)
from hsmsim.storage.gateway import GATEWAY

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy.engine import Connection, Row
    from sqlalchemy.sql import ColumnElement

CLUSTERS: Final = Table(
    "cloudhsm_clusters",
    GATEWAY,
    Column("id", Text, primary_key=True),
    Column("account", Text, nullable=False),
    Column("region", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("due", Float, nullable=False),
    Column("created", Float, nullable=False),
    Column("hsm_type", Text, nullable=False),
    Column("mode", Text, nullable=False),
    Column("retention", Integer, nullable=False),
    Column("source_backup", Text, nullable=False),
    Column("vpc", Text, nullable=False),
    Column("group", Text, nullable=False),
    Column("subnets", Text, nullable=False),
    Column("certificates", Text, nullable=False),
    Column("signed", Text, nullable=False),
    Column("anchor", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("former", Text, nullable=False),
    Column("former_image", Text, nullable=False),
    Column("rollback_until", Float, nullable=False),
    Column("ended", Float, nullable=False),
)
HSMS: Final = Table(
    "cloudhsm_hsms",
    GATEWAY,
    Column("id", Text, primary_key=True),
    Column("cluster", Text, ForeignKey("cloudhsm_clusters.id"), nullable=False, index=True),
    Column("state", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("due", Float, nullable=False),
    Column("created", Float, nullable=False),
    Column("hsm_type", Text, nullable=False),
    Column("zone", Text, nullable=False),
    Column("subnet", Text, nullable=False),
    Column("eni", Text, nullable=False),
    Column("ip", Text, nullable=False),
    Column("backup", Text, nullable=False),
    Column("image", Text, nullable=False),
    Column("replaces", Text, nullable=False),
)
BACKUPS: Final = Table(
    "cloudhsm_backups",
    GATEWAY,
    Column("id", Text, primary_key=True),
    Column("account", Text, nullable=False),
    Column("region", Text, nullable=False),
    Column("cluster", Text, nullable=False, index=True),
    Column("state", Text, nullable=False),
    Column("due", Float, nullable=False),
    Column("created", Float, nullable=False),
    Column("hsm_type", Text, nullable=False),
    Column("mode", Text, nullable=False),
    Column("certificate", Text, nullable=False),
    Column("never_expires", Boolean, nullable=False),
    Column("delete_at", Float, nullable=False),
    Column("policy", Text, nullable=False),
    Column("image", Boolean, nullable=False),
    Column("sequence", Integer, nullable=False, server_default=text("0")),
    Column("source_backup", Text, nullable=False),
    Column("source_region", Text, nullable=False),
    Column("source_cluster", Text, nullable=False),
    Column("copied", Float, nullable=False),
    Column("restored", Float, nullable=False),
    Column("loose", Boolean, nullable=False),
)
TAGS: Final = Table(
    "cloudhsm_tags",
    GATEWAY,
    Column("resource", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)


# ---- rows and values -------------------------------------------------------------------------------------------------


def _cluster(row: Row[Any]) -> Cluster:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's documented name
    values["state"] = ClusterState(values["state"])
    values["subnets"] = json.loads(values["subnets"])
    values["certificates"] = Certificates(**json.loads(values["certificates"]))
    return Cluster(**values)


def _hsm(row: Row[Any]) -> Hsm:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's documented name
    return Hsm(**values | {"state": HsmState(values["state"])})


def _backup(row: Row[Any]) -> Backup:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's documented name
    del values["sequence"]  # the order in which they are listed, and nothing else
    return Backup(**values | {"state": BackupState(values["state"])})


def _stored(values: Mapping[str, object]) -> dict[str, object]:
    """Columns' values; what is no text or number is JSON."""
    found: dict[str, object] = {}
    for name, value in values.items():
        match value:
            case Certificates():
                found[name] = json.dumps({one.name: getattr(value, one.name) for one in fields(value)})
            case dict():
                found[name] = json.dumps(value)
            case _:
                found[name] = value
    return found


def _columns(value: Cluster | Hsm | Backup) -> dict[str, object]:
    return _stored({one.name: getattr(value, one.name) for one in fields(value)})


# ---- clusters --------------------------------------------------------------------------------------------------------


def clusters(tx: Connection, *where: ColumnElement[bool]) -> list[Cluster]:
    """Those that meet all of the clauses, as they were made."""
    rows = tx.execute(select(CLUSTERS).where(*where).order_by(CLUSTERS.c.created, CLUSTERS.c.id))
    return [_cluster(row) for row in rows]


def cluster(tx: Connection, id_: str) -> Cluster | None:
    """The one of this id, whosever it is."""
    found = clusters(tx, CLUSTERS.c.id == id_)
    return found[0] if found else None


def of(table: Table, account: str, region: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """The clauses for what an account has in a region."""
    return table.c.account == account, table.c.region == region


def count_clusters(tx: Connection, account: str, region: str) -> int:
    """How many there are that are not deleted."""
    alive = (*of(CLUSTERS, account, region), CLUSTERS.c.state != ClusterState.DELETED.value)
    return tx.execute(select(func.count()).select_from(CLUSTERS).where(*alive)).scalar_one()


def add_cluster(tx: Connection, new: Cluster) -> None:
    """A new cluster."""
    tx.execute(insert(CLUSTERS).values(_columns(new)))


def change_cluster(tx: Connection, old: Cluster, **values: Any) -> Cluster:  # noqa: ANN401 - the fields' own
    """Set fields; returns the cluster as it is now."""
    tx.execute(update(CLUSTERS).where(CLUSTERS.c.id == old.id).values(_stored(values)))
    return replace(old, **values)


# ---- HSMs ------------------------------------------------------------------------------------------------------------


def hsms(tx: Connection, *where: ColumnElement[bool]) -> list[Hsm]:
    """Those that meet all of the clauses, as they were made."""
    return [_hsm(row) for row in tx.execute(select(HSMS).where(*where).order_by(HSMS.c.created, HSMS.c.id))]


def hsms_of(tx: Connection, cluster_id: str) -> list[Hsm]:
    """The HSMs of a cluster."""
    return hsms(tx, HSMS.c.cluster == cluster_id)


def count_hsms(tx: Connection, account: str, region: str) -> int:
    """How many HSMs an account has in a region."""
    joined = select(func.count()).select_from(HSMS.join(CLUSTERS))
    return tx.execute(joined.where(*of(CLUSTERS, account, region))).scalar_one()


def wanted_images(tx: Connection) -> frozenset[str]:
    """The backups that HSMs, or copies, are being made from."""
    hsms = select(HSMS.c.image).where(HSMS.c.image != "", HSMS.c.state == HsmState.CREATE_IN_PROGRESS.value)
    copies = select(BACKUPS.c.source_backup).where(BACKUPS.c.state == BackupState.CREATE_IN_PROGRESS.value)
    return frozenset(tx.execute(hsms.union(copies)).scalars())


def add_hsm(tx: Connection, new: Hsm) -> None:
    """A new HSM."""
    tx.execute(insert(HSMS).values(_columns(new)))


def change_hsms(tx: Connection, *where: ColumnElement[bool], **values: Any) -> None:  # noqa: ANN401 - the fields' own
    """Set fields of those that meet all of the clauses."""
    tx.execute(update(HSMS).where(*where).values(_stored(values)))


def change_hsm(tx: Connection, old: Hsm, **values: Any) -> Hsm:  # noqa: ANN401 - the fields' own
    """Set fields; returns the HSM as it is now."""
    change_hsms(tx, HSMS.c.id == old.id, **values)
    return replace(old, **values)


def remove_hsm(tx: Connection, id_: str) -> None:
    """Forget an HSM."""
    tx.execute(delete(HSMS).where(HSMS.c.id == id_))


# ---- backups ---------------------------------------------------------------------------------------------------------


def backups(tx: Connection, *where: ColumnElement[bool]) -> list[Backup]:
    """Those that meet all of the clauses, as they were made: not by time, which a person may set back."""
    rows = tx.execute(select(BACKUPS).where(*where).order_by(BACKUPS.c.sequence))
    return [_backup(row) for row in rows]


def backups_of(tx: Connection, cluster_id: str) -> list[Backup]:
    """The backups that a cluster made and rules, as they were made."""
    return backups(tx, BACKUPS.c.cluster == cluster_id, BACKUPS.c.loose.is_(False))


def backup(tx: Connection, id_: str) -> Backup | None:
    """The one of this id, whosever it is."""
    found = backups(tx, BACKUPS.c.id == id_)
    return found[0] if found else None


def add_backup(tx: Connection, new: Backup) -> None:
    """A new backup."""
    following = select(func.coalesce(func.max(BACKUPS.c.sequence), 0) + 1).scalar_subquery()
    tx.execute(insert(BACKUPS).values({**_columns(new), "sequence": following}))


def replace_backup(tx: Connection, new: Backup) -> None:
    """Another in the place of the one of its id."""
    tx.execute(update(BACKUPS).where(BACKUPS.c.id == new.id).values(_columns(new)))
    tx.execute(delete(TAGS).where(TAGS.c.resource == new.id))


def change_backup(tx: Connection, old: Backup, **values: Any) -> Backup:  # noqa: ANN401 - the fields' own
    """Set fields; returns the backup as it is now."""
    tx.execute(update(BACKUPS).where(BACKUPS.c.id == old.id).values(_stored(values)))
    return replace(old, **values)


# ---- tags ------------------------------------------------------------------------------------------------------------


def tags(tx: Connection, resource: str) -> dict[str, str]:
    """The tags of a cluster or backup, by key in order."""
    rows = tx.execute(select(TAGS).where(TAGS.c.resource == resource).order_by(TAGS.c.key))
    return {row.key: row.value for row in rows}


def set_tags(tx: Connection, resource: str, new: Mapping[str, str]) -> None:
    """Add tags; those of the same keys get the new value."""
    remove_tags(tx, resource, new)
    for key, value in new.items():
        tx.execute(insert(TAGS).values(resource=resource, key=key, value=value))


def remove_tags(tx: Connection, resource: str, keys: Iterable[str]) -> None:
    """Remove tags; those that are not there are no error."""
    tx.execute(delete(TAGS).where(TAGS.c.resource == resource, TAGS.c.key.in_(list(keys))))
