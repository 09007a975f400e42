"""Clusters as large as they get: a new HSM among many keys, and as many HSMs as a cluster may have."""

from __future__ import annotations

import itertools
import random
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from support.hsm import Client, eventually, patiently, refused

from hsmsim.bench.contenders import HSMSIM, Workload
from hsmsim.bench.contenders import Client as Signers
from hsmsim.bench.fill import resident_mib
from hsmsim.bench.measure import processor_seconds, run_once
from hsmsim.bench.target import Target
from hsmsim.fleet import launch, quickstart
from hsmsim.hsm.cryptoki import CKR
from hsmsim.hsm.membership import MAX_MEMBERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Simulator

DIGEST: Final = bytes(range(32))
BLOCK: Final = bytes(16)


def user(simulator: Simulator, hsm_id: str) -> Client:
    """The crypto user on one HSM, without the availability check."""
    client = Client(simulator.places.socket(hsm_id), profile=2)
    client.login(simulator.user, simulator.password)
    return client


def pending(simulator: Simulator, hsm_id: str) -> int:
    """Keys that the HSM's vault does not have yet."""
    info = launch.info(simulator.places, hsm_id)
    assert info is not None
    return info.vault_pending


def settle(simulator: Simulator, hsm_id: str, seconds: float) -> None:
    """Wait until the vault has every key."""
    deadline = time.monotonic() + seconds
    while pending(simulator, hsm_id):
        assert time.monotonic() < deadline
        time.sleep(0.2)


# ---- a new HSM among many keys ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bounds:
    """Seconds until the new HSM signs and until its vault is complete; the part of the others' signatures it costs."""

    signs_s: float = 60
    vault_s: float = 300
    loss: float = 1


FULL: Final = Bounds(signs_s=5, loss=0.2)
"""What is wanted on a machine that does nothing else."""
RUNS: Final = 3
ROUND_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Made:
    """Handles of a P-256 pair and of an AES key."""

    public: int
    private: int
    secret: int

    def works(self, there: Client, here: Client) -> None:
        """What one HSM makes with them is what the other makes, or accepts."""
        here.verify(self.public, DIGEST, there.sign(self.private, DIGEST))
        assert there.encrypt(self.secret, BLOCK) == here.encrypt(self.secret, BLOCK)


