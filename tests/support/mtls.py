"""Client certificates of a test's own authorities, and connections to HSMs that show them, with Python's `ssl`."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import struct
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from support.hsm import ADMIN

from hsmsim.hsm import messages as m
from hsmsim.hsm.client import HsmClient
from hsmsim.hsm.cryptoki import CKF, CKU
from hsmsim.hsm.messages import Op

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HSM_INFO = struct.pack("<IHHQQQ", 0, Op.HSM_INFO, 0, 1, 0, 0)
SERVED = "served"
REQUIRED, UNKNOWN, EXPIRED = "CERTIFICATE_REQUIRED", "UNKNOWN_CA", "CERTIFICATE_EXPIRED"
"""Alerts (RFC 8446, 6.2): none was shown, one of another authority, one that was good once."""


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


@dataclass(frozen=True, slots=True)
class Shown:
    """A client's certificate, with those above it, and its key."""

    certificate: Path
    key: Path


@dataclass(slots=True)
class Authority:
    """One that issues; days: until what it issues ends, from how many days ago."""

    name: str
    above: Authority | None = None
    authority: bool = True
    days: tuple[int, int] = (-100, 1000)
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    certificate: x509.Certificate = field(init=False)

    def __post_init__(self) -> None:
        above = self.above or self
        begin, end = (dt.datetime.now(dt.UTC) + dt.timedelta(days=days) for days in self.days)
        builder = x509.CertificateBuilder(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, above.name)]),
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)]),
            self.key.public_key(),
            x509.random_serial_number(),
            begin,
            end,
        ).add_extension(x509.BasicConstraints(ca=self.authority, path_length=None), critical=True)
        self.certificate = builder.sign(above.key, hashes.SHA256())

    @property
    def chain(self) -> bytes:
        """PEM of this one and those above it."""
        return _pem(self.certificate) + (self.above.chain if self.above else b"")

    def issue(self, folder: Path, name: str = "client", days: tuple[int, int] = (-100, 1000)) -> Shown:
        """A client's certificate, in files of its name."""
        client = Authority(name, self, authority=False, days=days)
        shown = Shown(folder / f"{name}.pem", folder / f"{name}.key")
        shown.certificate.write_bytes(client.chain)
        shown.key.touch(mode=0o600)
        shown.key.write_bytes(
            client.key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return shown


def dial(port: int, shown: Shown | None = None, protocol: str = "") -> ssl.SSLSocket:
    """Connect; the HSM judges the certificate after this."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # who answers is other tests' business
    if shown:
        context.load_cert_chain(shown.certificate, shown.key)
    if protocol:
        context.set_alpn_protocols([protocol])
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port), 30))


def answer(connection: ssl.SSLSocket) -> str:
    """What a request gets: SERVED, an alert's name, or "closed"."""
    try:
        connection.sendall(HSM_INFO)
        return SERVED if connection.recv(4096) else "closed"
    except ssl.SSLError as error:
        return str(error.reason).partition("ALERT_")[2]
    except (ConnectionResetError, BrokenPipeError):
        return "closed"


def asks(port: int, shown: Shown | None = None) -> str:
    """What a new connection's first request gets."""
    with dial(port, shown) as connection:
        return answer(connection)


@contextmanager
def admin(where: Path | ssl.SSLSocket, name: str = "admin", password: str = ADMIN) -> Iterator[HsmClient]:
    """An admin who is logged in, at a socket's path or on a connection."""
    with HsmClient.connect(where) as client:
        client.call(m.OpenSessionsRequest((1,), (CKF.SERIAL_SESSION | CKF.RW_SESSION,)))
        client.login(name, password, CKU.SO)
        try:
            yield client
        finally:
            with suppress(OSError):
                client.call(m.LogoutRequest())


def clear(client: HsmClient) -> None:
    """Ask for no certificate any more."""
    client.call(m.MtlsEnforceRequest(0))
    for reference in client.call(m.MtlsAnchorsRequest()).references:
        client.call(m.MtlsDeregisterRequest(reference))
