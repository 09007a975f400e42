"""Client certificates at the HSMs' TCP ports, as an admin manages them. Errors are sentences: AWS's, and what to do."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

from hsmsim.crypto.certificates import CLIENT_ANCHOR_BYTES
from hsmsim.errors import CkrError, HsmsimError
from hsmsim.hsm.cryptoki import CKR
from hsmsim.hsm.messages import (
    MtlsAnchorsRequest,
    MtlsDeregisterRequest,
    MtlsEnforceRequest,
    MtlsLevelRequest,
    MtlsRegisterRequest,
)

if TYPE_CHECKING:
    from pathlib import Path

    from hsmsim.hsm.client import HsmClient


class Level(StrEnum):
    """Enforcement levels, as CloudHSM's tools name them."""

    NONE = "none"
    CLUSTER = "cluster"


_NUMBERS: Final = {Level.NONE: 0, Level.CLUSTER: 1}
_COMMON: Final = {
    CKR.FUNCTION_NOT_SUPPORTED: "The cluster's HSMs have no mTLS: that takes hsm2m.medium.",
    CKR.TOKEN_WRITE_PROTECTED: "The cluster is in limited-write mode while its HSMs are replaced. Try again then.",
    CKR.USER_NOT_LOGGED_IN: "An admin of the first partition must be logged in.",
}
_REGISTER: Final = _COMMON | {
    CKR.DATA_LEN_RANGE: f"Oversized Certificate: Certificate is too long: at most {CLIENT_ANCHOR_BYTES} bytes.",
    CKR.ARGUMENTS_BAD: "Invalid Certificate: this is no certificate, or no chain of at most 4, in PEM.",
    CKR.SIGNATURE_INVALID: "Invalid Certificate: a trust anchor is the certificate of an authority (CA:TRUE); if it is "
    "not self-signed, those above it follow in order, up to the root.",
    CKR.PUBLIC_KEY_INVALID: "Invalid Certificate: allowed are RSA keys of 2048, 3072 and 4096 bits, P-256, P-384 and "
    "P-521, signed with SHA-224 to SHA-512.",
    CKR.FUNCTION_REJECTED: "Invalid Certificate: Trust anchor already exists.",
    CKR.DEVICE_MEMORY: "Maximum number of certificates registered. Deregister one of the two first: cluster mtls "
    "deregister-trust-anchor --certificate-reference REFERENCE",
}
_DEREGISTER: Final = _COMMON | {
    CKR.OBJECT_HANDLE_INVALID: "There is no such trust anchor. See: cluster mtls list-trust-anchors",
    CKR.FUNCTION_REJECTED: "This is the last trust anchor, and nobody could connect without one. First: cluster mtls "
    "set-enforcement --level none",
}
_ENFORCE: Final = _COMMON | {
    CKR.USER_NOT_LOGGED_IN: "An Admin must be logged in to set policy on an HSM: the user `admin`, no other.",
    CKR.ACTION_PROHIBITED: "Failed to set the mtls enforcement. Current connection must be mtls to set this "
    "enforcement: register a trust anchor, then hsmsim configure-cli --tls --client-cert-hsm-tls-file FILE "
    "--client-key-hsm-tls-file FILE",
}


def _explained(error: CkrError, reasons: dict[CKR, str]) -> HsmsimError:
    return HsmsimError(reasons.get(CKR(error.rv), str(error)))


def reference_text(reference: int) -> str:
    """Return a reference as CloudHSM's tools write it."""
    return f"0x{reference:02x}"


def register(client: HsmClient, path: Path) -> int:
    """Register the trust anchor in a file; return its reference."""
    try:
        with path.open("rb") as file:
            given = file.read(CLIENT_ANCHOR_BYTES + 1)
    except OSError as error:
        raise HsmsimError(f"{path}: {error.strerror}.") from error
    try:
        return int(client.call(MtlsRegisterRequest(given)).reference)
    except CkrError as error:
        raise _explained(error, _REGISTER) from error


def deregister(client: HsmClient, reference: int) -> None:
    """Remove a trust anchor, and the connections that came in by it."""
    try:
        client.call(MtlsDeregisterRequest(reference))
    except CkrError as error:
        raise _explained(error, _DEREGISTER) from error


def anchors(client: HsmClient) -> dict[int, str]:
    """Return the trust anchors (PEM) by reference."""
    found = client.call(MtlsAnchorsRequest())
    pairs = zip(found.references, found.trust_anchors, strict=True)
    return {reference: anchor.decode("ascii", "replace") for reference, anchor in pairs}


def enforce(client: HsmClient, level: Level) -> None:
    """Set the enforcement level."""
    try:
        client.call(MtlsEnforceRequest(_NUMBERS[level]))
    except CkrError as error:
        raise _explained(error, _ENFORCE) from error


def level(client: HsmClient) -> Level:
    """Return the enforcement level."""
    number = client.call(MtlsLevelRequest()).level
    return next(one for one, value in _NUMBERS.items() if value == number)
