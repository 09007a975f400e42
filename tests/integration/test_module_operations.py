"""Digests, signatures, MACs and ciphers through the module, whole and in parts, against the `cryptography` package."""

from __future__ import annotations

import ctypes
import json
import os
from typing import TYPE_CHECKING

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import cmac, hashes, hmac, padding
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, utils
from cryptography.hazmat.primitives.asymmetric import padding as rsa_padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from support.p11 import Module, Session, refused, structure

from hsmsim.fleet import modulecfg
from hsmsim.hsm.cryptoki import CKA, CKK, CKM, CKO, CKR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Simulator

HASHES = {
    CKM.SHA_1: hashes.SHA1(),
    CKM.SHA224: hashes.SHA224(),
    CKM.SHA256: hashes.SHA256(),
    CKM.SHA384: hashes.SHA384(),
    CKM.SHA512: hashes.SHA512(),
}
MGF = {CKM.SHA_1: 1, CKM.SHA224: 5, CKM.SHA256: 2, CKM.SHA384: 3, CKM.SHA512: 4}
NAMES = {CKM.SHA_1: "SHA1", CKM.SHA224: "SHA224", CKM.SHA256: "SHA256", CKM.SHA384: "SHA384", CKM.SHA512: "SHA512"}
CURVES = {
    "secp224r1": (ec.SECP224R1(), "06052b81040021"),
    "secp256r1": (ec.SECP256R1(), "06082a8648ce3d030107"),
    "secp384r1": (ec.SECP384R1(), "06052b81040022"),
    "secp521r1": (ec.SECP521R1(), "06052b81040023"),
    "secp256k1": (ec.SECP256K1(), "06052b8104000a"),
}
DATA = bytes(range(256)) * 5
AES = bytes(range(32))
LENGTHS = (0, 1, 15, 16, 17, 1000, 61440, 61457, 200_000)


@pytest.fixture(scope="module", params=modulecfg.TRANSPORTS)
def module(
    request: pytest.FixtureRequest, simulator: Simulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Module]:
    folder = tmp_path_factory.mktemp("transport")
    with Module(simulator.configured(folder, transport=request.param)) as one:
        yield one


@pytest.fixture(scope="module")
def session(module: Module, simulator: Simulator) -> Session:
    return module.session(simulator.ready.pin)


@pytest.fixture(scope="module")
def aes(session: Session) -> int:
    return secret(session, CKK.AES, AES)


def secret(session: Session, kind: CKK, value: bytes, **more: bool) -> int:
    use = ("ENCRYPT", "DECRYPT") if kind is CKK.AES else ()
    values = {CKA[name]: True for name in (*use, "SIGN", "VERIFY")} | {CKA[name]: v for name, v in more.items()}
    return session.create({CKA.CLASS: CKO.SECRET_KEY, CKA.KEY_TYPE: kind, CKA.TOKEN: False, CKA.VALUE: value} | values)


def split(data: bytes, size: int = 777) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


# ---- digests -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", HASHES, ids=lambda kind: kind.name)
def test_digest(session: Session, kind: CKM) -> None:
    digest = hashes.Hash(HASHES[kind])
    digest.update(DATA)
    expected = digest.finalize()
    assert session.whole("Digest", kind, None, DATA) == expected
    assert session.parts("Digest", kind, None, split(DATA)) == expected


# ---- RSA -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rsa_pair(session: Session) -> tuple[int, int, rsa.RSAPublicKey]:
    uses = {CKA.ENCRYPT: True, CKA.VERIFY: True, CKA.VERIFY_RECOVER: True}
    private = {CKA.DECRYPT: True, CKA.SIGN: True, CKA.SIGN_RECOVER: True, CKA.TOKEN: False}
    pair = session.pair(CKM.RSA_PKCS_KEY_PAIR_GEN, {CKA.MODULUS_BITS: 2048, CKA.TOKEN: False} | uses, private)
    numbers = [int.from_bytes(session.attribute(pair[0], name)) for name in (CKA.PUBLIC_EXPONENT, CKA.MODULUS)]
    return (*pair, rsa.RSAPublicNumbers(numbers[0], numbers[1]).public_key())


