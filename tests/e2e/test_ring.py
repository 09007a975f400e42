"""Shared memory between module and HSM: who has it, who does not, and that its ends are noticed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from support.p11 import Module

from hsmsim.hsm.cryptoki import CKA, CKM

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Simulator

P256 = bytes.fromhex("06082a8648ce3d030107")
SEGMENT = "memfd:hsmsim-ring"
DIGEST = utils.Prehashed(hashes.SHA256())

FORK = f"""
import os
from support.p11 import Module

def rings():
    return {{line.split()[4] for line in open("/proc/self/maps") if "{SEGMENT}" in line}}

module = Module(os.environ)
session = module.session(os.environ["HSMSIM_PIN"])
session.random(16)
first = rings()
assert len(first) == 1, first
child = os.fork()
if child == 0:
    assert rings() == set()
    module.call("C_Initialize", None)
    module.session(os.environ["HSMSIM_PIN"]).random(16)
    own = rings()
    assert len(own) == 1 and own != first, (own, first)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert len(session.random(16)) == 16
assert rings() == first
"""


def rings() -> int:
    """Segments that this process has."""
    return Path("/proc/self/maps").read_text(encoding="utf-8").count(SEGMENT)


@pytest.mark.parametrize(("transport", "expected"), [("auto", 1), ("socket", 0)])
def test_the_transport_is_a_matter_of_configuration(
    simulator: Simulator, tmp_path: Path, transport: str, expected: int
) -> None:
    before = rings()
    with Module(simulator.configured(tmp_path, transport=transport)) as module:
        session = module.session(simulator.ready.pin)
        assert rings() == before  # nothing before the first operation
        assert len(session.random(16)) == 16
        assert rings() == before + expected
        assert len(session.random(65536)) == 65536  # more than a slot holds
    assert rings() == before


def test_threads_sign_at_once_and_every_signature_verifies(simulator: Simulator) -> None:
    with Module(simulator.environment) as module:
        session = module.session(simulator.ready.pin)
        public, private = session.pair(
            CKM.EC_KEY_PAIR_GEN, {CKA.EC_PARAMS: P256, CKA.TOKEN: False}, {CKA.SIGN: True, CKA.TOKEN: False}
        )
        point = session.attribute(public, CKA.EC_POINT)[2:]
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
        failures: list[BaseException] = []

        def work(number: int) -> None:
            try:
                mine = module.session()
                for i in range(100):
                    digest = bytes([number, i]) * 16
                    raw = mine.whole("Sign", CKM.ECDSA, private, digest)
                    r, s = int.from_bytes(raw[:32]), int.from_bytes(raw[32:])
                    key.verify(utils.encode_dss_signature(r, s), digest, ec.ECDSA(DIGEST))
            except BaseException as error:  # noqa: BLE001 - told below, in the test's own thread
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert not failures


def test_a_forked_child_has_no_ring_and_gets_its_own(simulator: Simulator) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK],
        env=simulator.environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_thread_that_waits_in_the_ring_goes_on_with_the_next_hsm(
    new_simulator: Callable[..., Simulator], tmp_path: Path, how: signal.Signals
) -> None:
    simulator = new_simulator()
    with Module(simulator.configured(tmp_path, timeout_ms=500)) as module:
        session = module.session(simulator.ready.pin)
        session.random(16)
        serving = simulator.pid(simulator.home())
        assert serving is not None
        stop, longest = threading.Event(), [0.0, 0.0]

        def draw() -> None:
            while not stop.is_set():
                start = time.monotonic()
                assert len(session.random(4096)) == 4096
                longest[0] = max(longest[0], time.monotonic() - start)
                longest[1] += 1

        thread = threading.Thread(target=draw)
        thread.start()
        time.sleep(0.3)
        os.kill(serving, how)
        time.sleep(1.5)
        stop.set()
        thread.join(20)
        if how is signal.SIGSTOP:
            os.kill(serving, signal.SIGCONT)
    assert longest[1] > 100
    # one look at the socket, or one timeout; then a login at the other HSM
    assert longest[0] < (1.0 if how is signal.SIGKILL else 2.0)
