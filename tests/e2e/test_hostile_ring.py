"""A hostile client of a real HSM process harms only itself: others sign all the while, and every signature is right."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, utils
from support.p11 import Module

from hsmsim.hsm.client import HsmClient
from hsmsim.hsm.cryptoki import CKA, CKM
from hsmsim.hsm.messages import HsmInfoRequest
from hsmsim.native import Signer, SignRequest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Simulator

P256 = bytes.fromhex("06082a8648ce3d030107")
SHA256 = utils.Prehashed(hashes.SHA256())
VILLAINS = 2
LABELS = ("hostile-rsa", "hostile-p256")


def make_keys(simulator: Simulator) -> tuple[int, dict[str, Any]]:
    """The handle of the key that villains may use too, and the public halves by label."""
    with Module(simulator.environment) as module:
        session = module.session(simulator.ready.pin)
        private = [{CKA.SIGN: True, CKA.TOKEN: True, CKA.LABEL: label} for label in LABELS]
        rsa = session.pair(CKM.RSA_PKCS_KEY_PAIR_GEN, {CKA.MODULUS_BITS: 2048, CKA.TOKEN: True}, private[0])
        curve = session.pair(CKM.EC_KEY_PAIR_GEN, {CKA.EC_PARAMS: P256, CKA.TOKEN: True}, private[1])
        public = [session.attribute(pair[0], CKA.PUBLIC_KEY_INFO) for pair in (rsa, curve)]
        return curve[1], dict(zip(LABELS, map(serialization.load_der_public_key, public), strict=True))


def verify(public: Any, digest: bytes, signature: bytes) -> None:
    if isinstance(public, ec.EllipticCurvePublicKey):
        r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
        public.verify(utils.encode_dss_signature(r, s), digest, ec.ECDSA(SHA256))
    else:
        public.verify(signature, digest, padding.PKCS1v15(), SHA256)


class Villain:
    """A process of support.hostile_ring."""

    def __init__(self, simulator: Simulator, key: int, seed: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "support.hostile_ring", str(simulator.socket()), str(key), str(seed)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdin is not None
        self.process.stdin.write(f"{simulator.ready.pin}\n")
        self.process.stdin.close()
        self.process.stdin = None

    def end(self) -> int:
        """Killed as it stands; the deeds that it has told of."""
        told_status = self.process.poll()
        self.process.kill()
        told, why = self.process.communicate()
        assert told_status is None, why
        return int((told.split() or ["0"])[-1])


def only_the_first(simulator: Simulator, folder: Path) -> Path:
    """A configuration that knows the villains' HSM alone: no failover hides what they do to it."""
    content = json.loads(simulator.ready.module_config.read_text(encoding="utf-8"))
    cluster = content["clusters"][0]["cluster"]
    cluster["servers"] = [one for one in cluster["servers"] if one["socket"] == str(simulator.socket())]
    path = folder / "first.cfg"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def good_work(simulator: Simulator, config: Path, public: dict[str, Any], stop: threading.Event) -> int:
    """Signatures of both keys, sixteen at a time; each is verified."""
    made = 0
    with Signer(config, pin=simulator.ready.pin) as signer:
        keys = {label: signer.key(label=label) for label in LABELS}
        while not stop.is_set():
            asked = [(LABELS[at % 2], hashlib.sha256(f"{made}/{at}".encode()).digest()) for at in range(100)]
            answers = signer.sign_each([SignRequest(keys[label], digest) for label, digest in asked])
            for (label, digest), signature in zip(asked, answers, strict=True):
                verify(public[label], digest, signature)
            made += len(answers)
    return made


@pytest.mark.parametrize("seconds", [8, pytest.param(600, marks=pytest.mark.soak)])
def test_a_client_that_writes_anything_into_its_ring_harms_itself_alone(
    new_simulator: Callable[..., Simulator], tmp_path: Path, tell: Callable[[str], None], seconds: int
) -> None:
    """Villains write, lie, resize, ring, are stopped in mid deed, and killed."""
    rng = random.Random(20251125)
    simulator = new_simulator()
    config, (key, public) = only_the_first(simulator, tmp_path), make_keys(simulator)
    before = [simulator.pid(0), simulator.pid(1)]
    stop, made, failures, deeds = threading.Event(), [0], [], 0

    def work() -> None:
        try:
            made[0] = good_work(simulator, config, public, stop)
        except BaseException as error:  # noqa: BLE001 - told below, in the test's own thread
            failures.append(error)

    worker = threading.Thread(target=work)
    with ExitStack() as stack:
        villains = [Villain(simulator, key, rng.getrandbits(32)) for _ in range(VILLAINS)]
        stack.callback(lambda: [one.process.kill() for one in villains])
        worker.start()
        stack.callback(stop.set)
        end = time.monotonic() + seconds
        while time.monotonic() < end and not failures:
            time.sleep(1.5)
            place = rng.randrange(VILLAINS)
            villains[place].process.send_signal(signal.SIGSTOP)
            time.sleep(0.2)
            villains[place].process.send_signal(signal.SIGCONT)
            time.sleep(0.3)
            deeds += villains[1 - place].end()
            villains[1 - place] = Villain(simulator, key, rng.getrandbits(32))
        deeds += sum(one.end() for one in villains)
    worker.join(60)
    assert not failures, failures[0]
    assert [simulator.pid(0), simulator.pid(1)] == before
    assert made[0] >= 100
    assert deeds >= 1000
    with HsmClient(simulator.socket()) as client:
        assert client.call(HsmInfoRequest()).state
    assert "Traceback" not in simulator.log(0)
    tell(f"{deeds:,} deeds of villains, {made[0]:,} signatures of others verified")
