"""Validation by the model, with the sentences of AWS's own framework.

json, rpc-v2-cbor and query services list every failure in one ValidationException (query: ValidationError). ec2 names
the first missing parameter (MissingParameter) or bad value, and leaves lengths and patterns to its operations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from hsmsim.errors import AwsError

if TYPE_CHECKING:
    from collections.abc import Sized

    from hsmsim.gateway.codec.model import OperationModel, Ref, Shape

_REPORTED: Final = 10
"""Failures that one error tells of."""


@dataclass(slots=True)
class _Findings:
    texts: list[str] = field(default_factory=list)

    def add(self, shape: Shape, value: Any, path: str, constraint: str) -> None:  # noqa: ANN401 - any value
        shown = "" if shape.sensitive else f" {_shown(value)}"
        self.texts.append(f"Value{shown} at '{path}' failed to satisfy constraint: {constraint}")


def check(operation: OperationModel, values: dict[str, Any], code: str) -> None:
    """AwsError(code) with all that does not fit."""
    if operation.input is None:
        return
    findings = _Findings()
    _structure(operation.input.shape, values, "", findings)
    count = len(findings.texts)
    if count:
        noun = "error" if count == 1 else "errors"
        raise AwsError(code, f"{count} validation {noun} detected: {'; '.join(findings.texts[:_REPORTED])}")


def check_ec2(operation: OperationModel, values: dict[str, Any]) -> None:
    """AwsError("MissingParameter") or ("InvalidParameterValue") for the first that does not fit."""
    if operation.input is not None:
        _ec2(operation.input, values, "")


def _ec2(ref: Ref, value: Any, path: str) -> None:  # noqa: ANN401
    shape = ref.shape
    match shape.type:
        case "structure":
            for name in shape.required:
                if name not in value:
                    member = shape.members[name]
                    raise AwsError(
                        "MissingParameter",
                        f"The request must contain the parameter {_join(path, member.query or member.wire or name)}",
                    )
            for name, item in value.items():
                member = shape.members[name]
                _ec2(member, item, _join(path, member.query or member.wire or name))
        case "list" if shape.element is not None:
            for number, item in enumerate(value, 1):
                _ec2(shape.element, item, f"{path}.{number}")
        case _:
            if shape.enum and value not in shape.enum:
                raise AwsError("InvalidParameterValue", f"Value ({value}) for parameter {path} is invalid.")


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _lower(name: str) -> str:
    return name[:1].lower() + name[1:]


def _shown(value: Any) -> str:  # noqa: ANN401
    if value is None:
        return "null"
    if isinstance(value, bytes):  # as AWS's Java shows them
        return f"'java.nio.HeapByteBuffer[pos=0 lim={len(value)} cap={len(value)}]'"
    if isinstance(value, list):
        return f"'[{', '.join(str(item) for item in value)}]'"
    return f"'{value}'"


def _structure(shape: Shape, values: dict[str, Any], path: str, findings: _Findings) -> None:
    for name in shape.required:
        if values.get(name) is None:
            findings.add(shape.members[name].shape, None, _join(path, _lower(name)), "Member must not be null")
    for name, value in values.items():
        if value is not None:
            _value(shape.members[name], value, _join(path, _lower(name)), findings)


def _value(ref: Ref, value: Any, path: str, findings: _Findings) -> None:  # noqa: ANN401
    shape = ref.shape
    if shape.document:
        return
    match shape.type:
        case "string" | "character":
            _string(shape, value, path, findings)
        case "integer" | "long" | "float" | "double":
            _range(shape, value, path, findings)
        case "blob":
            _length(shape, value, path, findings)
        case "structure":
            _structure(shape, value, path, findings)
        case "list":
            _length(shape, value, path, findings)
            assert shape.element is not None  # noqa: S101 - a list has one
            for number, item in enumerate(value, 1):
                _item(shape.element, item, f"{path}.{number}.member", findings)
        case "map":
            _map(shape, value, path, findings)


def _map(shape: Shape, value: dict[str, Any], path: str, findings: _Findings) -> None:
    _length(shape, value, path, findings)
    assert shape.key is not None and shape.value is not None  # noqa: S101, PT018 - a map has both
    for key, item in value.items():
        _value(shape.key, key, f"{path}.key", findings)
        _item(shape.value, item, f"{path}.{key}.member", findings)


def _item(ref: Ref, value: Any, path: str, findings: _Findings) -> None:  # noqa: ANN401
    """An element of a list or a value of a map: there is one, since no model here has sparse lists."""
    if value is None:
        findings.add(ref.shape, None, path, "Member must not be null")
    else:
        _value(ref, value, path, findings)


def _string(shape: Shape, value: str, path: str, findings: _Findings) -> None:
    fits = _length(shape, value, path, findings)
    if shape.enum:
        if value not in shape.enum:
            findings.add(shape, value, path, f"Member must satisfy enum value set: [{', '.join(shape.enum)}]")
    elif fits and shape.pattern is not None and not shape.pattern.fullmatch(value):
        findings.add(shape, value, path, f"Member must satisfy regular expression pattern: {shape.pattern_text}")


def _length(shape: Shape, value: Sized, path: str, findings: _Findings) -> bool:
    if shape.low is not None and len(value) < shape.low:
        findings.add(shape, value, path, f"Member must have length greater than or equal to {int(shape.low)}")
        return False
    if shape.high is not None and len(value) > shape.high:
        findings.add(shape, value, path, f"Member must have length less than or equal to {int(shape.high)}")
        return False
    return True


def _range(shape: Shape, value: float, path: str, findings: _Findings) -> None:
    if math.isnan(value):
        return
    if shape.low is not None and value < shape.low:
        findings.add(shape, value, path, f"Member must have value greater than or equal to {shape.low}")
    if shape.high is not None and value > shape.high:
        findings.add(shape, value, path, f"Member must have value less than or equal to {shape.high}")
