"""The cluster's key, its request for a certificate, and what the first HSM's hardware certifies of it.

Rules: the key is made in the first HSM as soon as that runs, once per cluster, and lives as a masked key in the
cluster's identity row: every HSM of the cluster has it, a backup carries it. Until the customer has signed the request
the cluster is UNINITIALIZED.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

from hsmsim.cluster.model import FIPS, UNINITIALIZED, AuditEntry
from hsmsim.crypto import certificates
from hsmsim.errors import HsmsimError
from hsmsim.hsm.cryptoki import CKK, CKM, CKO
from hsmsim.hsm.engine import Material
from hsmsim.hsm.roots import devices

if TYPE_CHECKING:
    from pathlib import Path

    from hsmsim.cluster.model import IdentityRow, Row
    from hsmsim.cluster.replica import Replica

_LOG = logging.getLogger(__name__)

_P256: Final = bytes.fromhex("06082a8648ce3d030107")
"""EC_PARAMS. AWS's HSMs make RSA keys; an EC key passes the same steps, and the first start waits for no primes."""
_MAKERS: Final = {"hsm1.medium": "Cavium", "hsm2m.medium": "Marvell"}
"""The O of the CSR's subject. Only hsm1's is documented; hsm2m's is believed (UNVERIFIED)."""


class Engine(Protocol):
    """What is asked of the engine."""

    def generate(self, key_type: int, parameters: bytes) -> bytes:
        """Masked material of a new key."""

    def public(self, material: Material) -> bytes:
        """SubjectPublicKeyInfo of a private key."""

    def sign(self, material: Material, mechanism: int, data: bytes) -> bytes:
        """Signature with a masked key."""

    def device_signer(self) -> bytes:
        """SubjectPublicKeyInfo of the hardware key."""

    def device_sign(self, digest: bytes) -> bytes:
        """ECDSA signature with the hardware key."""


def material(identity: IdentityRow) -> Material:
    """Return the cluster's private key for the engine."""
    return Material(CKO.PRIVATE_KEY, CKK.EC, identity.key)


def ensure(engine: Engine, replica: Replica, folder: Path, model: str) -> None:
    """Make the cluster's key and request, if it is UNINITIALIZED and has none."""
    if replica.cluster.state != UNINITIALIZED or replica.identity.key:
        return
    made = _made(engine, replica.identity, folder, model)

    def build(_version: int) -> list[Row]:
        return [] if replica.identity.key else [made]

    replica.write(build, AuditEntry("GENERATE_CLUSTER_KEY", "", 0, 0, 0, model))
    _LOG.info("The cluster waits for its certificate.")


def _made(engine: Engine, identity: IdentityRow, folder: Path, model: str) -> IdentityRow:
    hardware = {
        name: devices.read_certificate(folder / name) for name in (devices.AWS_HARDWARE, devices.MANUFACTURER_HARDWARE)
    }
    aws, manufacturer = (certificate.public_bytes(Encoding.DER) for certificate in hardware.values())
    signer = load_der_public_key(engine.device_signer())
    if not isinstance(signer, ec.EllipticCurvePublicKey) or any(
        one.public_key() != signer for one in hardware.values()
    ):
        raise HsmsimError(f"{folder}: the hardware certificates are not for this seed. Delete the HSM, make a new one.")
    made = replace(identity, key=engine.generate(CKK.EC, _P256))
    key = material(made)
    spki = engine.public(key)
    name = subject(model, devices.hardware_serial(signer), identity.mode)
    return replace(
        made,
        csr=certificates.request(name, spki, lambda data: _der(engine.sign(key, CKM.ECDSA_SHA256, data))),
        hsm_certificate=certificates.leaf(
            name, spki, aws, lambda data: engine.device_sign(hashlib.sha256(data).digest())
        ),
        aws_hardware=aws,
        manufacturer_hardware=manufacturer,
    )


def _der(raw: bytes) -> bytes:
    """PKCS#11's r and s of one width each (2.3.1) as X.509 wants them."""
    half = len(raw) // 2
    return encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))


def subject(model: str, serial: str, mode: str) -> list[tuple[str, str]]:
    """Return the CSR's subject in the shape that AWS documents."""
    words = "FIPS" if mode == FIPS else "NON-FIPS"
    return [
        ("country_name", "US"),
        ("state_or_province_name", "CA"),
        ("organization_name", _MAKERS.get(model, "Marvell")),
        ("organizational_unit_name", "N3FIPS"),
        ("locality_name", "SanJose"),
        ("common_name", f"HSM:{serial}:PARTN:1, for {words} mode"),
    ]
