"""Backups: describing them, their end and their return, and the policies on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import field

from hsmsim.authz.document import MalformedPolicy, Purpose, parse
from hsmsim.services.cloudhsm import rules, store, views
from hsmsim.services.cloudhsm.model import WEEK_S, Backup, BackupState
from hsmsim.services.cloudhsm.service import (
    CloudHsm,
    access_to,
    everywhere,
    need_backup,
    on_backup,
    operation,
    page,
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
    if request.shared:
        raise rules.unsupported("Shared of cloudhsm:DescribeBackups: backups are not shared across accounts")
    rules.check_filters(request.filters, FILTERS)
    now = call.clock.time()
    found = [
        one
        for one in store.backups(call.tx, *store.of(store.BACKUPS, call.account, call.region))
        if (one.state is not BackupState.DELETED or rules.is_shown(one.delete_at, now, holds.settings.unverified))
        and _wanted(one, request.filters)
    ]
    ordered = found if request.sort_ascending else found[::-1]
    taken, token = page(ordered, lambda one: one.id, request.next_token, request.max_results)
    shown = [views.backup(one, store.tags(call.tx, one.id)) for one in taken]
    return {"Backups": shown, **({"NextToken": token} if token else {})}


def _wanted(backup: Backup, filters: dict[str, list[str]]) -> bool:
    """Whether all filters let it through; none is a copy, so that none has a source."""
    values = {
        "backupIds": backup.id,
        "sourceBackupIds": "",
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
    return _shown(call, store.change_backup(call.tx, found, state=BackupState.READY, delete_at=0.0))


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
    found = need_backup(call, id_)
    rules.check_backup(found, call.operation, BackupState.READY)
    return found


@operation(PutResourcePolicy, Mode.WRITE, _on_arn)
def put_resource_policy(_holds: CloudHsm, call: Call, request: PutResourcePolicy) -> Response:
    """PutResourcePolicy: for principals of the own account; sharing with others is refused by name."""
    found = _of_arn(call, request.resource_arn)
    try:
        document = parse(request.policy, Purpose.RESOURCE)
    except MalformedPolicy as error:
        raise rules.invalid(f"The policy is malformed: {error}") from error
    for statement in document.statements:
        named = statement.principals
        accounts = named.accounts | {arn.split(":")[4] for arn in named.arns} if named else frozenset()
        if statement.allow and named and (named.everyone or accounts - {call.account}):
            raise rules.unsupported("a Policy of cloudhsm:PutResourcePolicy that shares a backup with another account")
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
