"""The cloudhsm profile refuses what AWS's Client SDK 5 refuses, so that what passes here passes there."""

from __future__ import annotations

import ctypes
import json
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.ciphers import algorithms
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFCMAC, KBKDFHMAC, CounterLocation, Mode
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap, aes_key_unwrap_with_padding
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from support.p11 import FUNCTIONS, Module, Session, refused, structure

from hsmsim.hsm.cryptoki import CKA, CKD, CKF, CKK, CKM, CKO, CKR

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Simulator

# AWS's page of functions: 47 of 68.
UNSUPPORTED = [
    "InitToken",
    "InitPIN",
    "SetPIN",
    "GetOperationState",
    "SetOperationState",
    "CopyObject",
    "GetObjectSize",
    "SetAttributeValue",
    "DigestKey",
    "SignRecoverInit",
    "SignRecover",
    "VerifyRecoverInit",
    "VerifyRecover",
    "DigestEncryptUpdate",
    "DecryptDigestUpdate",
    "SignEncryptUpdate",
    "DecryptVerifyUpdate",
    "SeedRandom",
    "GetFunctionStatus",
    "CancelFunction",
    "WaitForSlotEvent",
]
# AWS's page of mechanisms, without what no HSM here has: 3DES and ML-DSA.
SHA = ("SHA1", "SHA224", "SHA256", "SHA384", "SHA512")
MECHANISMS = {
    *["RSA_PKCS_KEY_PAIR_GEN", "RSA_X9_31_KEY_PAIR_GEN", "EC_KEY_PAIR_GEN", "GENERIC_SECRET_KEY_GEN", "AES_KEY_GEN"],
    *[
        "RSA_X_509",
        "RSA_PKCS",
        "RSA_PKCS_PSS",
        "RSA_PKCS_OAEP",
        "ECDSA",
        "CLOUDHSM_EDDSA",
        "AES_CMAC",
        "RSA_AES_KEY_WRAP",
    ],
    *["AES_ECB", "AES_CTR", "AES_CBC", "AES_CBC_PAD", "AES_GCM", "CLOUDHSM_AES_GCM", "ECDH1_DERIVE"],
    *["CLOUDHSM_VENDOR_SP800_108_COUNTER_KDF", "CLOUDHSM_SP800_108_COUNTER_KDF"],
    *(f"CLOUDHSM_AES_KEY_WRAP_{pad}" for pad in ("NO_PAD", "PKCS5_PAD", "ZERO_PAD")),
    *(f"{name}_RSA_PKCS{pss}" for name in SHA for pss in ("", "_PSS")),
    *(f"ECDSA_{name}" for name in SHA),
    *(f"{name.replace('SHA1', 'SHA_1')}{mac}" for name in SHA for mac in ("", "_HMAC")),
}
P256 = bytes.fromhex("06082a8648ce3d030107")
AES = bytes(range(32))
SECRET_CLASS = {CKA.CLASS: CKO.SECRET_KEY, CKA.KEY_TYPE: CKK.AES}
ALL_A6 = b"\xa6" * 8


@pytest.fixture(scope="module")
def module(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Module]:
    config = json.loads(simulator.places.module_config.read_text())
    config["hsmsim"]["profile"] = "cloudhsm"
    path = tmp_path_factory.mktemp("profile") / "pkcs11.cfg"
    path.write_text(json.dumps(config))
    with Module({**simulator.environment, "HSMSIM_PKCS11_CONFIG": str(path)}) as one:
        yield one


@pytest.fixture(scope="module")
def aes(session: Session) -> int:
    uses = (CKA.ENCRYPT, CKA.DECRYPT, CKA.WRAP, CKA.UNWRAP, CKA.DERIVE, CKA.SIGN)
    return session.create(SECRET_CLASS | {CKA.VALUE: AES} | dict.fromkeys(uses, True))


def test_functions_that_are_not_supported(module: Module, session: Session) -> None:
    assert len(UNSUPPORTED) == 21
    assert {f"C_{name}" for name in UNSUPPORTED} <= set(FUNCTIONS)
    for name in UNSUPPORTED:
        assert module.rv(f"C_{name}", session.handle, *[None] * 6) is CKR.FUNCTION_NOT_SUPPORTED
    for name in sorted(set(FUNCTIONS) - {f"C_{one}" for one in UNSUPPORTED} - {"C_Initialize", "C_Finalize"}):
        assert module.rv(name, 0, *[None] * 7) is not CKR.FUNCTION_NOT_SUPPORTED


