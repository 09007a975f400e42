"""Every mechanism that the general profile advertises, for each of its flags, against the `cryptography` package.

Both ways: what the HSM makes the other side opens, and the other way round, so that no mistake is made twice. The keys
are brought, so that both sides have them. test_nothing_is_left_out compares this file with C_GetMechanismInfo.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import cmac, hashes, hmac, padding
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, utils
from cryptography.hazmat.primitives.asymmetric import padding as rsa_padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFCMAC, KBKDFHMAC, CounterLocation, Mode
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF
from cryptography.hazmat.primitives.keywrap import (
    aes_key_unwrap,
    aes_key_unwrap_with_padding,
    aes_key_wrap,
    aes_key_wrap_with_padding,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from support.p11 import Mechanism, Module, Session, refused, structure

from hsmsim.hsm.cryptoki import CKA, CKD, CKF, CKK, CKM, CKO, CKR

if TYPE_CHECKING:
    from collections.abc import Callable

FLAGS = ("ENCRYPT", "DECRYPT", "DIGEST", "SIGN", "SIGN_RECOVER", "VERIFY", "VERIFY_RECOVER", "GENERATE")
ALL_FLAGS = (*FLAGS, "GENERATE_KEY_PAIR", "WRAP", "UNWRAP", "DERIVE")
HASHES = {"SHA1": hashes.SHA1(), "SHA224": hashes.SHA224(), "SHA256": hashes.SHA256()}
HASHES |= {"SHA384": hashes.SHA384(), "SHA512": hashes.SHA512()}
MGF = {"SHA1": 1, "SHA224": 5, "SHA256": 2, "SHA384": 3, "SHA512": 4}
DATA = b"seven times eight is fifty-six " * 9
AES, SECRET = bytes(range(32)), bytes(range(64, 128))
P256 = bytes.fromhex("06082a8648ce3d030107")
ED25519 = bytes.fromhex("06032b6570")
SESSION_KEY = {CKA.TOKEN: False}
OPEN = {CKA.SENSITIVE: False, CKA.EXTRACTABLE: True, CKA.TOKEN: False}
WRAPPED = bytes(range(100, 132))  # the key that travels


def hash_of(kind: CKM) -> str:
    """The hash in a mechanism's name, SHA256 if there is none."""
    name = kind.name.replace("SHA_1", "SHA1")
    return next((one for one in HASHES if one in name), "SHA256")


def digest_mechanism(name: str) -> CKM:
    return CKM.SHA_1 if name == "SHA1" else CKM[name]


def digest(name: str, data: bytes) -> bytes:
    made = hashes.Hash(HASHES[name])
    made.update(data)
    return made.finalize()


@dataclass(frozen=True)
class Keys:
    """Handles in the HSM beside the keys of `cryptography`."""

    session: Session
    rsa: rsa.RSAPrivateKey
    rsa_private: int
    rsa_public: int
    ec: ec.EllipticCurvePrivateKey
    ec_private: int
    ec_public: int
    ed: ed25519.Ed25519PrivateKey
    ed_private: int
    ed_public: int
    aes: int
    secret: int


