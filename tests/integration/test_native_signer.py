"""hsmsim.native: many signatures in one call, each of them right whoever checks it, whatever fails beside it."""

from __future__ import annotations

import hashlib
import hmac
import os
import random
import secrets
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.asymmetric import padding as rsa_padding
from support.p11 import Module, Session

from hsmsim.errors import CkrError, HsmsimError
from hsmsim.hsm.cryptoki import CKA, CKK, CKM, CKO, CKR
from hsmsim.native import Key, Signer, SigningError, SignRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Simulator

SHA256 = utils.Prehashed(hashes.SHA256())
PSS = rsa_padding.PSS(rsa_padding.MGF1(hashes.SHA256()), 32)
CURVES = {"p256": "06082a8648ce3d030107", "p384": "06052b81040022", "ed25519": "06032b6570"}
SECRET = bytes(range(32))


@dataclass(frozen=True, slots=True)
class Keys:
    """Labels of key pairs in the HSM, and their public halves by kind; `hmac` is SECRET."""

    prefix: str
    public: dict[str, Any]

    def label(self, kind: str) -> str:
        return f"{self.prefix}-{kind}"


def make_pair(session: Session, kind: str, label: str) -> tuple[int, int]:
    private = {CKA.SIGN: True, CKA.TOKEN: True, CKA.LABEL: label}
    if kind.startswith("rsa"):
        public = {CKA.MODULUS_BITS: int(kind[3:]), CKA.TOKEN: True, CKA.LABEL: label}
        return session.pair(CKM.RSA_PKCS_KEY_PAIR_GEN, public, private)
    curve = {CKA.EC_PARAMS: bytes.fromhex(CURVES[kind]), CKA.TOKEN: True, CKA.LABEL: label}
    generator = CKM.EC_EDWARDS_KEY_PAIR_GEN if kind == "ed25519" else CKM.EC_KEY_PAIR_GEN
    return session.pair(generator, curve, private)


def make_keys(session: Session, kinds: tuple[str, ...], made: list[int]) -> Keys:
    keys = Keys(f"signer-{secrets.token_hex(4)}", {})
    for kind in kinds:
        pair = make_pair(session, kind, keys.label(kind))
        made += pair
        keys.public[kind] = serialization.load_der_public_key(session.attribute(pair[0], CKA.PUBLIC_KEY_INFO))
    return keys


@pytest.fixture(scope="module")
def keys(simulator: Simulator) -> Iterator[Keys]:
    made: list[int] = []
    with Module(simulator.environment) as module:
        session = module.session(simulator.ready.pin)
        try:
            keys = make_keys(session, ("rsa2048", "rsa3072", "p256", "p384", "ed25519"), made)
            made.append(session.create({
                CKA.CLASS: CKO.SECRET_KEY, CKA.KEY_TYPE: CKK.GENERIC_SECRET, CKA.VALUE: SECRET, CKA.SIGN: True,
                CKA.TOKEN: True, CKA.LABEL: keys.label("hmac"), CKA.ID: keys.prefix.encode(),
            }))  # fmt: skip
            yield keys
        finally:
            session.destroy(*made)


@pytest.fixture
def signer(simulator: Simulator) -> Iterator[Signer]:
    with Signer(simulator.ready.module_config, pin=simulator.ready.pin, token=simulator.ready.token) as one:
        yield one


def verify(public: Any, kind: str, mechanism: CKM | None, data: bytes, signature: bytes) -> None:
    """`data` is a SHA-256 digest, or for Ed25519 and HMAC the message."""
    if kind == "hmac":
        assert signature == hmac.digest(SECRET, data, "sha256")
    elif kind == "ed25519":
        public.verify(signature, data)
    elif kind.startswith("rsa"):
        scheme = PSS if mechanism is CKM.SHA256_RSA_PKCS_PSS else rsa_padding.PKCS1v15()
        public.verify(signature, data, scheme, SHA256)
    else:
        half = len(signature) // 2
        r, s = (int.from_bytes(part) for part in (signature[:half], signature[half:]))
        public.verify(utils.encode_dss_signature(r, s), data, ec.ECDSA(SHA256))


def digests(count: int, salt: object = "") -> list[bytes]:
    return [hashlib.sha256(f"{salt}/{number}".encode()).digest() for number in range(count)]


# ---- signatures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "mechanism"),
    [
        ("rsa2048", None),
        ("rsa2048", CKM.SHA256_RSA_PKCS_PSS),
        ("rsa3072", None),
        ("p256", None),
        ("p384", None),
        ("ed25519", None),
        ("hmac", None),
    ],
    ids=lambda value: getattr(value, "name", value) or "",
)
def test_every_signature_verifies(signer: Signer, keys: Keys, kind: str, mechanism: CKM | None) -> None:
    wanted = digests(100, kind)
    made = signer.sign_many(signer.key(label=keys.label(kind)), wanted, mechanism)
    assert len(made) == len(wanted)
    for data, signature in zip(wanted, made, strict=True):
        verify(keys.public.get(kind), kind, mechanism, data, signature)