def test_sessions_are_read_write_and_tell_nobody(module: Module) -> None:
    both, handle, anything = CKF.SERIAL_SESSION | CKF.RW_SESSION, ctypes.c_ulong(), ctypes.create_string_buffer(8)
    for flags, application, notify, expected in (
        (CKF.SERIAL_SESSION, None, None, CKR.FUNCTION_FAILED),
        (both, None, anything, CKR.ARGUMENTS_BAD),
        (both, anything, None, CKR.ARGUMENTS_BAD),
        (CKF.RW_SESSION, None, None, CKR.SESSION_PARALLEL_NOT_SUPPORTED),
        (both, None, None, CKR.OK),
    ):
        rv = module.rv("C_OpenSession", module.slot, flags, application, notify, ctypes.byref(handle))
        assert rv is expected
    module.call("C_CloseSession", handle)


def test_the_mechanism_list_is_awss(module: Module) -> None:
    count = ctypes.c_ulong()
    module.call("C_GetMechanismList", module.slot, None, ctypes.byref(count))
    listed = (ctypes.c_ulong * count.value)()
    module.call("C_GetMechanismList", module.slot, listed, ctypes.byref(count))
    assert {CKM(kind).name for kind in listed} == MECHANISMS
    info = (ctypes.c_ulong * 3)()
    module.call("C_GetMechanismInfo", module.slot, CKM.RSA_PKCS, info)
    assert info[2] & (CKF.SIGN_RECOVER | CKF.VERIFY_RECOVER) == 0
    for standard in (CKM.AES_KEY_WRAP, CKM.AES_KEY_WRAP_PAD, CKM.SP800_108_COUNTER_KDF, CKM.EDDSA, CKM.HKDF_DERIVE):
        with refused(CKR.MECHANISM_INVALID):
            module.call("C_GetMechanismInfo", module.slot, standard, info)


def test_the_token_promises_no_dual_operations(module: Module) -> None:
    info = ctypes.create_string_buffer(256)
    module.call("C_GetTokenInfo", module.slot, info)
    assert int.from_bytes(info.raw[96:104], "little") & CKF.DUAL_CRYPTO_OPERATIONS == 0


# ---- attributes ----------------------------------------------------------------------------------------------------


def attributes(session: Session, handle: int, *names: str) -> dict[str, bool]:
    return {name: session.attribute(handle, CKA[name]) == b"\1" for name in names}


USES = ("ENCRYPT", "DECRYPT", "WRAP", "UNWRAP", "DERIVE")
COMMON = {"TOKEN": False, "PRIVATE": True, "MODIFIABLE": True, "DESTROYABLE": True}
KEPT = {"SENSITIVE": True, "EXTRACTABLE": True, "WRAP_WITH_TRUSTED": False}
UNUSED = dict.fromkeys(USES, False)


def test_defaults_of_attributes(session: Session) -> None:
    made = session.generate(CKM.AES_KEY_GEN, {CKA.VALUE_LEN: 32})
    expected = COMMON | KEPT | UNUSED | {"SIGN": True, "VERIFY": True, "TRUSTED": False, "LOCAL": True}
    assert attributes(session, made, *expected) == expected
    brought = session.create(SECRET_CLASS | {CKA.VALUE: AES})
    expected = COMMON | KEPT | UNUSED | {"SIGN": False, "VERIFY": False, "LOCAL": False}
    assert attributes(session, brought, *expected) == expected
    public, private = session.pair(CKM.RSA_PKCS_KEY_PAIR_GEN, _rsa(2048), {})
    expected = COMMON | KEPT | {"DECRYPT": False, "SIGN": False, "UNWRAP": False, "DERIVE": False}
    assert attributes(session, private, *expected) == expected
    expected = COMMON | {"ENCRYPT": False, "VERIFY": False, "WRAP": False, "TRUSTED": False}
    assert attributes(session, public, *expected) == expected
    session.destroy(made, brought, public, private)


