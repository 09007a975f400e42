"""rest-xml (https://smithy.io/2.0/aws/protocols/aws-restxml-protocol.html).

Method and path name the operation; members are in the path, the query string, the headers and an XML body.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote
from weakref import WeakKeyDictionary

import msgspec

from hsmsim.errors import AwsError
from hsmsim.gateway.codec import times, xml
from hsmsim.gateway.codec.query import scalar
from hsmsim.gateway.codec.tree import UnknownMemberError
from hsmsim.gateway.codec.wire import HttpRequest, HttpResponse, parse_form, unquote

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hsmsim.gateway.codec.model import OperationModel, Ref, ServiceModel

MALFORMED_XML: Final = "MalformedXML"
BAD_VALUE: Final = "InvalidArgument"
_LABEL: Final = re.compile(r"\{([^{}+]+)(\+?)\}")
_HEADER_ITEM: Final = re.compile(r'\s*(?:"((?:[^"\\]|\\.)*)"|([^,]*))\s*(?:,|$)')


@dataclass(frozen=True, slots=True)
class _Route:
    """weight: the more of a route is fixed the earlier it is tried."""

    method: str
    path: re.Pattern[str]
    query: tuple[tuple[str, str], ...]
    weight: tuple[int, int]
    operation: str


def _route(operation: OperationModel) -> _Route:
    path, _, query = operation.uri.partition("?")
    pattern, at = "", 0
    for number, label in enumerate(_LABEL.finditer(path)):
        inner = ".+" if label.group(2) else "[^/]+"
        pattern += re.escape(path[at : label.start()]) + f"(?P<l{number}>{inner})"
        at = label.end()
    pattern += re.escape(path[at:].rstrip("/")) + "/?"
    fixed = len(_LABEL.sub("", path))
    constants = tuple(parse_form(query, MALFORMED_XML))
    return _Route(operation.method, re.compile(pattern), constants, (len(constants), fixed), operation.name)


_routes: WeakKeyDictionary[ServiceModel, list[_Route]] = WeakKeyDictionary()


def find_operation(model: ServiceModel, request: HttpRequest) -> str:
    """The name of the operation that method, path and fixed parameters name; empty where there is none."""
    routes = _routes.get(model)
    if routes is None:
        operations = [model.operation(name) for name in model.operation_names]
        routes = [_route(operation) for operation in operations if operation is not None]
        routes.sort(key=lambda route: route.weight, reverse=True)
        _routes[model] = routes
    given = parse_form(request.query, MALFORMED_XML)
    for route in routes:
        if route.method == request.method and route.path.fullmatch(request.path) and set(route.query) <= set(given):
            return route.operation
    return ""


def parse(_model: ServiceModel, operation: OperationModel, request: HttpRequest) -> dict[str, Any]:
    """The members of the request."""
    if operation.input is None:
        return {}
    labels = _labels(operation, request.path)
    query: dict[str, list[str]] = {}
    for name, value in parse_form(request.query, MALFORMED_XML):
        query.setdefault(name, []).append(value)
    values: dict[str, Any] = {}
    for name, member in operation.input.shape.members.items():
        value = _placed(member, name, labels, query, request.headers)
        if value is not None:
            values[name] = value
    values.update(_body(operation.input, request))
    return values


def _labels(operation: OperationModel, path: str) -> dict[str, str]:
    found = _route(operation).path.fullmatch(path)
    if found is None:
        raise AwsError(BAD_VALUE, f"The path is none of {operation.name}.")
    names = [label.group(1) for label in _LABEL.finditer(operation.uri.partition("?")[0])]
    return {name: unquote(text, BAD_VALUE, plus=False) for name, text in zip(names, found.groups(), strict=True)}


def _placed(  # noqa: PLR0911 - a case for each place
    member: Ref, name: str, labels: dict[str, str], query: dict[str, list[str]], headers: dict[str, str]
) -> Any:  # noqa: ANN401 - any value
    wire = member.wire or name
    match member.location:
        case "uri":
            return _scalar(member, labels[wire], wire) if wire in labels else None
        case "querystring" if member.shape.type == "map":
            return {key: values[-1] for key, values in query.items()} or None
        case "querystring" if member.shape.type == "list":
            element = member.shape.element
            assert element is not None  # noqa: S101 - a list has one
            return [_scalar(element, text, wire) for text in query[wire]] if wire in query else None
        case "querystring":
            return _scalar(member, query[wire][-1], wire) if wire in query else None
        case "header":
            return _header(member, headers[wire.lower()], wire) if wire.lower() in headers else None
        case "headers":
            prefix = wire.lower()
            return {key[len(prefix) :]: text for key, text in headers.items() if key.startswith(prefix)} or None
        case _:
            return None


def _scalar(member: Ref, text: str, where: str) -> Any:  # noqa: ANN401
    return scalar(member.shape.type, text, where, BAD_VALUE)


def _header(member: Ref, text: str, where: str) -> Any:  # noqa: ANN401
    if member.json_text:
        try:
            return msgspec.json.decode(base64.b64decode(text, validate=True))
        except ValueError as error:
            raise AwsError(BAD_VALUE, f"The header {where} is not JSON in base64.") from error
    if member.shape.type == "list":
        element = member.shape.element
        assert element is not None  # noqa: S101 - a list has one
        return [_scalar(element, item, where) for item in _header_items(text)]
    return _scalar(member, text, where)


def _header_items(text: str) -> list[str]:
    items, at = [], 0
    while at < len(text):
        found = _HEADER_ITEM.match(text, at)
        if found is None or found.end() == at:
            raise AwsError(BAD_VALUE, f"A header's list is not understood: {text}")
        quoted, plain = found.groups()
        items.append(plain.strip() if quoted is None else re.sub(r"\\(.)", r"\1", quoted))
        at = found.end()
    return items


def _body(ref: Ref, request: HttpRequest) -> dict[str, Any]:
    payload = ref.shape.payload
    if payload:
        member = ref.shape.members[payload]
        match member.shape.type:
            case "blob":
                return {payload: request.body} if request.body else {}
            case "string":
                return {payload: _utf8(request.body)} if request.body else {}
        return {payload: _structure(member, _read(request.body))} if request.body else {}
    return _structure(ref, _read(request.body)) if request.body else {}


def _utf8(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise AwsError(BAD_VALUE, "The body is not UTF-8.") from error


def _read(body: bytes) -> xml.Element:
    try:
        return xml.read(body)
    except xml.XmlError as error:
        raise AwsError(MALFORMED_XML, f"The body is not well-formed XML: {error}.") from error


def _structure(ref: Ref, element: xml.Element) -> dict[str, Any]:
    result = {}
    for name, member in ref.shape.members.items():
        if member.location:
            continue
        wire = member.wire or name
        if member.attribute:
            if wire in element.attributes:
                result[name] = element.attributes[wire]
            continue
        found = element.all(_flat_name(member, wire) if member.flattened else wire)
        if found:
            result[name] = _value(member, found, name)
    return result


def _flat_name(member: Ref, wire: str) -> str:
    """A flattened list's elements have the list's own name in requests (botocore writes them so)."""
    return wire if member.shape.type == "map" else member.wire or wire


def _value(ref: Ref, found: list[xml.Element], name: str) -> Any:  # noqa: ANN401
    match ref.shape.type:
        case "structure":
            return _structure(ref, found[0])
        case "list":
            element = ref.shape.element
            assert element is not None  # noqa: S101 - a list has one
            items = found if ref.flattened else found[0].all(element.wire or "member")
            return [_value(element, [item], name) for item in items]
        case "map":
            return _map(ref, found if ref.flattened else found[0].all("entry"), name)
        case kind:
            return scalar(kind, found[0].text, name, MALFORMED_XML)


def _map(ref: Ref, entries: list[xml.Element], name: str) -> dict[str, Any]:
    key, value = ref.shape.key, ref.shape.value
    assert key is not None and value is not None  # noqa: S101, PT018 - a map has both
    result = {}
    for entry in entries:
        keys, items = entry.all(key.wire or "key"), entry.all(value.wire or "value")
        if not keys or not items:
            raise AwsError(MALFORMED_XML, f"An entry of {name} has no key or no value.")
        result[keys[0].text] = _value(value, items, name)
    return result


def respond(
    model: ServiceModel, operation: OperationModel, values: Mapping[str, Any] | None, request_id: str
) -> HttpResponse:
    """Answer with members in headers and body."""
    headers = [("x-amzn-RequestId", request_id)]
    if operation.output is None:
        return HttpResponse(operation.status, headers)
    values = values or {}
    status = operation.status
    for name, value in values.items():
        member = operation.output.shape.members.get(name)
        if member is None:
            raise UnknownMemberError(f"{operation.output.shape.name} has no member {name}")
        if value is None or not member.location:
            continue
        if member.location == "statusCode":
            status = int(value)
        elif member.location == "headers":
            headers += [((member.wire or "") + key, str(item)) for key, item in value.items()]
        else:
            headers.append((member.wire or name, _to_header(member, value)))
    return _with_body(model, operation.output, values, HttpResponse(status, headers))


def _to_header(member: Ref, value: Any) -> str:  # noqa: ANN401
    if member.json_text:
        return base64.b64encode(msgspec.json.encode(value)).decode("ascii")
    match member.shape.type:
        case "timestamp":
            return times.to_text(value, member.time_format or times.HTTP)
        case "boolean":
            return "true" if value else "false"
        case "blob":
            return base64.b64encode(value).decode("ascii")
        case "list":
            element = member.shape.element
            assert element is not None  # noqa: S101 - a list has one
            return ",".join(_to_header(element, item) for item in value)
        case _:
            # A header carries visible ASCII; what is not is percent-encoded.
            text = str(value)
            return text if text.isascii() and text.isprintable() else quote(text, safe=" !\"#$&'()*+,/:;<=>?@[]^`{|}~")


def _with_body(model: ServiceModel, output: Ref, values: Mapping[str, Any], answer: HttpResponse) -> HttpResponse:
    shape = output.shape
    if shape.payload:
        value, member = values.get(shape.payload), shape.members[shape.payload]
        if value is None:
            return answer
        if member.shape.type in {"blob", "string"}:
            answer.body = value if isinstance(value, bytes) else str(value).encode()
            return answer
        out: list[str] = []
        xml.write(out, member, member.wire or member.shape.name, value)
    elif any(not member.location for member in shape.members.values()):
        namespace = f' xmlns="{xml.escape(model.namespace)}"' if model.namespace else xml.attributes(output)
        name = output.wire or shape.name
        out = [f"<{name}{namespace}>"]
        xml.write_members(out, shape, values)
        out.append(f"</{name}>")
    else:
        return answer
    answer.headers.append(("Content-Type", "application/xml"))
    answer.body = "".join(('<?xml version="1.0" encoding="UTF-8"?>\n', *out)).encode()
    return answer
