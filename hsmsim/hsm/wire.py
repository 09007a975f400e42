"""Primitives of the HSM wire: bounded little-endian fields, templates, and the frame's header.

`hsmsim.hsm.codec` makes messages of these; native/wire/wire.c is the same in C. Whatever bytes come in, reading returns
a value or raises WireError; packers raise struct.error, which `packed` turns into WireError.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sized

_Value = TypeVar("_Value")

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


# ---- packers: a value's bytes -------------------------------------------------------------------------------------

u8: Final[Callable[[int], bytes]] = _U8.pack
u32: Final[Callable[[int], bytes]] = _U32.pack
u64: Final[Callable[[int], bytes]] = _U64.pack


def blob(value: bytes) -> bytes:
    """Length and bytes."""
    return _U32.pack(len(value)) + value


def secret(value: bytes | Secret) -> bytes:
    """A secret in the clear, as a client sends it; a Secret is only a place and cannot be sent."""
    if isinstance(value, Secret):
        raise WireError("a decoded secret cannot be encoded")
    return blob(value)


def numbers(values: tuple[int, ...]) -> bytes:
    """Count and numbers, each a u64."""
    return struct.pack(f"<I{'Q' * len(values)}", len(values), *values)


def strings(values: tuple[bytes, ...]) -> bytes:
    """Count and byte strings."""
    return b"".join([_count(values, STRINGS_LIMIT), *map(blob, values)])


def template(attributes: Template) -> bytes:
    """Count and attributes."""
    return b"".join([_count(attributes, TEMPLATE_LIMIT), *map(_attribute, attributes)])


def _attribute(attribute: Attr) -> bytes:
    if attribute.value is None:
        return _ATTRIBUTE.pack(attribute.type, UNAVAILABLE)
    return _ATTRIBUTE.pack(attribute.type, len(attribute.value)) + attribute.value


def _count(values: Sized, limit: int) -> bytes:
    if len(values) > limit:
        raise WireError(f"{len(values)} entries, at most {limit} are allowed")
    return _U32.pack(len(values))


def packed(pack: Callable[[_Value], bytes], value: _Value) -> bytes:
    """Return what `pack` makes of the value; WireError where it does not fit."""
    try:
        return pack(value)
    except struct.error as error:
        raise WireError(str(error)) from error


def encode_template(attributes: Template) -> bytes:
    """Return a template alone, as it stands in the value of CKA_UNWRAP_TEMPLATE and its kind."""
    return packed(template, attributes)


def decode_template(data: bytes) -> Template:
    """Read the value of CKA_UNWRAP_TEMPLATE and its kind."""
    reader = Reader(data)
    attributes = reader.template()
    reader.end()
    return attributes


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