def number(value: int) -> bytes:
    return value.to_bytes((value.bit_length() + 7) // 8)


def bring(session: Session, kind: CKO, key_type: CKK, uses: str, values: dict[CKA, Any]) -> int:
    use = {CKA[name]: True for name in uses.split()}
    return session.create({CKA.CLASS: kind, CKA.KEY_TYPE: key_type, CKA.TOKEN: False} | use | values)


@pytest.fixture(scope="module")
def keys(session: Session) -> Keys:
    key, curve, ed = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1()), _ed()
    n = key.private_numbers()
    public = {CKA.MODULUS: number(n.public_numbers.n), CKA.PUBLIC_EXPONENT: number(65537)}
    crt = (CKA.PRIME_1, n.p), (CKA.PRIME_2, n.q), (CKA.EXPONENT_1, n.dmp1), (CKA.EXPONENT_2, n.dmq1)
    private = public | {name: number(one) for name, one in ((CKA.PRIVATE_EXPONENT, n.d), (CKA.COEFFICIENT, n.iqmp), *crt)}
    point = b"\x04\x41" + curve.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    scalar = curve.private_numbers().private_value.to_bytes(32)
    ed_point = b"\x04\x20" + ed.public_key().public_bytes_raw()
    return Keys(
        session,
        key,
        bring(session, CKO.PRIVATE_KEY, CKK.RSA, "SIGN SIGN_RECOVER DECRYPT UNWRAP", private),
        bring(session, CKO.PUBLIC_KEY, CKK.RSA, "VERIFY VERIFY_RECOVER ENCRYPT WRAP", public),
        curve,
        bring(session, CKO.PRIVATE_KEY, CKK.EC, "SIGN DERIVE", {CKA.EC_PARAMS: P256, CKA.VALUE: scalar}),
        bring(session, CKO.PUBLIC_KEY, CKK.EC, "VERIFY", {CKA.EC_PARAMS: P256, CKA.EC_POINT: point}),
        ed,
        bring(session, CKO.PRIVATE_KEY, CKK.EC_EDWARDS, "SIGN", {CKA.EC_PARAMS: ED25519, CKA.VALUE: ed.private_bytes_raw()}),
        bring(session, CKO.PUBLIC_KEY, CKK.EC_EDWARDS, "VERIFY", {CKA.EC_PARAMS: ED25519, CKA.EC_POINT: ed_point}),
        bring(session, CKO.SECRET_KEY, CKK.AES, "ENCRYPT DECRYPT SIGN VERIFY WRAP UNWRAP DERIVE", {CKA.VALUE: AES}),
        bring(session, CKO.SECRET_KEY, CKK.GENERIC_SECRET, "SIGN VERIFY DERIVE", {CKA.VALUE: SECRET}),
    )


def _ed() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


# ---- the register --------------------------------------------------------------------------------------------------------

Exercise = "Callable[[Keys, CKM], None]"
EXERCISES: dict[tuple[CKM, str], Callable[[Keys, CKM], None]] = {}


def exercises(kinds: str, flag: str) -> Callable[[Callable[[Keys, CKM], None]], Callable[[Keys, CKM], None]]:
    """Register a function as what exercises these mechanisms for one flag. `*` stands for every hash."""

    def register(function: Callable[[Keys, CKM], None]) -> Callable[[Keys, CKM], None]:
        for pattern in kinds.split():
            names = [pattern.replace("*", name) for name in HASHES] if "*" in pattern else [pattern]
            for name in names:
                kind = CKM[name.replace("SHA1_HMAC", "SHA_1_HMAC")] if name != "SHA1" else CKM.SHA_1
                assert (kind, flag) not in EXERCISES
                EXERCISES[kind, flag] = function
        return function

    return register


# ---- digests and MACs ------------------------------------------------------------------------------------------------------


@exercises("*", "DIGEST")
def digests(keys: Keys, kind: CKM) -> None:
    assert keys.session.whole("Digest", kind, None, DATA) == digest(hash_of(kind), DATA)


def expected_mac(kind: CKM) -> tuple[bytes, bytes | None]:
    """The MAC, and the parameter."""
    made: Any = cmac.CMAC(algorithms.AES(AES)) if "CMAC" in kind.name else hmac.HMAC(SECRET, HASHES[hash_of(kind)])
    made.update(DATA)
    value = made.finalize()
    return (value[:9], structure(9)) if kind.name.endswith("GENERAL") else (value, None)


def mac_key(keys: Keys, kind: CKM) -> int:
    return keys.aes if "CMAC" in kind.name else keys.secret


MACS = "*_HMAC *_HMAC_GENERAL AES_CMAC AES_CMAC_GENERAL"


@exercises(MACS, "SIGN")
def makes_a_mac(keys: Keys, kind: CKM) -> None:
    expected, parameter = expected_mac(kind)
    assert keys.session.whole("Sign", kind, mac_key(keys, kind), DATA, parameter) == expected


