"""Encryption and wrapped keys, in both directions against the `cryptography` package."""

from __future__ import annotations

import ctypes
import os
from typing import Any

from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.asymmetric import padding as rsa_padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import (
    aes_key_unwrap,
    aes_key_unwrap_with_padding,
    aes_key_wrap,
    aes_key_wrap_with_padding,
)
from support.exercise import (
    AES,
    HASHES,
    MGF,
    OPEN,
    WRAPPED,
    Keys,
    bring,
    digest_mechanism,
    exercises,
    raw_block,
)
from support.p11 import refused, structure

from hsmsim.hsm.cryptoki import CKA, CKK, CKM, CKO, CKR

# ---- encryption ----------------------------------------------------------------------------------------------------

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


# ---- wrapped keys --------------------------------------------------------------------------------------------------

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
