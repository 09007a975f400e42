"""Sixteen client processes, three HSMs: who does the work, and who does when one of them is slow, cut off or killed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import pytest
from conftest import running
from support.hsm import P256, eventually
from support.p11 import Module, refused
from support.signers import Signers

from hsmsim.cli.hsm import describe
from hsmsim.hsm.cryptoki import CKA, CKM, CKR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Simulator

HSMS: Final = 3
PROCESSES: Final = 16
LABEL: Final = "spread"
TIMEOUT: Final = 1.0
"""Seconds that a client waits for its home's answer."""
STALL: Final = 0.25
BACK: Final = 2.0
DIGEST: Final = bytes(32)


@pytest.fixture(scope="module")
def three(engine: str) -> Iterator[Simulator]:
    with running(hsms=HSMS, engine=engine) as simulator:
        simulator.run("key", "generate", "ec", "--curve", "P-256", "--label", LABEL)
        yield simulator


@pytest.fixture(scope="module")
def signers(three: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signers]:
    environment = three.configured(tmp_path_factory.mktemp("signers"), timeout_ms=int(TIMEOUT * 1000))
    with Signers(environment, LABEL, PROCESSES) as found:
        eventually(lambda: min(during(three, 0.5)) > 0, 30)  # all are guests everywhere
        yield found


def operations(simulator: Simulator) -> list[int]:
    """What each HSM has been asked: `hsmsim hsm list` shows it."""
    return [int(str(describe(simulator.places, hsm_id)["operations"] or 0)) for hsm_id in simulator.hsm_ids]


def during(simulator: Simulator, seconds: float) -> list[int]:
    before = operations(simulator)
    time.sleep(seconds)
    return [after - was for after, was in zip(operations(simulator), before, strict=True)]


def test_every_hsm_does_the_same_share(three: Simulator, signers: Signers, tell: Callable[[str], None]) -> None:
    before, deadline = operations(three), time.monotonic() + 60
    while True:
        time.sleep(3)
        done = [after - was for after, was in zip(operations(three), before, strict=True)]
        even = sum(done) / HSMS
        if all(0.9 * even < one < 1.1 * even for one in done):
            break
        assert time.monotonic() < deadline, done
    assert even > 100
    assert min(signers.tell().signed) > 0
    tell(f"{sum(done)} operations by {PROCESSES} processes: {', '.join(f'{one / even:.1%}' for one in done)} of even")


def test_a_slow_hsm_gets_less_until_it_is_fast_again(three: Simulator, signers: Signers) -> None:  # noqa: ARG001
    three.run("fault", "slow", three.hsm_ids[1], "20")
    eventually(lambda: (done := during(three, 1))[1] * 5 < min(done[0], done[2]), 20)
    first, slow, third = during(three, 2)
    assert 0 < slow < min(first, third) / 5
    three.run("fault", "clear")
    eventually(lambda: (done := during(three, 1))[1] * 2 > max(done[0], done[2]), 20)


def test_an_hsm_that_is_cut_off_gets_nothing_and_is_back_within_two_seconds(
    three: Simulator, signers: Signers, tell: Callable[[str], None]
) -> None:
    three.run("fault", "partition", three.hsm_ids[0], "--from", "clients")
    time.sleep(2 * TIMEOUT)  # whose home it was has waited for it
    before = signers.tell().signed
    done = during(three, 2)
    told = signers.tell()
    assert done[0] == 0
    assert min(done[1:]) > 0
    assert all(now > then for now, then in zip(told.signed, before, strict=True))
    assert told.longest < TIMEOUT / 2 + told.machine  # nobody waits for it any more
    three.run("fault", "partition", three.hsm_ids[0], "--heal")
    healed, was = time.monotonic(), operations(three)[0]
    eventually(lambda: operations(three)[0] > was, 30)
    took = time.monotonic() - healed
    assert took < BACK + signers.tell().machine
    tell(f"back after {took:.2f} s")
    eventually(lambda: (again := during(three, 1))[0] * 2 > max(again[1:]), 20)


def test_session_keys_live_on_one_hsm_and_die_with_it(new_simulator: Callable[..., Simulator]) -> None:
    simulator = new_simulator(hsms=HSMS)
    with Module(simulator.environment) as module:
        sessions = [module.session(simulator.ready.pin), module.session(), module.session()]
        session = sessions[0]
        token, mine = {CKA.TOKEN: True}, {CKA.TOKEN: False}
        public, lasting = session.pair(CKM.EC_KEY_PAIR_GEN, {CKA.EC_PARAMS: P256, **token}, {CKA.SIGN: True, **token})
        passing = session.pair(CKM.EC_KEY_PAIR_GEN, {CKA.EC_PARAMS: P256, **mine}, {CKA.SIGN: True, **mine})[1]
        where, before = simulator.home(), operations(simulator)

        def spread() -> bool:
            session.verify(CKM.ECDSA, public, DIGEST, session.whole("Sign", CKM.ECDSA, lasting, DIGEST))
            session.whole("Sign", CKM.ECDSA, passing, DIGEST)
            return all(now > was for now, was in zip(operations(simulator), before, strict=True))

        eventually(spread, 30)  # the token key is used everywhere, the session key all the while where it is
        simulator.kill(where)
        session.verify(CKM.ECDSA, public, DIGEST, session.whole("Sign", CKM.ECDSA, lasting, DIGEST))
        for _ in range(2):  # whoever is asked
            with refused(CKR.KEY_HANDLE_INVALID):
                session.whole("Sign", CKM.ECDSA, passing, DIGEST)
        with refused(CKR.OBJECT_HANDLE_INVALID):
            session.attribute(passing, CKA.KEY_TYPE)
        session.verify(CKM.ECDSA, public, DIGEST, session.whole("Sign", CKM.ECDSA, lasting, DIGEST))


def test_who_does_not_want_it_asks_the_first_hsm_alone(simulator: Simulator, tmp_path: Path) -> None:
    with Module(simulator.configured(tmp_path, spread=False)) as module:
        session = module.session(simulator.ready.pin)
        key = session.pair(
            CKM.EC_KEY_PAIR_GEN, {CKA.EC_PARAMS: P256, CKA.TOKEN: True}, {CKA.SIGN: True, CKA.TOKEN: True}
        )
        before, end = operations(simulator), time.monotonic() + 1
        while time.monotonic() < end:
            session.verify(CKM.ECDSA, key[0], DIGEST, session.whole("Sign", CKM.ECDSA, key[1], DIGEST))
        first, second = (now - was for now, was in zip(operations(simulator), before, strict=True))
        session.destroy(*key)
    assert first > 0
    assert second == 0
