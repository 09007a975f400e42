"""Messages between processes of the simulator over a pipe or a unix socket: u32 length, little-endian, and the bytes.

Never between an HSM and its clients, which speak the HSM wire. A message is at most LIMIT bytes.
"""

from __future__ import annotations

import struct
from typing import Final, Protocol

from hsmsim.errors import HsmsimError

LIMIT: Final = 1 << 20
_LENGTH: Final = struct.Struct("<I")


class File(Protocol):
    """A pipe's end, or a socket as a file."""

    def read(self, size: int, /) -> bytes:
        """At most so many bytes, none at the end."""

    def write(self, data: bytes, /) -> int:
        """All of the bytes."""

    def flush(self) -> None:
        """Send what was written."""


class FrameError(HsmsimError):
    """The other end closed in the middle of a message, or said something that is none."""


def write(file: File, message: bytes) -> None:
    """Send one message."""
    if len(message) > LIMIT:
        raise FrameError(f"A message has at most {LIMIT} bytes; this one has {len(message)}.")
    file.write(_LENGTH.pack(len(message)) + message)
    file.flush()


def read(file: File) -> bytes | None:
    """Receive one message; None where the other end closed between two."""
    head = _exactly(file, _LENGTH.size)
    if not head:
        return None
    if len(head) != _LENGTH.size:
        raise FrameError("The other process ended in the middle of a message.")
    (length,) = _LENGTH.unpack(head)
    if length > LIMIT:
        raise FrameError(f"A message has at most {LIMIT} bytes; one of {length} was announced.")
    message = _exactly(file, length)
    if len(message) != length:
        raise FrameError("The other process ended in the middle of a message.")
    return message


def _exactly(file: File, count: int) -> bytes:
    """Read so many bytes, fewer only at the end."""
    data = bytearray()
    while len(data) < count:
        part = file.read(count - len(data))
        if not part:
            break
        data += part
    return bytes(data)