@exercises(MACS, "VERIFY")
def checks_a_mac(keys: Keys, kind: CKM) -> None:
    expected, parameter = expected_mac(kind)
    keys.session.verify(kind, mac_key(keys, kind), DATA, expected, parameter)
    with refused(CKR.SIGNATURE_INVALID):
        keys.session.verify(kind, mac_key(keys, kind), DATA, expected[:-1] + bytes([expected[-1] ^ 1]), parameter)


# ---- RSA signatures --------------------------------------------------------------------------------------------------------

RSA_SIGNATURES = "*_RSA_PKCS *_RSA_PKCS_PSS RSA_PKCS RSA_PKCS_PSS"


def rsa_scheme(kind: CKM) -> tuple[Any, bytes | None, bytes]:
    """Padding, parameter, and the data as the mechanism wants it."""
    name, raw = hash_of(kind), kind in {CKM.RSA_PKCS, CKM.RSA_PKCS_PSS}
    data = digest(name, DATA) if raw else DATA
    if "PSS" not in kind.name:
        info = bytes.fromhex("3031300d060960864801650304020105000420")  # DigestInfo of SHA-256, RFC 8017 9.2
        return rsa_padding.PKCS1v15(), None, info + data if raw else data
    size = HASHES[name].digest_size
    scheme = rsa_padding.PSS(rsa_padding.MGF1(HASHES[name]), size)
    return scheme, structure(digest_mechanism(name), MGF[name], size), data


@exercises(RSA_SIGNATURES, "SIGN")
def makes_an_rsa_signature(keys: Keys, kind: CKM) -> None:
    scheme, parameter, data = rsa_scheme(kind)
    signature = keys.session.whole("Sign", kind, keys.rsa_private, data, parameter)
    keys.rsa.public_key().verify(signature, DATA, scheme, HASHES[hash_of(kind)])


@exercises(RSA_SIGNATURES, "VERIFY")
def checks_an_rsa_signature(keys: Keys, kind: CKM) -> None:
    scheme, parameter, data = rsa_scheme(kind)
    signature = keys.rsa.sign(DATA, scheme, HASHES[hash_of(kind)])
    keys.session.verify(kind, keys.rsa_public, data, signature, parameter)
    with refused(CKR.SIGNATURE_INVALID):
        keys.session.verify(kind, keys.rsa_public, bytes([data[0] ^ 1]) + data[1:], signature, parameter)


def raw_block(keys: Keys) -> tuple[bytes, bytes]:
    """A block, and what the private key makes of it."""
    n = keys.rsa.private_numbers()
    block = b"\0\2" + os.urandom(254)
    return block, pow(int.from_bytes(block), n.d, n.public_numbers.n).to_bytes(256)


@exercises("RSA_X_509", "SIGN")
def signs_raw(keys: Keys, kind: CKM) -> None:
    block, made = raw_block(keys)
    assert keys.session.whole("Sign", kind, keys.rsa_private, block) == made


@exercises("RSA_X_509", "VERIFY")
def verifies_raw(keys: Keys, kind: CKM) -> None:
    block, made = raw_block(keys)
    keys.session.verify(kind, keys.rsa_public, block, made)
    with refused(CKR.SIGNATURE_INVALID):
        keys.session.verify(kind, keys.rsa_public, block[:-1] + bytes([block[-1] ^ 1]), made)


@exercises("RSA_PKCS RSA_X_509", "SIGN_RECOVER")
def signs_with_the_data_inside(keys: Keys, kind: CKM) -> None:
    n = keys.rsa.private_numbers()
    block = raw_block(keys)[0] if kind is CKM.RSA_X_509 else b"inside"
    whole = block if kind is CKM.RSA_X_509 else b"\0\1" + b"\xff" * (253 - len(block)) + b"\0" + block
    keys.session.init("C_SignRecoverInit", kind, keys.rsa_private)
    made = keys.session.produce("C_SignRecover", block, len(block))
    assert made == pow(int.from_bytes(whole), n.d, n.public_numbers.n).to_bytes(256)


