"""`hsmsim bench keys`: what many keys cost: find by label, a start of the HSM, memory.

The keys are AES token keys labelled `fill-N`, made in a cluster of the benchmark's own. Find goes over the wire as the
module's C_FindObjectsInit does; memory is the resident set of an idle HSM process.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hsmsim.bench.measure import Measurement
from hsmsim.errors import HsmsimError
from hsmsim.fleet import keys, launch, quickstart
from hsmsim.fleet.access import SESSION, Role, connect
from hsmsim.fleet.credentials import Credential
from hsmsim.hsm.cryptoki import CKA, CKK
from hsmsim.hsm.messages import FindRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from hsmsim.config import Places

KEYS = "many keys"
FINDS = 200
STEP = 500


@dataclass(frozen=True, slots=True)
class Cost:
    """Of `keys` token keys: milliseconds of a find by label (median), seconds of a start, MiB of an idle HSM."""

    keys: int
    find_ms: float
    start_s: float
    resident_mib: float
    create_per_s: float

    def measurement(self) -> Measurement:
        """As one round of a run."""
        names = ("find_ms", "start_s", "resident_mib", "create_per_s")
        return Measurement(KEYS, "hsmsim", {"keys": self.keys}, ({name: getattr(self, name) for name in names},))


def resident_mib(pid: int) -> float:
    """Resident set of a process (proc(5), VmRSS)."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise HsmsimError(f"process {pid} tells no VmRSS")


def run(places: Places, count: int, say: Callable[[str], None]) -> Cost:
    """Fill up to `count` keys, restart the first HSM, measure. The simulator of `places` runs already."""
    ready = quickstart.ready(places)
    name, _, password = ready.pin.partition(":")
    user = Credential(ready.cluster_id, "", name, Role.CRYPTO_USER, password)
    with connect(places, "", user) as client:
        began = time.monotonic()
        for number in range(count):
            keys.generate_secret(client, CKK.AES, 256, keys.Wish(f"fill-{number}"))
            if number % STEP == STEP - 1:
                say(f"{number + 1} of {count} keys")
        create = count / (time.monotonic() - began)
        say("finding")
        times = [_find(client.call, f"fill-{number * 37 % count}") for number in range(FINDS)]
    hsm_id = ready.hsm_ids[0]
    launch.stop(places, [hsm_id])
    say("starting an HSM")
    began = time.monotonic()
    launch.start(places, hsm_id)
    launch.wait_ready(places, [hsm_id])
    start = time.monotonic() - began
    _settle(places, hsm_id, say)
    pid = launch.pid_of(places, hsm_id)
    return Cost(count, statistics.median(times) * 1000, start, resident_mib(pid or 0), create)


def _find(call: Callable[..., object], label: str) -> float:
    template = keys.encoded({CKA.LABEL: label})
    began = time.monotonic()
    call(FindRequest(template=template), session=SESSION)
    return time.monotonic() - began


def _settle(places: Places, hsm_id: str, say: Callable[[str], None], seconds: float = 600) -> None:
    """Wait until the vault has no work left."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        info = launch.info(places, hsm_id)
        if info is not None and info.vault_pending == 0:
            return
        say(f"vault: {info.vault_pending if info else '?'} to write")
        time.sleep(2)