def _rsa(bits: int) -> dict[CKA, Any]:
    return {CKA.MODULUS_BITS: bits, CKA.PUBLIC_EXPONENT: b"\1\0\1"}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({CKA.PRIVATE: False}, CKR.ATTRIBUTE_VALUE_INVALID),
        ({CKA.SENSITIVE: False}, None),
        ({CKA.SUBJECT: b"no"}, CKR.ATTRIBUTE_TYPE_INVALID),
        ({CKA.ALLOWED_MECHANISMS: bytes(8)}, CKR.ATTRIBUTE_TYPE_INVALID),
        ({CKA.ALWAYS_AUTHENTICATE: False}, CKR.ATTRIBUTE_TYPE_INVALID),
        ({CKA.COPYABLE: True}, CKR.ATTRIBUTE_TYPE_INVALID),
        ({CKA.LOCAL: True}, CKR.ATTRIBUTE_READ_ONLY),
        ({CKA.TRUSTED: True}, CKR.ATTRIBUTE_READ_ONLY),
    ],
)
def test_attributes_that_are_refused(session: Session, values: dict[CKA, Any], expected: CKR | None) -> None:
    if expected is None:  # a secret key may be, a private key not
        session.destroy(session.generate(CKM.AES_KEY_GEN, {CKA.VALUE_LEN: 16} | values))
        with refused(CKR.ATTRIBUTE_VALUE_INVALID):
            session.pair(CKM.EC_KEY_PAIR_GEN, {CKA.EC_PARAMS: P256}, values)
        return
    with refused(expected):
        session.generate(CKM.AES_KEY_GEN, {CKA.VALUE_LEN: 16} | values)


def test_what_a_template_must_say(session: Session) -> None:
    for kind, values in ((CKM.AES_KEY_GEN, {}), (CKM.GENERIC_SECRET_KEY_GEN, {})):
        with refused(CKR.TEMPLATE_INCOMPLETE):
            session.generate(kind, values)
    with refused(CKR.TEMPLATE_INCOMPLETE):
        session.pair(CKM.RSA_PKCS_KEY_PAIR_GEN, {CKA.MODULUS_BITS: 2048}, {})
    with refused(CKR.TEMPLATE_INCONSISTENT):
        session.create(SECRET_CLASS | {CKA.VALUE: AES, CKA.VALUE_LEN: 32})
    for length in (1, 800):
        session.destroy(session.generate(CKM.GENERIC_SECRET_KEY_GEN, {CKA.VALUE_LEN: length}))
    with refused(CKR.KEY_SIZE_RANGE):
        session.generate(CKM.GENERIC_SECRET_KEY_GEN, {CKA.VALUE_LEN: 801})


def test_a_read_of_what_is_not_there(session: Session, aes: int) -> None:
    for name in (CKA.UNIQUE_ID, CKA.SUBJECT, CKA.ALLOWED_MECHANISMS, CKA.MODULUS):
        with refused(CKR.ATTRIBUTE_TYPE_INVALID):
            session.attribute(aes, name)


# ---- mechanisms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "most"),
    [
        ("SHA_1_HMAC", 16288),
        ("SHA224_HMAC", 16256),
        ("SHA256_HMAC", 16288),
        ("SHA384_HMAC", 16224),
        ("SHA512_HMAC", 16224),
        ("AES_CBC", 16272),
        ("AES_GCM", 16224),
        ("CLOUDHSM_AES_GCM", 16224),
    ],
)
def test_the_most_that_a_call_takes(session: Session, aes: int, kind: str, most: int) -> None:
    iv = ctypes.create_string_buffer(12)
    gcm = {"AES_GCM": structure(iv, 12, 96, None, 0, 128), "CLOUDHSM_AES_GCM": structure(None, 0, 0, None, 0, 128)}
    parameter = gcm.get(kind, bytes(16) if kind == "AES_CBC" else None)
    what, key = "Encrypt", aes
    if kind.endswith("HMAC"):
        secret = {CKA.CLASS: CKO.SECRET_KEY, CKA.KEY_TYPE: CKK.GENERIC_SECRET, CKA.VALUE: AES, CKA.SIGN: True}
        what, key = "Sign", session.create(secret)
    session.whole(what, CKM[kind], key, bytes(most), parameter)
    with refused(CKR.DATA_LEN_RANGE):
        session.whole(what, CKM[kind], key, bytes(most + 16), parameter)