@pytest.mark.parametrize("hash_", HASHES, ids=lambda kind: kind.name)
@pytest.mark.parametrize("pss", [False, True], ids=["pkcs1", "pss"])
def test_rsa_signatures(
    session: Session, rsa_pair: tuple[int, int, rsa.RSAPublicKey], hash_: CKM, *, pss: bool
) -> None:
    public, private, key = rsa_pair
    kind = CKM[f"{NAMES[hash_]}_RSA_PKCS{'_PSS' if pss else ''}"]
    algorithm = HASHES[hash_]
    parameter = structure(hash_, MGF[hash_], algorithm.digest_size) if pss else None
    scheme = rsa_padding.PSS(rsa_padding.MGF1(algorithm), algorithm.digest_size) if pss else rsa_padding.PKCS1v15()
    for signature in (
        session.whole("Sign", kind, private, DATA, parameter),
        session.parts("Sign", kind, private, split(DATA), parameter),
    ):
        key.verify(signature, DATA, scheme, algorithm)
        session.verify(kind, public, DATA, signature, parameter)
        session.verify_parts(kind, public, split(DATA), signature, parameter)
        with refused(CKR.SIGNATURE_INVALID):
            session.verify(kind, public, DATA + b"!", signature, parameter)


def test_rsa_raw_signatures(session: Session, rsa_pair: tuple[int, int, rsa.RSAPublicKey]) -> None:
    public, private, key = rsa_pair
    digest = session.whole("Digest", CKM.SHA256, None, DATA)
    info = bytes.fromhex("3031300d060960864801650304020105000420") + digest
    signature = session.whole("Sign", CKM.RSA_PKCS, private, info)
    key.verify(signature, DATA, rsa_padding.PKCS1v15(), hashes.SHA256())
    session.verify(CKM.RSA_PKCS, public, info, signature)
    pss = structure(CKM.SHA256, MGF[CKM.SHA256], 32)
    signature = session.whole("Sign", CKM.RSA_PKCS_PSS, private, digest, pss)
    scheme = rsa_padding.PSS(rsa_padding.MGF1(hashes.SHA256()), 32)
    key.verify(signature, digest, scheme, utils.Prehashed(hashes.SHA256()))
    with refused(CKR.DATA_LEN_RANGE):
        session.whole("Sign", CKM.RSA_PKCS_PSS, private, digest[1:], pss)
    with refused(CKR.DATA_LEN_RANGE):
        session.whole("Sign", CKM.RSA_PKCS, private, bytes(246))
    block = b"\0\1" + b"\xff" * (256 - 3 - len(info)) + b"\0" + info
    assert session.whole("Sign", CKM.RSA_X_509, private, block) == session.whole("Sign", CKM.RSA_PKCS, private, info)


def test_sign_recover(session: Session, rsa_pair: tuple[int, int, rsa.RSAPublicKey]) -> None:
    public, private, _ = rsa_pair
    session.init("C_SignRecoverInit", CKM.RSA_PKCS, private)
    signature = session.produce("C_SignRecover", b"recover me", 10)
    assert signature == session.whole("Sign", CKM.RSA_PKCS, private, b"recover me")
    session.init("C_VerifyRecoverInit", CKM.RSA_PKCS, public)
    assert session.size("C_VerifyRecover", signature, len(signature)) >= 10
    assert session.produce("C_VerifyRecover", signature, len(signature)) == b"recover me"
    session.init("C_VerifyRecoverInit", CKM.RSA_PKCS, public)
    with refused(CKR.SIGNATURE_INVALID):
        session.produce("C_VerifyRecover", bytes([signature[0] ^ 1]) + signature[1:], len(signature))


