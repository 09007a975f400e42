"""A client of an HSM in Python: one connection, one call at a time. What the command line uses.

`HsmClient(path)` connects; `HsmClient.connect(path, partition)` also says HELLO. By TCP (an address with a port instead
of a path) nobody vouches for who answers: what asks there sends no secret. A CK_RV other than CKR_OK is a
CkrError, a broken connection an OSError. With a uid only its HSMs, or root's, are talked to: a password goes to no
stranger (DESIGN D15).
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from hsmsim.errors import CkrError, HsmsimError
from hsmsim.hsm.cryptoki import CKR, ERROR_TEXT
from hsmsim.hsm.messages import HelloRequest, LoginRequest
from hsmsim.hsm.wire import RESPONSE, Header

if TYPE_CHECKING:
    from os import PathLike
    from types import TracebackType

    from hsmsim.hsm.codec import Request, Response
    from hsmsim.hsm.messages import HelloResponse, LoginResponse

VERSION: Final = 1
SECONDS: Final = 60.0
_CREDENTIALS: Final = struct.Struct("iII")  # struct ucred
_OTHERS_WRITE: Final = 0o022
_Answer = TypeVar("_Answer", bound="Response")


class StrangerError(HsmsimError):
    """A socket that somebody else may have made."""


def peer_uid(connection: socket.socket) -> int:
    """Return the uid at the other end of a unix socket."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(raw)[1]
    return uid


def _require_safe_folder(path: Path, uid: int) -> None:
    """As the module does it: the folder of the socket is root's or the uid's, and theirs alone to change."""
    found = path.parent.stat()
    if found.st_uid not in {0, uid} or found.st_mode & _OTHERS_WRITE:
        raise StrangerError(f"The folder of {path} is not root's or user {uid}'s alone: no password goes there.")


def _require_hsm(connection: socket.socket, path: str | PathLike[str], uid: int) -> None:
    if peer_uid(connection) not in {0, uid}:
        raise StrangerError(f"Who listens at {path} is not user {uid}: no password goes there.")


def at_socket(path: str, seconds: float, uid: int | None = None) -> socket.socket:
    """Connect to a unix socket; each call on it takes no longer than `seconds`. OSError, StrangerError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    connection.settimeout(seconds)
    try:
        if uid is not None:
            _require_safe_folder(Path(path), uid)
        connection.connect(path)
        if uid is not None:
            _require_hsm(connection, path, uid)
    except BaseException:
        connection.close()
        raise
    return connection


def _at_port(address: str, seconds: float, uid: int | None) -> socket.socket:
    if uid is not None:
        raise StrangerError(f"Who listens at {address} is no user of this machine: no password goes there.")
    from hsmsim.hsm.dial import at_port  # noqa: PLC0415 - who asks at a socket does not wait for TLS to be read

    return at_port(address, seconds)


class HsmClient:
    """An open connection."""

    def __init__(
        self, path: str | PathLike[str] | socket.socket, *, seconds: float = SECONDS, uid: int | None = None
    ) -> None:
        """path: or a connection that is there, to whom it should be."""
        self._seq = 0
        self.hello: HelloResponse | None = None
        if isinstance(path, socket.socket):
            self._socket = path
            return
        address = str(path)
        self._socket = (at_socket if address.startswith("/") else _at_port)(address, seconds, uid)

    @classmethod
    def connect(
        cls,
        path: str | PathLike[str] | socket.socket,
        partition: str = "",
        *,
        profile: int = 0,
        seconds: float = SECONDS,
        hello_seconds: float | None = None,
        uid: int | None = None,
    ) -> Self:
        """Connect and say HELLO to a partition (empty: the first). CkrError CKR_TOKEN_NOT_PRESENT: there is none.

        seconds: how long to wait for each answer; hello_seconds: for the first one, if not as long.
        """
        client = cls(path, seconds=hello_seconds or seconds, uid=uid)
        try:
            client.hello = client.call(HelloRequest(VERSION, profile, partition.encode(), b"", b""))
        except (OSError, CkrError):
            client.close()
            raise
        client._socket.settimeout(seconds)
        return client

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def call(self, request: Request[_Answer], session: int = 0) -> _Answer:
        """Send a request and return its response."""
        rv, content = self.exchange(request, session)
        if rv != CKR.OK:
            text = ERROR_TEXT.get(rv, "")
            raise CkrError(rv, text or f"{request.OP.name} was answered with CK_RV 0x{rv:08X}")
        return request.response().decode(content)

    def exchange(self, request: Request[Any], session: int = 0) -> tuple[int, bytes]:
        """Send a request and return the CK_RV and the payload, which GET_ATTRIBUTES has with some errors too."""
        self._seq += 1
        payload = request.encode()
        self._socket.sendall(Header(len(payload), request.OP, self._seq, session).encode() + payload)
        header = Header.decode(self._receive(Header.SIZE))
        content = self._receive(header.length)
        if header.op != request.OP | RESPONSE or header.seq != self._seq:
            raise ConnectionError(f"this is no answer to {request.OP.name}")
        return header.word, content

    def login(self, name: str, password: str, user_type: int) -> LoginResponse:
        """Log in: CKU_SO for admins, CKU_USER for crypto users."""
        return self.call(LoginRequest(user_type, name.encode(), password.encode()))

    def _receive(self, length: int) -> bytes:
        received = bytearray()
        while len(received) < length:
            part = self._socket.recv(length - len(received))
            if not part:
                raise ConnectionResetError("the HSM closed the connection")
            received += part
        return bytes(received)