@exercises("RSA_PKCS RSA_X_509", "VERIFY_RECOVER")
def recovers_the_data(keys: Keys, kind: CKM) -> None:
    block, made = raw_block(keys)
    if kind is CKM.RSA_PKCS:
        block, made = b"\x30\x05insde", keys.rsa.sign(digest("SHA256", DATA), rsa_padding.PKCS1v15(), _prehashed())
        block = keys.rsa.public_key().recover_data_from_signature(made, rsa_padding.PKCS1v15(), None)
    keys.session.init("C_VerifyRecoverInit", kind, keys.rsa_public)
    assert keys.session.produce("C_VerifyRecover", made, len(made)) == block


def _prehashed() -> utils.Prehashed:
    return utils.Prehashed(hashes.SHA256())


# ---- elliptic curves -------------------------------------------------------------------------------------------------------


def ecdsa_data(kind: CKM) -> bytes:
    return digest("SHA256", DATA) if kind is CKM.ECDSA else DATA


@exercises("ECDSA ECDSA_*", "SIGN")
def makes_an_ecdsa_signature(keys: Keys, kind: CKM) -> None:
    made = keys.session.whole("Sign", kind, keys.ec_private, ecdsa_data(kind))
    encoded = utils.encode_dss_signature(int.from_bytes(made[:32]), int.from_bytes(made[32:]))
    keys.ec.public_key().verify(encoded, DATA, ec.ECDSA(HASHES[hash_of(kind)]))


@exercises("ECDSA ECDSA_*", "VERIFY")
def checks_an_ecdsa_signature(keys: Keys, kind: CKM) -> None:
    r, s = utils.decode_dss_signature(keys.ec.sign(DATA, ec.ECDSA(HASHES[hash_of(kind)])))
    made, data = r.to_bytes(32) + s.to_bytes(32), ecdsa_data(kind)
    keys.session.verify(kind, keys.ec_public, data, made)
    for wrong in (s.to_bytes(32) + r.to_bytes(32), bytes(64), b"\xff" * 64):
        with refused(CKR.SIGNATURE_INVALID):
            keys.session.verify(kind, keys.ec_public, data, wrong)


PREHASHED = structure(bytes([1]) + bytes(7), 0, None)


@exercises("EDDSA", "SIGN")
def makes_an_ed25519_signature(keys: Keys, kind: CKM) -> None:
    pure = keys.session.whole("Sign", kind, keys.ed_private, DATA)
    assert pure == keys.ed.sign(DATA)  # deterministic, RFC 8032 5.1.6
    prehashed = keys.session.whole("Sign", kind, keys.ed_private, DATA, PREHASHED)
    with pytest.raises(InvalidSignature):
        keys.ed.public_key().verify(prehashed, DATA)
    keys.session.verify(kind, keys.ed_public, DATA, prehashed, PREHASHED)


@exercises("EDDSA", "VERIFY")
def checks_an_ed25519_signature(keys: Keys, kind: CKM) -> None:
    keys.session.verify(kind, keys.ed_public, DATA, keys.ed.sign(DATA))
    with refused(CKR.SIGNATURE_INVALID):
        keys.session.verify(kind, keys.ed_public, DATA[1:], keys.ed.sign(DATA))


def test_ed25519ph_is_rfc_8032s(session: Session) -> None:
    """RFC 8032 7.3: the one vector of Ed25519ph."""
    seed = bytes.fromhex("833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42")
    private = bring(session, CKO.PRIVATE_KEY, CKK.EC_EDWARDS, "SIGN", {CKA.EC_PARAMS: ED25519, CKA.VALUE: seed})
    assert session.whole("Sign", CKM.EDDSA, private, b"abc", PREHASHED).hex() == (
        "98a70222f0b8121aa9d30f813d683f809e462b469c7ff87639499bb94e6dae41"
        "31f85042463c2a355a2003d062adf5aaa10b8c61e636062aaad11c2a26083406"
    )


# ---- encryption ------------------------------------------------------------------------------------------------------------

