"""The protocols whose body is a tree: json (1.0 and 1.1, https://smithy.io/2.0/aws/protocols/) and rpc-v2-cbor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from hsmsim.gateway.codec import cbor, tree
from hsmsim.gateway.codec.wire import HttpRequest, HttpResponse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hsmsim.errors import AwsError
    from hsmsim.gateway.codec.model import OperationModel, Ref, ServiceModel, Shape

JSON_TYPE: Final = "application/x-amz-json-"
CBOR_TYPE: Final = "application/cbor"
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
# Errors that come from AWS's framework and not from a service; these two are spelt with a capital there.
_CAPITAL: Final = frozenset({"AccessDeniedException", "SerializationException"})


def parse_json(_model: ServiceModel, operation: OperationModel, request: HttpRequest) -> dict[str, Any]:
    """The members of the request. An empty body is a request without members."""
    if operation.input is None or not request.body:
        return {}
    try:
        body = _decode(request.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise tree.refuse("The body is not JSON.") from error
    return _members(operation.input, body, tree.JSON)


def parse_cbor(_model: ServiceModel, operation: OperationModel, request: HttpRequest) -> dict[str, Any]:
    """The members of the request."""
    if operation.input is None or not request.body:
        return {}
    try:
        body = cbor.decode(request.body)
    except cbor.CborError as error:
        raise tree.refuse(f"The body is not CBOR: {error}.") from error
    return _members(operation.input, body, tree.CBOR)


def _members(ref: Ref, body: object, dialect: tree.Dialect) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise tree.refuse("The body is no structure.")
    values: dict[str, Any] = tree.read(ref, body, dialect)
    return values


def respond_json(
    model: ServiceModel, operation: OperationModel, values: Mapping[str, Any] | None, request_id: str
) -> HttpResponse:
    """Answer with these members; without an output shape the body is an empty object."""
    body = _encode(tree.write(operation.output, values or {}, tree.JSON)) if operation.output else b"{}"
    return HttpResponse(200, _json_headers(model, request_id), body)


def respond_cbor(
    _model: ServiceModel, operation: OperationModel, values: Mapping[str, Any] | None, request_id: str
) -> HttpResponse:
    """Answer with these members; without an output shape there is no body."""
    if operation.output is None:
        return HttpResponse(200, [("smithy-protocol", "rpc-v2-cbor"), ("x-amzn-RequestId", request_id)])
    return HttpResponse(
        200, _cbor_headers(request_id), cbor.encode(tree.write(operation.output, values or {}, tree.CBOR))
    )


def fail_json(model: ServiceModel, error: AwsError, request_id: str) -> HttpResponse:
    """Answer with an error: its shape's members and spelling where the model has it."""
    headers = [*_json_headers(model, request_id), ("x-amzn-ErrorType", error.code)]
    shape = model.exception(error.code)
    return HttpResponse(
        error.status, headers, _encode(_error(shape.name if shape else error.code, shape, error, tree.JSON))
    )


def fail_cbor(model: ServiceModel, error: AwsError, request_id: str) -> HttpResponse:
    """Answer with an error: "a body field named __type [...] MUST contain the error's Shape ID", with its namespace."""
    shape = model.exception(error.code)
    type_ = f"com.amazonaws.{model.name}#{shape.name}" if shape else error.code
    return HttpResponse(error.status, _cbor_headers(request_id), cbor.encode(_error(type_, shape, error, tree.CBOR)))


def _error(type_: str, shape: Shape | None, error: AwsError, dialect: tree.Dialect) -> dict[str, Any]:
    body: dict[str, Any] = {"__type": type_}
    members = shape.members if shape else {}
    spelt = "Message" if "Message" in members or (not shape and error.code in _CAPITAL) else "message"
    text = str(error)
    if text:
        body[spelt] = text
    for name, value in error.members.items():
        if name not in members:
            raise tree.UnknownMemberError(f"{error.code} has no member {name}")
        body[members[name].wire or name] = tree.write(members[name], value, dialect)
    return body


def _json_headers(model: ServiceModel, request_id: str) -> list[tuple[str, str]]:
    return [("Content-Type", JSON_TYPE + model.json_version), ("x-amzn-RequestId", request_id)]


def _cbor_headers(request_id: str) -> list[tuple[str, str]]:
    return [("Content-Type", CBOR_TYPE), ("smithy-protocol", "rpc-v2-cbor"), ("x-amzn-RequestId", request_id)]
