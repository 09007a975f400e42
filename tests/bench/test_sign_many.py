"""What one Python thread gains by sign_many over a loop of python-pkcs11's sign: a ratio in one run."""

from __future__ import annotations

import hashlib
import os
import secrets
import statistics
import time
from typing import TYPE_CHECKING

import pkcs11
import pytest

from hsmsim.bench.machine import has_lanes
from hsmsim.bench.target import temporary_keys
from hsmsim.native import Signer

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Simulator

pytestmark = pytest.mark.bench
ROUNDS = 5
BARS = {"rsa2048": (2.0, 4000, pkcs11.Mechanism.SHA256_RSA_PKCS), "p256": (3.5, 20_000, pkcs11.Mechanism.ECDSA)}


def rate(count: int, work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return count / (time.perf_counter() - start)


@pytest.mark.skipif(not has_lanes(), reason="no AVX512-IFMA")
@pytest.mark.parametrize("kind", BARS)
def test_one_thread_signs_many_faster_than_one_by_one(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch, tell: Callable[[str], None], kind: str
) -> None:
    least, count, mechanism = BARS[kind]
    monkeypatch.setenv("HSMSIM_PKCS11_CONFIG", str(simulator.ready.module_config))
    token = pkcs11.lib(os.fspath(simulator.ready.module)).get_token(token_label=simulator.ready.token)
    digests = [hashlib.sha256(str(number).encode()).digest() for number in range(count)]
    few = digests[: count // 10]
    with (
        temporary_keys(simulator.places, (kind,), f"many-{secrets.token_hex(4)}") as labels,
        Signer(pin=simulator.ready.pin) as signer,
        token.open(user_pin=simulator.ready.pin) as session,
    ):
        key = signer.key(label=labels[kind])
        private = session.get_key(label=labels[kind], object_class=pkcs11.ObjectClass.PRIVATE_KEY)
        rates = [
            (
                rate(count, lambda: signer.sign_many(key, digests)),
                rate(len(few), lambda: [private.sign(data, mechanism=mechanism) for data in few]),
            )
            for _ in range(ROUNDS)
        ]
    many, single = (statistics.median(column) for column in zip(*rates, strict=True))
    tell(f"{many:,.0f} signatures a second by sign_many, {single:,.0f} one by one: {many / single:.1f}")
    assert many / single >= least
