"""Attribute values: their wire encoding and their Python values, by the kind that the attribute table gives.

bool <-> one byte, ulong <-> u64, template <-> encoded template, ulongs <-> u64 each, all else bytes. A value that does
not fit its kind is CKR_ATTRIBUTE_VALUE_INVALID, an attribute that no object has CKR_ATTRIBUTE_TYPE_INVALID.
"""

from __future__ import annotations

import functools
import struct
from typing import TYPE_CHECKING, Final

from hsmsim.errors import CkrError
from hsmsim.hsm.cryptoki import ATTRIBUTES, CKA, CKR, Kind
from hsmsim.hsm.wire import Attr, WireError, decode_template, encode_template

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hsmsim.hsm.wire import Template

Value = bool | int | bytes
Attributes = dict[CKA, Value]

UNAVAILABLE: Final = 0xFFFFFFFFFFFFFFFF
DATE_SIZE: Final = 8
LABEL_MAX: Final = 4096
NESTING_MAX: Final = 4


def decode(name: CKA, raw: bytes, depth: int = 0) -> Value:
    """The value of an attribute from its wire bytes; depth: in how many templates it stands."""
    kind = ATTRIBUTES[name].kind
    bad = CkrError(CKR.ATTRIBUTE_VALUE_INVALID, f"{name.name} has a value of the wrong form")
    if kind is Kind.BOOL:
        if raw not in (b"\0", b"\1"):
            raise bad
        return raw == b"\1"
    if kind is Kind.ULONG:
        if len(raw) != struct.calcsize("<Q"):
            raise bad
        return int.from_bytes(raw, "little")
    if kind is Kind.DATE and len(raw) not in (0, DATE_SIZE):
        raise bad
    if kind is Kind.ULONGS and len(raw) % 8:
        raise bad
    if kind is Kind.TEMPLATE and not _is_template(raw, depth + 1):
        raise bad
    if kind is Kind.TEXT and len(raw) > LABEL_MAX:
        raise bad
    return raw


def _is_template(raw: bytes, depth: int) -> bool:
    """Whether each attribute is one that objects have, with a value that it can have."""
    try:
        template = decode_template(raw)
        return depth <= NESTING_MAX and all(
            attr.type in ATTRIBUTES and attr.value is not None and decode(CKA(attr.type), attr.value, depth) is not None
            for attr in template
        )
    except (WireError, CkrError):
        return False


def encode(value: Value) -> bytes:
    """The wire bytes of a value."""
    if isinstance(value, bool):
        return b"\1" if value else b"\0"
    if isinstance(value, int):
        return value.to_bytes(8, "little")
    return value


def parse(template: Template) -> Attributes:
    """A caller's template by name; an attribute twice is CKR_TEMPLATE_INCONSISTENT."""
    found: Attributes = {}
    for attr in template:
        if attr.type not in ATTRIBUTES:
            raise CkrError(CKR.ATTRIBUTE_TYPE_INVALID, f"attribute 0x{attr.type:08X} is not one that objects here have")
        name = CKA(attr.type)
        if attr.value is None:
            raise CkrError(CKR.ATTRIBUTE_VALUE_INVALID, f"{name.name} has no value")
        if name in found:
            raise CkrError(CKR.TEMPLATE_INCONSISTENT, f"{name.name} is given twice")
        found[name] = decode(name, attr.value)
    return found


def pack(attributes: Mapping[CKA, Value]) -> bytes:
    """Attributes as a row keeps them."""
    return encode_template(tuple(Attr(name, encode(attributes[name])) for name in sorted(attributes)))


@functools.lru_cache(maxsize=512)
def _unpacked(data: bytes) -> tuple[tuple[CKA, Value], ...]:
    return tuple((CKA(attr.type), decode(CKA(attr.type), attr.value or b"")) for attr in decode_template(data))


def unpack(data: bytes) -> Attributes:
    """Attributes from a row."""
    return dict(_unpacked(data))


def numbers(raw: Value) -> tuple[int, ...]:
    """The numbers of a `ulongs` value."""
    data = raw if isinstance(raw, bytes) else b""
    return struct.unpack(f"<{len(data) // 8}Q", data)
