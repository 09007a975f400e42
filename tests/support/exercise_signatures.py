"""Digests, MACs and signatures: what the HSM makes the `cryptography` package checks, and the other way round."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import cmac, hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.asymmetric import padding as rsa_padding
from cryptography.hazmat.primitives.ciphers import algorithms
from support.exercise import (
    AES,
    DATA,
    HASHES,
    MGF,
    PREHASHED,
    SECRET,
    Keys,
    digest,
    digest_mechanism,
    exercises,
    hash_of,
    raw_block,
)
from support.p11 import refused, structure

from hsmsim.hsm.cryptoki import CKM, CKR

# ---- digests and MACs ----------------------------------------------------------------------------------------------


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


# ---- RSA signatures ------------------------------------------------------------------------------------------------

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


# ---- elliptic curves -----------------------------------------------------------------------------------------------


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