def test_gcm_parameters(session: Session, aes: int) -> None:
    iv = ctypes.create_string_buffer(16)
    for wrong in (structure(None, 12, 96, None, 0, 128), structure(iv, 16, 128, None, 0, 128)):
        with refused(CKR.MECHANISM_PARAM_INVALID):
            session.init("C_EncryptInit", CKM.AES_GCM, aes, wrong)
    with refused(CKR.MECHANISM_PARAM_INVALID):
        session.init("C_EncryptInit", CKM.CLOUDHSM_AES_GCM, aes, structure(iv, 12, 96, None, 0, 128))


@pytest.mark.parametrize("kind", ["RSA_PKCS", "RSA_PKCS_PSS", "ECDSA"])
def test_single_part_mechanisms(session: Session, kind: str) -> None:
    if kind == "ECDSA":
        private = session.pair(CKM.EC_KEY_PAIR_GEN, {CKA.EC_PARAMS: P256}, {CKA.SIGN: True})[1]
    else:
        private = session.pair(CKM.RSA_X9_31_KEY_PAIR_GEN, _rsa(2048), {CKA.SIGN: True})[1]
    session.init("C_SignInit", CKM[kind], private, structure(CKM.SHA256, 2, 32) if kind.endswith("PSS") else None)
    with refused(CKR.MECHANISM_INVALID):
        session.call("C_SignUpdate", bytes(32), 32)


def test_oaep_has_one_hash(session: Session) -> None:
    public = session.pair(CKM.RSA_PKCS_KEY_PAIR_GEN, _rsa(2048) | {CKA.ENCRYPT: True}, {})[0]
    session.whole("Encrypt", CKM.RSA_PKCS_OAEP, public, b"x", structure(CKM.SHA256, 2, 1, None, 0))
    with refused(CKR.MECHANISM_PARAM_INVALID):
        session.init("C_EncryptInit", CKM.RSA_PKCS_OAEP, public, structure(CKM.SHA256, 1, 1, None, 0))


WRAP = {pad: CKM[f"CLOUDHSM_AES_KEY_WRAP_{pad}"] for pad in ("NO_PAD", "PKCS5_PAD", "ZERO_PAD")}


def test_vendor_wraps(session: Session, aes: int) -> None:
    key = session.create(SECRET_CLASS | {CKA.VALUE: AES[::-1]})
    opens = {
        "NO_PAD": aes_key_unwrap,
        "PKCS5_PAD": lambda kek, data: aes_key_unwrap(kek, data).removesuffix(b"\x08" * 8),
        "ZERO_PAD": aes_key_unwrap_with_padding,
    }
    for pad, kind in WRAP.items():
        wrapped = session.wrap(kind, aes, key)
        assert opens[pad](AES, wrapped) == AES[::-1]
        session.destroy(session.unwrap(kind, aes, wrapped, SECRET_CLASS))
        if pad == "ZERO_PAD":
            for iv in (ALL_A6, ALL_A6[:4]):
                with refused(CKR.MECHANISM_PARAM_INVALID):
                    session.wrap(kind, aes, key, iv)
            continue
        assert session.wrap(kind, aes, key, ALL_A6) == wrapped
        for iv in (bytes(8), ALL_A6[:4], ALL_A6 * 2):
            with refused(CKR.MECHANISM_PARAM_INVALID):
                session.wrap(kind, aes, key, iv)


def segments(*rows: tuple[int, bytes]) -> tuple[Any, Any]:
    kept = [ctypes.create_string_buffer(value, len(value)) for _, value in rows]
    raw = b"".join(structure(kind, buffer, len(buffer)) for (kind, _), buffer in zip(rows, kept, strict=True))
    return ctypes.create_string_buffer(raw, len(raw)), kept


def value_of(session: Session, aes: int, key: int) -> bytes:
    return aes_key_unwrap_with_padding(AES, session.wrap(WRAP["ZERO_PAD"], aes, key))


GENERIC = {CKA.CLASS: CKO.SECRET_KEY, CKA.KEY_TYPE: CKK.GENERIC_SECRET}


