"""What an HSM has from its manufacturer, as the HSM itself and its peers read it: no private key of a root is here.

Two keys derive from the seed, in the engine and here alike: an X25519 pair that the masking key is sealed to
(device.crt, by the manufacturer's sealing key), and the P-256 hardware key, which two roots certify: AWS's and the
manufacturer's (aws_hardware.crt, manufacturer_hardware.crt: one subject, one key).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import NameOID

from hsmsim.errors import HsmsimError

if TYPE_CHECKING:
    from pathlib import Path

SEED_BYTES: Final = 32
DEVICE_INFO: Final = b"\x14\0\0\0hsmsim device x25519"
"""HKDF's info for the device's key pair, its length in front, as in native/engine/masking.c."""
_HARDWARE_INFO: Final = b"\x14\0\0\0hsmsim hardware p256\1\0\0\0"
"""The same for the hardware key; a counter of one byte follows (native/engine/identity.c)."""
_P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

SEED: Final = "seed"
DEVICE_CERTIFICATE: Final = "device.crt"
MANUFACTURER_CERTIFICATE: Final = "manufacturer.crt"
AWS_HARDWARE: Final = "aws_hardware.crt"
MANUFACTURER_HARDWARE: Final = "manufacturer_hardware.crt"


def device_public(seed: bytes) -> bytes:
    """Return the X25519 public key of a seed: HKDF-SHA256 with an empty salt gives the private key (RFC 5869, 7748)."""
    private = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=DEVICE_INFO).derive(seed)
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def hardware_public(seed: bytes) -> ec.EllipticCurvePublicKey:
    """Return the public half of the hardware key: the first of the seed's candidates that is a scalar."""
    for counter in range(8):
        info = _HARDWARE_INFO + bytes([counter])
        scalar = int.from_bytes(HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(seed), "big")
        if 0 < scalar < _P256_ORDER:
            return ec.derive_private_key(scalar, ec.SECP256R1()).public_key()
    raise HsmsimError("The seed gives no hardware key. Delete the HSM and make a new one.")


def hardware_serial(key: ec.EllipticCurvePublicKey) -> str:
    """Return what stands for the serial number of the hardware: 12 hexadecimal digits of its key's hash."""
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()[:12].upper()


def read_certificate(path: Path) -> x509.Certificate:
    """Return the certificate in a PEM file."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise HsmsimError(f"The certificate {path} cannot be read: {error}. Make the HSM anew.") from error


def region_name(region: str) -> str:
    """Return the name under which the manufacturer certifies a region's backup root. No HSM's id is such a name."""
    return f"backup root {region}"


def certified_key(certificate: bytes, name: str, root: x509.Certificate) -> bytes:
    """Return the X25519 public key that a certificate (DER) gives this HSM or region; HsmsimError if it does not."""
    try:
        device = x509.load_der_x509_certificate(certificate)
        device.verify_directly_issued_by(root)
        key = device.public_key()
        names = [found.value for found in device.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        authority = device.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound) as error:
        raise HsmsimError(f"{name} has no certificate of this manufacturer: {type(error).__name__} {error}.") from error
    if names != [name] or authority or not isinstance(key, X25519PublicKey):
        raise HsmsimError(f"The certificate that {name} shows is another one's: {names}.")
    return key.public_bytes_raw()