CIPHERS = "AES_ECB AES_CBC AES_CBC_PAD AES_CTR AES_GCM CLOUDHSM_AES_GCM"
BLOCKS = bytes(range(256))


def with_aes(kind: CKM, *, encrypt: bool, iv: bytes, data: bytes) -> bytes:
    if "GCM" in kind.name:
        iv, data = (data[:12], data[12:]) if kind is CKM.CLOUDHSM_AES_GCM and not encrypt else (iv, data)
        made = AESGCM(AES).encrypt(iv[:12], data, b"aad") if encrypt else AESGCM(AES).decrypt(iv[:12], data, b"aad")
        return iv[:12] + made if kind is CKM.CLOUDHSM_AES_GCM and encrypt else made
    mode: Any = {CKM.AES_ECB: modes.ECB(), CKM.AES_CTR: modes.CTR(iv)}.get(kind, modes.CBC(iv))
    cipher = Cipher(algorithms.AES(AES), mode)
    if encrypt and kind is CKM.AES_CBC_PAD:
        padder = padding.PKCS7(128).padder()
        data = padder.update(data) + padder.finalize()
    run = cipher.encryptor() if encrypt else cipher.decryptor()
    made = run.update(data) + run.finalize()
    if not encrypt and kind is CKM.AES_CBC_PAD:
        unpadder = padding.PKCS7(128).unpadder()
        made = unpadder.update(made) + unpadder.finalize()
    return made


def aes_parameter(kind: CKM, iv: bytes) -> tuple[bytes | None, Any]:
    """The parameter, and what it points to."""
    aad, buffer = ctypes.create_string_buffer(b"aad", 3), ctypes.create_string_buffer(iv[:12], 12)
    parameters = {
        CKM.AES_ECB: None,
        CKM.AES_CTR: structure(128, iv),
        CKM.AES_GCM: structure(buffer, 12, 96, aad, 3, 128),
        CKM.CLOUDHSM_AES_GCM: structure(None, 0, 0, aad, 3, 128),
    }
    return parameters.get(kind, iv), (aad, buffer)


@exercises(CIPHERS, "ENCRYPT")
def encrypts_with_aes(keys: Keys, kind: CKM) -> None:
    iv = os.urandom(16)
    parameter, _kept = aes_parameter(kind, iv)
    sealed = keys.session.whole("Encrypt", kind, keys.aes, BLOCKS, parameter)
    assert with_aes(kind, encrypt=False, iv=iv, data=sealed) == BLOCKS


@exercises(CIPHERS, "DECRYPT")
def decrypts_with_aes(keys: Keys, kind: CKM) -> None:
    iv = os.urandom(16)
    parameter, _kept = aes_parameter(kind, iv)
    sealed = with_aes(kind, encrypt=True, iv=iv, data=BLOCKS)
    assert keys.session.whole("Decrypt", kind, keys.aes, sealed, parameter) == BLOCKS


def oaep(name: str = "SHA256") -> tuple[Any, bytes]:
    scheme = rsa_padding.OAEP(rsa_padding.MGF1(HASHES[name]), HASHES[name], None)
    return scheme, structure(digest_mechanism(name), MGF[name], 1, None, 0)


def rsa_encryption(kind: CKM, name: str = "SHA256") -> tuple[Any, bytes | None]:
    return oaep(name) if kind is CKM.RSA_PKCS_OAEP else (rsa_padding.PKCS1v15(), None)


@exercises("RSA_PKCS RSA_PKCS_OAEP", "ENCRYPT")
def encrypts_with_rsa(keys: Keys, kind: CKM) -> None:
    for name in HASHES:
        scheme, parameter = rsa_encryption(kind, name)
        sealed = keys.session.whole("Encrypt", kind, keys.rsa_public, b"a message", parameter)
        assert keys.rsa.decrypt(sealed, scheme) == b"a message"


