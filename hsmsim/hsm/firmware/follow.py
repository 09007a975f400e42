"""What changes in the rows does to this HSM at once: keys leave the engine, logins end, the vault follows.

Runs under the replica's lock for own and foreign commits, in the order of versions: when the version is applied, no
operation under an old right starts.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from hsmsim.cluster.model import ObjectRow, PartitionRow, ShareRow, UserRow
from hsmsim.errors import CkrError
from hsmsim.hsm.firmware import connections

if TYPE_CHECKING:
    from hsmsim.cluster.model import Change
    from hsmsim.hsm.firmware.state import Client, State

_LOG = logging.getLogger(__name__)


class Follower:
    """The listener of one HSM."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._passwords = {user.id: user.password_version for user in list(state.replica.users.values())}

    def on_change(self, change: Change) -> None:
        """Apply what a version means beyond the rows."""
        state = self._state
        stale = False
        for row in change.rows:
            if isinstance(row, ObjectRow):
                stale = stale or row.deleted or state.index.knows(row.handle)
                connections.forget_key(state, row.handle)
            elif isinstance(row, ShareRow):
                stale = True
                connections.forget_key(state, row.handle)
            elif isinstance(row, UserRow):
                self._user(row)
                stale = True
        state.index.on_change(change)
        state.vault.follow([row for row in change.rows if isinstance(row, ObjectRow | PartitionRow)])
        if stale:
            state.engine.epoch_bump()

    def _user(self, user: UserRow) -> None:
        former = self._passwords.get(user.id)
        self._passwords[user.id] = user.password_version
        if former is None or (former == user.password_version and not user.deleted):
            return
        for client in list(self._state.clients.values()):
            with client.lock:
                if client.user == user.id:
                    self._end(client)

    def _end(self, client: Client) -> None:
        try:
            connections.log_out(self._state, client)
        except CkrError as error:
            _LOG.info("Client %d went while it was logged out: %s", client.id, error)
