"""Derived and new keys, against the `cryptography` package."""

from __future__ import annotations

import ctypes
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, utils
from cryptography.hazmat.primitives.asymmetric import padding as rsa_padding
from cryptography.hazmat.primitives.ciphers import algorithms
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFCMAC, KBKDFHMAC, CounterLocation, Mode
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from support.exercise import (
    AES,
    DATA,
    ED25519,
    HASHES,
    OPEN,
    P256,
    SECRET,
    SESSION_KEY,
    Keys,
    digest_mechanism,
    exercises,
    hash_of,
)
from support.p11 import refused, structure

from hsmsim.hsm.cryptoki import CKA, CKD, CKK, CKM, CKO, CKR

# ---- derived keys --------------------------------------------------------------------------------------------------


def derived(keys: Keys, kind: CKM, base: int, parameter: bytes, length: int = 32) -> bytes:
    made = {CKA.CLASS: CKO.SECRET_KEY, CKA.KEY_TYPE: CKK.GENERIC_SECRET, CKA.VALUE_LEN: length} | OPEN
    return keys.session.attribute(keys.session.derive(kind, base, made, parameter), CKA.VALUE)


@exercises("ECDH1_DERIVE", "DERIVE")
def agrees_by_ecdh(keys: Keys, kind: CKM) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    point = other.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    shared = other.exchange(ec.ECDH(), keys.ec.public_key())
    info = ctypes.create_string_buffer(b"info", 4)
    for one in (point, b"\x04\x41" + point):  # raw and as an OCTET STRING: callers send both
        public = ctypes.create_string_buffer(one, len(one))
        assert derived(keys, kind, keys.ec_private, structure(CKD.NULL, 0, None, len(one), public)) == shared
    public = ctypes.create_string_buffer(point, len(point))
    for name, algorithm in HASHES.items():
        expected = X963KDF(algorithm, 80, b"info").derive(shared)
        for kdf in (CKD[f"{name}_KDF"], CKD[f"CLOUDHSM_X963_{name}_KDF"]):
            parameter = structure(kdf, 4, info, len(point), public)
            assert derived(keys, kind, keys.ec_private, parameter, 80) == expected


@exercises("HKDF_DERIVE", "DERIVE")
def derives_by_hkdf(keys: Keys, kind: CKM) -> None:
    salt, info = ctypes.create_string_buffer(b"salt", 4), ctypes.create_string_buffer(b"info", 4)
    for name, algorithm in HASHES.items():
        head = b"\1\1" + bytes(6)  # extract and expand
        parameter = structure(head, digest_mechanism(name), 2, salt, 4, 0, info, 4)
        expected = HKDF(algorithm, 77, b"salt", b"info").derive(SECRET)
        assert derived(keys, kind, keys.secret, parameter, 77) == expected


def segments(*rows: tuple[int, bytes]) -> tuple[Any, list[Any]]:
    """CK_PRF_DATA_PARAM[], and what it points to."""
    kept = [ctypes.create_string_buffer(value, len(value)) for _, value in rows]
    raw = b"".join(structure(kind, buffer, len(buffer)) for (kind, _), buffer in zip(rows, kept, strict=True))
    array = ctypes.create_string_buffer(raw, len(raw))
    return array, [*kept, array]


STANDARD = (
    (1, structure(0, 32)),  # the counter: big-endian, 32 bits
    (4, b"label"),
    (4, b"\0"),
    (4, b"context"),
    (3, structure(1, 0, 32)),  # the length of all keys: big-endian, 32 bits
)
VENDOR = ((4, structure(32)), (5, b"label"), (6, b"context"), (7, structure(1, 32)))  # AWS's header


def counter_kdf(prf: CKM, length: int) -> bytes:
    fixed = b"label\0context" + (length * 8).to_bytes(4)
    common = (Mode.CounterMode, length, 4, None, CounterLocation.BeforeFixed, None, None, fixed)
    if prf is CKM.AES_CMAC:
        return KBKDFCMAC(algorithms.AES, *common).derive(AES)
    return KBKDFHMAC(HASHES[hash_of(prf)], *common).derive(SECRET)


