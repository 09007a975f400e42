"""HSMs that are no faster than AWS's: what a client sees, and that the profile stays."""

from __future__ import annotations

import hashlib
import secrets
import time
from typing import TYPE_CHECKING

import pytest
from support.p11 import Module

from hsmsim.bench.target import temporary_keys
from hsmsim.config import Places
from hsmsim.errors import HsmsimError
from hsmsim.fleet import operations, state
from hsmsim.hsm.cryptoki import CKM, CKR
from hsmsim.hsm.timing import PROFILES
from hsmsim.native import Key, Signer, SigningError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Simulator

HSM1 = PROFILES["hsm1.medium"]
DIGESTS = [hashlib.sha256(bytes([number])).digest() for number in range(250)] * 2
BURST = 0.1  # of a second's tokens


@pytest.fixture(scope="module")
def slow() -> Iterator[Simulator]:
    from conftest import running  # noqa: PLC0415 - the engine is this test's own

    with running() as simulator:
        simulator.run("hsm", "timing", "hsm1.medium")
        _wait_until_keys_are_made(simulator)
        yield simulator


def _wait_until_keys_are_made(simulator: Simulator) -> None:
    """HSMs that were started again take a moment to hear each other, and a new key has to be on both."""
    deadline = time.monotonic() + 30
    while True:
        try:
            with temporary_keys(simulator.places, ("p256",), f"heard-{secrets.token_hex(4)}"):
                return
        except HsmsimError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@pytest.fixture(scope="module")
def labels(slow: Simulator) -> Iterator[dict[str, str]]:
    with temporary_keys(slow.places, ("rsa2048", "rsa4096", "p256"), f"slow-{secrets.token_hex(4)}") as found:
        yield found


def seconds(signer: Signer, key: Key, count: int) -> float:
    start = time.monotonic()
    assert len(signer.sign_many(key, DIGESTS[:count])) == count
    return time.monotonic() - start


@pytest.mark.parametrize(
    ("kind", "count", "rate"),
    [("p256", 400, HSM1.p_256), ("rsa4096", 100, HSM1.rsa_2048 / 8)],
)
def test_a_client_that_tries_again_gets_the_rate_and_no_error(
    slow: Simulator, labels: dict[str, str], tmp_path: Path, kind: str, count: int, rate: float
) -> None:
    """One client, which one HSM serves. A 4096-bit key costs eight tokens."""
    config = slow.configured(tmp_path, spread=False)["HSMSIM_PKCS11_CONFIG"]
    with Signer(config, pin=slow.ready.pin) as signer:
        key = signer.key(label=labels[kind])
        took = seconds(signer, key, count)
    assert took >= (count - rate * BURST) / rate * 0.95  # never faster; a busy machine may be slower
    assert took <= 10 * count / rate


def test_without_retries_the_overflow_is_refused(slow: Simulator, labels: dict[str, str], tmp_path: Path) -> None:
    config = slow.configured(tmp_path, retry_mode="off", spread=False)["HSMSIM_PKCS11_CONFIG"]
    with Signer(config, pin=slow.ready.pin) as signer:
        time.sleep(3 * BURST)  # whatever the test before took is there again
        with pytest.raises(SigningError) as caught:
            signer.sign_many(signer.key(label=labels["p256"]), DIGESTS)
        assert set(caught.value.errors.values()) == {CKR.FUNCTION_FAILED}
        made = [one for one in caught.value.signatures if one is not None]
        assert len(made) >= HSM1.p_256 * BURST


def test_what_aws_publishes_no_rate_for_has_none(slow: Simulator) -> None:
    with Module(slow.environment) as module:
        session, start = module.session(slow.ready.pin), time.monotonic()
        for _ in range(1000):
            session.random(32)
        assert time.monotonic() - start < 30
        for _ in range(50):
            session.whole("Digest", CKM.SHA256, None, b"data")


def test_what_is_no_profile_is_refused_and_so_is_the_reference_engine(slow: Simulator, tmp_path: Path) -> None:
    assert "is not one of" in slow.run("hsm", "timing", "hsm9", status=2)
    places = Places(tmp_path / "home", tmp_path / "run")
    cluster = state.Cluster("cluster-1", (state.Hsm("hsm-1", engine="softhsm"),))
    with state.lock(places):
        state.save(places, state.Fleet(clusters=(cluster,)))
    with pytest.raises(HsmsimError, match="reference engine"):
        operations.set_timing(places, "cluster-1", "hsm1.medium")
    assert state.load(places).cluster("cluster-1").timing == ""
    assert state.load(slow.places).only_cluster().timing == "hsm1.medium"