def make_keys(simulator: Simulator, count: int) -> list[Made]:
    """So many private and secret keys, by four clients; the vault has them all."""
    hsm_id = simulator.hsm_ids[0]

    def make(part: int) -> list[Made]:
        with user(simulator, hsm_id) as client:
            return [
                Made(*patiently(partial(client.ec, token=True)), patiently(partial(client.aes, token=True)))
                for _ in range(part)
            ]

    with ThreadPoolExecutor(4) as pool:
        made = [one for some in pool.map(make, [count // 8] * 4) for one in some]
    settle(simulator, hsm_id, 600)
    return made


class Elsewhere:
    """Sixteen processes that sign on the HSM that was there before, for a moment each time they are asked to."""

    def __init__(self, simulator: Simulator, folder: Path) -> None:
        with user(simulator, simulator.hsm_ids[0]) as client:
            client.ec(token=True, label="busy")
        target = Target.of(simulator.places).with_hsms(1, folder)
        workload = Workload("p256", "busy", ROUND_S)
        self._signing = Signers.of(target).contender(HSMSIM, target.tools, workload, 16)

    def rate(self) -> float:
        """Signatures a second, the median of some runs."""
        return statistics.median(run_once(self._signing, ROUND_S)["per_second"] for _ in range(RUNS))


@pytest.mark.parametrize(
    ("keys", "bounds"), [(200, Bounds()), pytest.param(10_000, FULL, marks=pytest.mark.soak, id="10000")]
)
def test_a_new_hsm_signs_with_any_key_at_once_and_fills_its_vault_beside_the_work(
    new_simulator: Callable[..., Simulator], keys: int, bounds: Bounds, tell: Callable[[str], None], tmp_path: Path
) -> None:
    simulator = new_simulator(hsms=1)
    made = make_keys(simulator, keys)
    sample = random.Random(keys).sample(made, 50)
    elsewhere = Elsewhere(simulator, tmp_path)
    settle(simulator, simulator.hsm_ids[0], 60)
    before = elsewhere.rate()

    began = time.monotonic()
    hsm_id = quickstart.add_hsm(simulator.places)
    with user(simulator, hsm_id) as there, user(simulator, simulator.hsm_ids[0]) as here:
        for one in sample:
            one.works(there, here)
        signs = time.monotonic() - began
        for one in made:
            there.sign(one.private, DIGEST)
        every = time.monotonic() - began
        meanwhile = [elsewhere.rate()]
        while pending(simulator, hsm_id) > keys // 10:
            meanwhile.append(elsewhere.rate())
        settle(simulator, hsm_id, bounds.vault_s)
        filled = time.monotonic() - began
        for one in sample:
            one.works(there, here)
    info = launch.info(simulator.places, hsm_id)
    assert info is not None
    assert info.vault_objects == keys + 1
    usual = statistics.mean((before, elsewhere.rate()))
    loss = 1 - statistics.median(meanwhile) / usual
    tell(
        f"{keys} keys: the new HSM signs after {signs:.1f} s, has signed with all after {every:.1f} s, has them in its "
        f"vault after {filled:.0f} s; {usual:,.0f} signatures a second elsewhere, {loss:.0%} fewer meanwhile "
        f"({len(meanwhile)} looks)"
    )
    assert signs < bounds.signs_s
    assert filled < bounds.vault_s
    assert loss < bounds.loss


# ---- as many HSMs as there may be ------------------------------------------------------------------------------------

MEMORY_MIB: Final = 64
"""Of an HSM with a handful of keys; 41 are usual."""
IDLE: Final = 0.02
"""Of a processor, for each HSM, however many there are; a third of that is usual on an idle machine."""
IDLE_S: Final = 3.0


def memory_mib(pid: int) -> float:
    """What a process has for itself and its part of what is shared; all that is resident, where nobody may look."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except PermissionError:
        return resident_mib(pid)
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) / 1024


def pids(simulator: Simulator) -> list[int]:
    found = [simulator.pid(number) for number in range(len(simulator.hsm_ids))]
    return [pid for pid in found if pid is not None]


def idle_processors(simulator: Simulator) -> float:
    """Processors that all HSMs take together when nobody wants anything of them."""
    for hsm_id in simulator.hsm_ids:
        settle(simulator, hsm_id, 60)
    time.sleep(1)
    before, began = processor_seconds(pids(simulator)), time.monotonic()
    time.sleep(IDLE_S)
    return (processor_seconds(pids(simulator)) - before) / (time.monotonic() - began)


def sign_everywhere(simulator: Simulator, public: int, private: int) -> None:
    """Each HSM accepts what the one before it has signed."""
    with ExitStack() as stack:
        clients = [stack.enter_context(user(simulator, hsm_id)) for hsm_id in simulator.hsm_ids]
        for here, there in itertools.pairwise([clients[-1], *clients]):
            there.verify(public, DIGEST, here.sign(private, DIGEST))


@pytest.mark.parametrize(("hsms", "each"), [(10, 1.0), pytest.param(MAX_MEMBERS, IDLE, marks=pytest.mark.soak)])
def test_many_hsms_start_sign_and_stop(
    new_simulator: Callable[..., Simulator], hsms: int, each: float, tell: Callable[[str], None]
) -> None:
    """each: processors that an idle HSM may take."""
    began = time.monotonic()
    simulator = new_simulator(hsms=hsms)
    up = time.monotonic() - began
    assert len(set(pids(simulator))) == hsms
    with Client(simulator.socket(hsms - 1)) as client:  # a key is acknowledged as usual
        client.login(simulator.user, simulator.password)
        public, private = patiently(lambda: client.ec(token=True))
    for hsm_id in simulator.hsm_ids:
        eventually(lambda hsm_id=hsm_id: knows(simulator, hsm_id) == 2, 20)
    sign_everywhere(simulator, public, private)
    idle = idle_processors(simulator)
    memory = [memory_mib(pid) for pid in pids(simulator)]
    began = time.monotonic()
    assert len(quickstart.take_down(simulator.places)) == hsms
    down = time.monotonic() - began
    assert pids(simulator) == []
    began = time.monotonic()
    quickstart.start(simulator.places, lambda _: None)
    again = time.monotonic() - began
    sign_everywhere(simulator, public, private)
    with user(simulator, simulator.hsm_ids[0]) as client:
        client.destroy(private)
    with user(simulator, simulator.hsm_ids[-1]) as client, refused(CKR.KEY_HANDLE_INVALID):
        client.sign(private, DIGEST)
    for number in range(hsms):
        assert "ALARM" not in simulator.log(number)
    tell(
        f"{hsms} HSMs made in {up:.0f} s, stopped in {down:.1f} s, started again in {again:.1f} s; "
        f"{statistics.mean(memory):.0f} MiB each; {idle:.2f} processors together when idle"
    )
    assert max(memory) < MEMORY_MIB
    assert idle < each * hsms


def knows(simulator: Simulator, hsm_id: str) -> int:
    """Objects of the cluster, as one HSM counts them."""
    with user(simulator, hsm_id) as client:
        return len(client.find())
