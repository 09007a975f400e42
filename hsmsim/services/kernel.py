"""What an AWS operation is: a plain function from a call and a typed request to the members of its response.

Rules:
- A request is a `Request` struct whose fields are the model's members, nested structures included. A member of the
  model that the struct does not have is refused by name (NotImplemented) before anything runs; it is never ignored.
- An operation that writes runs in the gateway's one writer, in a transaction that also holds its CloudTrail event: both
  or neither. It does no I/O besides that transaction. What has to happen elsewhere (an HSM's process, a key in an
  HSM) is a row that says so, and a reconciler does it afterwards (DESIGN D16).
- An operation that only reads runs in a pool of threads, on one snapshot.
- An operation that blocks on something outside of the database (cryptography in a cluster) runs in a pool of threads
  without a transaction, and opens its own through `call.writer` where it needs one.
- Before the function runs, each `Access` that `access` names is authorised; all of them must be allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, TypeVar, runtime_checkable

import msgspec

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from hsmsim.authz.principal import Caller
    from hsmsim.clock import Clock

Response: TypeAlias = Mapping[str, Any]
R = TypeVar("R", bound="Request")


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="pascal"):
    """Base of requests and of the structures in them: snake_case here, the model's PascalCase outside.

    A member that the model writes otherwise (`DryRun` is fine, `kmsKeyId` is not) is a field(name=...). A field with a
    default is an optional member. Blobs are bytes, timestamps datetimes.
    """


class Nothing(Request, frozen=True):
    """The request of an operation without members."""


class Mode(StrEnum):
    """Where an operation runs; see the module's rules."""

    WRITE = "write"
    READ = "read"
    BLOCK = "block"
    INLINE = "inline"
    """From memory alone, on the event loop itself: nothing that could wait."""


@dataclass(frozen=True, slots=True)
class Access:
    """One thing that the caller must be allowed: an IAM action on a resource.

    resource: an ARN or "*". account: the one that owns the resource, empty for the caller's. policy: the resource's own
    policy document, if it has one. context: condition keys of this resource (aws:ResourceTag/..., kms:ViaService, ...).
    """

    action: str
    resource: str = "*"
    account: str = ""
    policy: str | None = None
    context: Mapping[str, str | list[str]] = field(default_factory=dict)
    sole: bool = False


class Authorizer(Protocol):
    """Decides; AwsError("AccessDenied...") with AWS's sentence where it is no."""

    def authorize(self, call: Call, access: Access) -> None:
        """Return if the call's caller may do this."""


class Ids(Protocol):
    """Randomness for identifiers (DESIGN D12)."""

    def below(self, limit: int) -> int:
        """A random integer in [0, limit)."""

    def token(self, size: int) -> bytes:
        """Random bytes."""


class Writer(Protocol):
    """The gateway's one writer of its database."""

    def write(self, work: Callable[[Connection], Any]) -> Any:  # noqa: ANN401 - what work returns
        """Run work in a transaction and return its result once that is durable; what it raises undoes its part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request as an operation sees it.

    `region` and `account` are those that the signature names. `tx` is the transaction of WRITE and READ operations, and
    raises in the others. `after(work)` runs work once the transaction is durable: to wake a reconciler.
    """

    service: str
    operation: str
    region: str
    account: str
    caller: Caller
    request_id: str
    source_ip: str
    user_agent: str
    secure: bool
    clock: Clock
    ids: Ids
    writer: Writer
    _connection: Connection | None = None
    _after: list[Callable[[], None]] = field(default_factory=list)

    @property
    def tx(self) -> Connection:
        """The open transaction."""
        if self._connection is None:
            raise RuntimeError(f"{self.service} {self.operation} has no transaction: its mode is not WRITE or READ")
        return self._connection

    def after(self, work: Callable[[], None]) -> None:
        """Run `work` when the transaction is durable; it must not wait."""
        self._after.append(work)


@dataclass(frozen=True, slots=True)
class Operation:
    """A registered function. `access` names what the caller must be allowed, given the call and the request.

    read_only, shows_response: what CloudTrail says of it (readOnly, and whether there are responseElements).
    """

    name: str
    request: type[Request]
    run: Callable[[Call, Any], Response | None]
    mode: Mode
    access: Callable[[Call, Any], Iterable[Access]]
    read_only: bool
    shows_response: bool


@dataclass(slots=True)
class Service:
    """One AWS service as the gateway serves it.

    model: botocore's name of it (its folder in botocore/data); signing: the name in the signature's scope;
    source: CloudTrail's eventSource; prefix: IAM's. `denied`: the code of its AccessDenied error; `unsupported`: the
    code where an operation or member is not built; `failure`: the code where an operation fails for no reason that the
    gateway knows, empty where the service's model has none of its own and AWS's common InternalFailure is it.
    """

    model: str
    signing: str
    source: str
    prefix: str
    denied: str = "AccessDeniedException"
    unsupported: str = "NotImplementedException"
    failure: str = ""
    region: str = ""
    """Where CloudTrail records the calls of a global service; empty: in the region that the signature names."""
    operations: dict[str, Operation] = field(default_factory=dict)
    redact: (
        Callable[[str, dict[str, Any], dict[str, Any] | None], tuple[dict[str, Any], dict[str, Any] | None]] | None
    ) = None
    """CloudTrail: (operation, requestParameters, responseElements) -> the same as AWS shows them, where the general
    rule (sensitive members left out, no responseElements for reads) is not what AWS does."""

    def operation(
        self,
        request: type[R],
        mode: Mode,
        access: Callable[[Call, R], Iterable[Access]] | None = None,
        *,
        name: str = "",
        read_only: bool | None = None,
        shows_response: bool | None = None,
    ) -> Callable[[Callable[[Call, R], Response | None]], Callable[[Call, R], Response | None]]:
        """Register the decorated function; the operation's name is the function's in PascalCase, or `name`.

        Without `access`: the action of that name on every resource. Without `read_only`: by mode, and for BLOCK not.
        Without `shows_response`: where the operation is not read-only.
        """
        reads = mode in {Mode.READ, Mode.INLINE} if read_only is None else read_only

        def register(run: Callable[[Call, R], Response | None]) -> Callable[[Call, R], Response | None]:
            known = name or "".join(part.capitalize() for part in run.__name__.split("_"))
            action = f"{self.prefix}:{known}"
            self.operations[known] = Operation(
                known,
                request,
                run,
                mode,
                access or (lambda _call, _request: (Access(action),)),
                reads,
                not reads if shows_response is None else shows_response,
            )
            return run

        return register


class Reconciler(Protocol):
    """Makes the world follow the rows: started by the gateway, in a thread of its own, woken by `wake`.

    It finds all that is to be done in the database, so a gateway that was killed at any point goes on.
    """

    @property
    def name(self) -> str:
        """What it is woken by."""

    def step(self) -> float | None:
        """Do what is due; seconds (simulated time) until something is due again, None: not before it is woken."""


@runtime_checkable
class PartedReconciler(Protocol):
    """A reconciler of many things that do not wait for each other: each is followed on its own, a few at a time."""

    @property
    def name(self) -> str:
        """What it is woken by."""

    def parts(self) -> Iterable[str]:
        """Return the names of all; looked at when it is woken."""

    def step(self, part: str) -> float | None:
        """As Reconciler.step, for this one; never twice at once for the same."""


ANY: Final = "*"
