"""Three HSMs under chaos: every acknowledged change is on every HSM, nothing half, no right used too long."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support import postgres
from support.chaos import Chaos, rehearse
from support.hsm import cluster

from hsmsim.storage.database import in_schema

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("operations", "seed"), [(300, 1), *(pytest.param(10_000, seed, marks=pytest.mark.soak) for seed in (2, 3))]
)
def test_chaos_loses_nothing_and_uses_no_right_that_was_taken_back(
    operations: int, seed: int, engine: str, tell: Callable[[str], None]
) -> None:
    with cluster(hsms=3, engine=engine, check=True) as made:
        rehearse(made, Chaos(made, seed), operations, tell)


@pytest.mark.soak
def test_chaos_with_the_rows_in_postgresql(engine: str, tell: Callable[[str], None]) -> None:
    with (
        postgres.server() as server,
        cluster(hsms=3, engine=engine, check=True, database=in_schema(server.url, "chaos")) as made,
    ):
        rehearse(made, Chaos(made, 4), 10_000, tell)
