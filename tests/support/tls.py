"""Servers that are no HSM, at a TCP port of 127.0.0.1, with certificates that a customer's CA could have issued."""

from __future__ import annotations

import datetime as dt
import socket
import ssl
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NOW = dt.datetime.now(dt.UTC)
HSM_NAME = "HSM:57CCD76F8400:PARTN:1, for NON-FIPS mode"


def issue(customer: Path, folder: Path, name: str = HSM_NAME, *, days: int = 30) -> ssl.SSLContext:
    """Let the customer's CA (support.hsm.Cluster's) issue a certificate; days < 0: which has expired."""
    authority = x509.load_pem_x509_certificate((customer / "customerCA.crt").read_bytes())
    signer = serialization.load_pem_private_key((customer / "customerCA.key").read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder(
        authority.subject,
        subject,
        key.public_key(),
        x509.random_serial_number(),
        NOW - dt.timedelta(days=100),
        NOW + dt.timedelta(days=days),
    )
    certificate = builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "server.pem").write_bytes(private + certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return context


@contextmanager
def server(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port where each connection is handed to `answer`, one at a time, and closed."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                one = listening.accept()[0]
            except OSError:
                return
            with one:
                one.settimeout(10)
                try:
                    answer(one)
                except OSError:
                    continue

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(20)


def speaks(context: ssl.SSLContext) -> Callable[[socket.socket], None]:
    """A server that finishes handshakes and then only listens."""

    def answer(one: socket.socket) -> None:
        with context.wrap_socket(one, server_side=True) as shaken:
            while shaken.recv(1024):
                pass

    return answer