def test_rsa_encryption(session: Session, rsa_pair: tuple[int, int, rsa.RSAPublicKey]) -> None:
    public, private, key = rsa_pair
    assert (
        session.whole("Decrypt", CKM.RSA_PKCS, private, key.encrypt(b"message", rsa_padding.PKCS1v15())) == b"message"
    )
    sealed = session.whole("Encrypt", CKM.RSA_PKCS, public, b"message")
    assert session.whole("Decrypt", CKM.RSA_PKCS, private, sealed) == b"message"
    label = ctypes.create_string_buffer(b"label", 5)
    for mgf in (CKM.SHA_1, CKM.SHA256):
        oaep = structure(CKM.SHA256, MGF[mgf], 1, label, 5)
        scheme = rsa_padding.OAEP(rsa_padding.MGF1(HASHES[mgf]), hashes.SHA256(), b"label")
        assert session.whole("Decrypt", CKM.RSA_PKCS_OAEP, private, key.encrypt(b"message", scheme), oaep) == b"message"
        sealed = session.whole("Encrypt", CKM.RSA_PKCS_OAEP, public, b"message", oaep)
        assert session.whole("Decrypt", CKM.RSA_PKCS_OAEP, private, sealed, oaep) == b"message"
    with refused(CKR.FUNCTION_NOT_SUPPORTED):
        session.parts("Encrypt", CKM.RSA_PKCS, public, [b"message"])


# ---- elliptic curves -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CURVES)
def test_ecdsa(session: Session, name: str) -> None:
    curve, oid = CURVES[name]
    public, private = session.pair(
        CKM.EC_KEY_PAIR_GEN,
        {CKA.EC_PARAMS: bytes.fromhex(oid), CKA.VERIFY: True, CKA.TOKEN: False},
        {CKA.SIGN: True, CKA.TOKEN: False},
    )
    field = (curve.key_size + 7) // 8
    key = ec.EllipticCurvePublicKey.from_encoded_point(curve, session.attribute(public, CKA.EC_POINT)[-2 * field - 1 :])
    for hash_, algorithm in HASHES.items():
        kind = CKM[f"ECDSA_{NAMES[hash_]}"]
        for signature in (
            session.whole("Sign", kind, private, DATA),
            session.parts("Sign", kind, private, split(DATA)),
        ):
            assert len(signature) == 2 * field
            numbers = (int.from_bytes(signature[:field]), int.from_bytes(signature[field:]))
            key.verify(utils.encode_dss_signature(*numbers), DATA, ec.ECDSA(algorithm))
            session.verify_parts(kind, public, split(DATA), signature)
            with refused(CKR.SIGNATURE_INVALID):
                session.verify(kind, public, DATA[1:], signature)
            with refused(CKR.SIGNATURE_LEN_RANGE):
                session.verify(kind, public, DATA, signature + b"\0")
    digest = session.whole("Digest", CKM.SHA256, None, DATA)
    session.verify(CKM.ECDSA_SHA256, public, DATA, session.whole("Sign", CKM.ECDSA, private, digest))
    with refused(CKR.KEY_FUNCTION_NOT_PERMITTED):
        session.init("C_SignInit", CKM.ECDSA, public)
    with refused(CKR.KEY_TYPE_INCONSISTENT):
        session.init("C_SignInit", CKM.RSA_PKCS, private)


def test_ed25519(session: Session) -> None:
    public, private = session.pair(
        CKM.EC_EDWARDS_KEY_PAIR_GEN,
        {CKA.EC_PARAMS: bytes.fromhex("06032b6570"), CKA.VERIFY: True, CKA.TOKEN: False},
        {CKA.SIGN: True, CKA.TOKEN: False},
    )
    key = ed25519.Ed25519PublicKey.from_public_bytes(session.attribute(public, CKA.EC_POINT)[-32:])
    signature = session.whole("Sign", CKM.EDDSA, private, DATA)
    key.verify(signature, DATA)
    session.verify(CKM.EDDSA, public, DATA, signature)
    with refused(CKR.FUNCTION_NOT_SUPPORTED):
        session.parts("Sign", CKM.EDDSA, private, [DATA])
    prehashed = structure(bytes([1]) + bytes(7), 0, None)
    signature = session.whole("Sign", CKM.EDDSA, private, DATA, prehashed)
    assert session.parts("Sign", CKM.EDDSA, private, split(DATA), prehashed) == signature
    session.verify_parts(CKM.EDDSA, public, split(DATA), signature, prehashed)
    with pytest.raises(InvalidSignature):
        key.verify(signature, DATA)


