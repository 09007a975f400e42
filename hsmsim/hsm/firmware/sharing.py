"""Keys that other crypto users may use too."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hsmsim.cluster.model import ROLE_CRYPTO_USER, ShareRow
from hsmsim.errors import CkrError
from hsmsim.hsm.cryptoki import CKR
from hsmsim.hsm.firmware import access, rights
from hsmsim.hsm.messages import (
    KeyShareRequest,
    KeyShareResponse,
    KeyUnshareRequest,
    KeyUnshareResponse,
    KeyUsersRequest,
    KeyUsersResponse,
)

if TYPE_CHECKING:
    from hsmsim.cluster.model import Row
    from hsmsim.hsm.engine import Request
    from hsmsim.hsm.firmware.state import Client, State


def _sharee(state: State, client: Client, name: bytes) -> int:
    user = state.replica.user_named(client.partition, name.decode("utf-8", "replace"))
    if user is None or user.role != ROLE_CRYPTO_USER:
        raise CkrError(CKR.ARGUMENTS_BAD, "there is no such crypto user in this partition")
    return user.id


def key_share(state: State, client: Client, request: Request) -> KeyShareResponse:
    """The owner lets another crypto user use a token key."""
    message = KeyShareRequest.decode(request.payload)
    found = access.own(state, client, message.key, CKR.KEY_HANDLE_INVALID)
    user = _sharee(state, client, message.user)
    if found.client or found.row.object_class not in rights.KEY_CLASSES or user == client.user:
        raise CkrError(CKR.ARGUMENTS_BAD, "a token key is shared, and with somebody else")

    def build(_version: int) -> list[Row]:
        if message.key not in state.replica.objects:
            raise CkrError(CKR.KEY_HANDLE_INVALID, "the key is gone")
        return [ShareRow(message.key, user)]

    # the other HSMs hold the key with its old users until they have applied the row
    state.revoke(build, state.entry(client, "KEY_SHARE", message.key, message.user.decode("utf-8", "replace")))
    return KeyShareResponse()


def key_unshare(state: State, client: Client, request: Request) -> KeyUnshareResponse:
    """The owner takes it back; when this is answered nobody uses it under the old right."""
    message = KeyUnshareRequest.decode(request.payload)
    access.own(state, client, message.key, CKR.KEY_HANDLE_INVALID)
    user = _sharee(state, client, message.user)

    def build(_version: int) -> list[Row]:
        share = state.replica.share(message.key, user)
        if share is None:
            raise CkrError(CKR.ARGUMENTS_BAD, "the key is not shared with this user")
        return [replace(share, deleted=True)]

    state.revoke(build, state.entry(client, "KEY_UNSHARE", message.key, message.user.decode("utf-8", "replace")))
    return KeyUnshareResponse()


def key_users(state: State, client: Client, request: Request) -> KeyUsersResponse:
    """Owner and sharees."""
    found = access.see(state, client, KeyUsersRequest.decode(request.payload).key, CKR.KEY_HANDLE_INVALID)
    users = state.replica.users
    owner = users.get(found.row.owner_id)
    shared = sorted(users[one].name for one in found.shares if one in users)
    return KeyUsersResponse(owner.name.encode() if owner else b"", tuple(name.encode() for name in shared))
