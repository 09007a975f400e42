"""The first key: what the gateway needs at its first start. Files are 0600 in the state folder.

Rules: the root key is written to its file before its row is committed, so that a crash between the two loses no access;
the row is made from the file then. The secret is returned once, to the call that made it.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import msgspec

from hsmsim.authz.principal import access_key_id, new_secret
from hsmsim.crypto.seal import KEY_BYTES, Seal
from hsmsim.fleet import state
from hsmsim.services.iam import store
from hsmsim.services.iam.model import AccessKey, Thing
from hsmsim.services.iam.rootkey import RootKey, kept

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Connection

    from hsmsim.config import Places
    from hsmsim.services.iam.directory import Directory
    from hsmsim.services.kernel import Ids, Writer


def load_seal(places: Places) -> Seal:
    """Return the gateway's seal; its key is made at the first start."""
    with state.lock(places):
        key = state.read_private(places.gateway_key_file)
        if key is None:
            key = secrets.token_bytes(KEY_BYTES)
            state.write_private(places.gateway_key_file, key)
    return Seal(key)


def ensure_root(
    places: Places, writer: Writer, directory: Directory, ids: Ids, account: str, now: float
) -> RootKey | None:
    """Make the account with its root key if there is no account; None if there is one. `directory` catches up after."""

    def make(tx: Connection) -> RootKey | None:
        if store.accounts(tx):
            return None
        root = kept(places)
        if root is None or root.account != account:
            root = RootKey(account, access_key_id("AKIA", account, ids.token), new_secret(ids.token))
            state.write_private(places.root_key_file, msgspec.json.encode(root))
        add_root(tx, directory, root, now)
        return root

    made: RootKey | None = writer.write(make)
    return made


def add_root(tx: Connection, directory: Directory, root: RootKey, now: float) -> Callable[[], None]:
    """Make the rows of an account and of its root user's key, which what is returned has take effect afterwards."""
    sealed = directory.seal_secret(root.access_key_id, root.secret_access_key)
    store.add_account(tx, root.account, now)
    store.add_key(tx, AccessKey(root.access_key_id, root.account, root.account, sealed, active=True, created=now))
    return directory.change(tx, Thing.KEY, root.access_key_id)