# ---- MACs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("hash_", HASHES, ids=lambda kind: kind.name)
def test_hmac(session: Session, hash_: CKM, length: int) -> None:
    key = secret(session, CKK.GENERIC_SECRET, b"k" * 40)
    data = os.urandom(length)
    mac = hmac.HMAC(b"k" * 40, HASHES[hash_])
    mac.update(data)
    expected = mac.finalize()
    kind = CKM[f"{hash_.name}_HMAC"]
    assert session.whole("Sign", kind, key, data) == expected
    assert session.parts("Sign", kind, key, split(data, 30_000)) == expected
    assert session.whole("Sign", CKM[f"{hash_.name}_HMAC_GENERAL"], key, data, structure(7)) == expected[:7]
    session.verify(kind, key, data, expected)
    session.verify_parts(kind, key, split(data, 30_000), expected)
    with refused(CKR.SIGNATURE_INVALID):
        session.verify_parts(kind, key, [*split(data, 30_000), b"more"], expected)


@pytest.mark.parametrize("length", LENGTHS)
def test_cmac(session: Session, aes: int, length: int) -> None:
    data = os.urandom(length)
    mac = cmac.CMAC(algorithms.AES(AES))
    mac.update(data)
    expected = mac.finalize()
    assert session.whole("Sign", CKM.AES_CMAC, aes, data) == expected
    assert session.parts("Sign", CKM.AES_CMAC, aes, split(data, 30_000)) == expected
    session.verify_parts(CKM.AES_CMAC, aes, split(data, 50_000), expected)


def test_a_dropped_stream_is_gone(session: Session) -> None:
    key = secret(session, CKK.GENERIC_SECRET, b"k" * 40)
    for _ in range(1100):  # more than the HSM keeps of one client
        session.init("C_SignInit", CKM.SHA256_HMAC, key)
        session.call("C_SignUpdate", bytes(61441), 61441)
        session.call("C_SignInit", None, 0)


# ---- AES -----------------------------------------------------------------------------------------------------------


def expected_cipher(kind: CKM, data: bytes, iv: bytes) -> bytes:
    mode: modes.Mode = modes.ECB()
    if kind in {CKM.AES_CBC, CKM.AES_CBC_PAD}:
        mode = modes.CBC(iv)
    elif kind is CKM.AES_CTR:
        mode = modes.CTR(iv)
    if kind is CKM.AES_CBC_PAD:
        padder = padding.PKCS7(128).padder()
        data = padder.update(data) + padder.finalize()
    encryptor = Cipher(algorithms.AES(AES), mode).encryptor()
    return encryptor.update(data) + encryptor.finalize()


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("kind", [CKM.AES_ECB, CKM.AES_CBC, CKM.AES_CBC_PAD, CKM.AES_CTR], ids=lambda kind: kind.name)
def test_aes(session: Session, aes: int, kind: CKM, length: int) -> None:
    length -= length % 16 if kind in {CKM.AES_ECB, CKM.AES_CBC} else 0
    data, iv = os.urandom(length), os.urandom(16)
    parameter = {CKM.AES_ECB: None, CKM.AES_CTR: structure(128, iv)}.get(kind, iv)
    expected = expected_cipher(kind, data, iv)
    assert session.whole("Encrypt", kind, aes, data, parameter) == expected
    assert session.whole("Decrypt", kind, aes, expected, parameter) == data
    for size in (7, 16, 100, 70_000):
        if length < 2000 or size > 1000:
            assert session.parts("Encrypt", kind, aes, split(data, size), parameter) == expected
            assert session.parts("Decrypt", kind, aes, split(expected, size), parameter) == data


