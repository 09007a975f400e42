"""What the gateway asks of the fleet's daemon, and the client of it.

One request, one answer, each a frame (hsmsim.frames) of msgpack. Every operation names what it makes by an id that the
caller chose, and looks first what is done of it: a caller that was killed, or lost the connection, asks again.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Final, Self, TypeVar

import msgspec

from hsmsim import frames
from hsmsim.errors import HsmsimError
from hsmsim.hsm.client import peer_uid

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

SECONDS: Final = 180.0
_T = TypeVar("_T")


class _Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """A request."""


class CreateHsm(_Message, frozen=True):
    """Make and start an HSM, and its cluster if that is new; done when it serves.

    image_id: the image that a cluster without HSMs grows from, of this region. Without one such a cluster starts anew.
    """

    cluster_id: str
    hsm_id: str
    model: str = "hsm2m.medium"
    mode: str = "FIPS"
    image_id: str = ""
    region: str = "us-east-1"
    availability_check: bool = True


class StartHsm(_Message, frozen=True):
    """Start an HSM that is stopped, was killed or died; done when it serves."""

    hsm_id: str


class StopHsm(_Message, frozen=True):
    """Stop it in order; it stays a member."""

    hsm_id: str


class KillHsm(_Message, frozen=True):
    """SIGKILL, as a power failure would."""

    hsm_id: str


class DeleteHsm(_Message, frozen=True):
    """Have it leave its cluster, and wipe it."""

    hsm_id: str


class DeleteCluster(_Message, frozen=True):
    """Forget a cluster without HSMs. Its images stay."""

    cluster_id: str


class Describe(_Message, frozen=True):
    """One HSM."""

    hsm_id: str


class ListHsms(_Message, frozen=True):
    """All HSMs, or those of one cluster."""

    cluster_id: str = ""


class Certificates(_Message, frozen=True):
    """The certificates that the cluster shows."""

    cluster_id: str


class Initialize(_Message, frozen=True):
    """Give the cluster its certificate, both PEM."""

    cluster_id: str
    signed_certificate: bytes
    trust_anchor: bytes


class LimitedWrite(_Message, frozen=True):
    """Begin or end limited-write mode."""

    cluster_id: str
    on: bool


class Backup(_Message, frozen=True):
    """Write an image of the cluster's rows, sealed to the backup root of a region."""

    cluster_id: str
    image_id: str
    region: str = "us-east-1"


class CopyImage(_Message, frozen=True):
    """Copy an image for another region."""

    source_id: str
    image_id: str
    region: str


class DescribeImage(_Message, frozen=True):
    """What is in an image."""

    image_id: str


class DeleteImage(_Message, frozen=True):
    """Remove an image; one that is gone is no error."""

    image_id: str


class FaultsView(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An HSM's faults as people name them.

    slow_ms: milliseconds that each request waits; drop_percent: how many requests of a hundred are lost; cut: from whom
    it is cut off (faults.CUTS); disk: one of faults.DISKS; clock_s: seconds by which its simulated clock is ahead.
    """

    hsm_id: str
    paused: bool = False
    slow_ms: float = 0.0
    drop_percent: float = 0.0
    cut: tuple[str, ...] = ()
    disk: str = "fine"
    clock_s: int = 0

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return self != FaultsView(self.hsm_id)


class ListFaults(_Message, frozen=True):
    """The faults of every HSM."""


class PutFaults(_Message, frozen=True):
    """Have an HSM suffer these faults and no others."""

    faults: FaultsView


Request = (
    CreateHsm
    | StartHsm
    | StopHsm
    | KillHsm
    | DeleteHsm
    | DeleteCluster
    | Describe
    | ListHsms
    | Certificates
    | Initialize
    | LimitedWrite
    | Backup
    | CopyImage
    | DescribeImage
    | DeleteImage
    | ListFaults
    | PutFaults
)


# ---- answers ---------------------------------------------------------------------------------------------------------


class HsmView(msgspec.Struct, frozen=True):
    """An HSM as the fleet sees it.

    state: RUNNING (it serves), STARTING, STOPPED (it was asked to), DIED (it was not). cluster_state, mode and
    limited_write are what a serving HSM says; empty otherwise.
    """

    hsm_id: str
    cluster_id: str
    model: str
    mode: str
    state: str
    cluster_state: str = ""
    limited_write: bool = False
    keys: int = 0
    users: int = 0
    sessions: int = 0
    pid: int = 0


class CertificatesView(msgspec.Struct, frozen=True):
    """PEM, each empty where the cluster's state has none."""

    csr: bytes
    hsm: bytes
    aws_hardware: bytes
    manufacturer_hardware: bytes
    cluster: bytes
    trust_anchor: bytes


class ImageView(msgspec.Struct, frozen=True):
    """An image; time: simulated seconds since the epoch; digest: SHA-256."""

    image_id: str
    cluster_id: str
    region: str
    mode: str
    model: str
    version: int
    time: int
    size: int
    digest: bytes


class Answer(msgspec.Struct, frozen=True):
    """result: msgpack of what the operation returns; or, in `error`, why it failed; rv: the HSM's CK_RV for it."""

    result: bytes = b""
    error: str = ""
    rv: int = 0


class FleetError(HsmsimError):
    """What the daemon answered instead of a result. rv: the CK_RV of the HSM that refused, 0 where none did."""

    def __init__(self, text: str, rv: int = 0) -> None:
        super().__init__(text)
        self.rv = rv


class FleetClient:
    """A connection to the daemon. A broken one is an OSError or FrameError: connect again and repeat the request."""

    def __init__(self, path: Path, *, uids: frozenset[int] = frozenset(), seconds: float = SECONDS) -> None:
        """uids: whose daemon is believed beside root's and one's own."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(seconds)
        try:
            self._socket.connect(str(path))
            _require_owner(path, peer_uid(self._socket), {0, os.geteuid()} | uids)
        except BaseException:
            self._socket.close()
            raise
        self._file = self._socket.makefile("rwb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self._socket.close()

    def call(self, request: Request, result: type[_T]) -> _T:
        """Ask and return the result; FleetError says why not."""
        frames.write(self._file, msgspec.msgpack.encode(request))
        message = frames.read(self._file)
        if message is None:
            raise ConnectionResetError("the fleet's daemon closed the connection")
        answer = msgspec.msgpack.decode(message, type=Answer)
        if answer.error:
            raise FleetError(answer.error, answer.rv)
        return msgspec.msgpack.decode(answer.result, type=result)


def _require_owner(path: Path, uid: int, uids: frozenset[int] | set[int]) -> None:
    if uid not in uids:
        raise HsmsimError(f"{path} is not the fleet's: uid {uid} listens there.")
