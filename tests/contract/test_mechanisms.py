"""Every mechanism that the general profile advertises, for each of its flags, against the `cryptography` package.

Both ways: what the HSM makes the other side opens, and the other way round, so that no mistake is made twice. The keys
are brought, so that both sides have them. test_nothing_is_left_out compares the exercises with C_GetMechanismInfo.
"""

from __future__ import annotations

import ctypes

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from support import exercise_ciphers, exercise_keys, exercise_signatures
from support.exercise import (
    AES,
    ED25519,
    EXERCISES,
    P256,
    PREHASHED,
    SECRET,
    Keys,
    bring,
    number,
)
from support.p11 import Mechanism, Module, Session

from hsmsim.hsm.cryptoki import CKA, CKF, CKK, CKM, CKO, CKR

REGISTERED = (exercise_ciphers, exercise_keys, exercise_signatures)  # each when it is imported
FLAGS = ("ENCRYPT", "DECRYPT", "DIGEST", "SIGN", "SIGN_RECOVER", "VERIFY", "VERIFY_RECOVER", "GENERATE")
ALL_FLAGS = (*FLAGS, "GENERATE_KEY_PAIR", "WRAP", "UNWRAP", "DERIVE")


@pytest.fixture(scope="module")
def keys(session: Session) -> Keys:
    key, curve = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())
    ed = ed25519.Ed25519PrivateKey.generate()
    n = key.private_numbers()
    public = {CKA.MODULUS: number(n.public_numbers.n), CKA.PUBLIC_EXPONENT: number(65537)}
    crt = (CKA.PRIME_1, n.p), (CKA.PRIME_2, n.q), (CKA.EXPONENT_1, n.dmp1), (CKA.EXPONENT_2, n.dmq1)
    private = public | {
        name: number(one) for name, one in ((CKA.PRIVATE_EXPONENT, n.d), (CKA.COEFFICIENT, n.iqmp), *crt)
    }
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
        bring(
            session,
            CKO.PRIVATE_KEY,
            CKK.EC_EDWARDS,
            "SIGN",
            {CKA.EC_PARAMS: ED25519, CKA.VALUE: ed.private_bytes_raw()},
        ),
        bring(session, CKO.PUBLIC_KEY, CKK.EC_EDWARDS, "VERIFY", {CKA.EC_PARAMS: ED25519, CKA.EC_POINT: ed_point}),
        bring(session, CKO.SECRET_KEY, CKK.AES, "ENCRYPT DECRYPT SIGN VERIFY WRAP UNWRAP DERIVE", {CKA.VALUE: AES}),
        bring(session, CKO.SECRET_KEY, CKK.GENERIC_SECRET, "SIGN VERIFY DERIVE", {CKA.VALUE: SECRET}),
    )


# ---- all of them ---------------------------------------------------------------------------------------------------


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
        (kind, flag)
        for kind, (_, _, flags) in advertised(module).items()
        for flag in ALL_FLAGS
        if flags & getattr(CKF, flag)
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


def test_ed25519ph_is_rfc_8032s(session: Session) -> None:
    """RFC 8032 7.3: the one vector of Ed25519ph."""
    seed = bytes.fromhex("833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42")
    private = bring(session, CKO.PRIVATE_KEY, CKK.EC_EDWARDS, "SIGN", {CKA.EC_PARAMS: ED25519, CKA.VALUE: seed})
    assert session.whole("Sign", CKM.EDDSA, private, b"abc", PREHASHED).hex() == (
        "98a70222f0b8121aa9d30f813d683f809e462b469c7ff87639499bb94e6dae41"
        "31f85042463c2a355a2003d062adf5aaa10b8c61e636062aaad11c2a26083406"
    )
