"""The table of protocols: how each finds its operation, parses, validates, answers and fails."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from hsmsim.errors import AwsError
from hsmsim.gateway.codec import query, restxml, rpc, validate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hsmsim.gateway.codec.model import OperationModel, ServiceModel
    from hsmsim.gateway.codec.wire import HttpRequest, HttpResponse


@dataclass(frozen=True, slots=True)
class Protocol:
    """One protocol. `find` gives the name of the operation that the request asks for, empty where it names none.

    `exceptions`: whether its errors of AWS's framework end in "Exception" (json and its kind) or not.
    """

    name: str
    find: Callable[[ServiceModel, HttpRequest], str]
    parse: Callable[[ServiceModel, OperationModel, HttpRequest], dict[str, Any]]
    validate: Callable[[OperationModel, dict[str, Any]], None]
    respond: Callable[[ServiceModel, OperationModel, Mapping[str, Any] | None, str], HttpResponse]
    fail: Callable[[ServiceModel, AwsError, str], HttpResponse]
    exceptions: bool


def _target(_model: ServiceModel, request: HttpRequest) -> str:
    return request.headers.get("x-amz-target", "").rpartition(".")[2]


def _path(_model: ServiceModel, request: HttpRequest) -> str:
    return request.path.rpartition("/operation/")[2]


def _action(model: ServiceModel, request: HttpRequest) -> str:
    given = dict(query.form_of(request))
    action, version = given.get(query.ACTION, ""), given.get(query.VERSION, model.version)
    if version != model.version:
        raise AwsError("InvalidAction", f"Could not find operation {action} for version {version}")
    return action


JSON: Final = Protocol(
    "json",
    _target,
    rpc.parse_json,
    partial(validate.check, code="ValidationException"),
    rpc.respond_json,
    rpc.fail_json,
    exceptions=True,
)
CBOR: Final = Protocol(
    "smithy-rpc-v2-cbor",
    _path,
    rpc.parse_cbor,
    partial(validate.check, code="ValidationException"),
    rpc.respond_cbor,
    rpc.fail_cbor,
    exceptions=True,
)
QUERY: Final = Protocol(
    "query",
    _action,
    partial(query.parse, style=query.QUERY),
    partial(validate.check, code="ValidationError"),
    query.respond_query,
    query.fail_query,
    exceptions=False,
)
EC2: Final = Protocol(
    "ec2",
    _action,
    partial(query.parse, style=query.EC2),
    validate.check_ec2,
    query.respond_ec2,
    query.fail_ec2,
    exceptions=False,
)
REST_XML: Final = Protocol(
    "rest-xml",
    restxml.find_operation,
    restxml.parse,
    partial(validate.check, code="InvalidInput"),
    restxml.respond,
    query.fail_query,
    exceptions=False,
)
ALL: Final = {protocol.name: protocol for protocol in (JSON, CBOR, QUERY, EC2, REST_XML)}
