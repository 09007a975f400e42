"""The roots themselves: their private keys, and what they certify. Only the process of the roots runs this.

Rules: every simulator makes its own keys, at first use; none is ever shipped. They lie in HOME/roots, for their owner
alone. The manufacturer's sealing key certifies X25519 keys (HSMs, regions) and nothing else; the two hardware roots
certify hardware keys and nothing else. A region's backup root is a device like an HSM: a seed in a file, which only
the engine reads; what is sealed to it is sealed anew to an HSM that the manufacturer certified, never opened here.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import os
import re
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.x509.oid import NameOID

from hsmsim.errors import CkrError, HsmsimError
from hsmsim.hsm.cryptoki import CKR
from hsmsim.hsm.engine import Engine
from hsmsim.hsm.roots import AWS_ROOT, MANUFACTURER_ROOT, devices
from hsmsim.ids import is_id
from hsmsim.storage import files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

    Signer = ec.EllipticCurvePrivateKey | Ed25519PrivateKey

_HARDWARE: Final = {
    devices.AWS_HARDWARE: ("aws_root.key", AWS_ROOT, "AWS CloudHSM Root G1 (hsmsim)"),
    devices.MANUFACTURER_HARDWARE: (
        "manufacturer_root.key",
        MANUFACTURER_ROOT,
        "Marvell LiquidSecurity Root (hsmsim)",
    ),
}
_SEALING_KEY: Final = "manufacturer.key"
_SEALING_NAME: Final = "hsmsim manufacturer"
_REGION: Final = re.compile(r"[a-z]{2}(-[a-z]{2,16}){1,3}-[0-9]{1,2}")
_BEGIN: Final = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
_END: Final = dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC)  # RFC 5280 4.1.2.5: no expiry


class Authority:
    """The roots of one simulator."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._folder = home / "roots"
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._regions: dict[str, Engine] = {}
        self._make_roots()

    # ---- an HSM is made ----------------------------------------------------------------------------------------------

    def manufacture(self, hsm_id: str) -> Path:
        """Make HOME/hsms/<id>: seed and certificates; return the folder. HsmsimError if it is there.

        The seed comes last, so that a folder without one is a making that was interrupted, and is made again.
        """
        folder = self._home / "hsms" / hsm_id
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (folder / devices.SEED).exists():
            raise HsmsimError(f"{folder} is an HSM already; its seed is never made again.")
        seed = os.urandom(devices.SEED_BYTES)
        keys = devices.device_public(seed), devices.hardware_public(seed)
        for name, certificate in self._certificates(hsm_id, *keys).items():
            files.replace(folder / name, _pem(certificate))
        files.write_new(folder / devices.SEED, seed)
        files.sync_folder(folder)
        return folder

    def certify(self, hsm_id: str, device: bytes, hardware: bytes) -> dict[str, bytes]:
        """Return an HSM's certificates (PEM), by their files' names; its seed is on another host and stays there.

        device: its X25519 public key; hardware: its hardware key's SubjectPublicKeyInfo.
        """
        try:
            key = serialization.load_der_public_key(hardware)
            sealed_to = X25519PublicKey.from_public_bytes(device).public_bytes_raw()
        except (ValueError, UnsupportedAlgorithm) as error:
            raise HsmsimError(f"The keys of {hsm_id} cannot be read: {error}.") from error
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise HsmsimError(f"The hardware key of {hsm_id} is not on P-256.")
        if not is_id(hsm_id, "hsm"):
            raise HsmsimError(f"{hsm_id!r} is no HSM's id.")
        return {name: _pem(made) for name, made in self._certificates(hsm_id, sealed_to, key).items()}

    def _certificates(
        self, hsm_id: str, device: bytes, hardware: ec.EllipticCurvePublicKey
    ) -> dict[str, x509.Certificate]:
        subject = _name(f"HSM:{devices.hardware_serial(hardware)}", "hsmsim hardware")
        made = {
            devices.MANUFACTURER_CERTIFICATE: self._sealing_certificate(),
            devices.DEVICE_CERTIFICATE: self._seal_certificate(hsm_id, device),
        }
        for name, (key_file, root_file, _) in _HARDWARE.items():
            root = devices.read_certificate(self._folder / root_file)
            signer = self._key(key_file)
            made[name] = _certificate(subject, hardware, root.subject, signer, path_length=0)
        return made

    # ---- backup images -----------------------------------------------------------------------------------------------

    def region(self, region: str) -> bytes:
        """Return the certificate (DER) of a region's backup root, made at first use."""
        if not _REGION.fullmatch(region):
            raise HsmsimError(f"{region!r} is no region: write it like us-east-1.")
        seed_file, certificate_file = self._folder / f"{region}.seed", self._folder / f"{region}.crt"
        with self._locked():
            if not certificate_file.exists():
                if not seed_file.exists():
                    files.replace(seed_file, os.urandom(devices.SEED_BYTES))
                public = devices.device_public(seed_file.read_bytes())
                files.replace(certificate_file, _pem(self._seal_certificate(devices.region_name(region), public)))
        return devices.read_certificate(certificate_file).public_bytes(serialization.Encoding.DER)

    def reseal(self, region: str, sealed: bytes, context: bytes, hsm_id: str, cluster_id: str) -> bytes:
        """Seal an image's masking key, which is sealed to the region, to an HSM of the cluster that is restored."""
        if not is_id(hsm_id, "hsm") or not is_id(cluster_id, "cluster"):
            raise HsmsimError("An image is restored for an HSM and a cluster, named by their ids.")
        self.region(region)
        folder = self._home / "hsms" / hsm_id
        certificate = devices.read_certificate(folder / devices.DEVICE_CERTIFICATE)
        public = devices.certified_key(
            certificate.public_bytes(serialization.Encoding.DER), hsm_id, self._sealing_certificate()
        )
        return self._resealed(region, sealed, context, public, f"{cluster_id}/{hsm_id}".encode())

    def rewrap(self, region: str, sealed: bytes, context: bytes, destination: str, new_context: bytes) -> bytes:
        """Seal an image's masking key, which is sealed to the region, to the backup root of another one."""
        self.region(region)
        name = devices.region_name(destination)
        public = devices.certified_key(self.region(destination), name, self._sealing_certificate())
        return self._resealed(region, sealed, context, public, new_context)

    def _resealed(self, region: str, sealed: bytes, context: bytes, public: bytes, new_context: bytes) -> bytes:
        engine = self._regions.get(region)
        if engine is None:
            engine = self._regions[region] = Engine(workers=1, boot=secrets.randbits(32))
            engine.device_load(str(self._folder / f"{region}.seed"))
        try:
            return engine.masking_reseal(sealed, context, public, new_context)
        except CkrError as error:
            if error.rv not in {CKR.ENCRYPTED_DATA_INVALID, CKR.ARGUMENTS_BAD}:
                raise
            raise HsmsimError(
                f"The key in the image does not open under this simulator's backup root of {region}: the image is "
                "another simulator's, its file has another backup's name, or it was changed."
            ) from error

    # ---- the roots' own keys and certificates ------------------------------------------------------------------------

    def _make_roots(self) -> None:
        with self._locked():
            if not (self._folder / _SEALING_KEY).exists():
                self._save(_SEALING_KEY, Ed25519PrivateKey.generate())
            if not (self._folder / devices.MANUFACTURER_CERTIFICATE).exists():
                key, name = self._key(_SEALING_KEY), _name(_SEALING_NAME)
                own = _certificate(name, key.public_key(), name, key, path_length=None)
                files.replace(self._folder / devices.MANUFACTURER_CERTIFICATE, _pem(own))
            for key_file, root_file, text in _HARDWARE.values():
                if not (self._folder / key_file).exists():
                    self._save(key_file, ec.generate_private_key(ec.SECP384R1()))
                if not (self._folder / root_file).exists():
                    key, name = self._key(key_file), _name(text, "hsmsim")
                    own = _certificate(name, key.public_key(), name, key, path_length=1)
                    files.replace(self._folder / root_file, _pem(own))

    def _save(self, name: str, key: Signer) -> None:
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        files.replace(self._folder / name, key.private_bytes(encoding, form, serialization.NoEncryption()))

    def _key(self, name: str) -> Signer:
        key = serialization.load_pem_private_key((self._folder / name).read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey | Ed25519PrivateKey):
            raise HsmsimError(f"{self._folder / name} is not the key of a root: restore the folder.")
        return key

    def _sealing_certificate(self) -> x509.Certificate:
        return devices.read_certificate(self._folder / devices.MANUFACTURER_CERTIFICATE)

    def _seal_certificate(self, name: str, public: bytes) -> x509.Certificate:
        key = X25519PublicKey.from_public_bytes(public)
        return _certificate(_name(name), key, _name(_SEALING_NAME), self._key(_SEALING_KEY))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def manufacture(home: Path, hsm_id: str) -> Path:
    """Make an HSM's folder with this simulator's roots: see Authority.manufacture."""
    return Authority(home).manufacture(hsm_id)


def _name(common: str, organization: str = "") -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)] if organization else []
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, common)])


_LEAF: Final = -1


def _certificate(
    subject: x509.Name,
    key: CertificatePublicKeyTypes,
    issuer: x509.Name,
    signer: Signer,
    *,
    path_length: int | None = _LEAF,
) -> x509.Certificate:
    """Sign a certificate; path_length: an authority's, None for one without a limit."""
    authority = path_length != _LEAF
    builder = x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number(), _BEGIN, _END)
    limit = path_length if authority else None
    builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=limit), critical=True)
    algorithm = None if isinstance(signer, Ed25519PrivateKey) else hashes.SHA384()
    return builder.sign(signer, algorithm)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