@exercises("RSA_PKCS RSA_PKCS_OAEP", "DECRYPT")
def decrypts_with_rsa(keys: Keys, kind: CKM) -> None:
    for name in HASHES:
        scheme, parameter = rsa_encryption(kind, name)
        sealed = keys.rsa.public_key().encrypt(b"a message", scheme)
        assert keys.session.whole("Decrypt", kind, keys.rsa_private, sealed, parameter) == b"a message"


@exercises("RSA_X_509", "ENCRYPT")
def encrypts_raw(keys: Keys, kind: CKM) -> None:
    block, made = raw_block(keys)
    assert keys.session.whole("Encrypt", kind, keys.rsa_public, made) == block


@exercises("RSA_X_509", "DECRYPT")
def decrypts_raw(keys: Keys, kind: CKM) -> None:
    block, made = raw_block(keys)
    assert keys.session.whole("Decrypt", kind, keys.rsa_private, block) == made


# ---- wrapped keys ------------------------------------------------------------------------------------------------------------

AES_WRAPS = "AES_KEY_WRAP AES_KEY_WRAP_PAD AES_KEY_WRAP_KWP CLOUDHSM_AES_KEY_WRAP_NO_PAD"
WRAPS = f"{AES_WRAPS} CLOUDHSM_AES_KEY_WRAP_PKCS5_PAD CLOUDHSM_AES_KEY_WRAP_ZERO_PAD AES_GCM CLOUDHSM_AES_GCM"
WRAPS += " RSA_PKCS RSA_PKCS_OAEP RSA_AES_KEY_WRAP"
PKCS5 = b"\x08" * 8  # the padding of a value whose length is a multiple of 8


def wrapped_by_us(keys: Keys, kind: CKM, iv: bytes) -> bytes:
    if "GCM" in kind.name:
        return with_aes(kind, encrypt=True, iv=iv, data=WRAPPED)
    if kind is CKM.RSA_AES_KEY_WRAP:
        inner = os.urandom(32)
        return keys.rsa.public_key().encrypt(inner, oaep()[0]) + aes_key_wrap_with_padding(inner, WRAPPED)
    if kind in {CKM.RSA_PKCS, CKM.RSA_PKCS_OAEP}:
        return keys.rsa.public_key().encrypt(WRAPPED, rsa_encryption(kind)[0])
    if kind is CKM.CLOUDHSM_AES_KEY_WRAP_PKCS5_PAD:
        return aes_key_wrap(AES, WRAPPED + PKCS5)
    plain = kind in {CKM.AES_KEY_WRAP, CKM.CLOUDHSM_AES_KEY_WRAP_NO_PAD}
    return aes_key_wrap(AES, WRAPPED) if plain else aes_key_wrap_with_padding(AES, WRAPPED)


def unwrapped_by_us(keys: Keys, kind: CKM, iv: bytes, wrapped: bytes) -> bytes:
    if "GCM" in kind.name:
        return with_aes(kind, encrypt=False, iv=iv, data=wrapped)
    if kind is CKM.RSA_AES_KEY_WRAP:
        return aes_key_unwrap_with_padding(keys.rsa.decrypt(wrapped[:256], oaep()[0]), wrapped[256:])
    if kind in {CKM.RSA_PKCS, CKM.RSA_PKCS_OAEP}:
        return keys.rsa.decrypt(wrapped, rsa_encryption(kind)[0])
    if kind is CKM.CLOUDHSM_AES_KEY_WRAP_PKCS5_PAD:
        return aes_key_unwrap(AES, wrapped).removesuffix(PKCS5)
    plain = kind in {CKM.AES_KEY_WRAP, CKM.CLOUDHSM_AES_KEY_WRAP_NO_PAD}
    return aes_key_unwrap(AES, wrapped) if plain else aes_key_unwrap_with_padding(AES, wrapped)


def wrap_parameter(kind: CKM, iv: bytes) -> tuple[bytes | None, Any]:
    if "GCM" in kind.name:
        return aes_parameter(kind, iv)
    if kind is CKM.RSA_AES_KEY_WRAP:
        inner = ctypes.create_string_buffer(oaep()[1], 40)
        return structure(256, inner), inner
    return (oaep()[1] if kind is CKM.RSA_PKCS_OAEP else None), None


