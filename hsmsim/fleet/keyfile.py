"""Private keys that people bring: PEM (PKCS#1, SEC 1, PKCS#8), DER, encrypted PKCS#8 -> PKCS#11 attributes.

Shapes: PKCS#11 3.0, 2.1.3 (RSA, big-endian integers), 2.3.4 (EC: EC_PARAMS an object identifier in DER, VALUE the
private scalar), 2.3.5 and 2.3.6 (Ed25519).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from asn1crypto.core import ObjectIdentifier, OctetString
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
)

from hsmsim.errors import HsmsimError
from hsmsim.hsm.cryptoki import CKA, CKK

if TYPE_CHECKING:
    from collections.abc import Mapping


def _oid(dotted: str) -> bytes:
    encoded: bytes = ObjectIdentifier(dotted).dump()
    return encoded


# CKA_EC_PARAMS by the name that people use (SEC 2 and NIST; RFC 8410).
CURVES: Final[Mapping[str, bytes]] = {
    "P-224": _oid("1.3.132.0.33"),
    "P-256": _oid("1.2.840.10045.3.1.7"),
    "P-384": _oid("1.3.132.0.34"),
    "P-521": _oid("1.3.132.0.35"),
    "secp256k1": _oid("1.3.132.0.10"),
}
ED25519: Final = _oid("1.3.101.112")

_NAMES: Final = {
    "secp224r1": "P-224",
    "secp256r1": "P-256",
    "secp384r1": "P-384",
    "secp521r1": "P-521",
    "secp256k1": "secp256k1",
}


@dataclass(frozen=True, slots=True)
class KeyFile:
    """What the file says, as attributes of the two halves."""

    key_type: CKK
    private: Mapping[CKA, bytes]
    public: Mapping[CKA, bytes]


def is_encrypted(data: bytes) -> bool:
    """Return whether a passphrase is needed."""
    try:
        _load(data, None)
    except TypeError:
        return True
    except (ValueError, UnsupportedAlgorithm):
        return False
    return False


def read(data: bytes, passphrase: str | None) -> KeyFile:
    """Parse a private key; HsmsimError if it is none, or not of a kind that the HSM keeps."""
    try:
        key = _load(data, passphrase.encode() if passphrase else None)
    except TypeError as error:
        reason = "it is encrypted: its passphrase is needed" if passphrase is None else "it is not encrypted"
        raise HsmsimError(f"The key cannot be read: {reason}.") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        reason = "the passphrase is wrong, or the file is damaged" if passphrase else "it is neither PEM nor DER"
        raise HsmsimError(f"The key cannot be read: {reason} ({error}).") from error
    match key:
        case rsa.RSAPrivateKey():
            return _rsa(key)
        case ec.EllipticCurvePrivateKey():
            return _ec(key)
        case ed25519.Ed25519PrivateKey():
            return _ed25519(key)
    raise HsmsimError("The HSM keeps RSA, EC and Ed25519 private keys; this is one of another kind.")


def _load(data: bytes, passphrase: bytes | None) -> object:
    load = load_pem_private_key if data.lstrip().startswith(b"-----BEGIN") else load_der_private_key
    return load(data, passphrase)


def _number(value: int) -> bytes:
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def _rsa(key: rsa.RSAPrivateKey) -> KeyFile:
    numbers = key.private_numbers()
    public = {
        CKA.MODULUS: _number(numbers.public_numbers.n),
        CKA.PUBLIC_EXPONENT: _number(numbers.public_numbers.e),
    }
    private = public | {
        CKA.PRIVATE_EXPONENT: _number(numbers.d),
        CKA.PRIME_1: _number(numbers.p),
        CKA.PRIME_2: _number(numbers.q),
        CKA.EXPONENT_1: _number(numbers.dmp1),
        CKA.EXPONENT_2: _number(numbers.dmq1),
        CKA.COEFFICIENT: _number(numbers.iqmp),
    }
    return KeyFile(CKK.RSA, private, public)


def _ec(key: ec.EllipticCurvePrivateKey) -> KeyFile:
    name = _NAMES.get(key.curve.name)
    if name is None:
        raise HsmsimError(f"The HSM has no curve {key.curve.name}; it has {', '.join(CURVES)}.")
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    scalar = key.private_numbers().private_value.to_bytes((key.curve.key_size + 7) // 8, "big")
    params = {CKA.EC_PARAMS: CURVES[name]}
    return KeyFile(CKK.EC, params | {CKA.VALUE: scalar}, params | {CKA.EC_POINT: OctetString(point).dump()})


def _ed25519(key: ed25519.Ed25519PrivateKey) -> KeyFile:
    point = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    seed = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    params = {CKA.EC_PARAMS: ED25519}
    return KeyFile(CKK.EC_EDWARDS, params | {CKA.VALUE: seed}, params | {CKA.EC_POINT: OctetString(point).dump()})
