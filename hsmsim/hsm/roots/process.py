"""The process of the roots, and the fleet's end of it: one request, one answer, over the standard streams.

Nobody else can reach it: there is no socket. It ends when its standard input does. A request that fails is answered
with the reason; the process goes on.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import msgspec

from hsmsim import frames
from hsmsim.errors import HsmsimError

if TYPE_CHECKING:
    from types import TracebackType

    from hsmsim.hsm.roots.authority import Authority

STOP_SECONDS: Final = 5.0


class Manufacture(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Make an HSM's folder."""

    hsm_id: str


class Certify(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """The certificates of an HSM that was made on another host: see Authority.certify."""

    hsm_id: str
    device: bytes
    hardware: bytes


class Region(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """The certificate of a region's backup root."""

    region: str


class Reseal(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """An image's masking key for an HSM of the restored cluster."""

    region: str
    sealed: bytes
    context: bytes
    hsm_id: str
    cluster_id: str


class Rewrap(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """An image's masking key for the image's copy in another region."""

    region: str
    sealed: bytes
    context: bytes
    destination: str
    new_context: bytes


Request = Manufacture | Certify | Region | Reseal | Rewrap


class Answer(msgspec.Struct, frozen=True):
    """data, or in `error` why not."""

    data: bytes = b""
    error: str = ""


def _run(authority: Authority, request: Request) -> bytes:
    match request:
        case Manufacture():
            authority.manufacture(request.hsm_id)
            return b""
        case Certify():
            return msgspec.msgpack.encode(authority.certify(request.hsm_id, request.device, request.hardware))
        case Region():
            return authority.region(request.region)
        case Reseal():
            return authority.reseal(request.region, request.sealed, request.context, request.hsm_id, request.cluster_id)
        case Rewrap():
            return authority.rewrap(
                request.region, request.sealed, request.context, request.destination, request.new_context
            )


def main() -> None:
    """Serve until standard input ends."""
    from hsmsim.hsm.roots.authority import Authority  # noqa: PLC0415 - the fleet imports this module without the engine

    parser = argparse.ArgumentParser(prog="python -m hsmsim.hsm.roots", description="The roots of this simulator.")
    parser.add_argument("--home", type=Path, required=True, help="the state folder")
    home = parser.parse_args().home
    os.umask(0o077)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    authority = Authority(home)
    decoder: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
    while (message := frames.read(sys.stdin.buffer)) is not None:
        try:
            answer = Answer(_run(authority, decoder.decode(message)))
        except (HsmsimError, msgspec.DecodeError, OSError) as error:
            answer = Answer(error=str(error))
        frames.write(sys.stdout.buffer, msgspec.msgpack.encode(answer))
    os._exit(0)  # as an HSM ends: OpenSSL's and SoftHSM2's destructors are not waited for


class Roots:
    """The fleet's end: starts the process at its first use or before, ends it with close(). Safe from any thread."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def begin(self) -> None:
        """Start the process before it is needed: it reads its programs while nobody waits for it."""
        with self._lock:
            self._started()

    def manufacture(self, hsm_id: str) -> None:
        """Make HOME/hsms/<id>."""
        self._ask(Manufacture(hsm_id))

    def certify(self, request: Certify) -> dict[str, bytes]:
        """Return the certificates (PEM) of an HSM that was made on another host, by their files' names."""
        return msgspec.msgpack.decode(self._ask(request), type=dict[str, bytes])

    def region(self, region: str) -> bytes:
        """Return the certificate (DER) of the region's backup root."""
        return self._ask(Region(region))

    def reseal(self, request: Reseal) -> bytes:
        """Return the masking key sealed to an HSM."""
        return self._ask(request)

    def rewrap(self, request: Rewrap) -> bytes:
        """Return the masking key sealed to another region."""
        return self._ask(request)

    def close(self) -> None:
        """End the process."""
        with self._lock:
            process, self._process = self._process, None
        if process is None:
            return
        with process:
            if process.stdin is not None:
                process.stdin.close()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()

    def _ask(self, request: Request) -> bytes:
        with self._lock:
            process = self._started()
            if process.stdin is None or process.stdout is None:
                raise HsmsimError("The process of the roots has no streams.")
            try:
                frames.write(process.stdin, msgspec.msgpack.encode(request))
                message = frames.read(process.stdout)
            except OSError as error:
                raise HsmsimError(f"The process of the roots is gone ({error}). Try again.") from error
        if message is None:
            raise HsmsimError("The process of the roots ended; what it said is in the log of who started it.")
        answer = msgspec.msgpack.decode(message, type=Answer)
        if answer.error:
            raise HsmsimError(answer.error)
        return answer.data

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            command = [sys.executable, "-P", "-m", "hsmsim.hsm.roots", "--home", str(self._home)]
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
        return self._process
