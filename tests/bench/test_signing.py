"""Ratios of the issue's table, each measured in one run; `scripts/bench` runs them, the suite does not."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pytest

from hsmsim.bench import fill, signing
from hsmsim.bench.target import Target, temporary_keys

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Simulator

pytestmark = pytest.mark.bench


@pytest.fixture(scope="module")
def results(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> dict[str, signing.Result]:
    folder: Path = tmp_path_factory.mktemp("bench")
    plan = signing.Plan()
    with temporary_keys(simulator.places, plan.kinds, f"bench-{secrets.token_hex(4)}") as labels:
        found = signing.run(Target.of(simulator.places), plan, labels, folder, print)
    return {result.kind: result for result in found}


def test_a_lone_p256_signature_costs_at_most_30_us_more_than_openssl(results: dict[str, signing.Result]) -> None:
    assert results["p256"].extra_latency() <= 30


def test_rsa_of_8_clients_reaches_nine_tenths_of_openssl(results: dict[str, signing.Result]) -> None:
    assert results["rsa2048"].rate_ratio(signing.OPENSSL) >= 0.9


def test_p256_of_8_clients_reaches_six_tenths_of_openssl(results: dict[str, signing.Result]) -> None:
    assert results["p256"].rate_ratio(signing.OPENSSL) >= 0.6


def test_p256_of_8_clients_is_faster_by_shared_memory(results: dict[str, signing.Result]) -> None:
    assert results["p256"].rate_ratio(signing.SOCKET) > 1


@pytest.mark.parametrize("kind", ["rsa2048", "p256"])
def test_8_clients_are_faster_than_with_softhsm2(results: dict[str, signing.Result], kind: str) -> None:
    assert results[kind].rate_ratio(signing.SOFTHSM) > 1


def test_an_idle_hsm_is_small(new_simulator: Callable[..., Simulator]) -> None:
    """Under 80 MiB with 100 keys."""
    assert fill.run(new_simulator().places, 100, print).resident_mib < 80


def test_many_keys(new_simulator: Callable[..., Simulator]) -> None:
    """Find by label under 2 ms, start under 10 s, idle under 250 MiB, with 10,000 keys."""
    cost = fill.run(new_simulator().places, 10_000, print)
    assert cost.find_ms < 2
    assert cost.start_s < 10
    assert cost.resident_mib < 250
