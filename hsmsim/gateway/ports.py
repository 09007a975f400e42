"""What the gateway needs of others and gives them. Implementations are in the services, wired in `assembly`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future
    from pathlib import Path

    from sqlalchemy.engine import Connection

    from hsmsim.authz.principal import Credential
    from hsmsim.clock import Clock
    from hsmsim.fleet.protocol import Request
    from hsmsim.services import kernel
    from hsmsim.services.kernel import Authorizer, Ids, PartedReconciler, Reconciler, Service
    from hsmsim.storage.database import Database


T = TypeVar("T")


class Credentials(Protocol):
    """The access keys of all accounts, from memory."""

    def find(self, access_key_id: str, session_token: str | None) -> Credential:
        """AwsError InvalidClientTokenId, ExpiredToken, ... where there is none that may be used now."""


class Memory(Protocol):
    """What is held in memory of rows that other gateways change, too."""

    @property
    def question(self) -> str:
        """SQL for one number: of the last change."""

    @property
    def known(self) -> int:
        """The number of the last change of which all before it have taken effect here."""

    def catch_up(self, tx: Connection) -> None:
        """Have all take effect that this snapshot holds."""


class Recorder(Protocol):
    """CloudTrail's store."""

    def record(self, connection: Connection, *events: Mapping[str, Any], again: bool = False) -> None:
        """Write the events in this transaction. again: some of them may be there already, and stay as they are."""


class Writer(Protocol):
    """The one writer of the gateway's database (storage.writer)."""

    def submit(self, work: Callable[[Connection], Any]) -> Future[Any]:
        """Have work run; its future is done when the transaction is durable or failed."""

    def write(self, work: Callable[[Connection], Any]) -> Any:  # noqa: ANN401 - what work returns
        """Run work and wait for it."""


class Fleet(Protocol):
    """The fleet's daemon, which has the HSMs (hsmsim.fleet.protocol)."""

    def call(self, request: Request, result: type[T]) -> T:
        """Ask; safe from any thread, blocks. HsmsimError: it refused (a FleetError), or is away."""


Route: TypeAlias = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""A management call: JSON members in, JSON members out; HsmsimError for what it refuses. It runs in a thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """What a service is built with."""

    database: Database
    writer: Writer
    led: kernel.Writer
    """The writer for reconcilers: refuses what a gateway writes that does not lead any more."""
    clock: Clock
    ids: Ids
    wake: Callable[[str], None]
    """Wakes the reconciler of this name; safe from any thread, never waits."""
    wake_all: Callable[[], None]
    """Wakes every reconciler: simulated time was changed."""
    forget_key: Callable[[str], None]
    """Wipes what was derived from this access key, when it is deleted or deactivated; safe from any thread."""
    default_account: str
    home: Path
    """The state folder, 0700."""
    events: int
    """CloudTrail events that are kept at most."""
    fleet: Fleet
    time_scale: float = 0.0
    """How much of AWS's time a transition takes: 0 none, 1 all of it."""
    quotas: Mapping[str, int] = field(default_factory=dict)
    """Limits of an account that are other than AWS's defaults."""
    unverified: Mapping[str, bool | float | str] = field(default_factory=dict)
    """Decisions of services where AWS's are not known, that are to be taken otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the services put into the gateway. routes: (method, path) of the management socket."""

    services: tuple[Service, ...]
    credentials: Credentials
    authorizer: Authorizer
    recorder: Recorder
    reconcilers: tuple[Reconciler | PartedReconciler, ...] = ()
    memory: Memory | None = None
    routes: Mapping[tuple[str, str], Route] = field(default_factory=dict)