@exercises("SP800_108_COUNTER_KDF CLOUDHSM_VENDOR_SP800_108_COUNTER_KDF", "DERIVE")
def derives_by_counter(keys: Keys, kind: CKM) -> None:
    prfs = [CKM[f"{name}_HMAC"] for name in ("SHA_1", "SHA224", "SHA256", "SHA384", "SHA512")]
    forms = [(STANDARD, (0, None))] if kind is CKM.SP800_108_COUNTER_KDF else [(STANDARD, ()), (VENDOR, ())]
    for prf in [*prfs, CKM.AES_CMAC]:
        base = keys.aes if prf is CKM.AES_CMAC else keys.secret
        for rows, more in forms:
            array, _kept = segments(*rows)
            parameter = structure(prf, len(rows), array, *more)
            assert derived(keys, kind, base, parameter, 100) == counter_kdf(prf, 100)


# ---- new keys ------------------------------------------------------------------------------------------------------


@exercises("AES_KEY_GEN GENERIC_SECRET_KEY_GEN", "GENERATE")
def generates_a_secret(keys: Keys, kind: CKM) -> None:
    for length in (16, 24, 32):
        made = [keys.session.generate(kind, {CKA.VALUE_LEN: length} | OPEN) for _ in range(2)]
        values = {keys.session.attribute(one, CKA.VALUE) for one in made}
        assert {len(value) for value in values} == {length}
        assert len(values) == 2
    with refused(CKR.KEY_SIZE_RANGE):
        keys.session.generate(kind, {CKA.VALUE_LEN: 17 if kind is CKM.AES_KEY_GEN else 801})


@exercises("RSA_PKCS_KEY_PAIR_GEN RSA_X9_31_KEY_PAIR_GEN", "GENERATE_KEY_PAIR")
def generates_an_rsa_pair(keys: Keys, kind: CKM) -> None:
    public, private = keys.session.pair(kind, {CKA.MODULUS_BITS: 2048} | SESSION_KEY, SESSION_KEY | {CKA.SIGN: True})
    modulus = int.from_bytes(keys.session.attribute(public, CKA.MODULUS))
    assert modulus.bit_length() == 2048
    made = keys.session.whole("Sign", CKM.SHA256_RSA_PKCS, private, DATA)
    rsa.RSAPublicNumbers(65537, modulus).public_key().verify(made, DATA, rsa_padding.PKCS1v15(), hashes.SHA256())
    for bits in (1024, 4352):
        with refused(CKR.KEY_SIZE_RANGE):
            keys.session.pair(kind, {CKA.MODULUS_BITS: bits} | SESSION_KEY, SESSION_KEY)


@exercises("EC_KEY_PAIR_GEN", "GENERATE_KEY_PAIR")
def generates_an_ec_pair(keys: Keys, kind: CKM) -> None:
    curves: dict[str, ec.EllipticCurve] = {"06052b81040021": ec.SECP224R1(), P256.hex(): ec.SECP256R1()}
    curves |= {"06052b81040022": ec.SECP384R1(), "06052b81040023": ec.SECP521R1(), "06052b8104000a": ec.SECP256K1()}
    for oid, curve in curves.items():
        public, private = keys.session.pair(kind, {CKA.EC_PARAMS: bytes.fromhex(oid)} | SESSION_KEY, SESSION_KEY)
        size = (curve.key_size + 7) // 8
        point = keys.session.attribute(public, CKA.EC_POINT)[-2 * size - 1 :]
        made = keys.session.whole("Sign", CKM.ECDSA_SHA256, private, DATA)
        encoded = utils.encode_dss_signature(int.from_bytes(made[:size]), int.from_bytes(made[size:]))
        ec.EllipticCurvePublicKey.from_encoded_point(curve, point).verify(encoded, DATA, ec.ECDSA(hashes.SHA256()))


@exercises("EC_EDWARDS_KEY_PAIR_GEN", "GENERATE_KEY_PAIR")
def generates_an_ed25519_pair(keys: Keys, kind: CKM) -> None:
    public, private = keys.session.pair(kind, {CKA.EC_PARAMS: ED25519} | SESSION_KEY, SESSION_KEY)
    raw = keys.session.attribute(public, CKA.EC_POINT)[-32:]
    made = keys.session.whole("Sign", CKM.EDDSA, private, DATA)
    ed25519.Ed25519PublicKey.from_public_bytes(raw).verify(made, DATA)
