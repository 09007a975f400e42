"""CBOR (RFC 8949) as rpc-v2-cbor uses it, bounded: what a hostile length or depth announces is never allocated.

Read: integers, floats of all sizes, text and byte strings, arrays and maps (definite or not), tag 1 (epoch seconds),
booleans, null, undefined. Any other tag or simple value is refused, as the protocol's specification says. Map keys are
text.
"""

from __future__ import annotations

import datetime as dt
import struct
from typing import Any, Final

from hsmsim.gateway.codec import times
from hsmsim.gateway.codec.wire import MAX_DEPTH, MAX_NODES

_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
_INDEFINITE: Final = 31
_BREAK: Final = 0xFF
_LENGTHS: Final = {24: 1, 25: 2, 26: 4, 27: 8}
_FLOATS: Final = {25: ">e", 26: ">f", 27: ">d"}
_SIMPLES: Final = {20: False, 21: True, 22: None, 23: None}
_EPOCH_TAG: Final = 1


class CborError(ValueError):
    """The bytes are not CBOR, or not of the kind that the protocol allows."""


def decode(data: bytes) -> Any:  # noqa: ANN401 - any value
    """The one value that the bytes are."""
    reader = _Reader(data)
    value = reader.item(0)
    if reader.at != len(data):
        raise CborError("bytes follow the value")
    return value


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.nodes = 0

    def item(self, depth: int) -> Any:  # noqa: ANN401, PLR0911 - any value, a case for each major type
        if depth > MAX_DEPTH:
            raise CborError(f"more than {MAX_DEPTH} levels")
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise CborError(f"more than {MAX_NODES} values")
        major, info = divmod(self.take(1)[0], 32)
        match major:
            case 0:
                return self.argument(info)
            case 1:
                return -1 - self.argument(info)
            case 2:
                return self.string(_BYTES, info)
            case 3:
                return self.text(info)
            case 4:
                return self.array(info, depth)
            case 5:
                return self.map(info, depth)
            case 6:
                return self.tagged(info, depth)
            case _:
                return self.simple(info)

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self.data):
            raise CborError("the bytes end too early")
        taken = self.data[self.at : end]
        self.at = end
        return taken

    def argument(self, info: int) -> int:
        if info < min(_LENGTHS):
            return info
        if info not in _LENGTHS:
            raise CborError(f"additional information {info} is not allowed here")
        return int.from_bytes(self.take(_LENGTHS[info]), "big")

    def string(self, major: int, info: int) -> bytes:
        if info != _INDEFINITE:
            return self.take(self.argument(info))
        chunks = []
        while not self.ended():
            kind, info = divmod(self.take(1)[0], 32)
            if kind != major:
                raise CborError("a chunk of a string is of another type")
            chunks.append(self.take(self.argument(info)))
        return b"".join(chunks)

    def text(self, info: int) -> str:
        try:
            return self.string(_TEXT, info).decode()
        except UnicodeDecodeError as error:
            raise CborError("a text is not UTF-8") from error

    def array(self, info: int, depth: int) -> list[Any]:
        if info != _INDEFINITE:
            # An announced length allocates nothing: item() stops at the end of the bytes or at MAX_NODES.
            return [self.item(depth + 1) for _ in range(self.argument(info))]
        items = []
        while not self.ended():
            items.append(self.item(depth + 1))
        return items

    def map(self, info: int, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        if info != _INDEFINITE:
            for _ in range(self.argument(info)):
                self.entry(values, depth)
        else:
            while not self.ended():
                self.entry(values, depth)
        return values

    def entry(self, values: dict[str, Any], depth: int) -> None:
        key = self.item(depth + 1)
        if not isinstance(key, str):
            raise CborError("a key of a map is no text")
        values[key] = self.item(depth + 1)

    def ended(self) -> bool:
        """Whether a container of indefinite length ends here."""
        if self.at < len(self.data) and self.data[self.at] == _BREAK:
            self.at += 1
            return True
        return False

    def tagged(self, info: int, depth: int) -> dt.datetime:
        tag, value = self.argument(info), self.item(depth + 1)
        if tag != _EPOCH_TAG or not isinstance(value, (int, float)) or isinstance(value, bool):
            raise CborError(f"tag {tag} is not allowed here")
        try:
            return times.from_seconds(value)
        except ValueError as error:
            raise CborError(str(error)) from error

    def simple(self, info: int) -> Any:  # noqa: ANN401
        if info in _SIMPLES:
            return _SIMPLES[info]
        if info not in _FLOATS:
            raise CborError(f"simple value {info} is not allowed here")
        return struct.unpack(_FLOATS[info], self.take(_LENGTHS[info]))[0]


def encode(value: Any) -> bytes:  # noqa: ANN401
    """The shortest definite form; datetimes with tag 1."""
    out = bytearray()
    _write(out, value)
    return bytes(out)


def _head(out: bytearray, major: int, argument: int) -> None:
    if argument < min(_LENGTHS):
        out.append(major << 5 | argument)
        return
    for info, size in _LENGTHS.items():
        if argument < 1 << 8 * size:
            out.append(major << 5 | info)
            out += argument.to_bytes(size, "big")
            return
    raise CborError(f"{argument} does not fit into 64 bits")


def _write(out: bytearray, value: Any) -> None:  # noqa: ANN401, C901 - any value, a case for each type
    match value:
        case None:
            out.append(_SIMPLE << 5 | 22)
        case bool():
            out.append(_SIMPLE << 5 | (21 if value else 20))
        case int():
            _head(out, _NEGATIVE if value < 0 else _UNSIGNED, -1 - value if value < 0 else value)
        case float():
            out.append(_SIMPLE << 5 | 27)
            out += struct.pack(">d", value)
        case bytes():
            _head(out, _BYTES, len(value))
            out += value
        case str():
            raw = value.encode()
            _head(out, _TEXT, len(raw))
            out += raw
        case dt.datetime():
            _head(out, _TAG, _EPOCH_TAG)
            _write(out, times.to_seconds(value))
        case list() | tuple():
            _head(out, _ARRAY, len(value))
            for item in value:
                _write(out, item)
        case dict():
            _head(out, _MAP, len(value))
            for key, item in value.items():
                _write(out, key)
                _write(out, item)
        case _:
            raise CborError(f"{type(value).__name__} is no value of CBOR")
