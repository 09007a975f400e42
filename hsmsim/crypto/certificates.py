"""Certificate requests and certificates whose signing key is elsewhere, and the checks on a customer's certificate.

Requests and certificates are put together here (RFC 2986, RFC 5280) and signed by a function that is handed in: the
key never is. Rules for what a customer gives to InitializeCluster: AWS's guide, "Initialize the cluster in AWS
CloudHSM" (trust anchor: RSA 2048, 3072, 4096 or P-256, P-384, P-521; SHA-224 to SHA-512; the self-signed root alone, or
a chain of at most 4 certificates and 16 KB in order, of which only the last is self-signed).
"""

from __future__ import annotations

import datetime as dt
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from asn1crypto import algos, csr, keys, pem
from asn1crypto import x509 as asn1
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsmsim.errors import HsmsimError

if TYPE_CHECKING:
    from collections.abc import Callable

    Sign = Callable[[bytes], bytes]

CHAIN_MAX: Final = 4
CHAIN_BYTES: Final = 16 * 1024
CERTIFICATE_CHARS: Final = 20_000
CLIENT_ANCHOR_BYTES: Final = 6980
_RSA_BITS: Final = (2048, 3072, 4096)
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_HASHES: Final = (hashes.SHA224, hashes.SHA256, hashes.SHA384, hashes.SHA512)
_BEGIN: Final = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
_END: Final = dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)


class ParseError(HsmsimError):
    """What was given is no certificate, or too much of it."""


class LengthError(ParseError):
    """A trust anchor of clients' certificates that is too long."""


class IssuerError(HsmsimError):
    """A certificate was not issued by the one that should have."""


class ForeignKeyError(HsmsimError):
    """The certificate is for another key, or uses an algorithm that is not allowed."""


# ---- made here, signed elsewhere -------------------------------------------------------------------------------------


def request(subject: list[tuple[str, str]], spki: bytes, sign: Sign) -> bytes:
    """Return a certificate request (DER); sign gives the ECDSA signature (DER) with SHA-256 of the bytes it gets.

    subject: pairs of asn1crypto's attribute names and texts, in order.
    """
    info = csr.CertificationRequestInfo(
        {
            "version": "v1",
            "subject": _name(subject),
            "subject_pk_info": keys.PublicKeyInfo.load(spki),
            "attributes": [],
        }
    )
    made = csr.CertificationRequest(
        {
            "certification_request_info": info,
            "signature_algorithm": algos.SignedDigestAlgorithm({"algorithm": "sha256_ecdsa"}),
            "signature": sign(info.dump()),
        }
    )
    encoded: bytes = made.dump()
    return encoded


def leaf(subject: list[tuple[str, str]], spki: bytes, issuer: bytes, sign: Sign) -> bytes:
    """Return a certificate (DER) of a key under the subject of `issuer` (DER); sign as above."""
    algorithm = algos.SignedDigestAlgorithm({"algorithm": "sha256_ecdsa"})
    basic = asn1.Extension({"extn_id": "basic_constraints", "critical": True, "extn_value": {"ca": False}})
    body = asn1.TbsCertificate(
        {
            "version": "v3",
            "serial_number": secrets.randbits(159) | 1,
            "signature": algorithm,
            "issuer": asn1.Certificate.load(issuer).subject,
            "validity": {
                "not_before": asn1.Time({"utc_time": _BEGIN}),
                "not_after": asn1.Time({"general_time": _END}),
            },
            "subject": _name(subject),
            "subject_public_key_info": keys.PublicKeyInfo.load(spki),
            "extensions": [basic],
        }
    )
    made = asn1.Certificate(
        {"tbs_certificate": body, "signature_algorithm": algorithm, "signature_value": sign(body.dump())}
    )
    encoded: bytes = made.dump()
    return encoded


def _name(parts: list[tuple[str, str]]) -> asn1.Name:
    relative = [asn1.RelativeDistinguishedName([{"type": kind, "value": _text(kind, text)}]) for kind, text in parts]
    return asn1.Name(name="", value=asn1.RDNSequence(relative))


def _text(kind: str, text: str) -> asn1.DirectoryString:
    """countryName is a PrintableString (RFC 5280, appendix A)."""
    return asn1.DirectoryString(name="printable_string" if kind == "country_name" else "utf8_string", value=text)


def as_pem(certificate: bytes, label: str = "CERTIFICATE") -> bytes:
    """Return the PEM of a certificate (DER), or of a request with its label; empty for nothing."""
    armored: bytes = pem.armor(label, certificate) if certificate else b""
    return armored


def issuers(chain: bytes) -> bytes:
    """Return the certificates of a trust anchor (PEM) that a server shows with its own: all but the root, the last."""
    links = x509.load_pem_x509_certificates(chain)
    return b"".join(link.public_bytes(Encoding.PEM) for link in links[:-1])


# ---- what a customer gives -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Signed:
    """A certificate that passed: DER, and the trust anchor as PEM."""

    certificate: bytes
    trust_anchor: bytes