def test_counter_kdfs_by_awss_numbers(session: Session, aes: int) -> None:
    assert CKM.CLOUDHSM_VENDOR_SP800_108_COUNTER_KDF == 0x80000001
    rows = (4, structure(32)), (5, b"label"), (6, b"context"), (7, structure(1, 32))
    names_of_3_0 = (1, structure(0, 32)), (4, b"label"), (4, b"\0"), (4, b"context"), (3, structure(1, 0, 32))
    base = session.create(GENERIC | {CKA.VALUE: AES, CKA.DERIVE: True})
    fixed = b"label\0context" + (40 * 8).to_bytes(4)
    common = (Mode.CounterMode, 40, 4, None, CounterLocation.BeforeFixed, None, None, fixed)
    for kind, prf, key, expected in (
        (0x80000001, CKM.SHA256_HMAC, base, KBKDFHMAC(hashes.SHA256(), *common).derive(AES)),
        (CKM.CLOUDHSM_SP800_108_COUNTER_KDF, CKM.AES_CMAC, aes, KBKDFCMAC(algorithms.AES, *common).derive(AES)),
    ):
        for form in (rows, names_of_3_0):
            array, _kept = segments(*form)
            parameter = structure(prf, len(form), array)
            made = session.derive(kind, key, GENERIC | {CKA.VALUE_LEN: 40, CKA.EXTRACTABLE: True}, parameter)
            assert value_of(session, aes, made) == expected
            with refused(CKR.TEMPLATE_INCOMPLETE):
                session.derive(kind, key, GENERIC, parameter)


def test_ecdh_by_awss_numbers(session: Session, aes: int) -> None:
    public, private = session.pair(CKM.EC_KEY_PAIR_GEN, {CKA.EC_PARAMS: P256}, {CKA.DERIVE: True})
    other = ec.generate_private_key(ec.SECP256R1())
    point = other.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    buffer = ctypes.create_string_buffer(point, len(point))
    ours = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), session.attribute(public, CKA.EC_POINT)[-65:])
    shared = other.exchange(ec.ECDH(), ours)
    for name, algorithm in (("SHA1", hashes.SHA1()), ("SHA256", hashes.SHA256()), ("SHA512", hashes.SHA512())):
        parameter = structure(CKD[f"CLOUDHSM_X963_{name}_KDF"], 0, None, len(point), buffer)
        made = session.derive(CKM.ECDH1_DERIVE, private, GENERIC | {CKA.VALUE_LEN: 32}, parameter)
        assert value_of(session, aes, made) == X963KDF(algorithm, 32, b"").derive(shared)


def test_eddsa_by_awss_rules(session: Session) -> None:
    """No parameter: PureEdDSA up to 16,000 bytes; with one: Ed25519ph, in parts and of any length."""
    seed = ed25519.Ed25519PrivateKey.generate()
    common = {CKA.EC_PARAMS: bytes.fromhex("06032b6570"), CKA.KEY_TYPE: CKK.EC_EDWARDS}
    private = common | {CKA.CLASS: CKO.PRIVATE_KEY, CKA.VALUE: seed.private_bytes_raw(), CKA.SIGN: True}
    point = b"\x04\x20" + seed.public_key().public_bytes_raw()
    key = session.create(private)
    public = session.create(common | {CKA.CLASS: CKO.PUBLIC_KEY, CKA.EC_POINT: point, CKA.VERIFY: True})
    assert session.whole("Sign", CKM.CLOUDHSM_EDDSA, key, bytes(16000)) == seed.sign(bytes(16000))
    with refused(CKR.DATA_LEN_RANGE):
        session.whole("Sign", CKM.CLOUDHSM_EDDSA, key, bytes(16001))
    prehashed = structure(bytes([1]) + bytes(7), 0, None)
    made = session.parts("Sign", CKM.CLOUDHSM_EDDSA, key, [bytes(50_000)] * 2, prehashed)
    session.verify(CKM.CLOUDHSM_EDDSA, public, bytes(100_000), made, prehashed)
    for wrong in (structure(bytes(8), 0, None), structure(bytes([1]) + bytes(7), 1, ctypes.create_string_buffer(1))):
        with refused(CKR.MECHANISM_PARAM_INVALID):
            session.init("C_SignInit", CKM.CLOUDHSM_EDDSA, key, wrong)
