"""One connection from an HSM to another one: frames, one at a time, each with a deadline.

Rules: any failure (refused, closed, late, malformed) is a LinkError and the connection is closed; a CK_RV other than
OK is a CkrError and the connection stays.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self, TypeVar

from hsmsim.errors import CkrError, HsmsimError
from hsmsim.hsm.address import way
from hsmsim.hsm.client import at_socket
from hsmsim.hsm.dial import at_port
from hsmsim.hsm.messages import MAX_FRAME_OPEN
from hsmsim.hsm.wire import RESPONSE, Header, WireError

if TYPE_CHECKING:
    import socket
    from types import TracebackType

    from hsmsim.hsm.codec import Request, Response

_Answer = TypeVar("_Answer", bound="Response")
VERSION: Final = 1
PROTOCOLS: Final = ("hsmsim-peer",)
"""Said in the handshake: this is no client, of whom a client certificate could be asked."""
PROFILE_PEER: Final = 4
"""HELLO: another HSM, which a fault may cut off where it does not cut off clients."""


class LinkError(HsmsimError):
    """The other HSM does not answer, or not as one."""


class Link:
    """An open connection. timeout: seconds for each call.

    there, here: the places of the two HSMs, see `address`; certificate: what a TCP port must show, see `at_port`.
    """

    def __init__(self, there: str, timeout: float, *, here: str = "", certificate: bytes | None = None) -> None:
        self._timeout = timeout
        self._sequence = 0
        self._socket: socket.socket
        try:
            address = way(there, here)
            if address.startswith("/"):
                self._socket = at_socket(address, timeout)
            else:
                self._socket = at_port(address, timeout, certificate, PROTOCOLS)
        except (OSError, ValueError, TypeError, AttributeError, HsmsimError) as error:  # they come out of a table
            raise LinkError(f"{there!r}: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def call(self, request: Request[_Answer]) -> _Answer:
        """Send a request and return its answer."""
        try:
            return self._call(request)
        except (OSError, WireError) as error:
            self.close()
            raise LinkError(str(error)) from error

    def _call(self, request: Request[_Answer]) -> _Answer:
        deadline = time.monotonic() + self._timeout
        self._sequence += 1
        payload = request.encode()
        self._socket.settimeout(self._timeout)
        self._socket.sendall(Header(len(payload), request.OP, self._sequence).encode() + payload)
        header = Header.decode(self._receive(Header.SIZE, deadline))
        if header.op != request.OP | RESPONSE or header.seq != self._sequence or header.length > MAX_FRAME_OPEN:
            raise WireError(f"this is no answer to {request.OP.name}")
        content = self._receive(header.length, deadline)
        if header.word != 0:
            raise CkrError(header.word, f"{request.OP.name} was answered with CK_RV 0x{header.word:08X}")
        return request.response().decode(content)

    def _receive(self, length: int, deadline: float) -> bytes:
        received = bytearray()
        while len(received) < length:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            part = self._socket.recv(length - len(received))
            if not part:
                raise ConnectionResetError("the connection was closed")
            received += part
        return bytes(received)

    def close(self) -> None:
        """Close the connection; again is harmless."""
        with suppress(OSError):
            self._socket.close()
