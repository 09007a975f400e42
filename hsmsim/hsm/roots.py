"""What a manufacturer does to a new HSM: a seed of its own, and a certificate that says so.

Rules: the seed (32 random bytes) is written once, readable by its owner alone, and everything that an HSM keeps to
itself derives from it; the engine derives the same X25519 key pair from it as device_public() here. The
manufacturer's key signs device certificates and nothing else; members of a cluster give the masking key to a
certified device only.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import NameOID

from hsmsim.errors import HsmsimError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SEED_BYTES: Final = 32
DEVICE_INFO: Final = b"\x14\0\0\0hsmsim device x25519"
"""HKDF's info for the device's key pair, its length in front, as in native/engine/masking.c."""

SEED: Final = "seed"
DEVICE_CERTIFICATE: Final = "device.crt"
MANUFACTURER_CERTIFICATE: Final = "manufacturer.crt"
_ROOT_NAME: Final = "hsmsim manufacturer"
_BEGIN: Final = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
_END: Final = dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)  # RFC 5280 4.1.2.5: no expiry


@dataclass(frozen=True, slots=True)
class _Manufacturer:
    key: Ed25519PrivateKey
    certificate: x509.Certificate


def manufacture(home: Path, hsm_id: str) -> Path:
    """Make HOME/hsms/<id> with seed, device.crt and manufacturer.crt; return the folder. HsmsimError if it is there."""
    manufacturer = _manufacturer(home / "roots")
    folder = home / "hsms" / hsm_id
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    seed = os.urandom(SEED_BYTES)
    try:
        _write_new(folder / SEED, seed, 0o600)
    except FileExistsError as error:
        raise HsmsimError(f"{folder} is an HSM already; its seed is never made again.") from error
    certificate = _certificate(device_public(seed), hsm_id, manufacturer.key)
    _write_new(folder / DEVICE_CERTIFICATE, _pem(certificate), 0o600)
    _write_new(folder / MANUFACTURER_CERTIFICATE, _pem(manufacturer.certificate), 0o600)
    _sync_folder(folder)
    return folder


def device_public(seed: bytes) -> bytes:
    """Return the X25519 public key of a seed: HKDF-SHA256 with an empty salt gives the private key (RFC 5869, 7748)."""
    private = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=DEVICE_INFO).derive(seed)
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def read_certificate(path: Path) -> x509.Certificate:
    """Return the certificate in a PEM file."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise HsmsimError(f"The certificate {path} cannot be read: {error}. Make the HSM anew.") from error


def certified_key(certificate: bytes, hsm_id: str, root: x509.Certificate) -> bytes:
    """Return the X25519 public key that a certificate (DER) gives this HSM; HsmsimError if it does not."""
    try:
        device = x509.load_der_x509_certificate(certificate)
        device.verify_directly_issued_by(root)
        key = device.public_key()
        names = [name.value for name in device.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        authority = device.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound) as error:
        raise HsmsimError(
            f"{hsm_id} has no certificate of this manufacturer: {type(error).__name__} {error}."
        ) from error
    if names != [hsm_id] or authority or not isinstance(key, X25519PublicKey):
        raise HsmsimError(f"The certificate that {hsm_id} shows is another one's: {names}.")
    return key.public_bytes_raw()


def _manufacturer(folder: Path) -> _Manufacturer:
    """Read the manufacturer's key and certificate; the first caller makes them."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key_file, certificate_file = folder / "manufacturer.key", folder / MANUFACTURER_CERTIFICATE
    with _locked(folder / "lock"):
        if not key_file.exists():
            key = Ed25519PrivateKey.generate()
            encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
            _replace(key_file, key.private_bytes(encoding, form, serialization.NoEncryption()))
        read = serialization.load_pem_private_key(key_file.read_bytes(), None)
        if not isinstance(read, Ed25519PrivateKey):
            raise HsmsimError(f"{key_file} is not the manufacturer's Ed25519 key.")
        if not certificate_file.exists():
            _replace(certificate_file, _pem(_certificate(read.public_key().public_bytes_raw(), "", read)))
        return _Manufacturer(read, read_certificate(certificate_file))


def _certificate(public: bytes, hsm_id: str, signer: Ed25519PrivateKey) -> x509.Certificate:
    """Sign a device's certificate; without an id, the manufacturer's own."""
    root = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _ROOT_NAME)])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hsm_id)]) if hsm_id else root
    key = X25519PublicKey.from_public_bytes(public) if hsm_id else signer.public_key()
    builder = x509.CertificateBuilder(root, subject, key, x509.random_serial_number(), _BEGIN, _END)
    builder = builder.add_extension(x509.BasicConstraints(ca=not hsm_id, path_length=None), critical=True)
    return builder.sign(signer, None)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _write_new(path: Path, content: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _replace(path: Path, content: bytes) -> None:
    """Write a private file whole or not at all."""
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    _write_new(part, content, 0o600)
    part.rename(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
