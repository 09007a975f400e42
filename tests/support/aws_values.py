"""Values of AWS's shapes for Hypothesis, by botocore's own view of the models, and botocore's half of the wire."""

from __future__ import annotations

import datetime as dt
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import botocore.session
from botocore.awsrequest import HeadersDict, create_request_object, prepare_request_dict
from botocore.model import ServiceModel as BotocoreModel
from botocore.parsers import create_parser
from botocore.serialize import create_serializer
from hypothesis import strategies as st

from hsmsim.gateway.codec.wire import HttpRequest, HttpResponse, join_headers

if TYPE_CHECKING:
    from botocore.model import OperationModel, Shape

URL = "http://localhost:4566"
# What XML 1.0 can carry, without the carriage return, which botocore writes unescaped.
XML_TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters="\ufffe\uffff"), max_size=8
)
ANY_TEXT = st.text(max_size=8)
PLAIN = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=8)
TIMES = st.integers(0, 4_000_000_000_000).map(
    lambda ms: dt.datetime.fromtimestamp(0, dt.UTC) + dt.timedelta(milliseconds=ms)
)
DEPTH = 6


@cache
def botocore_model(service: str) -> BotocoreModel:
    loader = botocore.session.get_session().get_component("data_loader")
    return BotocoreModel(loader.load_service_model(service, "service-2"), service)


def _scalar(shape: Shape, protocol: str, *, placed: bool) -> st.SearchStrategy[Any]:  # noqa: PLR0911
    match shape.type_name:
        case "string" | "character":
            if placed:
                return PLAIN
            return XML_TEXT if protocol in {"query", "ec2", "rest-xml"} else ANY_TEXT
        case "integer":
            return st.integers(-(1 << 31), (1 << 31) - 1)
        case "long":
            return st.integers(-(1 << 63), (1 << 63) - 1)
        case "float":
            return st.floats(allow_nan=False, allow_infinity=protocol != "json", width=32)
        case "double":
            return st.floats(allow_nan=False, allow_infinity=protocol != "json")  # botocore reads no "Infinity" there
        case "boolean":
            return st.booleans()
        case "blob":
            return st.binary(max_size=8)
        case "timestamp":
            whole = placed or shape.serialization.get("timestampFormat") == "rfc822"
            return TIMES.map(lambda time: time.replace(microsecond=0)) if whole else TIMES
        case kind:
            raise AssertionError(kind)


@st.composite
def values(draw: st.DrawFn, shape: Shape, protocol: str, depth: int = 0, *, placed: bool = False) -> Any:
    placed = placed or "location" in shape.serialization
    match shape.type_name:
        case "structure":
            return draw(structures(shape, protocol, depth))
        case "list":
            size = 0 if depth > DEPTH else draw(st.integers(0, 2))
            return [draw(values(shape.member, protocol, depth + 1, placed=placed)) for _ in range(size)]
        case "map":
            size = 0 if depth > DEPTH else draw(st.integers(0, 2))
            keys = [draw(values(shape.key, protocol, depth + 1, placed=placed)) for _ in range(size)]
            return {key: draw(values(shape.value, protocol, depth + 1, placed=placed)) for key in keys}
        case _:
            return draw(_scalar(shape, protocol, placed=placed))


@st.composite
def structures(draw: st.DrawFn, shape: Shape, protocol: str, depth: int = 0) -> dict[str, Any]:
    if getattr(shape, "is_document_type", False):
        return {"a": [1, "b", None]}
    names = list(shape.members)
    if getattr(shape, "is_tagged_union", False):
        names = [draw(st.sampled_from(names))]
    elif depth > DEPTH:
        names = [name for name in names if shape.members[name].type_name not in {"structure", "list", "map"}]
    result = {}
    for name in names:
        member = shape.members[name]
        needed = (
            shape.is_tagged_union
            or member.serialization.get("location") == "uri"
            or "hostLabel" in member.serialization
        )
        if needed or draw(st.integers(0, 2)):
            result[name] = draw(values(member, protocol, depth + 1))
    return result


def request_of(operation: OperationModel, parameters: dict[str, Any], protocol: str) -> HttpRequest:
    """The request as botocore sends it."""
    serialized = create_serializer(protocol, include_validation=False).serialize_to_request(parameters, operation)
    serialized.pop("host_prefix", None)
    prepare_request_dict(serialized, URL)
    prepared = create_request_object(serialized).prepare()
    url = urlsplit(prepared.url)
    headers = join_headers(
        (name.lower().encode(), value if isinstance(value, bytes) else value.encode("latin-1"))
        for name, value in prepared.headers.items()
    )
    body = prepared.body or b""
    body = body if isinstance(body, bytes) else body.encode()
    return HttpRequest(prepared.method, url.path, url.query, {**headers, "host": url.netloc}, body)


def parsed(operation_output: Shape | None, response: HttpResponse, protocol: str) -> dict[str, Any]:
    """What botocore makes of a response."""
    raw = {
        "status_code": response.status,
        "headers": HeadersDict(response.headers),
        "body": response.body,
        "context": {"operation_name": "Operation"},
    }
    return create_parser(protocol).parse(raw, operation_output)


def pruned(value: Any) -> Any:
    """Without empty structures, lists and maps: some protocols cannot tell them from absent ones."""
    if isinstance(value, dict):
        inner = {key: pruned(item) for key, item in value.items()}
        return {key: item for key, item in inner.items() if item not in ({}, [])}
    if isinstance(value, list):
        return [item for item in map(pruned, value) if item not in ({}, [])]
    return value
