"""The protocols that send a form and answer in XML: query and ec2 (https://smithy.io/2.0/aws/protocols/).

A form's names are paths (`Tags.member.1.Key`). They are made a tree first, then walked by the model. What the model
does not have is refused by ec2 (UnknownParameter) and passed over by query, as AWS's servers do.
"""

from __future__ import annotations

import base64
import binascii
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from hsmsim.errors import AwsError
from hsmsim.gateway.codec import times, xml
from hsmsim.gateway.codec.tree import UnknownMemberError
from hsmsim.gateway.codec.wire import MAX_DEPTH, HttpRequest, HttpResponse, parse_form

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hsmsim.gateway.codec.model import OperationModel, Ref, ServiceModel

ACTION: Final = "Action"
VERSION: Final = "Version"
MALFORMED: Final = "MalformedQueryString"
_OURS: Final = frozenset(
    {ACTION, VERSION, "AWSAccessKeyId", "SignatureMethod", "SignatureVersion", "Timestamp", "Signature"}
)
_SPECIAL: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(slots=True)
class Node:
    """A parameter, or what begins with its name and a dot. `path`: as the client wrote it."""

    path: str
    text: str | None = None
    below: dict[str, Node] = field(default_factory=dict)
    read: bool = False

    def items(self) -> Iterator[Node]:
        """What is numbered below this, in the order of the numbers."""
        numbered = {int(name): node for name, node in self.below.items() if name.isascii() and name.isdigit()}
        for number in sorted(numbered):
            yield numbered[number]

    def unread(self) -> Iterator[str]:
        """The parameters that no member of the model took."""
        if self.text is not None and not self.read:
            yield self.path
        for node in self.below.values():
            yield from node.unread()


@dataclass(frozen=True, slots=True)
class Style:
    """How the two protocols differ. bad_value: the code for a value of the wrong type."""

    ec2: bool
    bad_value: str


QUERY: Final = Style(ec2=False, bad_value="MalformedInput")
EC2: Final = Style(ec2=True, bad_value="InvalidParameterValue")


def form_of(request: HttpRequest) -> list[tuple[str, str]]:
    """The parameters: of the body, and of the URL (a presigned or GET request)."""
    try:
        body = request.body.decode()
    except UnicodeDecodeError as error:
        raise AwsError(MALFORMED, "The body is not UTF-8.") from error
    return [*parse_form(request.query, MALFORMED), *parse_form(body, MALFORMED)]


def parse(_model: ServiceModel, operation: OperationModel, request: HttpRequest, style: Style) -> dict[str, Any]:
    """The members of the request."""
    if operation.input is None:
        return {}
    root = _plant(form_of(request))
    values = _structure(operation.input, root, style, 0)
    if style.ec2:
        for name in root.unread():
            if name not in _OURS and not name.startswith("X-Amz-"):
                raise AwsError("UnknownParameter", f"The parameter {name} is not recognized")
    return values


def _plant(pairs: list[tuple[str, str]]) -> Node:
    root = Node("")
    for name, value in pairs:
        parts = name.split(".")
        if len(parts) > 2 * MAX_DEPTH:
            raise AwsError(MALFORMED, f"A parameter has more than {2 * MAX_DEPTH} levels.")
        node = root
        for part in parts:
            inner = node.below.get(part)
            if inner is None:
                inner = node.below[part] = Node(f"{node.path}.{part}" if node.path else part)
            node = inner
        node.text = value
    return root


def _name(ref: Ref, default: str, style: Style) -> str:
    if not style.ec2:
        return ref.wire or default
    return ref.query or (ref.wire[:1].upper() + ref.wire[1:]) or default


def _structure(ref: Ref, node: Node, style: Style, depth: int) -> dict[str, Any]:
    if depth > MAX_DEPTH:
        raise AwsError(MALFORMED, f"The request is nested more than {MAX_DEPTH} levels deep.")
    node.read = True
    result = {}
    for name, member in ref.shape.members.items():
        parent, found = node, node.below.get(_name(member, name, style))
        if member.shape.type == "list" and member.flattened and not style.ec2:
            # A flattened list is named by its elements, where they have a name.
            element = member.shape.element
            found = parent.below.get(element.wire) if element and element.wire else found
        if found is not None:
            value = _value(member, found, style, depth + 1)
            if value is not None:
                result[name] = value
    return result


def _value(ref: Ref, node: Node, style: Style, depth: int) -> Any:  # noqa: ANN401 - any value
    match ref.shape.type:
        case "structure":
            return _structure(ref, node, style, depth)
        case "list":
            return _list(ref, node, style, depth)
        case "map":
            return _map(ref, node, style, depth)
        case kind:
            if node.text is None:
                return None
            node.read = True
            return scalar(kind, node.text, node.path, style.bad_value)


