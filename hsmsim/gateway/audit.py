"""CloudTrail's record of a call (CloudTrail User Guide, "CloudTrail record contents").

Members are named as CloudTrail does: the first letter small. Sensitive members are left out; reads have no
responseElements.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final

from hsmsim.authz.principal import Caller, Kind
from hsmsim.gateway.codec import times

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping

    from hsmsim.gateway.codec.model import OperationModel, Ref
    from hsmsim.gateway.codec.wire import HttpRequest
    from hsmsim.services.kernel import Call, Operation, Service

EVENT_VERSION: Final = "1.11"
_READS: Final = ("Describe", "Get", "List", "Lookup", "Search")
"""How the names of operations begin that only read, as far as it takes for those that are not built."""


def event(
    service: Service, operation: Operation | None, model: OperationModel, call: Call, request: HttpRequest
) -> dict[str, Any]:
    """The record, before anything is known of parameters and outcome. operation: None where it is not built."""
    record: dict[str, Any] = {
        "eventVersion": EVENT_VERSION,
        "userIdentity": identity(call.caller),
        "eventTime": times.to_iso(int(call.clock.time())),
        "eventSource": service.source,
        "eventName": model.name,
        "awsRegion": service.region or call.region,
        "sourceIPAddress": call.source_ip,
        "userAgent": call.user_agent,
        "requestParameters": None,
        "responseElements": None,
        "requestID": call.request_id,
        "eventID": _uuid(call.ids.token(16)),
        "readOnly": operation.read_only if operation else model.name.startswith(_READS),
        "eventType": "AwsApiCall",
        "managementEvent": True,
        "recipientAccountId": call.account,
        "eventCategory": "Management",
    }
    if request.tls:
        version, cipher = request.tls
        record["tlsDetails"] = {
            "tlsVersion": version,
            "cipherSuite": cipher,
            "clientProvidedHostHeader": request.headers.get("host", ""),
        }
    return record


def add_outcome(
    record: dict[str, Any],
    service: Service,
    operation: Operation,
    model: OperationModel,
    values: Mapping[str, Any] | None,
    response: Mapping[str, Any] | None,
) -> None:
    """Parameters and elements, as the general rule and then the service's own shows them."""
    parameters = shown(model.input, values) if values else None
    elements = shown(model.output, response) if response and operation.shows_response else None
    if service.redact is not None:
        parameters, elements = service.redact(model.name, parameters or {}, elements)
    record["requestParameters"] = parameters or None
    record["responseElements"] = elements or None


def add_error(record: dict[str, Any], code: str, message: str) -> None:
    """What the caller was told."""
    record["errorCode"] = code
    record["errorMessage"] = message


def identity(caller: Caller) -> dict[str, Any]:
    """userIdentity by the kind of caller."""
    if caller.kind is Kind.SERVICE:
        return {"type": caller.kind.value, "invokedBy": caller.arn}
    record: dict[str, Any] = {
        "type": caller.kind.value,
        "principalId": caller.user_id,
        "arn": caller.arn,
        "accountId": caller.account,
        "accessKeyId": caller.access_key_id,
    }
    if caller.kind is Kind.USER:
        record["userName"] = caller.name
    if caller.issued:
        record["sessionContext"] = _session(caller)
    return record


def _session(caller: Caller) -> dict[str, Any]:
    context: dict[str, Any] = {
        "attributes": {"creationDate": times.to_iso(int(caller.issued)), "mfaAuthenticated": "false"}
    }
    if caller.issuer:
        context["sessionIssuer"] = {
            "type": _issuer_type(caller.issuer),
            "principalId": caller.issuer_id,
            "arn": caller.issuer,
            "accountId": caller.issuer.split(":")[4],
            "userName": caller.issuer.rpartition("/")[2],
        }
    return context


def _issuer_type(arn: str) -> str:
    resource = arn.partition("::")[2].partition(":")[2]
    return "Root" if resource == "root" else "Role" if resource.startswith("role/") else "IAMUser"


def shown(ref: Ref | None, value: Any) -> Any:  # noqa: ANN401, PLR0911 - any value of the model, a case for each type
    """A value as CloudTrail shows it, None where it is sensitive; what was refused is shown too, valid or not."""
    if ref is None or value is None or ref.shape.sensitive:
        return None
    shape = ref.shape
    match shape.type:
        case "structure" if not shape.document:
            inner = {name: shown(shape.members[name], item) for name, item in value.items() if item is not None}
            return {name[:1].lower() + name[1:]: item for name, item in inner.items() if item is not None}
        case "list":
            return [shown(shape.element, item) for item in value]
        case "map":
            return {key: shown(shape.value, item) for key, item in value.items()}
        case "timestamp":
            return _java_date(times.of(value))
        case "blob":
            return base64.b64encode(value).decode("ascii")
        case _:
            return value


def _java_date(time: dt.datetime) -> str:
    """Mar 24, 2014, 9:11:59 PM."""
    return f"{time:%b} {time.day}, {time.year}, {time.hour % 12 or 12}:{time:%M:%S %p}"


def _uuid(raw: bytes) -> str:
    text = (raw[:6] + bytes([raw[6] & 0x0F | 0x40, raw[7], raw[8] & 0x3F | 0x80]) + raw[9:]).hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def new_request_id(raw: bytes) -> str:
    """A version 4 UUID of 16 random bytes."""
    return _uuid(raw)
