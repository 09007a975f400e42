"""Connections to HSMs by TCP: TLS 1.3 with the PKCS#11 module's checks (native/module/link_tls.c)."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from hsmsim.errors import HsmsimError

if TYPE_CHECKING:
    from hsmsim.cli.cloudhsm.config import Inner, Server

_EVERYBODY: Final = 0o007
_OF_AN_HSM: Final = "HSM:"
_REFUSALS: Final = {
    "ALERT_CERTIFICATE_REQUIRED": "it lets nobody in without a client certificate: hsmsim configure-cli "
    "--client-cert-hsm-tls-file FILE --client-key-hsm-tls-file FILE",
    "ALERT_UNKNOWN_CA": "the client certificate comes from none of the cluster's trust anchors",
    "ALERT_CERTIFICATE_EXPIRED": "the client certificate, or one above it, has expired by the simulated clock: see "
    "hsmsim clock",
    "ALERT_BAD_CERTIFICATE": "the client certificate is not good; is it valid yet by the simulated clock?",
    "ALERT_UNSUPPORTED_CERTIFICATE": "the client certificate is not one for clients",
}


def connect(server: Server, cluster: Inner, seconds: float) -> ssl.SSLSocket:
    """Return a connection to an HSM that the customer's CA vouches for; OSError where none answers, HsmsimError."""
    context = _context(cluster)
    plain = socket.create_connection((server.hostname, server.port), seconds)
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        shaken = context.wrap_socket(plain)
    except ssl.SSLCertVerificationError as error:
        plain.close()
        raise HsmsimError(f"No password goes to {server.name}: {error.verify_message}. See hsm_ca_file.") from error
    except OSError:
        plain.close()
        raise
    if not _common_name(shaken).startswith(_OF_AN_HSM):
        shaken.close()
        raise HsmsimError(f"No password goes to {server.name}: its certificate is no HSM's.")
    return shaken


def refused(server: Server, error: ssl.SSLError) -> HsmsimError:
    """Return why an HSM ended a connection: in TLS 1.3 a client hears it with its first answer."""
    reason = error.reason or ""
    said = next((text for alert, text in _REFUSALS.items() if reason.endswith(alert)), f"{error}")
    return HsmsimError(f"{server.name} does not take us in: {said}.")


def require_private(key: Path) -> None:
    """HsmsimError for a key that everybody on this machine may read."""
    try:
        mode = key.stat().st_mode
    except OSError as error:
        raise HsmsimError(f"{key}: {error.strerror}. It is to be the key of the client's certificate.") from error
    if mode & _EVERYBODY:
        raise HsmsimError(f"Every user of this machine can read {key}. First: chmod 600 {key}")


def _context(cluster: Inner) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the certificate names the hardware
    try:
        context.load_verify_locations(cluster.hsm_ca_file)
    except OSError as error:
        raise HsmsimError(f"hsm_ca_file {cluster.hsm_ca_file}: {error.strerror or error}.") from error
    if cluster.client_cert_hsm_tls_path:
        _introduce(context, cluster)
    return context


def _introduce(context: ssl.SSLContext, cluster: Inner) -> None:
    certificate, key = cluster.client_cert_hsm_tls_path, cluster.client_key_hsm_tls_path
    require_private(Path(key))
    try:
        context.load_cert_chain(certificate, key, _no_passphrase)
    except OSError as error:
        raise HsmsimError(
            f"{certificate} and {key} are no certificate and its key, in PEM and without a passphrase: {error}."
        ) from error


def _no_passphrase() -> str:
    """Nobody is asked."""
    return ""


def _common_name(shaken: ssl.SSLSocket) -> str:
    certificate = shaken.getpeercert(binary_form=True) or b""
    names = x509.load_der_x509_certificate(certificate).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""
