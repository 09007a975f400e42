"""Between trees of plain values (what JSON and CBOR decode to) and values as the model names and types them.

Values: str, int, float, bool, bytes, datetime, list, dict by the model's member names. A null member is an absent one.
Members that the model does not know are passed over, as AWS's own servers do. What has the wrong type is a
SerializationException.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from hsmsim.errors import AwsError
from hsmsim.gateway.codec import times
from hsmsim.gateway.codec.wire import MAX_DEPTH

if TYPE_CHECKING:
    from hsmsim.gateway.codec.model import Ref

_RANGES: Final = {"integer": 1 << 31, "long": 1 << 63}
_TOKENS: Final = {
    bool: ("TRUE_VALUE", "FALSE_VALUE"),
    int: ("NUMBER_VALUE",),
    float: ("NUMBER_VALUE",),
    str: ("STRING_VALUE",),
}
_SPECIAL: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one notation writes what JSON and CBOR do not share. native: bytes and datetimes are values of their own."""

    native: bool


JSON: Final = Dialect(native=False)
CBOR: Final = Dialect(native=True)


class UnknownMemberError(Exception):
    """A service's response has something that its model does not: a defect of the service."""


def refuse(text: str) -> AwsError:
    """A request that does not parse."""
    return AwsError("SerializationException", text)


def _wrong(value: Any, wanted: str) -> AwsError:  # noqa: ANN401 - any value
    """AWS's sentence for a value of the wrong type."""
    if isinstance(value, list):
        return refuse("Start of list found where not expected")
    if isinstance(value, dict):
        return refuse("Start of structure or map found where not expected.")
    token = _TOKENS.get(type(value), ("NULL_VALUE",))
    found = token[0] if value or len(token) == 1 else token[1]
    return refuse(f"{found} cannot be converted to {wanted}")


def read(ref: Ref, value: Any, dialect: Dialect, depth: int = 0) -> Any:  # noqa: ANN401
    """The value as the model types it."""
    if depth > MAX_DEPTH:
        raise refuse(f"The request is nested more than {MAX_DEPTH} levels deep.")
    return _READERS[ref.shape.type](ref, value, dialect, depth)


def _read_structure(ref: Ref, value: Any, dialect: Dialect, depth: int) -> Any:  # noqa: ANN401
    if ref.shape.document:
        return value
    if not isinstance(value, dict):
        raise _wrong(value, "structure") if isinstance(value, list) else refuse("Unexpected field type")
    result = {}
    for name, member in ref.shape.members.items():
        found = value.get(member.wire or name)
        if found is not None:
            result[name] = read(member, found, dialect, depth + 1)
    return result


def _read_list(ref: Ref, value: Any, dialect: Dialect, depth: int) -> list[Any]:  # noqa: ANN401
    if not isinstance(value, list):
        raise _wrong(value, "list") if isinstance(value, dict) else refuse("Unexpected field type")
    element = ref.shape.element
    assert element is not None  # noqa: S101 - a list has one
    return [None if item is None else read(element, item, dialect, depth + 1) for item in value]


def _read_map(ref: Ref, value: Any, dialect: Dialect, depth: int) -> dict[str, Any]:  # noqa: ANN401
    if not isinstance(value, dict):
        raise _wrong(value, "map") if isinstance(value, list) else refuse("Unexpected field type")
    inner = ref.shape.value
    assert inner is not None  # noqa: S101 - a map has one
    return {key: None if item is None else read(inner, item, dialect, depth + 1) for key, item in value.items()}


def _read_string(_ref: Ref, value: Any, _dialect: Dialect, _depth: int) -> str:  # noqa: ANN401
    if not isinstance(value, str):
        raise _wrong(value, "String")
    return value


def _read_integer(ref: Ref, value: Any, _dialect: Dialect, _depth: int) -> int:  # noqa: ANN401
    kind = ref.shape.type
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _wrong(value, kind.capitalize())
    if not -_RANGES[kind] <= value < _RANGES[kind]:
        raise refuse(f"{value} is out of the range of {kind.capitalize()}")
    return value


def _read_float(ref: Ref, value: Any, _dialect: Dialect, _depth: int) -> float:  # noqa: ANN401
    if isinstance(value, str) and value in _SPECIAL:
        return _SPECIAL[value]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong(value, ref.shape.type.capitalize())
    try:
        return float(value)
    except OverflowError as error:
        raise refuse(f"{value} is out of the range of {ref.shape.type.capitalize()}") from error


def _read_boolean(_ref: Ref, value: Any, _dialect: Dialect, _depth: int) -> bool:  # noqa: ANN401
    if not isinstance(value, bool):
        raise _wrong(value, "Boolean")
    return value


def _read_blob(_ref: Ref, value: Any, dialect: Dialect, _depth: int) -> bytes:  # noqa: ANN401
    if dialect.native and isinstance(value, bytes):
        return value
    if dialect.native or not isinstance(value, str):
        raise _wrong(value, "Blob")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise refuse("A blob is not base64") from error


def _read_timestamp(_ref: Ref, value: Any, dialect: Dialect, _depth: int) -> dt.datetime:  # noqa: ANN401
    if dialect.native and isinstance(value, dt.datetime):
        return value
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return times.from_seconds(value)
        if isinstance(value, str) and not dialect.native:
            return times.from_text(value)
    except ValueError as error:
        raise refuse(f"{value} cannot be converted to a timestamp") from error
    raise _wrong(value, "timestamp")


_Reader = Callable[["Ref", Any, Dialect, int], Any]
_READERS: Final[dict[str, _Reader]] = {
    "structure": _read_structure,
    "list": _read_list,
    "map": _read_map,
    "string": _read_string,
    "character": _read_string,
    "integer": _read_integer,
    "long": _read_integer,
    "float": _read_float,
    "double": _read_float,
    "boolean": _read_boolean,
    "blob": _read_blob,
    "timestamp": _read_timestamp,
}


def write(ref: Ref, value: Any, dialect: Dialect) -> Any:  # noqa: ANN401, PLR0911 - a case for each type
    """The value as the notation's encoder takes it. A member that the model does not have is a defect: it raises."""
    shape = ref.shape
    match shape.type:
        case "structure":
            return value if shape.document else _write_structure(ref, value, dialect)
        case "list":
            assert shape.element is not None  # noqa: S101 - a list has one
            return [write(shape.element, item, dialect) for item in value]
        case "map":
            assert shape.value is not None  # noqa: S101 - a map has one
            return {key: write(shape.value, item, dialect) for key, item in value.items()}
        case "timestamp":
            return _write_timestamp(ref, value, dialect)
        case "blob":
            return value if dialect.native else base64.b64encode(value).decode("ascii")
        case "float" | "double":
            return _write_float(value, dialect)
        case _:
            return value


def _write_structure(ref: Ref, value: Any, dialect: Dialect) -> dict[str, Any]:  # noqa: ANN401
    result = {}
    for name, item in value.items():
        member = ref.shape.members.get(name)
        if member is None:
            raise UnknownMemberError(f"{ref.shape.name} has no member {name}")
        if item is not None:
            result[member.wire or name] = write(member, item, dialect)
    return result


def _write_timestamp(ref: Ref, value: Any, dialect: Dialect) -> Any:  # noqa: ANN401
    if dialect.native:
        return times.of(value)
    if ref.time_format and ref.time_format != times.UNIX:
        return times.to_text(value, ref.time_format)
    return times.to_seconds(value)


def _write_float(value: float, dialect: Dialect) -> float | str:
    if dialect.native or math.isfinite(value):
        return float(value)
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
