"""HSMs on hosts of their own: no signature fails when one is lost, and chaos loses nothing (as test_chaos).

In the suite on the best hosts that this machine makes, in the soak on each kind.
"""

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
from support.hosts import BEST, LOOPBACK, HostedCluster, NetworkChaos, hosted
from support.relay import FAIR, Weather

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIGNER: Final = Path(__file__).resolve().parents[1] / "support" / "signer.py"
HOSTS: Final = (
    pytest.param(BEST, id="best"),
    *(pytest.param(kind, id=kind, marks=pytest.mark.soak) for kind in sorted({LOOPBACK, BEST})),
)


@pytest.fixture(scope="module", params=HOSTS)
def served(request: pytest.FixtureRequest, engine: str) -> Iterator[HostedCluster]:
    with postgres.server() as server, hosted(request.param, server, engine=engine) as made:
        yield made


@pytest.fixture
def tenth(request: pytest.FixtureRequest) -> int:
    """What the sizes are divided by: the soak runs all of it."""
    return 1 if request.node.get_closest_marker("soak") else 10


def test_chaos(served: HostedCluster, tenth: int, tell: Callable[[str], None]) -> None:
    rehearse(served, NetworkChaos(served, tenth), 3000 // tenth, tell)


def test_no_signature_fails_when_hosts_are_lost_in_turn(
    served: HostedCluster, tenth: int, tell: Callable[[str], None], tmp_path: Path
) -> None:
    """A round: one HSM is killed, another one's host is cut off, and then the first one's."""
    assert served.client is not None
    rounds = 10 // tenth
    with subprocess.Popen(
        [*served.client.within, sys.executable, "-P", str(SIGNER)],
        env=served.module(tmp_path),
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
            served.hsms[first].end(signal.SIGKILL)
            time.sleep(0.5)
            served.hsms[first].start()
            for number in (second, first):
                served.posts[number].weather(Weather(cut=True))
                time.sleep(1.5)
                served.posts[number].weather(FAIR)
                time.sleep(0.5)
        time.sleep(1.5)  # all see each other again: the key is destroyed on all of them
        client.stdin.close()
        words = client.stdout.read().split()
    assert client.returncode == 0
    assert words[0] == "signed"
    assert int(words[1]) > 100 * rounds
    tell(f"{rounds} rounds of a kill and two cuts, {words[1]} signatures and none failed; longest {words[3]} s")
