"""AWS's service models as the codecs read them: botocore's JSON, made small and quick to walk.

A model is read when a service is first called (ec2's takes a tenth of a second), and its shapes are made when they are
first needed. They are shared and never change once made.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from hsmsim.errors import HsmsimError

if TYPE_CHECKING:
    from collections.abc import Mapping

# Java's regular expressions as Python writes them. All that AWS's models use: a test compiles every pattern.
_SEPARATORS: Final = r"\u0020\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_UNICODE: Final = {
    r"\p{L}\p{Z}\p{N}_": r"\w" + _SEPARATORS,
    r"\uD800\uDC00-\uDBFF\uDFFF": r"\U00010000-\U0010ffff",
}
_ASCII: Final = {r"\p{ASCII}": r"[\x00-\x7f]", r"[\w-_]": r"[\w\-_]"}


# Constraints that the service's own operations check, with an error of their own: service, shape, traits.
_OWN_CHECKS: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "cloudtrail": {
        "MaxResults": ("min", "max"),
        "LookupAttributeKey": ("enum",),
        "LookupAttributeValue": ("min", "max"),
        "EventCategory": ("enum",),
    },
}


@dataclass(slots=True)
class Shape:
    """A type of the model. What does not belong to its `type` is empty."""

    name: str
    type: str
    members: dict[str, Ref] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    element: Ref | None = None
    key: Ref | None = None
    value: Ref | None = None
    low: float | None = None
    high: float | None = None
    pattern: re.Pattern[str] | None = None
    pattern_text: str = ""
    enum: tuple[str, ...] = ()
    sensitive: bool = False
    document: bool = False
    union: bool = False
    payload: str = ""
    error_code: str = ""
    error_status: int = 0
    fault: bool = False


@dataclass(frozen=True, slots=True)
class Ref:
    """A use of a shape, with what the place adds: its name on the wire, where it is, how it is written.

    wire: locationName, empty for the member's own name. location: header, headers, uri, querystring, statusCode or "".
    namespace: (prefix, URI) of XML.
    """

    shape: Shape
    wire: str = ""
    query: str = ""
    location: str = ""
    flattened: bool = False
    attribute: bool = False
    namespace: tuple[str, str] | None = None
    time_format: str = ""
    json_text: bool = False
    wrapper: str = ""


@dataclass(frozen=True, slots=True)
class OperationModel:
    """An operation as the model has it; `input` and `output` are None where there is no such shape."""

    name: str
    method: str
    uri: str
    status: int
    input: Ref | None
    output: Ref | None
    unsigned: bool


def _namespace(raw: Any) -> tuple[str, str] | None:  # noqa: ANN401 - JSON
    if raw is None:
        return None
    return (raw.get("prefix", ""), raw["uri"]) if not isinstance(raw, str) else ("", raw)


def compile_pattern(text: str) -> re.Pattern[str]:
    """A Java pattern for `fullmatch`; HsmsimError where it says something that is not in the table above."""
    translated, flags = text, re.ASCII
    for java, python in _UNICODE.items():
        if java in translated:
            translated, flags = translated.replace(java, python), re.UNICODE
    for java, python in _ASCII.items():
        translated = translated.replace(java, python)
    try:
        return re.compile(translated, flags)
    except re.error as error:
        raise HsmsimError(f"The model's pattern {text!r} is not understood ({error}); extend codec.model.") from error


class ServiceModel:
    """One service: its metadata, operations and exceptions."""

    def __init__(self, name: str, raw: Mapping[str, Any]) -> None:
        metadata = raw["metadata"]
        self.name = name
        self.protocols: tuple[str, ...] = tuple(metadata.get("protocols") or (metadata["protocol"],))
        self.version: str = metadata["apiVersion"]
        self.target: str = metadata.get("targetPrefix", "")
        self.json_version: str = metadata.get("jsonVersion", "1.0")
        self.namespace: str = metadata.get("xmlNamespace", "")
        self.endpoint: str = metadata["endpointPrefix"]
        self._shapes_raw: Mapping[str, Any] = raw["shapes"]
        self._operations_raw: Mapping[str, Any] = raw["operations"]
        self._shapes: dict[str, Shape] = {}
        self._operations: dict[str, OperationModel] = {}
        self._exceptions: dict[str, Shape] | None = None
        self._making = threading.RLock()

    @property
    def operation_names(self) -> tuple[str, ...]:
        """All operations of the service."""
        return tuple(self._operations_raw)

    def operation(self, name: str) -> OperationModel | None:
        """The operation of this name, None where the service has none."""
        found = self._operations.get(name)
        if found is None and name in self._operations_raw:
            with self._making:
                found = self._operations[name] = self._make_operation(name)
        return found

    def exception(self, code: str) -> Shape | None:
        """The exception with this name, or with this code on the wire."""
        if self._exceptions is None:
            with self._making:
                self._exceptions = self._make_exceptions()
        return self._exceptions.get(code)

    def _shape(self, name: str) -> Shape:
        """The shape of this name, maybe still being made: the caller holds the lock until it has all that it needs."""
        return self._shapes.get(name) or self._make(name)

    def _make_operation(self, name: str) -> OperationModel:
        raw = self._operations_raw[name]
        http = raw.get("http", {})
        return OperationModel(
            name=name,
            method=http.get("method", "POST"),
            uri=http.get("requestUri", "/"),
            status=int(http.get("responseCode", 200)),
            input=self._ref(raw["input"]) if "input" in raw else None,
            output=self._ref(raw["output"]) if "output" in raw else None,
            unsigned=raw.get("authtype") == "none",
        )

    def _make_exceptions(self) -> dict[str, Shape]:
        shapes = [self._shape(name) for name, raw in self._shapes_raw.items() if raw.get("exception")]
        return {shape.error_code: shape for shape in shapes} | {shape.name: shape for shape in shapes}

    def _make(self, name: str) -> Shape:
        """Make the shape and all below it. It is known while it is made, because shapes contain themselves."""
        raw = self._shapes_raw[name]
        error = raw.get("error", {})
        shape = Shape(name, raw["type"])
        self._shapes[name] = shape
        shape.required = tuple(raw.get("required", ()))
        shape.low, shape.high = raw.get("min"), raw.get("max")
        shape.enum = tuple(raw.get("enum", ()))
        shape.sensitive = bool(raw.get("sensitive"))
        shape.document, shape.union = bool(raw.get("document")), bool(raw.get("union"))
        shape.payload = raw.get("payload", "")
        shape.error_code = error.get("code", name)
        shape.error_status = int(error.get("httpStatusCode", 0))
        shape.fault = bool(raw.get("fault"))
        if "pattern" in raw:
            shape.pattern_text = raw["pattern"]
            shape.pattern = compile_pattern(raw["pattern"])
        shape.element = self._ref(raw["member"]) if "member" in raw else None
        shape.key = self._ref(raw["key"]) if "key" in raw else None
        shape.value = self._ref(raw["value"]) if "value" in raw else None
        for member, ref in raw.get("members", {}).items():
            shape.members[member] = self._ref(ref)
        return shape

    def _ref(self, raw: Mapping[str, Any]) -> Ref:
        """What the place does not say, the shape says."""
        own = self._shapes_raw[raw["shape"]]

        def trait(name: str, default: Any = None) -> Any:  # noqa: ANN401 - JSON
            return raw.get(name, own.get(name, default))

        return Ref(
            shape=self._shape(raw["shape"]),
            wire=trait("locationName", ""),
            query=trait("queryName", ""),
            location=trait("location", ""),
            flattened=bool(trait("flattened")),
            attribute=bool(trait("xmlAttribute")),
            namespace=_namespace(trait("xmlNamespace")),
            time_format=trait("timestampFormat", ""),
            json_text=bool(trait("jsonvalue")),
            wrapper=trait("resultWrapper", ""),
        )


@cache
def load(name: str) -> ServiceModel:
    """Return the model that botocore has in the folder of this name."""
    from botocore.loaders import Loader  # noqa: PLC0415 - a twelfth of a second that no start-up needs

    raw = Loader().load_service_model(name, "service-2")
    own = _OWN_CHECKS.get(name, {})
    shapes = {
        shape: {trait: value for trait, value in traits.items() if trait not in own.get(shape, ())}
        for shape, traits in raw["shapes"].items()
    }
    return ServiceModel(name, {**raw, "shapes": shapes} if own else raw)