def test_aes_lengths(session: Session, aes: int) -> None:
    iv = bytes(16)
    for kind, parameter in ((CKM.AES_ECB, None), (CKM.AES_CBC, iv)):
        with refused(CKR.DATA_LEN_RANGE):
            session.whole("Encrypt", kind, aes, bytes(17), parameter)
        with refused(CKR.DATA_LEN_RANGE):
            session.parts("Encrypt", kind, aes, [bytes(17)], parameter)
        with refused(CKR.ENCRYPTED_DATA_LEN_RANGE):
            session.whole("Decrypt", kind, aes, bytes(70_001), parameter)
    with refused(CKR.ENCRYPTED_DATA_LEN_RANGE):
        session.whole("Decrypt", CKM.AES_CBC_PAD, aes, b"", iv)
    with refused(CKR.ENCRYPTED_DATA_INVALID):
        session.parts("Decrypt", CKM.AES_CBC_PAD, aes, [bytes(48)], iv)
    for kind in (CKM.AES_CBC, CKM.AES_CTR, CKM.AES_GCM):
        with refused(CKR.MECHANISM_PARAM_INVALID):
            session.init("C_EncryptInit", kind, aes, bytes(15))


def test_gcm(session: Session, aes: int) -> None:
    data, aad = os.urandom(100_000), os.urandom(500)
    iv, more = ctypes.create_string_buffer(os.urandom(12), 12), ctypes.create_string_buffer(aad, 500)
    parameter = structure(iv, 12, 96, more, 500, 128)
    expected = AESGCM(AES).encrypt(iv.raw, data, aad)
    assert session.whole("Encrypt", CKM.AES_GCM, aes, data, parameter) == expected
    assert session.parts("Encrypt", CKM.AES_GCM, aes, split(data, 9000), parameter) == expected
    assert session.whole("Decrypt", CKM.AES_GCM, aes, expected, parameter) == data
    assert session.parts("Decrypt", CKM.AES_GCM, aes, split(expected, 9000), parameter) == data
    for broken in (expected[:-1] + bytes([expected[-1] ^ 1]), b"!" + expected[1:], expected[:-1]):
        with refused(CKR.ENCRYPTED_DATA_INVALID):
            session.whole("Decrypt", CKM.AES_GCM, aes, broken, parameter)
        with refused(CKR.ENCRYPTED_DATA_INVALID):
            session.parts("Decrypt", CKM.AES_GCM, aes, [broken], parameter)
    vendor = structure(None, 0, 0, more, 500, 128)
    sealed = session.whole("Encrypt", CKM.CLOUDHSM_AES_GCM, aes, data, vendor)
    assert AESGCM(AES).decrypt(sealed[:12], sealed[12:], aad) == data
    assert session.whole("Decrypt", CKM.CLOUDHSM_AES_GCM, aes, sealed, vendor) == data


# ---- states --------------------------------------------------------------------------------------------------------


def test_dual_functions(session: Session, aes: int) -> None:
    session.init("C_DigestInit", CKM.SHA256, None)
    session.init("C_EncryptInit", CKM.AES_CBC, aes, bytes(16))
    data = bytes(1280)
    sealed = b"".join(session.produce("C_DigestEncryptUpdate", part, len(part)) for part in split(data, 320))
    digest = session.produce("C_DigestFinal")
    assert session.produce("C_EncryptFinal") == b""
    assert sealed == expected_cipher(CKM.AES_CBC, data, bytes(16))
    assert digest == session.whole("Digest", CKM.SHA256, None, data)
    session.init("C_DigestInit", CKM.SHA256, None)
    session.init("C_DecryptInit", CKM.AES_CBC, aes, bytes(16))
    assert session.produce("C_DecryptDigestUpdate", sealed, len(sealed)) == data
    assert session.produce("C_DigestFinal") == digest
    session.produce("C_DecryptFinal")


def test_operation_state_is_not_given_out(session: Session) -> None:
    with refused(CKR.OPERATION_NOT_INITIALIZED):
        session.size("C_GetOperationState")
    session.init("C_DigestInit", CKM.SHA256, None)
    with refused(CKR.STATE_UNSAVEABLE):
        session.size("C_GetOperationState")
    session.call("C_DigestInit", None)


