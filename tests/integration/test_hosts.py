"""HSMs on hosts of their own, which reach each other by TCP and their rows in PostgreSQL (DESIGN D6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support import postgres
from support.hosts import KINDS, HostedCluster, hosted, why_not

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hsmsim.fleet.postgresql import LocalServer


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with postgres.server() as made:
        yield made


@pytest.fixture(scope="module", params=KINDS)
def served(request: pytest.FixtureRequest, server: LocalServer) -> Iterator[HostedCluster]:
    if reason := why_not(request.param):
        pytest.skip(reason)
    with hosted(request.param, server) as made:
        yield made


def test_a_key_is_on_all_hosts(served: HostedCluster) -> None:
    first, *others = served.hsms
    with first.user("alice") as client:
        for index in range(10):
            public, private = client.ec(token=True, label=f"all-{index}")
            for other in others:
                with other.user("alice") as elsewhere:
                    client.verify(public, bytes(32), elsewhere.sign(private, bytes(32)))