@exercises(WRAPS, "WRAP")
def wraps(keys: Keys, kind: CKM) -> None:
    iv = os.urandom(16)
    parameter, _kept = wrap_parameter(kind, iv)
    key = bring(keys.session, CKO.SECRET_KEY, CKK.GENERIC_SECRET, "EXTRACTABLE", {CKA.VALUE: WRAPPED})
    wrapping = keys.rsa_public if kind.name.startswith("RSA") else keys.aes
    wrapped = keys.session.wrap(kind, wrapping, key, parameter)
    assert unwrapped_by_us(keys, kind, iv, wrapped) == WRAPPED
    kept = bring(keys.session, CKO.SECRET_KEY, CKK.GENERIC_SECRET, "", {CKA.VALUE: WRAPPED, CKA.EXTRACTABLE: False})
    with refused(CKR.KEY_UNEXTRACTABLE):
        keys.session.wrap(kind, wrapping, kept, parameter)


@exercises(WRAPS, "UNWRAP")
def unwraps(keys: Keys, kind: CKM) -> None:
    iv = os.urandom(16)
    parameter, _kept = wrap_parameter(kind, iv)
    unwrapping = keys.rsa_private if kind.name.startswith("RSA") else keys.aes
    wrapped = wrapped_by_us(keys, kind, iv)
    made = {CKA.CLASS: CKO.SECRET_KEY, CKA.KEY_TYPE: CKK.GENERIC_SECRET} | OPEN
    key = keys.session.unwrap(kind, unwrapping, wrapped, made, parameter)
    assert keys.session.attribute(key, CKA.VALUE) == WRAPPED
    broken = wrapped[:-1] + bytes([wrapped[-1] ^ 1])
    if kind is not CKM.RSA_PKCS:  # whose padding tells nobody whether it was right
        with refused(CKR.WRAPPED_KEY_INVALID):
            keys.session.unwrap(kind, unwrapping, broken, made, parameter)


# ---- derived keys ------------------------------------------------------------------------------------------------------------


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


# ---- new keys ----------------------------------------------------------------------------------------------------------------


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


# ---- all of them -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "flag"), sorted(EXERCISES), ids=lambda one: getattr(one, "name", one))
def test_mechanism(keys: Keys, kind: CKM, flag: str) -> None:
    EXERCISES[kind, flag](keys, kind)


def advertised(module: Module) -> dict[CKM, tuple[int, int, int]]:
    """Mechanism -> least and largest key, flags."""
    count = ctypes.c_ulong()
    module.call("C_GetMechanismList", module.slot, None, ctypes.byref(count))
    listed = (ctypes.c_ulong * count.value)()
    module.call("C_GetMechanismList", module.slot, listed, ctypes.byref(count))
    made = {}
    for kind in listed:
        info = (ctypes.c_ulong * 3)()
        module.call("C_GetMechanismInfo", module.slot, kind, info)
        made[CKM(kind)] = (info[0], info[1], info[2])
    return made


def test_nothing_is_left_out(module: Module) -> None:
    told = {
        (kind, flag) for kind, (_, _, flags) in advertised(module).items() for flag in ALL_FLAGS if flags & getattr(CKF, flag)
    }
    assert told == set(EXERCISES)


def test_no_mechanism_does_what_its_flags_do_not_say(module: Module, keys: Keys) -> None:
    begins = {"ENCRYPT": "Encrypt", "DECRYPT": "Decrypt", "DIGEST": "Digest", "SIGN": "Sign", "VERIFY": "Verify"}
    begins |= {"SIGN_RECOVER": "SignRecover", "VERIFY_RECOVER": "VerifyRecover"}
    for kind, (_, _, flags) in advertised(module).items():
        for flag, name in begins.items():
            if not flags & getattr(CKF, flag):
                key = () if name == "Digest" else (keys.aes,)
                rv = keys.session.rv(f"C_{name}Init", ctypes.byref(Mechanism(kind, None, 0)), *key)
                assert rv is CKR.MECHANISM_INVALID
