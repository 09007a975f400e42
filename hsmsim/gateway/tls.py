"""The certificate of the gateway's HTTPS port, and the authority that signs it.

Rules: the authority is made at the first start; its key is 0600 in the state folder, which the gateway's user cannot
read. It may sign for this machine's own names only (name constraints, RFC 5280 section 4.2.1.10), so that a client who
trusts it trusts nothing else. The server's certificate is made anew at each start.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hsmsim.errors import HsmsimError
from hsmsim.storage import files

if TYPE_CHECKING:
    from pathlib import Path

_NAME: Final = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hsmsim HTTPS authority")])
_DAY: Final = dt.timedelta(days=1)
_AUTHORITY_DAYS: Final = 3650
_SERVER_DAYS: Final = 397
"""What clients accept at most of a server's certificate (CA/Browser Forum, baseline requirements, 6.3.2)."""
_LEFT_DAYS: Final = 400
_NAMES: Final = (
    x509.DNSName("localhost"),
    x509.DNSName("*.localhost"),
    x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    x509.IPAddress(ipaddress.ip_address("::1")),
)
_PERMITTED: Final = (
    x509.DNSName("localhost"),
    x509.IPAddress(ipaddress.ip_network("127.0.0.0/8")),
    x509.IPAddress(ipaddress.ip_network("::1/128")),
)


@dataclass(frozen=True, slots=True)
class Server:
    """What the server needs, PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """The one of this state folder. `folder` is ours alone."""

    def __init__(self, folder: Path, now: dt.datetime) -> None:
        """Make it, if it is not there or near its end."""
        folder.mkdir(mode=0o700, exist_ok=True)
        self._now = now
        self._key = _load_key(folder / "ca.key")
        path = folder / "ca.pem"
        found = x509.load_pem_x509_certificate(path.read_bytes()) if path.exists() else None
        if found is None or found.not_valid_after_utc - now < _LEFT_DAYS * _DAY:
            found = self._made()
            files.replace(path, found.public_bytes(serialization.Encoding.PEM))
        self._certificate = found

    @property
    def certificate(self) -> bytes:
        """What clients trust, PEM."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def _made(self) -> x509.Certificate:
        builder = self._builder(_NAME, self._key.public_key(), _AUTHORITY_DAYS)
        for extension, critical in (
            (x509.BasicConstraints(ca=True, path_length=0), True),
            (x509.NameConstraints(permitted_subtrees=_PERMITTED, excluded_subtrees=None), True),
            (_usage(authority=True), True),
            (x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), False),
        ):
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self._key, hashes.SHA256())

    def server(self) -> Server:
        """Return a new key and its certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        builder = self._builder(subject, key.public_key(), _SERVER_DAYS)
        for extension, critical in (
            (x509.SubjectAlternativeName(_NAMES), False),
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (_usage(authority=False), True),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
            (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False),
        ):
            builder = builder.add_extension(extension, critical=critical)
        certificate = builder.sign(self._key, hashes.SHA256())
        return Server(certificate.public_bytes(serialization.Encoding.PEM), _encoded(key))

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey, days: int) -> x509.CertificateBuilder:
        begin, end = self._now - _DAY, self._now + days * _DAY - _DAY
        return x509.CertificateBuilder(_NAME, subject, key, x509.random_serial_number(), begin, end)


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _encoded(key: ec.EllipticCurvePrivateKey) -> bytes:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption())


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    if not path.exists():
        files.replace(path, _encoded(ec.generate_private_key(ec.SECP256R1())))
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except ValueError as error:
        raise HsmsimError(
            f"{path} is damaged ({error}). Remove the folder {path.parent}; clients get a new CA."
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise HsmsimError(f"{path} is not the key that hsmsim made there. Remove the folder {path.parent}.")
    return key
