"""Backups: describing them, their copies, their end and their return, and the policies that share them.

A backup's policy lets another account describe it (`Shared`), by cloudhsm:DescribeBackups, and make a cluster from it,
by cloudhsm:CreateCluster; nothing else, as in AWS. There a policy is promoted to a share of AWS RAM before `Shared`
lists the backup; there is no RAM here, and it is listed at once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from msgspec import field

from hsmsim.authz.context import Circumstances, global_keys, lowered, tag_keys
from hsmsim.authz.document import MalformedPolicy, Purpose, parse
from hsmsim.authz.evaluate import EVERYTHING, Policies, Question, evaluate
from hsmsim.services.cloudhsm import rules, store, views
from hsmsim.services.cloudhsm.model import WEEK_S, Backup, BackupState, arn_of
from hsmsim.services.cloudhsm.service import (
    CloudHsm,
    Tag,
    access_to,
    everywhere,
    fresh_id,
    need_backup,
    on_backup,
    operation,
    page,
    pairs,
    request_tags,
)
from hsmsim.services.kernel import Access, Call, Mode, Request, Response

if TYPE_CHECKING:
    from collections.abc import Iterable

PAGE = 50
FILTERS = ("backupIds", "sourceBackupIds", "clusterIds", "states", "neverExpires")


class DescribeBackups(Request, frozen=True):
    """Which backups."""

    filters: dict[str, list[str]] = field(default_factory=dict)
    next_token: str | None = None
    max_results: int = PAGE
    shared: bool = False
    sort_ascending: bool = False


class CopyBackupToRegion(Request, frozen=True):
    """A copy elsewhere; without tags it has those of the backup."""

    destination_region: str
    backup_id: str
    tag_list: list[Tag] | None = None


class OfBackup(Request, frozen=True):
    """A backup."""

    backup_id: str


class ModifyBackupAttributes(Request, frozen=True):
    """What a backup gets instead."""

    backup_id: str
    never_expires: bool


class OfResource(Request, frozen=True):
    """A backup by its ARN; the model leaves it optional, the operations do not."""

    resource_arn: str = ""


class PutResourcePolicy(Request, frozen=True):
    """A policy for a backup; both are needed, though the model leaves them optional."""

    resource_arn: str = ""
    policy: str = ""


# ---- looking ---------------------------------------------------------------------------------------------------------


@operation(DescribeBackups, Mode.READ, everywhere)
def describe_backups(holds: CloudHsm, call: Call, request: DescribeBackups) -> Response:
    """DescribeBackups, the newest first unless asked otherwise."""
    rules.check_filters(request.filters, FILTERS)
    listed = _shared(call) if request.shared else _own(holds, call)
    found = [one for one in listed if _wanted(one, request.filters)]
    ordered = found if request.sort_ascending else found[::-1]
    taken, token = page(ordered, lambda one: one.id, request.next_token, request.max_results)
    shown = [views.backup(one, {} if request.shared else store.tags(call.tx, one.id)) for one in taken]
    return {"Backups": shown, **({"NextToken": token} if token else {})}


def _own(holds: CloudHsm, call: Call) -> list[Backup]:
    now, unverified = call.clock.time(), holds.settings.unverified
    found = store.backups(call.tx, *store.of(store.BACKUPS, call.account, call.region))
    return [
        one for one in found if one.state is not BackupState.DELETED or rules.is_shown(one.delete_at, now, unverified)
    ]


def _shared(call: Call) -> list[Backup]:
    """Other accounts' backups that their policies let the caller describe. Tags are their owners' matter."""
    table = store.BACKUPS.c
    where = (table.region == call.region, table.account != call.account, table.policy != "")
    ready = store.backups(call.tx, *where, table.state == BackupState.READY.value)
    return [one for one in ready if _lets_in(call, one)]


def _lets_in(call: Call, backup: Backup) -> bool:
    """Whether a backup's policy lets the caller describe it; that the caller's own policies do has been seen to."""
    around = Circumstances(
        call.clock.time(), call.region, call.source_ip, call.user_agent, secure=call.secure, owner=backup.account
    )
    context = global_keys(call.caller, around) | lowered(tag_keys("aws:ResourceTag", store.tags(call.tx, backup.id)))
    question = Question(call.caller, "cloudhsm:DescribeBackups", backup.arn, backup.account, context)
    return evaluate(question, Policies((EVERYTHING,), resource=parse(backup.policy, Purpose.RESOURCE))).allowed


def _wanted(backup: Backup, filters: dict[str, list[str]]) -> bool:
    """Whether all filters let it through."""
    values = {
        "backupIds": backup.id,
        "sourceBackupIds": backup.source_backup,
        "clusterIds": backup.cluster,
        "states": backup.state.value,
        "neverExpires": str(backup.never_expires).lower(),
    }
    return all(
        values[name] in {text.lower() if name == "neverExpires" else text for text in wanted}
        for name, wanted in filters.items()
    )


def _shown(call: Call, backup: Backup) -> dict[str, Any]:
    return {"Backup": views.backup(backup, store.tags(call.tx, backup.id))}


# ---- copies ----------------------------------------------------------------------------------------------------------


def _to_copy(_holds: CloudHsm, call: Call, request: CopyBackupToRegion) -> Iterable[Access]:
    """The backup, and the tags that the copy gets."""
    context = request_tags(pairs(request.tag_list or ()))
    accesses = [access_to(call, request.backup_id, context)]
    if request.tag_list:
        arn = arn_of("backup", call.account, request.destination_region, "*")
        accesses.append(Access("cloudhsm:TagResource", arn, call.account, context=context))
    return accesses


@operation(CopyBackupToRegion, Mode.WRITE, _to_copy)
def copy_backup_to_region(holds: CloudHsm, call: Call, request: CopyBackupToRegion) -> Response:
    """CopyBackupToRegion: a backup of its own there, which no cluster's retention rules."""
    found = need_backup(call, request.backup_id)
    destination = request.destination_region
    rules.check_copy(found, destination, there=holds.network.has_region(destination))
    tags = store.tags(call.tx, found.id) if request.tag_list is None else rules.check_tags(pairs(request.tag_list), {})
    copy = replace(
        found,
        id=fresh_id(call, "backup"),
        region=destination,
        state=BackupState.CREATE_IN_PROGRESS,
        due=holds.due(call, "CopyBackup"),
        never_expires=False,
        policy="",
        source_backup=found.id,
        source_region=found.region,
        source_cluster=found.cluster,
        copied=call.clock.time(),
        restored=0.0,
        loose=True,
    )
    store.add_backup(call.tx, copy)
    store.set_tags(call.tx, copy.id, tags)
    holds.follow(call)
    return {"DestinationBackup": views.destination(copy)}


