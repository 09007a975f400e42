"""Many clients at once, with keys of every kind and requests that fail between them: every signature is right, whoever
checks it, every failure is its own, and nothing of that depends on whether requests were computed together."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, utils
from cryptography.hazmat.primitives.asymmetric import padding as rsa_padding
from support.p11 import Module, Session, refused, structure

from hsmsim.fleet.state import ENGINES
from hsmsim.hsm.cryptoki import CKA, CKG, CKK, CKM, CKO, CKR

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Simulator

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = 16
SHA256_INFO = bytes.fromhex("3031300d060960864801650304020105000420")
PSS = structure(CKM.SHA256, CKG.MGF1_SHA256, 32)
OAEP = structure(CKM.SHA256, CKG.MGF1_SHA256, 1, None, 0)
CURVES: dict[str, tuple[str, ec.EllipticCurve, Any]] = {
    "p256": ("06082a8648ce3d030107", ec.SECP256R1(), hashes.SHA256()),
    "p384": ("06052b81040022", ec.SECP384R1(), hashes.SHA384()),
    "p521": ("06052b81040023", ec.SECP521R1(), hashes.SHA512()),
}


@dataclass(frozen=True, slots=True)
class Pair:
    """A key pair in the HSM, its public half for `cryptography`, and its attributes for SoftHSM2."""

    kind: str
    private: int
    key: Any
    public: dict[int, Any]


def make_rsa(session: Session, bits: int) -> Pair:
    public, private = session.pair(
        CKM.RSA_PKCS_KEY_PAIR_GEN,
        {CKA.MODULUS_BITS: bits, CKA.TOKEN: False, CKA.VERIFY: True, CKA.ENCRYPT: True},
        {CKA.SIGN: True, CKA.DECRYPT: True, CKA.TOKEN: False},
    )
    n, e = (session.attribute(public, name) for name in (CKA.MODULUS, CKA.PUBLIC_EXPONENT))
    attributes = {CKA.CLASS: CKO.PUBLIC_KEY, CKA.KEY_TYPE: CKK.RSA, CKA.MODULUS: n.hex(), CKA.PUBLIC_EXPONENT: e.hex()}
    key = rsa.RSAPublicNumbers(int.from_bytes(e), int.from_bytes(n)).public_key()
    return Pair("rsa", private, key, {int(name): value for name, value in attributes.items()})


def make_curve(session: Session, name: str) -> Pair:
    edwards = name == "ed25519"
    params = bytes.fromhex("06032b6570" if edwards else CURVES[name][0])
    public, private = session.pair(
        CKM.EC_EDWARDS_KEY_PAIR_GEN if edwards else CKM.EC_KEY_PAIR_GEN,
        {CKA.EC_PARAMS: params, CKA.TOKEN: False, CKA.VERIFY: True},
        {CKA.SIGN: True, CKA.TOKEN: False},
    )
    point = session.attribute(public, CKA.EC_POINT)
    raw = point[3:] if point[1] == 0x81 else point[2:]  # DER OCTET STRING
    key: Any = (
        ed25519.Ed25519PublicKey.from_public_bytes(raw)
        if edwards
        else ec.EllipticCurvePublicKey.from_encoded_point(CURVES[name][1], raw)
    )
    kind = CKK.EC_EDWARDS if edwards else CKK.EC
    # SoftHSM2 knows Ed25519 by its name alone
    theirs = "130c656477617264733235353139" if edwards else params.hex()
    attributes = {CKA.CLASS: CKO.PUBLIC_KEY, CKA.KEY_TYPE: kind, CKA.EC_PARAMS: theirs, CKA.EC_POINT: point.hex()}
    return Pair(name, private, key, {int(name): value for name, value in attributes.items()})


@dataclass(frozen=True, slots=True)
class Signature:
    """What SoftHSM2 is asked to verify, too."""

    pair: Pair
    mechanism: int
    parameter: bytes | None
    data: bytes
    signature: bytes

    def line(self) -> str:
        parameter = None if self.parameter is None else self.parameter.hex()
        texts = {"data": self.data.hex(), "signature": self.signature.hex(), "parameter": parameter}
        return json.dumps({"public": self.pair.public, "mechanism": int(self.mechanism)} | texts)


def sign_pkcs1(session: Session, pair: Pair, digest: bytes) -> Signature:
    data = SHA256_INFO + digest
    made = session.whole("Sign", CKM.RSA_PKCS, pair.private, data)
    pair.key.verify(made, digest, rsa_padding.PKCS1v15(), utils.Prehashed(hashes.SHA256()))
    return Signature(pair, CKM.RSA_PKCS, None, data, made)


def sign_pss(session: Session, pair: Pair, digest: bytes) -> Signature:
    made = session.whole("Sign", CKM.RSA_PKCS_PSS, pair.private, digest, PSS)
    scheme = rsa_padding.PSS(rsa_padding.MGF1(hashes.SHA256()), 32)
    pair.key.verify(made, digest, scheme, utils.Prehashed(hashes.SHA256()))
    return Signature(pair, CKM.RSA_PKCS_PSS, PSS, digest, made)


def sign_curve(session: Session, pair: Pair, digest: bytes) -> Signature:
    if pair.kind == "ed25519":
        made = session.whole("Sign", CKM.EDDSA, pair.private, digest)
        pair.key.verify(made, digest)
        return Signature(pair, CKM.EDDSA, None, digest, made)
    algorithm = CURVES[pair.kind][2]
    data = (digest * 2)[: algorithm.digest_size]
    made = session.whole("Sign", CKM.ECDSA, pair.private, data)
    r, s = (int.from_bytes(half) for half in (made[: len(made) // 2], made[len(made) // 2 :]))
    pair.key.verify(utils.encode_dss_signature(r, s), data, ec.ECDSA(utils.Prehashed(algorithm)))
    return Signature(pair, CKM.ECDSA, None, data, made)


def decrypt(session: Session, pair: Pair, digest: bytes) -> None:
    oaep = rsa_padding.OAEP(rsa_padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    assert session.whole("Decrypt", CKM.RSA_PKCS_OAEP, pair.private, pair.key.encrypt(digest, oaep), OAEP) == digest
    pkcs1 = pair.key.encrypt(digest, rsa_padding.PKCS1v15())
    assert session.whole("Decrypt", CKM.RSA_PKCS, pair.private, pkcs1) == digest


def fail(session: Session, pair: Pair, digest: bytes) -> None:
    """A request that the HSM refuses only when it has it: above the modulus, or of a wrong length."""
    if pair.kind == "rsa" and digest[0] % 2:
        call = (CKM.RSA_X_509, pair.private, b"\xff" * (pair.key.key_size // 8), None, CKR.DATA_INVALID)
    elif pair.kind == "rsa":
        call = (CKM.RSA_PKCS_PSS, pair.private, digest[1:], PSS, CKR.DATA_LEN_RANGE)
    else:
        call = (CKM.ECDSA, pair.private, b"", None, CKR.DATA_LEN_RANGE)
    kind, key, data, parameter, code = call
    with refused(code):
        session.whole("Sign", kind, key, data, parameter)


def client(session: Session, pairs: list[Pair], seed: int, operations: int) -> list[Signature]:
    chance = random.Random(seed)
    made: list[Signature] = []
    for number in range(operations):
        pair, digest = chance.choice(pairs), hashlib.sha256(f"{seed}/{number}".encode()).digest()
        if chance.random() < 0.1 and pair.kind != "ed25519":
            fail(session, pair, digest)
        elif pair.kind != "rsa":
            made.append(sign_curve(session, pair, digest))
        elif chance.random() < 0.2:
            decrypt(session, pair, digest)
        else:
            made.append(chance.choice((sign_pkcs1, sign_pss))(session, pair, digest))
    return made


def all_clients(module: Module, pairs: list[Pair], operations: int) -> list[Signature]:
    """Each in a thread with a session, and so a ring, of its own."""
    made: list[Signature] = []
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            made.extend(client(module.session(), pairs, seed, operations))
        except BaseException as error:  # noqa: BLE001 - told below, in the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]
    return made


def softhsm_agrees(signatures: list[Signature], folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "support.softhsm_verify", str(folder)],
        input="\n".join(one.line() for one in signatures),
        env=os.environ | {"PYTHONPATH": f"{ROOT / 'tests'}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, str(len(signatures))), done.stderr


@pytest.mark.parametrize("how", [name for name in ENGINES if name != "softhsm"])
@pytest.mark.parametrize("operations", [60, pytest.param(600, marks=pytest.mark.soak)])
def test_mixed_clients(
    new_simulator: Callable[..., Simulator], tmp_path: Path, tell: Callable[[str], None], how: str, operations: int
) -> None:
    simulator = new_simulator(engine=how)
    with Module(simulator.environment) as module:
        session = module.session(simulator.ready.pin)
        pairs = [make_rsa(session, bits) for bits in (2048, 2048, 3072, 4096)]
        pairs += [make_curve(session, name) for name in (*CURVES, "p256", "ed25519")]
        made = all_clients(module, pairs, operations)
    softhsm_agrees(made, tmp_path)
    nonces = [one.signature[:32] for one in made if one.mechanism in {CKM.ECDSA, CKM.RSA_PKCS_PSS}]
    assert len(set(nonces)) == len(nonces)
    tell(f"{len(made)} signatures verified by two other implementations ({how})")
