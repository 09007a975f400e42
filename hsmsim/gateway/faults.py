"""Which code and status an error of the gateway itself has in each protocol.

The gateway speaks the query protocol's codes inside; this table is the one place that knows the others. Marked U: from
reports of users, not from AWS's documentation (UNVERIFIED).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hsmsim.errors import AwsError

if TYPE_CHECKING:
    from hsmsim.gateway.codec.model import ServiceModel
    from hsmsim.gateway.codec.protocols import Protocol

BUSY: Final = "ServiceUnavailable"
DEFECT: Final = "InternalFailure"
_SERVER_ERROR: Final = 500
# Those of EC2's "Server error codes" that hsmsim has.
_EC2_SERVER: Final = frozenset({"InternalError", "Unavailable"})

# What the gateway says: code, status, and AWS's sentence where it is another one.
_Table = dict[str, tuple[str, int, str | None]]
_QUERY: Final[_Table] = {
    "IncompleteSignature": ("IncompleteSignature", 400, None),
    "MissingAuthenticationToken": ("MissingAuthenticationToken", 403, None),
    "InvalidClientTokenId": ("InvalidClientTokenId", 403, None),
    "SignatureDoesNotMatch": ("SignatureDoesNotMatch", 403, None),
    "ExpiredToken": ("ExpiredToken", 403, None),
    "RequestExpired": ("SignatureDoesNotMatch", 403, None),
    "InvalidAction": ("InvalidAction", 400, None),
    BUSY: (BUSY, 503, None),
    DEFECT: (DEFECT, 500, None),
}
_JSON: Final[_Table] = {
    "IncompleteSignature": ("IncompleteSignatureException", 400, None),
    "MissingAuthenticationToken": ("MissingAuthenticationTokenException", 400, "Missing Authentication Token"),
    "InvalidClientTokenId": ("UnrecognizedClientException", 400, None),
    "SignatureDoesNotMatch": ("InvalidSignatureException", 400, None),
    "ExpiredToken": ("ExpiredTokenException", 400, None),
    "RequestExpired": ("InvalidSignatureException", 400, None),
    "InvalidAction": ("UnknownOperationException", 400, ""),
    BUSY: ("ServiceUnavailableException", 503, None),
    DEFECT: ("InternalFailure", 500, None),
}
_EC2_CREDENTIALS: Final = "AWS was not able to validate the provided access credentials"
_EC2: Final[_Table] = _QUERY | {
    "InvalidClientTokenId": ("AuthFailure", 401, _EC2_CREDENTIALS),
    "SignatureDoesNotMatch": ("AuthFailure", 401, _EC2_CREDENTIALS),  # U
    "ExpiredToken": ("RequestExpired", 400, "Request has expired."),  # U
    "RequestExpired": ("RequestExpired", 400, "Request has expired."),
    BUSY: ("Unavailable", 503, None),
    DEFECT: ("InternalError", 500, None),
}


def translate(error: AwsError, protocol: Protocol) -> AwsError:
    """The error as this protocol's clients know it; an error of a service stays as it is."""
    table = _JSON if protocol.exceptions else _EC2 if protocol.name == "ec2" else _QUERY
    if error.code not in table:
        return error
    code, status, sentence = table[error.code]
    return AwsError(code, str(error) if sentence is None else sentence, status)


def recorded(error: AwsError, model: ServiceModel, protocol: Protocol) -> str:
    """CloudTrail's errorCode of an error as it was told.

    EC2's says whose fault it was, as Client.DryRunOperation does; where the model has the error, its name is recorded
    and not the code on the wire: IAM's NoSuchEntity is NoSuchEntityException.
    """
    if protocol.name == "ec2":
        return f"{'Server' if error.code in _EC2_SERVER else 'Client'}.{error.code}"
    known = model.exception(error.code)
    return known.name if known else error.code


def busy(text: str) -> AwsError:
    """The gateway has more to do than it takes on."""
    return AwsError(BUSY, text, 503)


def defect(request_id: str, code: str = "") -> AwsError:
    """Something that should not happen did; the log has it under this request id. code: the service's own for it."""
    return AwsError(code or DEFECT, f"The gateway failed on request {request_id}; its log says why.", _SERVER_ERROR)
