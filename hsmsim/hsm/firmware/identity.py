"""What the service does with a cluster that no user of it may: its certificate, limited writes, images, members.

Whoever runs the HSM is the service: the account of its own process, or root. Everybody else is answered with
CKR_USER_NOT_LOGGED_IN, but may read certificates.
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from hsmsim.cluster.model import ACTIVE, INITIALIZED, UNINITIALIZED, AuditEntry
from hsmsim.crypto import certificates
from hsmsim.errors import CkrError, HsmsimError
from hsmsim.hsm import certify, imagefile, images
from hsmsim.hsm.cryptoki import CKR
from hsmsim.hsm.messages import (
    BackupRequest,
    BackupResponse,
    CertificatesResponse,
    InitializeRequest,
    InitializeResponse,
    LimitedWriteRequest,
    LimitedWriteResponse,
    RemoveMemberRequest,
    RemoveMemberResponse,
)
from hsmsim.hsm.roots import devices

if TYPE_CHECKING:
    from hsmsim.cluster.model import Row
    from hsmsim.hsm.engine import Request
    from hsmsim.hsm.firmware.state import State

_LOG = logging.getLogger(__name__)

_CODES: Final = {
    certificates.ParseError: CKR.ARGUMENTS_BAD,
    certificates.IssuerError: CKR.SIGNATURE_INVALID,
    certificates.ForeignKeyError: CKR.PUBLIC_KEY_INVALID,
}


def _require_service(request: Request) -> None:
    if request.uid not in {0, os.geteuid()}:
        raise CkrError(CKR.USER_NOT_LOGGED_IN, f"uid {request.uid} does not run this HSM")


def _entry(opcode: str, detail: str) -> AuditEntry:
    return AuditEntry(opcode, "", 0, 0, 0, detail)


def certificates_of(state: State, _request: Request) -> CertificatesResponse:
    """CSR and hardware certificates until there is the cluster's certificate."""
    identity = state.replica.identity
    if state.replica.cluster.state != UNINITIALIZED:
        return CertificatesResponse(
            b"", b"", b"", b"", certificates.as_pem(identity.certificate), identity.trust_anchor
        )
    return CertificatesResponse(
        csr=certificates.as_pem(identity.csr, "CERTIFICATE REQUEST"),
        hsm=certificates.as_pem(identity.hsm_certificate),
        aws_hardware=certificates.as_pem(identity.aws_hardware),
        manufacturer_hardware=certificates.as_pem(identity.manufacturer_hardware),
        cluster=b"",
        trust_anchor=b"",
    )


def initialize(state: State, request: Request) -> InitializeResponse:
    """The customer's certificate; the same one again is no error."""
    message = InitializeRequest.decode(request.payload)
    _require_service(request)
    if not state.replica.identity.key:
        raise CkrError(CKR.FUNCTION_REJECTED, "the cluster has no key that a certificate could be for")
    try:
        signed = certificates.check(
            message.signed_certificate,
            message.trust_anchor,
            state.engine.public(certify.material(state.replica.identity)),
        )
    except HsmsimError as error:
        _LOG.warning("The cluster is not initialized: %s", error)
        raise CkrError(_CODES[type(error)], str(error)) from error

    def build(_version: int) -> list[Row]:
        identity = state.replica.identity
        if state.replica.cluster.state == UNINITIALIZED:
            certified = replace(identity, certificate=signed.certificate, trust_anchor=signed.trust_anchor)
            return [certified, replace(state.replica.cluster, state=INITIALIZED)]
        if (identity.certificate, identity.trust_anchor) != (signed.certificate, signed.trust_anchor):
            raise CkrError(CKR.FUNCTION_REJECTED, "the cluster has another certificate already")
        return []

    state.grant(build, _entry("INITIALIZE", state.replica.cluster_id))
    return InitializeResponse()


def limited_write(state: State, request: Request) -> LimitedWriteResponse:
    """Begin or end limited-write mode."""
    wanted = LimitedWriteRequest.decode(request.payload).on != 0
    _require_service(request)
    state.revoke_always(
        lambda _: [replace(state.replica.identity, limited_write=wanted)],
        _entry("LIMITED_WRITE", "on" if wanted else "off"),
    )
    return LimitedWriteResponse()


def backup(state: State, request: Request) -> BackupResponse:
    """Write an image; one that is there already is only described."""
    message = BackupRequest.decode(request.payload)
    _require_service(request)
    if state.replica.cluster.state != ACTIVE:
        raise CkrError(CKR.USER_PIN_NOT_INITIALIZED, "a cluster is backed up from its activation on")
    state.require_serving()
    try:
        done = _backup(state, message)
    except HsmsimError as error:
        if isinstance(error, CkrError):
            raise
        _LOG.error("No backup: %s", error)
        raise CkrError(CKR.FUNCTION_FAILED, str(error)) from error
    return BackupResponse(done.version, done.size, done.digest)


def _backup(state: State, message: BackupRequest) -> imagefile.Written:
    image_id, region = (text.decode("ascii", "replace") for text in (message.image_id, message.region))
    path = imagefile.path_of(state.settings.images, image_id)
    if path.exists():
        return imagefile.written(path)
    root = devices.read_certificate(state.settings.folder / devices.MANUFACTURER_CERTIFICATE)
    public = devices.certified_key(message.certificate, devices.region_name(region), root)
    cluster, rows = state.replica.snapshot()
    snapshot = images.Snapshot(cluster, tuple(rows))
    mode = state.replica.identity.mode
    header = images.header_of(snapshot, image_id, mode, state.settings.model, state.clock.time())
    envelope = imagefile.Envelope(region, state.engine.masking_seal(public, imagefile.context(image_id, image_id)))
    done = images.write(path, header, snapshot, envelope, state.engine)
    state.replica.audit(_entry("BACKUP", f"{image_id} at version {done.version}"))
    return done


def remove_member(state: State, request: Request) -> RemoveMemberResponse:
    """This HSM or another, which does not run, leaves the cluster; one that has left is no error."""
    hsm_id = RemoveMemberRequest.decode(request.payload).hsm_id.decode("ascii", "replace")
    _require_service(request)

    def build(_version: int) -> list[Row]:
        row = state.replica.members.get(hsm_id)
        return [] if row is None else [replace(row, sealed=b"", deleted=True)]

    if hsm_id in state.replica.members:
        state.revoke_always(build, _entry("LEAVE", hsm_id))
    if hsm_id == state.replica.hsm_id:
        state.links.cease()
    return RemoveMemberResponse()
