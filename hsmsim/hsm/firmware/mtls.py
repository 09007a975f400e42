"""Client certificates at the TCP ports: trust anchors and enforcement, as `cluster mtls` of cloudhsm-cli has them.

An admin of the first partition decides for the cluster; the rows carry it to every HSM, whose port follows them
(hsmsim.hsm.tcp). AWS's guide, "Set up mutual TLS between client and AWS CloudHSM": two trust anchors at most, the user
named `admin` alone sets the enforcement and turns it on over a connection that shows a certificate itself, and
hsm1.medium has none of this.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from hsmsim.cluster.model import FIRST_PARTITION
from hsmsim.crypto import certificates
from hsmsim.errors import CkrError, HsmsimError
from hsmsim.hsm.cryptoki import CKR
from hsmsim.hsm.messages import (
    MtlsAnchorsResponse,
    MtlsDeregisterRequest,
    MtlsDeregisterResponse,
    MtlsEnforceRequest,
    MtlsEnforceResponse,
    MtlsLevelResponse,
    MtlsRegisterRequest,
    MtlsRegisterResponse,
)

if TYPE_CHECKING:
    from hsmsim.cluster.model import MtlsRow, Row
    from hsmsim.hsm.engine import Request
    from hsmsim.hsm.firmware.state import Client, State

LEVEL_NONE: Final = 0
LEVEL_CLUSTER: Final = 1
_REFERENCES: Final = (1, 2)
_MODELS_WITHOUT: Final = ("hsm1.medium",)
_DEFAULT_ADMIN: Final = "admin"
_CODES: Final = {
    certificates.LengthError: CKR.DATA_LEN_RANGE,
    certificates.ParseError: CKR.ARGUMENTS_BAD,
    certificates.IssuerError: CKR.SIGNATURE_INVALID,
    certificates.ForeignKeyError: CKR.PUBLIC_KEY_INVALID,
}


def _require_admin(state: State, client: Client) -> None:
    if state.settings.model in _MODELS_WITHOUT:
        raise CkrError(CKR.FUNCTION_NOT_SUPPORTED, f"{state.settings.model} has no mTLS")
    if not client.admin or client.partition != FIRST_PARTITION:
        raise CkrError(CKR.USER_NOT_LOGGED_IN, "this is for an admin of the first partition to do")


def _with(row: MtlsRow, reference: int, anchor: bytes) -> MtlsRow:
    return replace(row, anchor_1=anchor) if reference == 1 else replace(row, anchor_2=anchor)


def register(state: State, client: Client, request: Request) -> MtlsRegisterResponse:
    """Add a trust anchor under the first reference that is free."""
    given = MtlsRegisterRequest.decode(request.payload).trust_anchor
    _require_admin(state, client)
    try:
        anchor = certificates.client_anchor(given)
    except HsmsimError as error:
        raise CkrError(_CODES[type(error)], str(error)) from error
    taken: list[int] = []

    def build(_version: int) -> list[Row]:
        known = state.replica.mtls.anchors
        if anchor in known.values():
            raise CkrError(CKR.FUNCTION_REJECTED, "this trust anchor is registered already")
        free = next((reference for reference in _REFERENCES if reference not in known), None)
        if free is None:
            raise CkrError(CKR.DEVICE_MEMORY, "two trust anchors are registered: deregister one first")
        taken[:] = [free]
        return [_with(state.replica.mtls, free, anchor)]

    version = state.grant(build, state.entry(client, "MTLS_REGISTER"))
    state.links.announce(version, "all")  # whoever connects right after this one finds it everywhere
    return MtlsRegisterResponse(taken[0])


def deregister(state: State, client: Client, request: Request) -> MtlsDeregisterResponse:
    """Remove a trust anchor, and with it the connections that came in by it."""
    reference = MtlsDeregisterRequest.decode(request.payload).reference
    _require_admin(state, client)

    def build(_version: int) -> list[Row]:
        row = state.replica.mtls
        if reference not in row.anchors:
            raise CkrError(CKR.OBJECT_HANDLE_INVALID, f"no trust anchor has the reference {reference}")
        left = _with(row, reference, b"")
        if row.enforced and not left.anchors:
            raise CkrError(CKR.FUNCTION_REJECTED, "nobody could connect: turn the enforcement off first")
        return [left]

    state.revoke(build, state.entry(client, "MTLS_DEREGISTER", reference))
    return MtlsDeregisterResponse()


def anchors(state: State, _client: Client, _request: Request) -> MtlsAnchorsResponse:
    """The trust anchors, for everybody."""
    known = state.replica.mtls.anchors
    return MtlsAnchorsResponse(tuple(known), tuple(known.values()))


def enforce(state: State, client: Client, request: Request) -> MtlsEnforceResponse:
    """Set the level. It ends connections without a certificate, of which this one is none."""
    level = MtlsEnforceRequest.decode(request.payload).level
    _require_admin(state, client)
    if state.user_of(client).name != _DEFAULT_ADMIN:
        raise CkrError(CKR.USER_NOT_LOGGED_IN, f"the user {_DEFAULT_ADMIN} alone sets the enforcement")
    if level not in {LEVEL_NONE, LEVEL_CLUSTER}:
        raise CkrError(CKR.ARGUMENTS_BAD, f"there is no level {level}")
    if level == LEVEL_CLUSTER and not request.certified:
        raise CkrError(CKR.ACTION_PROHIBITED, "connect with a client certificate first, so that it is known to work")

    def build(_version: int) -> list[Row]:
        row = state.replica.mtls
        if level == LEVEL_CLUSTER and not row.anchors:
            raise CkrError(CKR.ACTION_PROHIBITED, "the trust anchor of this connection is gone")
        return [replace(row, enforced=level == LEVEL_CLUSTER)]

    state.revoke(build, state.entry(client, "MTLS_ENFORCE", 0, "cluster" if level else "none"))
    return MtlsEnforceResponse()


def level(state: State, client: Client, _request: Request) -> MtlsLevelResponse:
    """The level, for whoever is logged in."""
    state.user_of(client)
    return MtlsLevelResponse(LEVEL_CLUSTER if state.replica.mtls.enforced else LEVEL_NONE)
