"""Many threads with sessions of their own, and processes that fork with the module loaded."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from conftest import ROOT
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from support.p11 import Module, refused

from hsmsim.hsm.cryptoki import CKA, CKK, CKM, CKO, CKR

if TYPE_CHECKING:
    from conftest import Simulator

THREADS = 16
P256 = bytes.fromhex("06082a8648ce3d030107")


def _rounds(module: Module, number: int, count: int) -> None:
    """What one thread does, in a session that it opens and closes: nothing may be another thread's."""
    for at in range(count):
        session, text = module.session(), f"{number}/{at}".encode()
        public, private = session.pair(
            CKM.EC_KEY_PAIR_GEN, {CKA.EC_PARAMS: P256, CKA.LABEL: text}, {CKA.SIGN: True, CKA.LABEL: text}
        )
        key = session.create(
            {CKA.CLASS: CKO.SECRET_KEY, CKA.KEY_TYPE: CKK.AES, CKA.VALUE: text.ljust(16), CKA.ENCRYPT: True}
        )
        point = session.attribute(public, CKA.EC_POINT)[-65:]
        verifier = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
        for _ in range(4):
            made = session.whole("Sign", CKM.ECDSA_SHA256, private, text)
            encoded = utils.encode_dss_signature(int.from_bytes(made[:32]), int.from_bytes(made[32:]))
            verifier.verify(encoded, text, ec.ECDSA(hashes.SHA256()))
            session.verify(CKM.ECDSA_SHA256, public, text, made)
            with refused(CKR.SIGNATURE_INVALID):
                session.verify(CKM.ECDSA_SHA256, public, text + b"!", made)
        parts = session.parts("Encrypt", CKM.AES_CTR, key, [text] * 9, (128).to_bytes(8, "little") + bytes(16))
        assert parts == session.whole("Encrypt", CKM.AES_CTR, key, text * 9, (128).to_bytes(8, "little") + bytes(16))
        assert set(session.find({CKA.LABEL: text})) == {public, private}
        session.destroy(private)
        with refused(CKR.KEY_HANDLE_INVALID):
            session.init("C_SignInit", CKM.ECDSA, private)
        session.call("C_CloseSession")


def test_threads_with_sessions_of_their_own(module: Module, session: object) -> None:
    assert session  # the login
    wrong: list[BaseException] = []

    def run(number: int) -> None:
        try:
            _rounds(module, number, 6)
        except BaseException as error:  # noqa: BLE001 - shown by the main thread
            wrong.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


FORKS = """
import ctypes, os, threading
from hsmsim.hsm.cryptoki import CKA, CKM, CKR
from support.p11 import Module
module = Module(os.environ)
pin = os.environ["HSMSIM_PIN"]
first = module.session(pin)
P256 = {CKA.EC_PARAMS: bytes.fromhex("06082a8648ce3d030107")}
private = first.pair(CKM.EC_KEY_PAIR_GEN, P256, {CKA.SIGN: True})[1]
going_on, signed = True, [0] * 8
def sign(number):
    session = module.session()
    while going_on:
        assert len(session.whole("Sign", CKM.ECDSA, private, bytes(32))) == 64
        signed[number] += 1
threads = [threading.Thread(target=sign, args=(number,)) for number in range(8)]
for thread in threads:
    thread.start()
def sockets():
    return sum("socket:" in os.readlink(f"/proc/self/fd/{one}") for one in os.listdir("/proc/self/fd")
               if os.path.exists(f"/proc/self/fd/{one}") or os.path.islink(f"/proc/self/fd/{one}"))
children = []
for number in range(10):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            assert sockets() == 0, "the parent's connections are shared"
            assert first.rv("C_Logout") is CKR.CRYPTOKI_NOT_INITIALIZED
            if number % 2:
                module.call("C_Finalize", None)
            module.call("C_Initialize", None)
            assert first.rv("C_Logout") is CKR.SESSION_HANDLE_INVALID
            one = module.session()
            assert one.rv("C_Logout") is CKR.USER_NOT_LOGGED_IN
            one.login(pin)
            assert one.find(P256) == []
            own = one.pair(CKM.EC_KEY_PAIR_GEN, P256, {CKA.SIGN: True})[1]
            assert len(one.whole("Sign", CKM.ECDSA, own, bytes(32))) == 64
            grandchild = os.fork()
            if grandchild == 0:
                status = module.rv("C_Initialize", None)
                os._exit(status)
            assert os.waitpid(grandchild, 0)[1] == 0
            module.call("C_Finalize", None)
            status = 0
        finally:
            os._exit(status)
    children.append(child)
assert [os.waitpid(child, 0)[1] for child in children] == [0] * 10
before = list(signed)
while any(now == then for now, then in zip(signed, before)):
    pass
going_on = False
for thread in threads:
    thread.join()
module.call("C_Finalize", None)
"""


def test_children_of_a_parent_with_threads(simulator: Simulator) -> None:
    """In both orders of coming back to life, while eight threads sign; they never notice."""
    done = subprocess.run(
        [sys.executable, "-c", FORKS],
        env={**simulator.environment, "PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("how", ["exec", "exit"])
def test_a_child_that_never_calls_leaves_the_parent_alone(simulator: Simulator, how: str) -> None:
    script = f"""
import os, sys
from support.p11 import Module
module = Module(os.environ)
session = module.session(os.environ["HSMSIM_PIN"])
child = os.fork()
if child == 0:
    os.execv("/bin/true", ["true"]) if {how!r} == "exec" else os._exit(0)
os.waitpid(child, 0)
assert len(session.find({{}})) >= 0
module.call("C_Finalize", None)
"""
    subprocess.run(
        [sys.executable, "-c", script],
        env={**simulator.environment, "PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}"},
        timeout=60,
        check=True,
    )
