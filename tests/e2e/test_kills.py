"""HSMs and clients die again and again while others work: nothing that was acknowledged is lost, nothing else stays."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from support.hsm import P256, Client, eventually
from support.p11 import Module

from hsmsim.bench.fill import resident_mib
from hsmsim.cli.hsm import describe
from hsmsim.hsm.cryptoki import CKA, CKM

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Simulator

SUPPORT: Final = Path(__file__).resolve().parents[1] / "support"
DIGEST: Final = bytes(32)
START_SECONDS: Final = 15
"""More than any start takes on a machine that does other things as well."""
WRITERS: Final = 2


def user(simulator: Simulator, number: int) -> Client:
    """The crypto user on one HSM, without the module."""
    client = Client(simulator.socket(number))
    client.login(simulator.user, simulator.password)
    return client


def settle(simulator: Simulator, number: int, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while hsms(simulator)[number]["vault_pending"] != 0:
        assert time.monotonic() < deadline, simulator.log(number)
        time.sleep(0.1)


def hsms(simulator: Simulator) -> list[dict[str, Any]]:
    """What `hsmsim hsm list --json` prints."""
    return [describe(simulator.places, hsm_id) for hsm_id in simulator.hsm_ids]


# ---- HSMs die ----------------------------------------------------------------------------------------------------


class Writers:
    """Processes of support.writer, which tell into files what they do."""

    def __init__(self, simulator: Simulator, folder: Path) -> None:
        self._told = [folder / f"writer-{number}" for number in range(WRITERS)]
        self._processes = [self._start(simulator, path) for path in self._told]
        for path in self._told:
            eventually(lambda path=path: path.read_text().startswith("ready\n"), 20)
        self.made: dict[str, str] = {}
        self.told: dict[str, set[str]] = {"unsure": set(), "destroying": set(), "destroyed": set()}

    @staticmethod
    def _start(simulator: Simulator, told: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", str(SUPPORT / "writer.py"), told.name]
        with told.open("wb") as out, told.with_suffix(".log").open("wb") as log:
            return subprocess.Popen(command, env=simulator.environment, stdin=subprocess.PIPE, stdout=out, stderr=log)

    def end(self) -> None:
        for process, path in zip(self._processes, self._told, strict=True):
            process.communicate(timeout=60)
            assert process.returncode == 0, path.with_suffix(".log").read_text()
            for line in path.read_text().splitlines()[1:]:
                what, label, *point = line.split()
                if what == "made":
                    self.made[label] = point[0]
                else:
                    self.told[what].add(label)


def check_point(client: Client, private: int, point: str) -> None:
    """The private key signs for the public key that the writer saw."""
    raw = bytes.fromhex(point)
    public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), raw[2:])  # a DER OCTET STRING of 65 bytes
    signature = client.sign(private, DIGEST)
    r, s = (int.from_bytes(half, "big") for half in (signature[:32], signature[32:]))
    public.verify(utils.encode_dss_signature(r, s), DIGEST, ec.ECDSA(utils.Prehashed(hashes.SHA256())))


def labels(client: Client) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for handle in client.find():
        (label,) = client.get(handle, CKA.LABEL)
        name = (label or b"").decode()
        found[name] = (*found.get(name, ()), handle)
    return found


@pytest.mark.parametrize("rounds", [5, pytest.param(50, marks=pytest.mark.soak)])
def test_kills_while_clients_write_lose_no_acknowledged_key(
    new_simulator: Callable[..., Simulator], rounds: int, tell: Callable[[str], None], tmp_path: Path
) -> None:
    """Every fifth end is an orderly one."""
    simulator = new_simulator()
    seeded = random.Random(rounds)
    writers = Writers(simulator, tmp_path)
    for round_ in range(rounds):
        victim = round_ % 2
        time.sleep(seeded.uniform(0.2, 1.2))
        if round_ % 5 == 4:
            simulator.stop(victim)
        else:
            simulator.kill(victim)
        time.sleep(seeded.uniform(0, 0.5))
        simulator.start(victim)
    time.sleep(1.5)  # both see each other again: keys are made
    writers.end()
    lasting = {label: point for label, point in writers.made.items() if label not in writers.told["destroying"]}
    seen = []
    for number in range(2):
        with user(simulator, number) as client:
            found = labels(client)
            assert {len(pair) for pair in found.values()} == {2}, "half a pair"
            assert lasting.keys() <= found.keys()
            assert found.keys() <= lasting.keys() | writers.told["unsure"]
            for label, point in lasting.items():
                check_point(client, found[label][1], point)
            for label in found.keys() - lasting.keys():
                public, private = found[label]
                client.verify(public, DIGEST, client.sign(private, DIGEST))
        seen.append(found)
        settle(simulator, number)
        assert hsms(simulator)[number]["vault_objects"] == len(found)
        for trouble in ("Traceback", "ALARM", "Segmentation"):
            assert trouble not in simulator.log(number)
    assert seen[0] == seen[1]
    assert len(lasting) > 2 * rounds
    destroyed, unsure = (len(writers.told[what]) for what in ("destroyed", "unsure"))
    tell(
        f"{rounds} kills and starts: {len(writers.made)} pairs acknowledged, none lost, {destroyed} destroyed; "
        f"{unsure} refused or unsure, of which {len(seen[0]) - len(lasting)} are whole"
    )


# ---- clients die -------------------------------------------------------------------------------------------------

GROWTH_MIB: Final = 16
"""What an HSM may keep, whatever number of clients has come and gone."""
FILES: Final = 40
"""More than an HSM has open: some 17, and two more for each connection to the database that its pool may keep."""
COUNTED: Final = ("clients", "sessions", "keys", "vault_objects", "vault_pending")


def kill_clients(simulator: Simulator, count: int) -> int:
    """Have so many clients killed in their calls; how many had come to them."""
    done = subprocess.run(
        [sys.executable, "-P", str(SUPPORT / "doomed.py"), str(count), str(count)],
        env={**simulator.environment, "PYTHONPATH": os.pathsep.join((str(SUPPORT.parent), str(SUPPORT.parents[1])))},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def idle(simulator: Simulator) -> list[tuple[int, ...]]:
    """Counts of each HSM, and its threads, when it has nothing to do."""
    with user(simulator, 0) as client:  # a key can be born after its maker has died
        for key in client.find(label="doomed"):
            client.destroy(key)
    for number in range(2):
        settle(simulator, number)
    threads = [len(list(Path(f"/proc/{one['pid']}/task").iterdir())) for one in hsms(simulator)]
    return [(*(one[name] for name in COUNTED), tasks) for one, tasks in zip(hsms(simulator), threads, strict=True)]


def open_files(pid: int) -> int:
    """Open files and sockets, where they may be seen."""
    files = Path(f"/proc/{pid}/fd")
    return len(list(files.iterdir())) if os.access(files, os.R_OK) else 0


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.soak)])
def test_clients_killed_in_their_calls_leave_nothing(
    new_simulator: Callable[..., Simulator], count: int, tell: Callable[[str], None]
) -> None:
    simulator = new_simulator()
    kill_clients(simulator, 20)  # what is made at the first use is there
    before, memory = idle(simulator), [resident_mib(one["pid"]) for one in hsms(simulator)]
    came = kill_clients(simulator, count)
    assert came > count / 2
    deadline = time.monotonic() + 20
    while (after := idle(simulator)) != before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert after == before
    assert max(open_files(one["pid"]) for one in hsms(simulator)) < FILES
    grown = [resident_mib(one["pid"]) - was for one, was in zip(hsms(simulator), memory, strict=True)]
    assert max(grown) < GROWTH_MIB
    tell(
        f"{count} clients killed, {came} of them in their calls: clients, sessions, keys, objects and threads as "
        f"before, memory grown by {max(grown):.1f} MiB"
    )


# ---- files are cut -----------------------------------------------------------------------------------------------

EMPTIED, HALVED, REMOVED = 0.0, 0.5, None
"""How much of a file stays."""
TOKEN_DAMAGES: Final = [("token.object", 0, keep) for keep in (EMPTIED, HALVED, REMOVED)]
OTHER_DAMAGES: Final = [
    *[("*-*.object", which, keep) for keep in (EMPTIED, HALVED, REMOVED) for which in (0, 1)],
    *[("generation", 0, keep) for keep in (EMPTIED, HALVED, REMOVED)],
    *[("token.lock", 0, REMOVED), ("*-*.lock", 0, REMOVED), ("*-*.lock", -1, REMOVED)],  # which are empty anyway
]


def damage(folder: Path, pattern: str, which: int, keep: float | None) -> None:
    """Cut or remove a file. Objects that were made again have other names, so files go by their kind."""
    path = sorted(folder.glob(pattern))[which]
    if keep is None:
        path.unlink()
    else:
        os.truncate(path, int(path.stat().st_size * keep))


@pytest.mark.parametrize(
    "damages",
    [
        pytest.param([*TOKEN_DAMAGES, *OTHER_DAMAGES[::4]], id="some"),
        pytest.param([*TOKEN_DAMAGES, *OTHER_DAMAGES], id="all", marks=pytest.mark.soak),
    ],
)
def test_no_damage_to_a_file_of_softhsm2_reaches_a_client_of_the_module(
    new_simulator: Callable[..., Simulator], damages: list[tuple[str, int, float | None]], tell: Callable[[str], None]
) -> None:
    simulator = new_simulator()
    with Module(simulator.environment) as module:
        session = module.session(simulator.ready.pin)
        template = {CKA.TOKEN: True, CKA.LABEL: "kept"}
        rsa = session.pair(CKM.RSA_PKCS_KEY_PAIR_GEN, {CKA.MODULUS_BITS: 2048, **template}, template)
        curve = {CKA.EC_PARAMS: P256}
        pairs = {CKM.SHA256_RSA_PKCS: rsa, CKM.ECDSA: session.pair(CKM.EC_KEY_PAIR_GEN, curve | template, template)}
    settle(simulator, 0)
    simulator.stop(1)  # the module has no other HSM to go to
    longest = 0.0
    for pattern, which, keep in damages:
        simulator.stop(0)
        (folder,) = (simulator.places.hsm_folder(simulator.hsm_ids[0]) / "tokens").iterdir()
        damage(folder, pattern, which, keep)
        began = time.monotonic()
        simulator.start(0)
        longest = max(longest, time.monotonic() - began)
        with Module(simulator.environment) as module:
            session = module.session(simulator.ready.pin)
            for kind, (public, private) in pairs.items():
                session.verify(kind, public, DIGEST, session.whole("Sign", kind, private, DIGEST))
        settle(simulator, 0)
        assert hsms(simulator)[0]["vault_objects"] == len(pairs), f"{pattern} {keep}\n{simulator.log(0)}"
    assert longest < START_SECONDS
    tell(f"{len(damages)} files damaged; the longest start took {longest:.1f} s; every key worked")
