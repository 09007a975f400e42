"""From nothing to a simulator that clients can use: what a test run waits for before its first test.

The gateway, the fleet's daemon and two HSMs start in an empty folder; the cluster is made with AWS's APIs, activated,
and has a crypto user. The median of the rounds, each with a folder of its own; then where the time of one round went.
"""

from __future__ import annotations

import itertools
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hsmsim import pytest_plugin
from hsmsim.config import Places
from hsmsim.fleet import launch as hsm_processes
from hsmsim.fleet import quickstart
from hsmsim.gateway import launch, simulator

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.bench

ROUNDS = 5
WANTED_S = 3.0


@pytest.fixture
def places() -> Iterator[Places]:
    folder = Path(tempfile.mkdtemp(prefix="hsmsim-start-"))
    folder.chmod(0o711)
    made = Places(folder / "home", folder / "run")
    try:
        yield made
    finally:
        simulator.take_down(made)
        shutil.rmtree(folder)


def test_a_test_run_has_its_simulator_within_three_seconds() -> None:
    """On two idle cores."""
    taken = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        with pytest_plugin._running("2") as one:
            taken.append(time.perf_counter() - begun)
            assert len(one.cluster.hsm_ids) == 2
    print(f"\nThe plugin's simulator: {statistics.median(taken):.2f} s (of {sorted(round(one, 2) for one in taken)})")  # noqa: T201 - the figure
    assert statistics.median(taken) < WANTED_S


def test_where_the_time_goes(places: Places) -> None:
    """Reported."""
    said: list[tuple[float, str]] = []
    simulator.bring_up(
        places, lambda text: said.append((time.perf_counter(), text)), launch.Options(port=0, tls_port=0)
    )
    said.append((time.perf_counter(), ""))
    print()  # noqa: T201 - the figures
    for (begun, text), (ended, _) in itertools.pairwise(said):
        print(f"{ended - begun:6.2f} s  {text}")  # noqa: T201
    (hsm_id, *_) = quickstart.ready(places).hsm_ids
    taken = []
    for _ in range(ROUNDS):
        hsm_processes.stop(places, [hsm_id])
        begun = time.perf_counter()
        hsm_processes.start(places, hsm_id)
        hsm_processes.wait_ready(places, [hsm_id])
        taken.append(time.perf_counter() - begun)
    print(f"{statistics.median(taken):6.2f} s  an HSM process that is started again")  # noqa: T201
