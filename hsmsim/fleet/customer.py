"""The customer's part of a cluster's initialisation, for a cluster that hsmsim makes by itself.

A customer signs the cluster's CSR with a root of their own and keeps that root's key. `hsmsim up` stands in for the
customer: the root lies in HOME/customer/<cluster>, as the files that AWS's guide makes with openssl.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hsmsim.errors import HsmsimError
from hsmsim.storage import files

if TYPE_CHECKING:
    from pathlib import Path

ROOT_CERTIFICATE: Final = "customerCA.crt"
_ROOT_KEY: Final = "customerCA.key"
_BEGIN: Final = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
_END: Final = dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)
_NAME: Final = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hsmsim customer root")])


def sign(folder: Path, csr: bytes) -> tuple[bytes, bytes]:
    """Return the certificate for a CSR and the root that signed it, all PEM; the root is made at first use."""
    for level in (folder.parent, folder):
        level.mkdir(mode=0o700, exist_ok=True)
    key = _key(folder / _ROOT_KEY)
    if not (folder / ROOT_CERTIFICATE).exists():
        root = _certificate(_NAME, key.public_key(), key, authority=True)
        files.replace(folder / ROOT_CERTIFICATE, root)
    try:
        request = x509.load_pem_x509_csr(csr)
    except ValueError as error:
        raise HsmsimError(f"The cluster shows no CSR ({error}): is it initialized already?") from error
    certificate = _certificate(request.subject, request.public_key(), key, authority=False)
    return certificate, (folder / ROOT_CERTIFICATE).read_bytes()


def _key(path: Path) -> ec.EllipticCurvePrivateKey:
    if not path.exists():
        made = ec.generate_private_key(ec.SECP256R1())
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        files.replace(path, made.private_bytes(encoding, form, serialization.NoEncryption()))
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise HsmsimError(f"{path} is not the key that hsmsim made there. Restore it.")
    return key


def _certificate(
    subject: x509.Name,
    public: object,
    signer: ec.EllipticCurvePrivateKey,
    *,
    authority: bool,
) -> bytes:
    builder = x509.CertificateBuilder(_NAME, subject, public, x509.random_serial_number(), _BEGIN, _END)  # type: ignore[arg-type]
    builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
