"""Primitives of the HSM wire: bounded little-endian fields, templates, and the frame's header.

`hsmsim.hsm.messages` is generated on top of these from native/tables/wire.toml; native/wire/wire.c is the same in C.
Whatever bytes come in, decoding returns a value or raises WireError.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Protocol, Self

UNAVAILABLE = 0xFFFFFFFF
"""A template entry's length that stands for CK_UNAVAILABLE_INFORMATION."""

RESPONSE = 0x8000
"""Set in the op of a header that answers a request."""

TEMPLATE_LIMIT = 256
STRINGS_LIMIT = 65536

_U8 = struct.Struct("<B")
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_ATTRIBUTE = struct.Struct("<QI")
_HEADER = struct.Struct("<IHHQQQ")


class WireError(ValueError):
    """The bytes are not a message, or the value does not fit into one."""


@dataclass(frozen=True, slots=True)
class Secret:
    """Where a secret stands in a payload: bytes from the payload's start. In the HSM its bytes stay with the engine."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Attr:
    """One entry of a template. value is None where it is unavailable; offset is where it stands in the payload."""

    type: int
    value: bytes | None
    offset: int = field(default=0, compare=False)


Template = tuple[Attr, ...]


class Message(Protocol):
    """What a frame carries after its header."""

    def encode(self) -> bytes:
        """Return the payload."""

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read a whole payload; WireError for any other bytes."""


def located(value: bytes | Secret) -> Secret:
    """Return the place of a decoded secret; WireError for one that was not decoded."""
    if isinstance(value, Secret):
        return value
    raise WireError("this secret is in the clear, not in a payload")


class Reader:
    """A cursor over a payload."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def _take(self, length: int) -> int:
        start = self._at
        if length > len(self._data) - start:
            raise WireError(f"{length} bytes wanted at {start}, the payload has {len(self._data)}")
        self._at = start + length
        return start

    def u8(self) -> int:
        """Read one byte."""
        return self._data[self._take(1)]

    def u32(self) -> int:
        """Read four bytes, little-endian."""
        return int(_U32.unpack_from(self._data, self._take(4))[0])

    def u64(self) -> int:
        """Read eight bytes, little-endian."""
        return int(_U64.unpack_from(self._data, self._take(8))[0])

    def blob(self) -> bytes:
        """Read a length and that many bytes."""
        start = self._take(self.u32())
        return self._data[start : self._at]

    def secret(self) -> Secret:
        """Read a length, and step over that many bytes."""
        length = self.u32()
        return Secret(self._take(length), length)

    def numbers(self) -> tuple[int, ...]:
        """Read a count and that many u64."""
        count = self.u32()
        start = self._take(8 * count)
        return struct.unpack_from(f"<{count}Q", self._data, start)

    def strings(self) -> tuple[bytes, ...]:
        """Read a count and that many byte strings."""
        return tuple(self.blob() for _ in range(self._count(STRINGS_LIMIT)))

    def template(self) -> Template:
        """Read a count and that many attributes."""
        return tuple(self._attribute() for _ in range(self._count(TEMPLATE_LIMIT)))

    def _attribute(self) -> Attr:
        kind, length = _ATTRIBUTE.unpack_from(self._data, self._take(_ATTRIBUTE.size))
        if length == UNAVAILABLE:
            return Attr(kind, None, self._at)
        start = self._take(length)
        return Attr(kind, self._data[start : self._at], start)

    def _count(self, limit: int) -> int:
        count = self.u32()
        if count > limit:
            raise WireError(f"{count} entries, at most {limit} are allowed")
        return count

    def end(self) -> None:
        """Refuse bytes after the last field."""
        if self._at != len(self._data):
            raise WireError(f"{len(self._data) - self._at} bytes left over")


class Writer:
    """A payload that grows at its end."""

    __slots__ = ("_data",)

    def __init__(self) -> None:
        self._data = bytearray()

    def done(self) -> bytes:
        """Return what was written."""
        return bytes(self._data)

    def _pack(self, layout: struct.Struct, *values: int) -> None:
        try:
            self._data += layout.pack(*values)
        except struct.error as error:
            raise WireError(str(error)) from error

    def u8(self, value: int) -> None:
        """Write one byte."""
        self._pack(_U8, value)

    def u32(self, value: int) -> None:
        """Write four bytes, little-endian."""
        self._pack(_U32, value)

    def u64(self, value: int) -> None:
        """Write eight bytes, little-endian."""
        self._pack(_U64, value)

    def blob(self, value: bytes) -> None:
        """Write the length and the bytes."""
        self.u32(len(value))
        self._data += value

    def secret(self, value: bytes | Secret) -> None:
        """Write a secret in the clear, as a client does; a Secret is only a place and cannot be written."""
        if isinstance(value, Secret):
            raise WireError("a decoded secret cannot be encoded")
        self.blob(value)

    def numbers(self, values: tuple[int, ...]) -> None:
        """Write the count and each number as a u64."""
        self.u32(len(values))
        for value in values:
            self.u64(value)

    def strings(self, values: tuple[bytes, ...]) -> None:
        """Write the count and each byte string."""
        self._count(len(values), STRINGS_LIMIT)
        for value in values:
            self.blob(value)

    def template(self, attributes: Template) -> None:
        """Write the count and each attribute."""
        self._count(len(attributes), TEMPLATE_LIMIT)
        for attribute in attributes:
            if attribute.value is None:
                self._pack(_ATTRIBUTE, attribute.type, UNAVAILABLE)
            else:
                self._pack(_ATTRIBUTE, attribute.type, len(attribute.value))
                self._data += attribute.value

    def _count(self, count: int, limit: int) -> None:
        if count > limit:
            raise WireError(f"{count} entries, at most {limit} are allowed")
        self.u32(count)


def encode_template(attributes: Template) -> bytes:
    """Return a template alone, as it stands in the value of CKA_UNWRAP_TEMPLATE and its kind."""
    writer = Writer()
    writer.template(attributes)
    return writer.done()


def decode_template(data: bytes) -> Template:
    """Read the value of CKA_UNWRAP_TEMPLATE and its kind."""
    reader = Reader(data)
    template = reader.template()
    reader.end()
    return template


@dataclass(frozen=True, slots=True)
class Header:
    """The 32 bytes in front of a payload. word: the session of a request, the CK_RV of a response."""

    SIZE = _HEADER.size

    length: int
    op: int
    seq: int
    word: int = 0
    epoch: int = 0

    def encode(self) -> bytes:
        """Return the 32 bytes."""
        try:
            return _HEADER.pack(self.length, self.op, 0, self.seq, self.word, self.epoch)
        except struct.error as error:
            raise WireError(str(error)) from error

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read the 32 bytes; WireError for another length or for flags, which must be 0."""
        if len(data) != _HEADER.size:
            raise WireError(f"a header is {_HEADER.size} bytes, not {len(data)}")
        length, op, flags, seq, word, epoch = _HEADER.unpack(data)
        if flags != 0:
            raise WireError(f"unknown flags {flags:#x}")
        return cls(length, op, seq, word, epoch)
