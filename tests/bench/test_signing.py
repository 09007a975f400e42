"""Ratios of the issue's table, each measured in one run; `scripts/bench` runs them, the suite does not."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hsmsim.bench import fill, signing
from hsmsim.bench.target import Target, temporary_keys, temporary_simulator

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Simulator

pytestmark = pytest.mark.bench
BARS = {"rsa2048": 2.4, "rsa4096": 3.0, "p256": 1.5, "p384": 15}  # over OpenSSL in process, with AVX512-IFMA
Results = dict[str, signing.Result]


@pytest.fixture(scope="module")
def measured(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Callable[[signing.Plan], Results]:
    def measure(plan: signing.Plan) -> Results:
        folder: Path = tmp_path_factory.mktemp("bench")
        prefix = f"bench-{secrets.token_hex(4)}"
        with (
            temporary_simulator(print, engine="plain") as plain,
            temporary_keys(simulator.places, plan.kinds, prefix) as labels,
            temporary_keys(plain, plan.kinds, prefix),
        ):
            found = signing.run(Target.of(simulator.places), Target.of(plain), plan, labels, folder, print)
        return {result.kind: result for result in found}

    return measure


@pytest.fixture(scope="module")
def results(measured: Callable[[signing.Plan], Results]) -> Results:
    return measured(signing.Plan())


@pytest.fixture(scope="module")
def crowd(measured: Callable[[signing.Plan], Results]) -> Results:
    """Sixteen clients: the bars of batches."""
    return measured(signing.Plan(tuple(BARS), 16))


def test_a_lone_p256_signature_costs_at_most_30_us_more_than_openssl(results: Results) -> None:
    assert results["p256"].extra_latency() <= 30


def test_rsa_of_8_clients_reaches_nine_tenths_of_openssl(results: Results) -> None:
    assert results["rsa2048"].rate_ratio(signing.OPENSSL) >= 0.9


def test_p256_of_8_clients_reaches_six_tenths_of_openssl(results: Results) -> None:
    assert results["p256"].rate_ratio(signing.OPENSSL) >= 0.6


def test_p256_of_8_clients_is_faster_by_shared_memory(results: Results) -> None:
    assert results["p256"].rate_ratio(signing.SOCKET) > 1


@pytest.mark.parametrize("kind", ["rsa2048", "p256"])
def test_8_clients_are_faster_than_with_softhsm2(results: Results, kind: str) -> None:
    assert results[kind].rate_ratio(signing.SOFTHSM) > 1


@pytest.mark.parametrize("kind", BARS)
def test_16_clients_are_faster_than_with_the_key_in_process(crowd: Results, kind: str) -> None:
    if "avx512ifma" not in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
        pytest.skip("no AVX512-IFMA")
    assert crowd[kind].rate_ratio(signing.OPENSSL) >= BARS[kind]


@pytest.mark.parametrize(("kind", "least"), [("rsa2048", 0.9), ("p256", 0.7)])
def test_16_clients_without_batches_are_near_openssl(crowd: Results, kind: str, least: float) -> None:
    rates = crowd[kind].throughput
    ratio = rates[signing.PLAIN].median("per_second") / rates[signing.OPENSSL].median("per_second")
    assert ratio >= least


def test_an_idle_hsm_is_small(new_simulator: Callable[..., Simulator]) -> None:
    """Under 80 MiB with 100 keys."""
    assert fill.run(new_simulator().places, 100, print).resident_mib < 80


def test_many_keys(new_simulator: Callable[..., Simulator]) -> None:
    """Find by label under 2 ms, start under 10 s, idle under 250 MiB, with 10,000 keys."""
    cost = fill.run(new_simulator().places, 10_000, print)
    assert cost.find_ms < 2
    assert cost.start_s < 10
    assert cost.resident_mib < 250
