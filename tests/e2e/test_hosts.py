"""HSMs on hosts of their own: no signature fails when one is lost, and chaos loses nothing (as test_chaos)."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from support import postgres
from support.chaos import rehearse
from support.hosts import KINDS, NetworkChaos, hosted, why_not
from support.relay import FAIR, Weather

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hsmsim.fleet.postgresql import LocalServer

SIGNER: Final = Path(__file__).resolve().parents[1] / "support" / "signer.py"


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with postgres.server() as made:
        yield made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("operations", "seed"), [(300, 1), pytest.param(3000, 2, marks=pytest.mark.soak)])
def test_chaos(
    kind: str, operations: int, seed: int, server: LocalServer, engine: str, tell: Callable[[str], None]
) -> None:
    if reason := why_not(kind):
        pytest.skip(reason)
    with hosted(kind, server, engine=engine) as made:
        rehearse(made, NetworkChaos(made, seed), operations, tell)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=pytest.mark.soak)])
def test_no_signature_fails_when_hosts_are_lost_in_turn(
    kind: str, rounds: int, server: LocalServer, engine: str, tell: Callable[[str], None], tmp_path: Path
) -> None:
    """A round: one HSM is killed, another one's host is cut off, and then the first one's."""
    if reason := why_not(kind):
        pytest.skip(reason)
    with hosted(kind, server, engine=engine) as made:
        assert made.client is not None
        with subprocess.Popen(
            [*made.client.within, sys.executable, "-P", str(SIGNER)],
            env=made.module(tmp_path),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            assert client.stdout.readline() == "ready\n"
            for round_ in range(rounds):
                first, second = round_ % 3, (round_ + 1) % 3
                time.sleep(0.5)
                made.hsms[first].end(signal.SIGKILL)
                time.sleep(0.5)
                made.hsms[first].start()
                for number in (second, first):
                    made.posts[number].weather(Weather(cut=True))
                    time.sleep(1.5)
                    made.posts[number].weather(FAIR)
                    time.sleep(0.5)
            client.stdin.close()
            words = client.stdout.read().split()
        assert client.returncode == 0
        assert words[0] == "signed"
        assert int(words[1]) > 100 * rounds
        tell(f"{rounds} rounds of a kill and two cuts, {words[1]} signatures and none failed; longest {words[3]} s")