def test_a_signature_fits_its_own_digest_only(signer: Signer, keys: Keys) -> None:
    first, second = digests(2)
    made = signer.sign_many(signer.key(label=keys.label("p256")), [first, second])
    with pytest.raises(InvalidSignature):
        verify(keys.public["p256"], "p256", None, second, made[0])


def test_messages_are_hashed_here_and_long_macs_are_streamed(signer: Signer, keys: Keys) -> None:
    texts = [b"", b"text", b"long" * 30_000]
    rsa = signer.sign_many(signer.key(label=keys.label("rsa2048")), texts, CKM.SHA256_RSA_PKCS, messages=True)
    for text, signature in zip(texts, rsa, strict=True):
        keys.public["rsa2048"].verify(signature, text, rsa_padding.PKCS1v15(), hashes.SHA256())
    macs = signer.sign_many(signer.key(id=keys.prefix.encode()), texts * 12)
    assert macs == [hmac.digest(SECRET, text, "sha256") for text in texts] * 12


def test_mixed_keys_and_failures_between_them(signer: Signer, keys: Keys) -> None:
    """Items that fail here, in the HSM, or name no key."""
    rng = random.Random(7)
    kinds = ["rsa2048", "rsa3072", "p256", "p384", "ed25519", "hmac"]
    found = {kind: signer.key(label=keys.label(kind)) for kind in kinds}
    nobody = Key(0x7FFFFFFF, CKK.EC)
    failing = {
        CKR.KEY_HANDLE_INVALID: SignRequest(nobody, bytes(32)),
        CKR.DATA_LEN_RANGE: SignRequest(found["rsa2048"], bytes(31)),
        CKR.MECHANISM_PARAM_INVALID: SignRequest(found["rsa2048"], bytes(32), CKM.SHA256_RSA_PKCS_PSS, b"short"),
        CKR.KEY_TYPE_INCONSISTENT: SignRequest(found["p256"], bytes(32), CKM.SHA256_RSA_PKCS),
    }
    asked: list[tuple[str | CKR, SignRequest]] = []
    for data in digests(600, "mixed"):
        if rng.random() < 0.1:
            asked.append(rng.choice(list(failing.items())))
        else:
            kind = rng.choice(kinds)
            mechanism = CKM.SHA256_RSA_PKCS_PSS if kind == "rsa3072" else None
            asked.append((kind, SignRequest(found[kind], data, mechanism)))
    with pytest.raises(SigningError, match=r"of 600 signatures were refused \(item \d+: CKR_") as caught:
        signer.sign_each([request for _, request in asked])
    assert caught.value.errors == {at: kind for at, (kind, _) in enumerate(asked) if isinstance(kind, CKR)}
    for (kind, request), signature in zip(asked, caught.value.signatures, strict=True):
        if isinstance(kind, CKR):
            assert signature is None
        else:
            assert signature is not None
            verify(keys.public.get(kind), kind, request.mechanism, request.data, signature)


def test_nothing_asked_is_nothing_signed(signer: Signer, keys: Keys) -> None:
    assert signer.sign_many(signer.key(label=keys.label("p256")), []) == []


# ---- one caller, many requests -----------------------------------------------------------------------------------


def test_one_call_has_sixteen_requests_in_shared_memory(signer: Signer, keys: Keys) -> None:
    def rings() -> int:
        with open("/proc/self/maps", encoding="utf-8") as maps:  # noqa: PTH123 - not a path of ours
            return maps.read().count("memfd:hsmsim-ring")

    before, key = rings(), signer.key(label=keys.label("rsa2048"))
    signer.sign_many(key, digests(1))
    assert rings() == before + 1
    signer.sign_many(key, digests(64))
    assert rings() == before + 16


def test_without_shared_memory_the_socket_signs(simulator: Simulator, keys: Keys, tmp_path: Path) -> None:
    config = simulator.configured(tmp_path, transport="socket")["HSMSIM_PKCS11_CONFIG"]
    with Signer(config, pin=simulator.ready.pin) as signer:
        for data, one in zip(d := digests(40), signer.sign_many(signer.key(label=keys.label("p256")), d), strict=True):
            verify(keys.public["p256"], "p256", None, data, one)