def test_keys_are_checked_at_init(session: Session, aes: int) -> None:
    with refused(CKR.KEY_HANDLE_INVALID):
        session.init("C_SignInit", CKM.ECDSA, 0xFFFFFFFF)
    with refused(CKR.KEY_TYPE_INCONSISTENT):
        session.init("C_SignInit", CKM.ECDSA, aes)
    with refused(CKR.MECHANISM_INVALID):
        session.init("C_SignInit", CKM.AES_CBC, aes, bytes(16))
    only_padded = session.create(
        {
            CKA.CLASS: CKO.SECRET_KEY,
            CKA.KEY_TYPE: CKK.AES,
            CKA.TOKEN: False,
            CKA.VALUE: AES,
            CKA.ENCRYPT: True,
            CKA.DECRYPT: True,
            CKA.SIGN: False,
            CKA.ALLOWED_MECHANISMS: int(CKM.AES_CBC_PAD).to_bytes(8, "little"),
        }
    )
    with refused(CKR.MECHANISM_INVALID):
        session.init("C_EncryptInit", CKM.AES_CBC, only_padded, bytes(16))
    with refused(CKR.KEY_FUNCTION_NOT_PERMITTED):
        session.init("C_SignInit", CKM.AES_CMAC, only_padded)
    sealed = session.parts("Encrypt", CKM.AES_CBC_PAD, only_padded, split(DATA), bytes(16))
    assert sealed == expected_cipher(CKM.AES_CBC_PAD, DATA, bytes(16))
    assert session.parts("Decrypt", CKM.AES_CBC_PAD, only_padded, split(sealed), bytes(16)) == DATA


def test_each_session_has_its_own_operations(module: Module, session: Session, aes: int) -> None:
    other = module.session()
    session.init("C_EncryptInit", CKM.AES_CTR, aes, structure(128, bytes(16)))
    other.init("C_EncryptInit", CKM.AES_CTR, aes, structure(128, bytes(15) + b"\1"))
    first = session.produce("C_EncryptUpdate", bytes(20), 20)
    second = other.produce("C_EncryptUpdate", bytes(20), 20)
    assert first[16:] == second[:4]
    other.call("C_CloseSession")
    assert first + session.produce("C_EncryptUpdate", bytes(20), 20) == expected_cipher(
        CKM.AES_CTR, bytes(40), bytes(16)
    )
    session.produce("C_EncryptFinal")


def test_a_private_key_is_of_no_use_after_logout(simulator: Simulator) -> None:
    with Module(simulator.environment) as module:
        session = module.session(simulator.ready.pin)
        private = session.pair(
            CKM.EC_KEY_PAIR_GEN,
            {CKA.EC_PARAMS: bytes.fromhex(CURVES["secp256r1"][1]), CKA.TOKEN: False},
            {CKA.SIGN: True, CKA.TOKEN: False},
        )[1]
        session.init("C_SignInit", CKM.ECDSA, private)
        session.call("C_Logout")
        with refused(CKR.OPERATION_NOT_INITIALIZED):
            session.produce("C_Sign", bytes(32), 32)
        with refused(CKR.KEY_HANDLE_INVALID):
            session.init("C_SignInit", CKM.ECDSA, private)


# ---- the cloudhsm profile ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def aws(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    config = json.loads(simulator.places.module_config.read_text())
    config["hsmsim"]["profile"] = "cloudhsm"
    path = tmp_path_factory.mktemp("profile") / "pkcs11.cfg"
    path.write_text(json.dumps(config))
    with Module({**simulator.environment, "HSMSIM_PKCS11_CONFIG": str(path)}) as one:
        yield one.session(simulator.ready.pin)


@pytest.fixture(scope="module")
def aws_aes(aws: Session) -> int:
    return secret(aws, CKK.AES, AES)


