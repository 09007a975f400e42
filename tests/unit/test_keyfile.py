"""Private keys that people bring become PKCS#11 attributes, whatever form the file has."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from hsmsim.errors import HsmsimError
from hsmsim.fleet import keyfile
from hsmsim.hsm.cryptoki import CKA, CKK

RSA = rsa.generate_private_key(65537, 2048)
P256 = ec.derive_private_key(0x1122, ec.SECP256R1())
EDWARDS = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_rsa_in_every_form(encoding: Encoding, form: PrivateFormat) -> None:
    read = keyfile.read(RSA.private_bytes(encoding, form, NoEncryption()), None)
    numbers = RSA.private_numbers()
    assert read.key_type is CKK.RSA
    values = {kind: int.from_bytes(value, "big") for kind, value in read.private.items()}
    assert values == {
        CKA.MODULUS: numbers.public_numbers.n,
        CKA.PUBLIC_EXPONENT: 65537,
        CKA.PRIVATE_EXPONENT: numbers.d,
        CKA.PRIME_1: numbers.p,
        CKA.PRIME_2: numbers.q,
        CKA.EXPONENT_1: numbers.dmp1,
        CKA.EXPONENT_2: numbers.dmq1,
        CKA.COEFFICIENT: numbers.iqmp,
    }
    assert set(read.public) == {CKA.MODULUS, CKA.PUBLIC_EXPONENT}


def test_an_ec_scalar_has_the_length_of_its_curve() -> None:
    read = keyfile.read(P256.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()), None)
    assert read.key_type is CKK.EC
    assert read.private[CKA.VALUE] == (0x1122).to_bytes(32, "big")
    # OBJECT IDENTIFIER 1.2.840.10045.3.1.7 (RFC 5480, section 2.1.1.1)
    assert read.private[CKA.EC_PARAMS] == bytes.fromhex("06082a8648ce3d030107")
    point = read.public[CKA.EC_POINT]
    assert point[:3] == b"\x04\x41\x04"
    assert len(point) == 67


def test_ed25519_is_seed_and_point() -> None:
    read = keyfile.read(EDWARDS.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), None)
    assert read.key_type is CKK.EC_EDWARDS
    assert read.private[CKA.VALUE] == bytes(range(32))
    assert read.private[CKA.EC_PARAMS] == bytes.fromhex("06032b6570")
    assert read.public[CKA.EC_POINT][:2] == b"\x04\x20"
    assert read.public[CKA.EC_POINT][2:] == EDWARDS.public_key().public_bytes_raw()


def test_an_encrypted_key_needs_its_passphrase() -> None:
    data = P256.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"open sesame"))
    assert keyfile.is_encrypted(data)
    assert keyfile.read(data, "open sesame").private[CKA.VALUE] == (0x1122).to_bytes(32, "big")
    with pytest.raises(HsmsimError, match="its passphrase is needed"):
        keyfile.read(data, None)
    with pytest.raises(HsmsimError, match="the passphrase is wrong"):
        keyfile.read(data, "open barley")


def test_what_the_hsm_does_not_keep_is_named() -> None:
    brainpool = ec.derive_private_key(5, ec.BrainpoolP256R1())
    data = brainpool.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(HsmsimError, match="no curve brainpoolP256r1"):
        keyfile.read(data, None)
    old = dsa.generate_private_key(1024).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(HsmsimError, match="another kind"):
        keyfile.read(old, None)
    with pytest.raises(HsmsimError, match="neither PEM nor DER"):
        keyfile.read(b"not a key at all", None)
    assert not keyfile.is_encrypted(b"not a key at all")