# ---- changing --------------------------------------------------------------------------------------------------------


@operation(OfBackup, Mode.WRITE, on_backup)
def delete_backup(holds: CloudHsm, call: Call, request: OfBackup) -> Response:
    """DeleteBackup: it can be restored for seven days."""
    found = need_backup(call, request.backup_id)
    rules.check_backup(found, "DeleteBackup", BackupState.READY)
    holds.follow(call)
    at = call.clock.time() + WEEK_S
    return _shown(call, store.change_backup(call.tx, found, state=BackupState.PENDING_DELETION, delete_at=at))


@operation(OfBackup, Mode.WRITE, on_backup)
def restore_backup(holds: CloudHsm, call: Call, request: OfBackup) -> Response:
    """RestoreBackup: takes back a deletion."""
    found = need_backup(call, request.backup_id)
    rules.check_backup(found, "RestoreBackup", BackupState.PENDING_DELETION)
    if found.delete_at <= call.clock.time():
        raise rules.invalid(f"{found.id} is being deleted: its seven days are over.")
    holds.follow(call)
    back = {"state": BackupState.READY, "delete_at": 0.0, "restored": call.clock.time()}
    return _shown(call, store.change_backup(call.tx, found, **back))


@operation(ModifyBackupAttributes, Mode.WRITE, on_backup)
def modify_backup_attributes(holds: CloudHsm, call: Call, request: ModifyBackupAttributes) -> Response:
    """ModifyBackupAttributes."""
    found = need_backup(call, request.backup_id)
    rules.check_backup(found, "ModifyBackupAttributes", BackupState.READY)
    holds.follow(call)
    return _shown(call, store.change_backup(call.tx, found, never_expires=request.never_expires))


# ---- policies --------------------------------------------------------------------------------------------------------


def _on_arn(_holds: CloudHsm, call: Call, request: OfResource | PutResourcePolicy) -> Iterable[Access]:
    return (access_to(call, request.resource_arn.rpartition("/")[2] or "backup-"),)


def _of_arn(call: Call, arn: str) -> Backup:
    """The backup of an ARN; only backups have policies."""
    if not arn:
        raise rules.invalid("ResourceArn is needed.")
    _, _, _, region, account, tail = arn.split(":", 5)
    kind, _, id_ = tail.partition("/")
    if kind != "backup":
        raise rules.invalid(f"Only backups have resource policies; {arn} is none.")
    if (account, region) != (call.account, call.region):
        raise rules.missing("Backup", arn)
    return need_backup(call, id_)


@operation(PutResourcePolicy, Mode.WRITE, _on_arn)
def put_resource_policy(_holds: CloudHsm, call: Call, request: PutResourcePolicy) -> Response:
    """PutResourcePolicy: on a backup that is READY."""
    found = _of_arn(call, request.resource_arn)
    rules.check_backup(found, "PutResourcePolicy", BackupState.READY)
    try:
        parse(request.policy, Purpose.RESOURCE)
    except MalformedPolicy as error:
        raise rules.invalid(f"The policy is malformed: {error}") from error
    changed = store.change_backup(call.tx, found, policy=request.policy)
    return {"ResourceArn": changed.arn, "Policy": changed.policy}


@operation(OfResource, Mode.READ, _on_arn)
def get_resource_policy(_holds: CloudHsm, call: Call, request: OfResource) -> Response:
    """GetResourcePolicy."""
    found = _of_arn(call, request.resource_arn)
    if not found.policy:
        raise rules.missing("The resource policy of", found.arn)
    return {"Policy": found.policy}


@operation(OfResource, Mode.WRITE, _on_arn)
def delete_resource_policy(_holds: CloudHsm, call: Call, request: OfResource) -> Response:
    """DeleteResourcePolicy; answers what was deleted."""
    found = _of_arn(call, request.resource_arn)
    if not found.policy:
        raise rules.missing("The resource policy of", found.arn)
    store.change_backup(call.tx, found, policy="")
    return {"ResourceArn": found.arn, "Policy": found.policy}