def key_of_request(request: bytes) -> bytes:
    """Return the public key (DER) that a request (PEM) is for; ParseError."""
    try:
        key = x509.load_pem_x509_csr(request).public_key()
    except ValueError as error:
        raise ParseError(f"The certificate request cannot be read: {error}.") from error
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def check(signed: bytes, anchor: bytes, spki: bytes) -> Signed:
    """Return the customer's certificate for the key `spki`; ParseError, IssuerError, ForeignKeyError."""
    certificate, chain = require_issued(signed, anchor)
    found = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if found != spki:
        raise ForeignKeyError("The signed certificate is for another key than the cluster's CSR: sign that CSR.")
    text = b"".join(link.public_bytes(Encoding.PEM) for link in chain)
    return Signed(certificate.public_bytes(Encoding.DER), text)


def require_issued(signed: bytes, anchor: bytes) -> tuple[x509.Certificate, list[x509.Certificate]]:
    """Return a certificate and the chain of the trust anchor that it ends in, all PEM; the errors of check()."""
    if len(signed) > CERTIFICATE_CHARS or len(anchor) > CHAIN_BYTES:
        raise ParseError(f"A certificate has at most {CERTIFICATE_CHARS} characters, a chain {CHAIN_BYTES} bytes.")
    certificate, chain = _one(signed), _authorities(anchor)
    _require_allowed(certificate)
    _require_issued(certificate, chain[0])
    return certificate, chain


def client_anchor(given: bytes) -> bytes:
    """Return a trust anchor of clients' certificates as PEM and nothing else; the errors of check(), LengthError.

    AWS's guide, "Set up mutual TLS": a self-signed certificate, or an intermediate one and those above it in order.
    """
    if len(given) > CLIENT_ANCHOR_BYTES:
        raise LengthError(f"A trust anchor has at most {CLIENT_ANCHOR_BYTES} bytes; this one has {len(given)}.")
    return b"".join(link.public_bytes(Encoding.PEM) for link in _authorities(given))


def first(chain: bytes) -> bytes:
    """Return the first certificate of a chain, PEM."""
    return x509.load_pem_x509_certificate(chain).public_bytes(Encoding.PEM)


def _authorities(anchor: bytes) -> list[x509.Certificate]:
    """A chain whose last certificate alone is self-signed, each issued by the next."""
    chain = _several(anchor, "The trust anchor")
    if len(chain) > CHAIN_MAX:
        raise ParseError(f"A chain has at most {CHAIN_MAX} certificates; this one has {len(chain)}.")
    for number, link in enumerate(chain):
        last = number == len(chain) - 1
        if (link.issuer == link.subject) != last:
            raise IssuerError("Of the trust anchor's certificates the last one, and only that, is self-signed.")
        _require_authority(link)
    for child, parent in zip(chain, (*chain[1:], chain[-1]), strict=True):
        _require_allowed(child)
        _require_issued(child, parent)
    return chain


def _one(data: bytes) -> x509.Certificate:
    found = _several(data, "The signed certificate")
    if len(found) != 1:
        raise ParseError(f"The signed certificate is one certificate; {len(found)} were given.")
    return found[0]


def _several(data: bytes, what: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise ParseError(f"{what} is no certificate in PEM (BEGIN CERTIFICATE ... END CERTIFICATE).") from error


def _require_authority(link: x509.Certificate) -> None:
    """Version 1 has no extensions; with extensions, basic constraints must say that it is an authority."""
    try:
        extensions = link.extensions
        if len(extensions) and not extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            raise IssuerError("A certificate of the trust anchor says that it may not issue others (CA:FALSE).")
    except x509.ExtensionNotFound as error:
        raise IssuerError("A trust anchor with extensions needs basic constraints (CA:TRUE).") from error
    except ValueError as error:
        raise ParseError(f"The trust anchor's extensions cannot be read: {error}.") from error


def _require_issued(child: x509.Certificate, parent: x509.Certificate) -> None:
    try:
        child.verify_directly_issued_by(parent)
    except (ValueError, TypeError, InvalidSignature) as error:
        names = child.subject.rfc4514_string(), parent.subject.rfc4514_string()
        raise IssuerError(f"The certificate of {names[0]!r} was not issued by {names[1]!r}.") from error
    except UnsupportedAlgorithm as error:
        raise ForeignKeyError(f"The signature's algorithm is not supported: {error}.") from error


def _require_allowed(certificate: x509.Certificate) -> None:
    key = certificate.public_key()
    good = (isinstance(key, rsa.RSAPublicKey) and key.key_size in _RSA_BITS) or (
        isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES)
    )
    try:
        good = good and isinstance(certificate.signature_hash_algorithm, _HASHES)
    except UnsupportedAlgorithm:
        good = False
    if not good:
        raise ForeignKeyError(
            "Allowed are RSA keys of 2048, 3072 and 4096 bits, P-256, P-384 and P-521, signed with SHA-224 to SHA-512."
        )
