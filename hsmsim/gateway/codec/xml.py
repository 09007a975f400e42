"""XML, written by the model and read with bounds: no document type, no entities, limited depth and size."""

from __future__ import annotations

import base64
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from xml.parsers import expat

from hsmsim.gateway.codec import times
from hsmsim.gateway.codec.tree import UnknownMemberError
from hsmsim.gateway.codec.wire import MAX_DEPTH, MAX_NODES, HttpResponse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hsmsim.gateway.codec.model import Ref, Shape

# Characters that XML 1.0 (section 2.2) cannot carry, not even as a reference.
_IMPOSSIBLE: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ESCAPES: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\r": "&#xD;"})


def escape(text: str) -> str:
    """Text as an element's or attribute's content. What XML cannot carry becomes U+FFFD."""
    if _IMPOSSIBLE.search(text):
        text = _IMPOSSIBLE.sub("\ufffd", text)
    return text.translate(_ESCAPES)


def response(status: int, parts: list[str], request_id: str) -> HttpResponse:
    """An answer with this document."""
    body = "".join(('<?xml version="1.0" encoding="UTF-8"?>\n', *parts)).encode()
    return HttpResponse(status, [("Content-Type", "text/xml"), ("x-amzn-RequestId", request_id)], body)


def attributes(ref: Ref, value: Any = None) -> str:  # noqa: ANN401 - a value of the model
    """Namespace and members that are attributes, as they stand in the start tag."""
    text = ""
    if ref.namespace:
        prefix, uri = ref.namespace
        text = f' xmlns:{prefix}="{escape(uri)}"' if prefix else f' xmlns="{escape(uri)}"'
    if ref.shape.type == "structure" and isinstance(value, dict):
        for name, member in ref.shape.members.items():
            if member.attribute and value.get(name) is not None:
                text += f' {member.wire or name}="{escape(str(value[name]))}"'
    return text


def write_members(out: list[str], shape: Shape, values: Mapping[str, Any]) -> None:
    """Append the elements of a structure's members, those that have another place left out."""
    for name, value in values.items():
        member = shape.members.get(name)
        if member is None:
            raise UnknownMemberError(f"{shape.name} has no member {name}")
        if value is not None and not member.location and not member.attribute:
            write(out, member, member.wire or name, value)


def write(out: list[str], ref: Ref, name: str, value: Any) -> None:  # noqa: ANN401
    """Append one member."""
    match ref.shape.type:
        case "structure":
            out.append(f"<{name}{attributes(ref, value)}>")
            write_members(out, ref.shape, value)
            out.append(f"</{name}>")
        case "list":
            _write_list(out, ref, name, value)
        case "map":
            _write_map(out, ref, name, value)
        case kind:
            out.append(f"<{name}{attributes(ref)}>{_text(ref, kind, value)}</{name}>")


def _write_list(out: list[str], ref: Ref, name: str, items: list[Any]) -> None:
    element = ref.shape.element
    assert element is not None  # noqa: S101 - a list has one
    if ref.flattened:
        for item in items:
            write(out, element, element.wire or name, item)
        return
    out.append(f"<{name}{attributes(ref)}>")
    for item in items:
        write(out, element, element.wire or "member", item)
    out.append(f"</{name}>")


def _write_map(out: list[str], ref: Ref, name: str, values: Mapping[str, Any]) -> None:
    key, inner = ref.shape.key, ref.shape.value
    assert key is not None and inner is not None  # noqa: S101, PT018 - a map has both
    entry = name if ref.flattened else "entry"
    if not ref.flattened:
        out.append(f"<{name}{attributes(ref)}>")
    for item_key, item in values.items():
        out.append(f"<{entry}>")
        write(out, key, key.wire or "key", item_key)
        write(out, inner, inner.wire or "value", item)
        out.append(f"</{entry}>")
    if not ref.flattened:
        out.append(f"</{name}>")


def _text(ref: Ref, kind: str, value: Any) -> str:  # noqa: ANN401
    match kind:
        case "boolean":
            return "true" if value else "false"
        case "timestamp":
            return times.to_text(value, ref.time_format or times.ISO)
        case "blob":
            return base64.b64encode(value).decode("ascii")
        case "float" | "double":
            return _float(value)
        case _:
            return escape(str(value))


def _float(value: float) -> str:
    if math.isfinite(value):
        return repr(float(value))
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


class XmlError(ValueError):
    """The bytes are not XML, or of a kind that is not taken."""


@dataclass(slots=True)
class Element:
    """An element: local name, attributes as written, text, children."""

    name: str
    attributes: dict[str, str] = field(default_factory=dict)
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def all(self, name: str) -> list[Element]:
        """Children of this name."""
        return [child for child in self.children if child.name == name]


class _Builder:
    def __init__(self) -> None:
        self.stack: list[Element] = [Element("")]
        self.nodes = 0
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self.start
        self.parser.EndElementHandler = self.end
        self.parser.CharacterDataHandler = self.text
        self.parser.StartDoctypeDeclHandler = self.doctype

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES or len(self.stack) > MAX_DEPTH:
            raise XmlError(f"more than {MAX_NODES} elements or {MAX_DEPTH} levels")
        element = Element(name.rpartition(":")[2], attributes)
        self.stack[-1].children.append(element)
        self.stack.append(element)

    def end(self, _name: str) -> None:
        self.stack.pop()

    def text(self, text: str) -> None:
        self.stack[-1].text += text

    def doctype(self, *_: object) -> None:
        raise XmlError("a document type is not taken")


def read(data: bytes) -> Element:
    """The root element."""
    builder = _Builder()
    try:
        builder.parser.Parse(data, True)  # noqa: FBT003 - expat's own signature: this is all of it
    except expat.ExpatError as error:
        raise XmlError(str(error)) from error
    return builder.stack[0].children[0]