def test_the_hsm_makes_the_iv(aws: Session, aws_aes: int) -> None:
    iv = ctypes.create_string_buffer(12)
    parameter = structure(iv, 12, 96, None, 0, 128)
    sealed = aws.whole("Encrypt", CKM.AES_GCM, aws_aes, DATA, parameter)
    assert iv.raw != bytes(12)
    assert AESGCM(AES).decrypt(iv.raw, sealed, b"") == DATA
    assert aws.whole("Decrypt", CKM.AES_GCM, aws_aes, sealed, parameter) == DATA
    assert aws.whole("Encrypt", CKM.AES_GCM, aws_aes, DATA, parameter) != sealed
    vendor = structure(None, 0, 0, None, 0, 128)
    sealed = aws.whole("Encrypt", CKM.CLOUDHSM_AES_GCM, aws_aes, DATA, vendor)
    assert AESGCM(AES).decrypt(sealed[:12], sealed[12:], b"") == DATA
    assert aws.whole("Decrypt", CKM.CLOUDHSM_AES_GCM, aws_aes, sealed, vendor) == DATA
    with refused(CKR.MECHANISM_PARAM_INVALID):
        aws.init("C_EncryptInit", CKM.CLOUDHSM_AES_GCM, aws_aes, parameter)


def test_what_aws_refuses(aws: Session, aws_aes: int) -> None:
    iv = ctypes.create_string_buffer(12)
    parameter = structure(iv, 12, 96, None, 0, 128)
    for what in ("Encrypt", "Decrypt"):
        with refused(CKR.MECHANISM_INVALID):
            aws.parts(what, CKM.AES_GCM, aws_aes, [bytes(32)], parameter)
    with refused(CKR.DATA_LEN_RANGE):
        aws.whole("Encrypt", CKM.AES_GCM, aws_aes, bytes(16225), parameter)
    with refused(CKR.DATA_LEN_RANGE):
        aws.whole("Encrypt", CKM.AES_CBC, aws_aes, bytes(16288), bytes(16))
    with refused(CKR.MECHANISM_INVALID):
        aws.init("C_SignInit", CKM.AES_CMAC_GENERAL, aws_aes, structure(8))
    for name in ("C_SignRecoverInit", "C_VerifyRecoverInit"):
        with refused(CKR.FUNCTION_NOT_SUPPORTED):
            aws.init(name, CKM.RSA_PKCS, aws_aes)
    with refused(CKR.FUNCTION_NOT_SUPPORTED):
        aws.size("C_GetOperationState")


# ---- an HSM that goes ----------------------------------------------------------------------------------------------


def test_operations_over_a_failover(new_simulator: Callable[..., Simulator]) -> None:
    one = new_simulator()
    with Module(one.environment) as module:
        session, *_ = module.session(one.ready.pin), module.session(), module.session()
        values = {CKA.CLASS: CKO.SECRET_KEY, CKA.TOKEN: True, CKA.SIGN: True, CKA.ENCRYPT: True}
        aes = session.create(values | {CKA.KEY_TYPE: CKK.AES, CKA.VALUE: AES})
        key = session.create(values | {CKA.KEY_TYPE: CKK.GENERIC_SECRET, CKA.VALUE: b"k" * 40, CKA.ENCRYPT: False})
        session.init("C_SignInit", CKM.SHA256_HMAC, key)
        session.call("C_SignUpdate", bytes(70_000), 70_000)
        session.init("C_EncryptInit", CKM.AES_CBC, aes, bytes(16))
        first = session.produce("C_EncryptUpdate", DATA, len(DATA))
        one.kill(one.home())
        # the chaining block is the client's: the other HSM goes on
        assert first + session.produce("C_EncryptUpdate", DATA, len(DATA)) == expected_cipher(
            CKM.AES_CBC, DATA + DATA, bytes(16)
        )
        session.produce("C_EncryptFinal")
        # the stream was the dead HSM's
        with refused(CKR.DEVICE_ERROR):
            session.call("C_SignUpdate", bytes(70_000), 70_000)
        with refused(CKR.OPERATION_NOT_INITIALIZED):
            session.produce("C_SignFinal")
        mac = hmac.HMAC(b"k" * 40, hashes.SHA256())
        mac.update(bytes(70_000))
        assert session.parts("Sign", CKM.SHA256_HMAC, key, split(bytes(70_000), 20_000)) == mac.finalize()
