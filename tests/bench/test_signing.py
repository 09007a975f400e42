"""The bars of hsmsim.bench.bars and older ones, each measured in one run; `scripts/bench` runs them, not the suite."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hsmsim.bench import contenders as who
from hsmsim.bench import fill, handshakes, signing
from hsmsim.bench.bars import BARS, Bar, judge
from hsmsim.bench.machine import has_lanes
from hsmsim.bench.measure import find
from hsmsim.bench.signing import SIGN, SIGN_ONE, Pace
from hsmsim.bench.target import temporary_simulator

if TYPE_CHECKING:
    from pathlib import Path

    from hsmsim.bench.measure import Measurement

pytestmark = pytest.mark.bench
PACE = Pace()
needs_lanes = pytest.mark.skipif(not has_lanes(), reason="no AVX512-IFMA")
Measured = list["Measurement"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """Everything that has a bar."""

    def folder(name: str) -> Path:
        made = tmp_path_factory.mktemp(name)
        for one in (made, *made.parents[:2]):
            one.chmod(0o755)  # nginx's workers may be somebody else
        return made

    kinds = ("rsa2048", "rsa4096", "p256", "p384")
    done = [
        signing.sign(kinds, (1, 8, 16), PACE, folder("sign"), print),
        signing.cipher((4096,), PACE, folder("cipher"), print),
        handshakes.run(handshakes.Plan(), PACE, folder("handshakes"), print),
    ]
    return [one for part in done for one in part.measurements]


def median(measured: Measured, contender: str, number: str, workload: str = SIGN, **setting: str | int) -> float:
    (one,) = find(measured, workload, contender, **setting)
    return one.median(number)


@needs_lanes
@pytest.mark.parametrize("bar", BARS, ids=lambda bar: f"{bar.workload}, {bar.against}")
def test_bar(measured: Measured, bar: Bar) -> None:
    verdict = judge(bar, measured)
    assert verdict.text == "met", verdict


def test_a_lone_p256_signature_costs_at_most_30_us_more_than_openssl(measured: Measured) -> None:
    """On one processor."""
    ours, theirs = (median(measured, name, "p50_us", SIGN_ONE, key="p256") for name in (who.HSMSIM, who.OPENSSL))
    assert ours - theirs <= 30


@pytest.mark.parametrize(("kind", "least"), [("rsa2048", 0.9), ("p256", 0.6)])
def test_8_clients_are_near_openssl(measured: Measured, kind: str, least: float) -> None:
    rates = [median(measured, name, "per_second", key=kind, clients=8) for name in (who.HSMSIM, who.OPENSSL)]
    assert rates[0] >= least * rates[1]


@pytest.mark.parametrize(
    ("kind", "slower"),
    [("p256", who.SOCKET), ("rsa2048", who.SOFTHSM_PROCESSES), ("p256", who.SOFTHSM_PROCESSES)],
)
def test_8_clients_are_faster_than(measured: Measured, kind: str, slower: str) -> None:
    rates = [median(measured, name, "per_second", key=kind, clients=8) for name in (who.HSMSIM, slower)]
    assert rates[0] > rates[1]


def test_an_idle_hsm_is_small() -> None:
    """Under 80 MiB with 100 keys."""
    with temporary_simulator(print) as places:
        assert fill.run(places, 100, print).resident_mib < 80


def test_many_keys() -> None:
    """Find by label under 2 ms, start under 10 s, idle under 250 MiB, with 10,000 keys."""
    with temporary_simulator(print) as places:
        cost = fill.run(places, 10_000, print)
    assert cost.find_ms < 2
    assert cost.start_s < 10
    assert cost.resident_mib < 250