def test_threads_share_a_signer_and_python_runs_meanwhile(signer: Signer, keys: Keys) -> None:
    """More threads than connections: each waits for some of another's, none for ever. The main thread counts."""
    kinds = ["rsa2048", "p256", "p384", "ed25519"]
    found = {kind: signer.key(label=keys.label(kind)) for kind in kinds}
    failures: list[BaseException] = []

    def work(number: int) -> None:
        kind = kinds[number % len(kinds)]
        try:
            for turn in range(3):
                wanted = digests(60, f"{number}/{turn}")
                for data, one in zip(wanted, signer.sign_many(found[kind], wanted), strict=True):
                    verify(keys.public[kind], kind, None, data, one)
        except BaseException as error:  # noqa: BLE001 - told below, in the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    assert not failures


def test_the_interpreter_is_free_during_a_call(signer: Signer, keys: Keys) -> None:
    """One long call; this thread goes on all the while."""
    key, wanted = signer.key(label=keys.label("rsa3072")), digests(800)
    begun, done = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        signer.sign_many(key, wanted)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(30)
    turns = 0
    while not done.wait(0.001):
        turns += 1
    thread.join(60)
    assert turns > 20


def test_a_hsm_killed_in_mid_call_costs_no_signature_and_without_any_the_rest_is_not_tried(
    new_simulator: Callable[..., Simulator],
) -> None:
    simulator, kinds = new_simulator(), ("rsa2048", "p256")
    with Module(simulator.environment) as module:
        keys = make_keys(module.session(simulator.ready.pin), kinds, [])
    with Signer(simulator.ready.module_config, pin=simulator.ready.pin) as signer:
        found = {kind: signer.key(label=keys.label(kind)) for kind in kinds}
        wanted = [(kinds[at % 2], data) for at, data in enumerate(digests(12_000))]
        made: list[bytes] = []
        thread = threading.Thread(
            target=lambda: made.extend(signer.sign_each([SignRequest(found[kind], data) for kind, data in wanted]))
        )
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        simulator.kill(0)
        thread.join(120)
        assert len(made) == len(wanted)
        for (kind, data), signature in zip(wanted, made, strict=True):
            verify(keys.public[kind], kind, None, data, signature)
        simulator.kill(1)
        with pytest.raises(SigningError) as caught:
            signer.sign_many(found["p256"], digests(500))
    assert set(caught.value.errors.values()) <= {CKR.DEVICE_ERROR, CKR.DEVICE_REMOVED, CKR.TOKEN_NOT_PRESENT}
    assert len(caught.value.errors) == 500


# ---- whose it is -------------------------------------------------------------------------------------------------


def test_a_forked_child_makes_a_signer_of_its_own(simulator: Simulator, signer: Signer, keys: Keys) -> None:
    key = signer.key(label=keys.label("p256"))
    signer.sign_many(key, digests(20))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            try:
                signer.sign_many(key, digests(1))
            except CkrError as error:
                code = 0 if error.rv == CKR.CRYPTOKI_NOT_INITIALIZED else 2
            signer.close()
            with Signer(simulator.ready.module_config, pin=simulator.ready.pin) as own:
                for data, one in zip(d := digests(20), own.sign_many(key, d), strict=True):
                    verify(keys.public["p256"], "p256", None, data, one)
        except BaseException:  # noqa: BLE001 - a child of pytest must not go on as pytest
            code = 3
        os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert len(signer.sign_many(key, digests(20))) == 20


def test_a_process_has_one_signer_at_a_time(simulator: Simulator, signer: Signer) -> None:
    with pytest.raises(HsmsimError, match="has an open Signer"):
        Signer(simulator.ready.module_config, pin=simulator.ready.pin)
    signer.close()
    with pytest.raises(CkrError) as caught:
        signer.key(label="any")
    assert caught.value.rv == CKR.CRYPTOKI_NOT_INITIALIZED
    with Signer(simulator.ready.module_config, pin=simulator.ready.pin):
        pass


def test_what_it_refuses_it_names(simulator: Simulator, keys: Keys, tmp_path: Path) -> None:
    config = simulator.ready.module_config
    with pytest.raises(CkrError, match=r"nowhere\.cfg cannot be opened"):
        Signer(tmp_path / "nowhere.cfg", pin="a:b")
    with pytest.raises(CkrError, match="CKR_TOKEN_NOT_PRESENT"):
        Signer(config, pin=simulator.ready.pin, token="another")
    with pytest.raises(CkrError, match="CKR_PIN_INCORRECT"):
        Signer(config, pin="without a colon")
    with Signer(config, pin=simulator.ready.pin) as signer:
        with pytest.raises(CkrError, match="no key that may sign has label 'none'"):
            signer.key(label="none")
        with pytest.raises(CkrError, match="several keys that may sign"):
            signer.key()
        assert signer.key(label=keys.label("hmac"), id=keys.prefix.encode()).type is CKK.GENERIC_SECRET
