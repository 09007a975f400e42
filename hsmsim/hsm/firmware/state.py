"""What all handlers share: the parts of the HSM and its connected clients.

A client is a PKCS#11 application (process): its sessions, its login, its session objects. All of it dies with its last
connection. Handlers run in several threads. Locks, each taken for a moment only: a client's for its fields, State.lock
for the table of clients, State.counting for the counts of bad logins. The replica's lock may be held when a client's is
taken (a foreign revocation), so nothing is written to the cluster, and no hash is computed, under a client's lock.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from hsmsim.cluster.model import ACTIVE, FIPS, ROLE_ADMIN, ROLE_CRYPTO_USER, AuditEntry
from hsmsim.errors import CkrError
from hsmsim.hsm.cryptoki import CKR, Profile
from hsmsim.hsm.vault.mechanisms import Reference

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from hsmsim.clock import Clock
    from hsmsim.cluster.model import Row, UserRow
    from hsmsim.cluster.replica import Replica
    from hsmsim.hsm.engine import Engine
    from hsmsim.hsm.firmware.index import Index
    from hsmsim.hsm.peers import Links
    from hsmsim.hsm.vault.vault import Vault

SESSION_LIMIT: Final = 1024


@dataclass(slots=True)
class Client:
    """A connected application. sessions: id -> whether read/write; user: 0 when nobody is logged in.

    availability_check: it wants a new token key to be on two HSMs.
    """

    id: int
    partition: int
    profile: Profile
    pid: int
    availability_check: bool = True
    user: int = 0
    role: int = 0
    tried: dict[int, int] = field(default_factory=dict)  # role -> whom it tried to be last
    sessions: dict[int, bool] = field(default_factory=dict)
    objects: dict[int, int] = field(default_factory=dict)  # session object -> its session
    lock: threading.RLock = field(default_factory=threading.RLock)

    def session(self, session_id: int) -> bool:
        """Whether the session is read/write; CKR_SESSION_HANDLE_INVALID if it is not open."""
        try:
            return self.sessions[session_id]
        except KeyError:
            raise CkrError(CKR.SESSION_HANDLE_INVALID, "this session is not open") from None

    @property
    def crypto_user(self) -> bool:
        """Whether a crypto user is logged in."""
        return self.user != 0 and self.role == ROLE_CRYPTO_USER

    @property
    def admin(self) -> bool:
        """Whether an admin is logged in."""
        return self.user != 0 and self.role == ROLE_ADMIN


@dataclass(frozen=True, slots=True)
class Settings:
    """From the HSM's configuration. reference: operations run in SoftHSM2 where it can; images: where backups go."""

    hsm_id: str
    cluster_id: str
    availability_check: bool
    reference: bool
    model: str
    folder: Path
    images: Path


class State:
    """The parts of this HSM and its clients."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        replica: Replica,
        links: Links,
        vault: Vault,
        index: Index,
        clock: Clock,
    ) -> None:
        self.settings = settings
        self.engine = engine
        self.replica = replica
        self.links = links
        self.vault = vault
        self.index = index
        self.clock = clock
        self.reference = Reference(vault) if settings.reference else None
        self.clients: dict[int, Client] = {}
        self.lock = threading.Lock()
        self.counting = threading.Lock()
        self.loading = threading.Lock()  # around a look at the rights and the load under them, and around a drop

    def client(self, client_id: int) -> Client:
        """A client that said HELLO."""
        try:
            return self.clients[client_id]
        except KeyError:
            raise CkrError(CKR.DEVICE_REMOVED, "the client is gone") from None

    def require_active(self) -> None:
        """Refuse before the first admin has a password."""
        if self.replica.cluster.state != ACTIVE:
            raise CkrError(CKR.USER_PIN_NOT_INITIALIZED, "the cluster is not activated yet: hsmsim up does it")

    @property
    def fips(self) -> bool:
        """Whether the cluster is in FIPS mode."""
        return self.replica.identity.mode == FIPS

    def require_unlimited(self) -> None:
        """Refuse while the cluster changes its hardware: token objects and users stay as they are."""
        if self.replica.identity.limited_write:
            raise CkrError(
                CKR.TOKEN_WRITE_PROTECTED,
                "the cluster is in limited-write mode while its HSMs are replaced; session keys work",
            )

    def unlimited(self, build: Callable[[int], Sequence[Row]]) -> Callable[[int], Sequence[Row]]:
        """A builder that writes nothing in limited-write mode, whenever that began."""

        def checked(version: int) -> Sequence[Row]:
            self.require_unlimited()
            return build(version)

        return checked

    def wants_two(self, client: Client) -> bool:
        """Whether the key availability check is on: the cluster's, and the client's configuration."""
        return self.settings.availability_check and client.availability_check

    def require_serving(self) -> None:
        """Refuse while another HSM may have committed what this one has not seen."""
        if not self.links.serving():
            raise CkrError(CKR.DEVICE_ERROR, "this HSM has lost its lease; ask another one")

    def user_of(self, client: Client) -> UserRow:
        """Who is logged in; CKR_USER_NOT_LOGGED_IN."""
        user = self.replica.users.get(client.user)
        if user is None:
            raise CkrError(CKR.USER_NOT_LOGGED_IN, "log in first: C_Login with user:password")
        return user

    def entry(self, client: Client | None, opcode: str, handle: int = 0, detail: str = "") -> AuditEntry:
        """An audit record of a success by this client's user."""
        user = self.replica.users.get(client.user) if client else None
        return AuditEntry(opcode, user.name if user else "", user.role if user else 0, 0, handle, detail)

    def revoke(self, build: Callable[[int], Sequence[Row]], audit: AuditEntry) -> int:
        """Write something that takes a right away; return when no HSM serves under the old right."""
        return self.revoke_always(self.unlimited(build), audit)

    def revoke_always(self, build: Callable[[int], Sequence[Row]], audit: AuditEntry) -> int:
        """The same in limited-write mode too."""
        version = self.replica.write(build, audit)
        self.engine.epoch_bump()
        self.links.announce(version, "all")
        return version

    def grant(self, build: Callable[[int], Sequence[Row]], audit: AuditEntry) -> int:
        """Write something that adds: acknowledged at commit."""
        version = self.replica.write(self.unlimited(build), audit)
        self.links.announce(version)
        return version
