"""Three HSMs under chaos: every acknowledged change is on every HSM, nothing half, no right used too long."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from support import postgres
from support.chaos import Chaos, Owner, check
from support.hsm import USERS, Cluster, cluster

from hsmsim.storage.database import in_schema

if TYPE_CHECKING:
    from collections.abc import Callable


def rehearse(made: Cluster, operations: int, seed: int, tell: Callable[[str], None]) -> None:
    owners = [Owner(made, user, seed) for user in USERS]
    with Chaos(made, seed) as chaos, ThreadPoolExecutor(len(owners)) as pool:
        for done in [pool.submit(owner.work, operations // len(owners)) for owner in owners]:
            done.result()
    check(made, owners)
    acknowledged = sum(owner.acknowledged for owner in owners)
    assert acknowledged > operations // 10
    unsure = sum(len(owner.unsure) for owner in owners)
    tell(f"seed {seed}: {operations} operations, {acknowledged} acknowledged, {unsure} keys unsure, HSMs {chaos.done}")


@pytest.mark.parametrize(
    ("operations", "seed"), [(300, 1), *(pytest.param(10_000, seed, marks=pytest.mark.soak) for seed in (2, 3))]
)
def test_chaos_loses_nothing_and_uses_no_right_that_was_taken_back(
    operations: int, seed: int, engine: str, tell: Callable[[str], None]
) -> None:
    with cluster(hsms=3, engine=engine, check=True) as made:
        rehearse(made, operations, seed, tell)


@pytest.mark.soak
def test_chaos_with_the_rows_in_postgresql(engine: str, tell: Callable[[str], None]) -> None:
    with (
        postgres.server() as server,
        cluster(hsms=3, engine=engine, check=True, database=in_schema(server.url, "chaos")) as made,
    ):
        rehearse(made, 3000, 4, tell)
