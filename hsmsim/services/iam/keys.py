"""Access keys of users and of root. A secret is answered once, by the call that makes it, and sealed at rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hsmsim.authz.principal import Kind, access_key_id, new_secret
from hsmsim.services.iam import rules, store
from hsmsim.services.iam.entities import USER
from hsmsim.services.iam.model import KEYS_PER_USER, AccessKey
from hsmsim.services.iam.service import Iam, Paged, need, now, on_entity, operation, own_name, stamp
from hsmsim.services.kernel import Call, Mode, Request, Response

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from hsmsim.services.iam.directory import Directory
    from hsmsim.services.kernel import Ids


class CreateKey(Request, frozen=True):
    """Whose; without a name the caller's."""

    user_name: str = ""


class OfKey(Request, frozen=True):
    """A key, of the caller where no user is named."""

    access_key_id: str
    user_name: str = ""


class UpdateKey(Request, frozen=True):
    """Active or Inactive."""

    access_key_id: str
    status: str
    user_name: str = ""


class ListKeys(Paged, frozen=True):
    """Whose; without a name the caller's."""

    user_name: str = ""


def _owner(call: Call, user_name: str) -> tuple[str, str]:
    """Return id and name of the user; root's are the account and no name."""
    if not user_name and call.caller.kind is Kind.ROOT:
        return call.account, ""
    found = need(call, USER, user_name or own_name(call))
    return found.id, found.name


def make_key(tx: Connection, directory: Directory, ids: Ids, account: str, owner: str, time: float) -> tuple[str, str]:
    """Add a key for a user or root; returns id and secret."""
    id_ = access_key_id("AKIA", account, ids.token)
    secret = new_secret(ids.token)
    store.add_key(tx, AccessKey(id_, account, owner, directory.seal_secret(id_, secret), active=True, created=time))
    return id_, secret


@operation(CreateKey, Mode.WRITE, on_entity(USER))
def create_access_key(iam: Iam, call: Call, request: CreateKey) -> Response:
    """CreateAccessKey."""
    owner, name = _owner(call, request.user_name)
    if len(store.keys_of(call.tx, owner)) >= KEYS_PER_USER:
        raise rules.quota("AccessKeysPerUser", KEYS_PER_USER)
    time = now(call)
    id_, secret = make_key(call.tx, iam.directory, call.ids, call.account, owner, time)
    iam.directory.changed(call, key=id_)
    shown = {"UserName": name, "AccessKeyId": id_, "Status": "Active", "SecretAccessKey": secret}
    return {"AccessKey": shown | {"CreateDate": stamp(time)}}


def _need_key(call: Call, request: OfKey | UpdateKey) -> AccessKey:
    owner, _ = _owner(call, request.user_name)
    for key in store.keys_of(call.tx, owner):
        if key.id == request.access_key_id:
            return key
    raise rules.no_such(f"The Access Key with id {request.access_key_id} cannot be found.")


@operation(UpdateKey, Mode.WRITE, on_entity(USER))
def update_access_key(iam: Iam, call: Call, request: UpdateKey) -> None:
    """UpdateAccessKey."""
    if request.status not in {"Active", "Inactive"}:
        raise rules.invalid(f"A key's status is Active or Inactive here, not {request.status}.")
    key = _need_key(call, request)
    store.set_key(call.tx, key.id, active=request.status == "Active")
    iam.directory.changed(call, key=key.id)


@operation(OfKey, Mode.WRITE, on_entity(USER))
def delete_access_key(iam: Iam, call: Call, request: OfKey) -> None:
    """DeleteAccessKey."""
    key = _need_key(call, request)
    store.remove_key(call.tx, key.id)
    iam.directory.changed(call, key=key.id)


@operation(ListKeys, Mode.READ, on_entity(USER))
def list_access_keys(_iam: Iam, call: Call, request: ListKeys) -> Response:
    """ListAccessKeys."""
    owner, name = _owner(call, request.user_name)
    taken, members = rules.page(store.keys_of(call.tx, owner), lambda key: key.id, request.marker, request.max_items)
    shown = [
        {
            "UserName": name,
            "AccessKeyId": key.id,
            "Status": "Active" if key.active else "Inactive",
            "CreateDate": stamp(key.created),
        }
        for key in taken
    ]
    return {"AccessKeyMetadata": shown, **members}