def _list(ref: Ref, node: Node, style: Style, depth: int) -> list[Any] | None:
    element = ref.shape.element
    assert element is not None  # noqa: S101 - a list has one
    node.read = True
    if node.text == "" and not node.below:
        return []
    if not ref.flattened and not style.ec2:
        wrapped = node.below.get(element.wire or "member")
        if wrapped is None:
            return None
        node = wrapped
    return [_value(element, item, style, depth + 1) for item in node.items()]


def _map(ref: Ref, node: Node, style: Style, depth: int) -> dict[str, Any] | None:
    key, value = ref.shape.key, ref.shape.value
    assert key is not None and value is not None  # noqa: S101, PT018 - a map has both
    entries = node if ref.flattened else node.below.get("entry")
    if entries is None:
        return None
    result = {}
    for entry in entries.items():
        name, item = entry.below.get(key.wire or "key"), entry.below.get(value.wire or "value")
        if name is not None and name.text is not None and item is not None:
            name.read = True
            result[name.text] = _value(value, item, style, depth + 1)
    return result


def scalar(kind: str, text: str, path: str, code: str) -> Any:  # noqa: ANN401
    """A value from its text; AwsError(code) where it has another type."""
    try:
        match kind:
            case "integer" | "long":
                return _integer(text, 31 if kind == "integer" else 63)
            case "float" | "double":
                return _SPECIAL[text] if text in _SPECIAL else float(text)
            case "boolean":
                return _boolean(text)
            case "blob":
                return base64.b64decode(text, validate=True)
            case "timestamp":
                return times.from_text(text)
            case _:
                return text
    except (ValueError, binascii.Error) as error:
        raise AwsError(code, f"Value ({text}) for parameter {path} is invalid. It is no {kind}.") from error


def _integer(text: str, bits: int) -> int:
    if len(text) > len(str(1 << 63)) + 1 or not text.isascii():
        raise ValueError(text)
    value = int(text)
    if not -(1 << bits) <= value < 1 << bits:
        raise ValueError(text)
    return value


def _boolean(text: str) -> bool:
    lowered = text.lower()
    if lowered not in {"true", "false"}:
        raise ValueError(text)
    return lowered == "true"


def respond_query(
    model: ServiceModel, operation: OperationModel, values: Mapping[str, Any] | None, request_id: str
) -> HttpResponse:
    """Answer <XResponse><XResult>...</XResult><ResponseMetadata>...</XResponse>."""
    out = [f'<{operation.name}Response xmlns="{model.namespace}">']
    if operation.output:
        wrapper = operation.output.wrapper
        out.append(f"<{wrapper}>" if wrapper else "")
        xml.write_members(out, operation.output.shape, values or {})
        out.append(f"</{wrapper}>" if wrapper else "")
    out.append(f"<ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></{operation.name}Response>")
    return xml.response(200, out, request_id)


def respond_ec2(
    model: ServiceModel, operation: OperationModel, values: Mapping[str, Any] | None, request_id: str
) -> HttpResponse:
    """Answer <XResponse><requestId>...</requestId>...</XResponse>."""
    out = [f'<{operation.name}Response xmlns="{model.namespace}/"><requestId>{request_id}</requestId>']
    if operation.output:
        xml.write_members(out, operation.output.shape, values or {})
    out.append(f"</{operation.name}Response>")
    return xml.response(200, out, request_id)


def fail_query(model: ServiceModel, error: AwsError, request_id: str) -> HttpResponse:
    """Answer with an error as query and most of rest-xml write it."""
    shape = model.exception(error.code)
    sender = "Receiver" if error.status >= 500 else "Sender"  # noqa: PLR2004 - HTTP's server errors
    out = [f'<ErrorResponse xmlns="{model.namespace}">' if model.namespace else "<ErrorResponse>"]
    out.append(f"<Error><Type>{sender}</Type><Code>{xml.escape(shape.error_code if shape else error.code)}</Code>")
    _error_members(out, model, error)
    out.append(f"</Error><RequestId>{request_id}</RequestId></ErrorResponse>")
    return xml.response(error.status, out, request_id)


def fail_ec2(model: ServiceModel, error: AwsError, request_id: str) -> HttpResponse:
    """Answer with an error as ec2 writes it."""
    out = [f"<Response><Errors><Error><Code>{xml.escape(error.code)}</Code>"]
    _error_members(out, model, error)
    out.append(f"</Error></Errors><RequestID>{request_id}</RequestID></Response>")
    return xml.response(error.status, out, request_id)


def _error_members(out: list[str], model: ServiceModel, error: AwsError) -> None:
    """Write the message, with a capital whatever the shape says, and the shape's other members."""
    shape = model.exception(error.code)
    members = shape.members if shape else {}
    out.append(f"<Message>{xml.escape(str(error))}</Message>")
    for name, value in error.members.items():
        if name not in members:
            raise UnknownMemberError(f"{error.code} has no member {name}")
        xml.write(out, members[name], members[name].wire or name, value)
