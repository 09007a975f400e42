"""The fleet's daemon: the whole life of clusters and HSMs through it, and kills at every step."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest
from support.fleet import CLUSTER, ROOT, Fleet, backup_id, fleet, hsm_id, patiently
from support.hsm import refused

from hsmsim import frames
from hsmsim.fleet import launch, processes, simclock
from hsmsim.fleet import protocol as p
from hsmsim.hsm import messages as m
from hsmsim.hsm.client import HsmClient
from hsmsim.hsm.cryptoki import CKR

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OTHER = "cluster-bbbbbbbbbbb"
DIGEST = b"d" * 32


@pytest.fixture
def made() -> Iterator[Fleet]:
    with fleet() as one:
        yield one


def refuses(one: Fleet, request: object, words: str) -> int:
    with pytest.raises(p.FleetError, match=words) as caught:
        one.do(request)
    return caught.value.rv


def test_a_cluster_lives_shrinks_to_nothing_and_comes_back(made: Fleet) -> None:
    view = made.create("a")
    assert (view.state, view.cluster_state, view.mode, view.model) == (
        "RUNNING",
        "UNINITIALIZED",
        "FIPS",
        "hsm2m.medium",
    )
    assert refuses(made, p.Backup(CLUSTER, backup_id("a")), "has no password yet") == CKR.USER_PIN_NOT_INITIALIZED
    assert refuses(made, p.Initialize(CLUSTER, b"x", b"y"), "argument") == CKR.ARGUMENTS_BAD
    made.initialize()
    certificate = made.certificates().cluster
    assert made.describe("a").cluster_state == "INITIALIZED"
    made.activate("a")
    assert made.create("b").cluster_state == "ACTIVE"
    with made.user("a") as alice:
        public, private = patiently(lambda: alice.ec(token=True, label="lasting"))
        before = alice.sign(private, DIGEST)
        alice.call(m.KeyShareRequest(private, b"bob"))
    with made.user("b", "bob") as bob:
        bob.verify(public, DIGEST, before)
        bob.sign(private, DIGEST)

    image = made.backup("a")
    assert made.backup("a") == image
    assert (image.cluster_id, image.region, image.mode, image.size > 1000) == (CLUSTER, "us-east-1", "FIPS", True)
    made.do(p.DeleteHsm(hsm_id("a")))
    made.do(p.DeleteHsm(hsm_id("a")))
    assert not made.places.hsm_folder(hsm_id("a")).exists()
    with made.user("b", profile=2) as alice:
        alice.aes(token=True, label="after the backup")
        later = alice.find(label="after the backup")
        alice.sign(private, DIGEST)
    assert [one.hsm_id for one in made.call(p.ListHsms(CLUSTER), list[p.HsmView])] == [hsm_id("b")]
    refuses(made, p.DeleteCluster(CLUSTER), "has HSMs")
    made.do(p.DeleteHsm(hsm_id("b")))
    assert made.call(p.ListHsms(), list[p.HsmView]) == []

    back = made.create("c", image_id=backup_id("a"))
    assert (back.cluster_state, back.users, back.keys) == ("ACTIVE", 5, 2)
    assert made.create("d").cluster_state == "ACTIVE"
    assert made.certificates().cluster == certificate
    for letter in "cd":
        with made.user(letter, "bob") as bob:
            bob.verify(public, DIGEST, before)
            bob.verify(public, DIGEST, bob.sign(private, DIGEST))
    with made.user("c") as alice:
        assert not alice.find(label="after the backup")
        assert patiently(lambda: alice.aes(token=True)) > later[0]

    new = made.create("e", cluster=OTHER, image_id=backup_id("a"))
    assert (new.cluster_id, new.cluster_state, new.keys) == (OTHER, "ACTIVE", 2)
    assert made.certificates(OTHER).cluster == certificate
    with made.user("e") as alice:
        alice.verify(public, DIGEST, alice.sign(private, DIGEST))
    made.do(p.DeleteHsm(hsm_id("e")))
    made.do(p.DeleteCluster(OTHER))
    made.do(p.DeleteCluster(OTHER))
    assert not made.places.cluster_folder(OTHER).exists()


def test_what_cannot_be_is_refused_with_the_reason(made: Fleet) -> None:
    made.create("a")
    refuses(made, p.CreateHsm(CLUSTER, hsm_id("b"), mode="NON_FIPS"), "in mode FIPS for ever")
    refuses(
        made, p.CreateHsm(OTHER, hsm_id("b"), model="hsm1.medium", mode="NON_FIPS"), "no hsm1.medium in mode NON_FIPS"
    )
    refuses(made, p.CreateHsm(OTHER, hsm_id("b"), model="hsm9.large"), "no hsm9.large")
    refuses(made, p.CreateHsm("../x", hsm_id("b")), "are not the ids")
    refuses(made, p.CreateHsm(OTHER, hsm_id("b"), image_id=backup_id("x")), "cannot be read")
    refuses(made, p.DescribeImage("../../etc/passwd"), "no id of a backup")
    refuses(made, p.DeleteHsm("../../x"), "no HSM's id")
    refuses(made, p.Describe(hsm_id("z")), "There is no HSM hsm-z")
    made.initialize()
    made.activate("a")
    made.backup("a")
    refuses(
        made, p.CreateHsm(OTHER, hsm_id("b"), mode="NON_FIPS", image_id=backup_id("a")), "of a cluster in mode FIPS"
    )
    refuses(made, p.CreateHsm(OTHER, hsm_id("b"), image_id=backup_id("a"), region="eu-west-1"), "copy it to eu-west-1")
    path = made.places.images_folder / f"{backup_id('a')}.image"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    refuses(made, p.CreateHsm(OTHER, hsm_id("b"), image_id=backup_id("a")), "was changed or cut off")
    made.do(p.LimitedWrite(CLUSTER, on=True))
    assert made.describe("a").limited_write
    with made.user("a") as alice, refused(CKR.TOKEN_WRITE_PROTECTED):
        alice.aes(token=True)


def test_audit_records_and_images_follow_the_simulated_clock_at_once(made: Fleet) -> None:
    made.create("a")
    made.initialize()
    made.activate("a")

    def last_record() -> float:
        with sqlite3.connect(made.places.cluster_folder(CLUSTER) / "cluster.db") as database:
            (microseconds,) = database.execute("SELECT time FROM audit ORDER BY sequence DESC LIMIT 1").fetchone()
        return float(microseconds) / 1e6

    for letter, days in (("b", 0), ("c", 400), ("d", 0)):
        simclock.reset(made.places)
        simclock.advance(made.places, days * 86_400)
        with made.user("a"):
            assert last_record() == pytest.approx(time.time() + days * 86_400, abs=60)
        assert made.backup(letter).time == pytest.approx(time.time() + days * 86_400, abs=60)
    assert made.describe("a").state == "RUNNING"


def test_a_cluster_that_was_never_active_begins_again(made: Fleet) -> None:
    made.create("a")
    first = made.certificates().csr
    made.do(p.DeleteHsm(hsm_id("a")))
    assert made.create("b").cluster_state == "UNINITIALIZED"
    assert made.certificates().csr != first


def test_an_hsm_that_dies_is_reported_and_not_started(made: Fleet) -> None:
    pid = made.create("a").pid
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while f"{hsm_id('a')} does not run" not in made.log:
        assert time.monotonic() < deadline, made.log
        time.sleep(0.05)
    assert made.describe("a").state == "DIED"
    assert made.call(p.StartHsm(hsm_id("a")), bool)
    assert made.describe("a").state == "RUNNING"
    assert made.call(p.StopHsm(hsm_id("a")), bool)
    assert made.describe("a").state == "STOPPED"


def test_the_daemon_killed_at_any_moment_of_a_step_goes_on_with_it(made: Fleet) -> None:
    """Each step is asked, the daemon killed meanwhile, and the step asked again of a new daemon."""

    def interrupted(request: object, seconds: float) -> None:
        asking = threading.Thread(target=lambda: attempt(made, request))
        asking.start()
        time.sleep(seconds)
        made.end()
        asking.join()
        made.start()

    delays = iter([0.02, 0.4, 0.9, 1.4] * 3)
    for request in (p.CreateHsm(CLUSTER, hsm_id("a")), p.CreateHsm(CLUSTER, hsm_id("a"))):
        interrupted(request, next(delays))
    assert made.create("a").cluster_state == "UNINITIALIZED"
    made.initialize()
    made.activate("a")
    for letter in "bc":
        interrupted(p.CreateHsm(CLUSTER, hsm_id(letter)), next(delays))
        assert made.create(letter).cluster_state == "ACTIVE"
    with made.user("c") as alice:
        public, private = patiently(lambda: alice.ec(token=True))
    interrupted(p.Backup(CLUSTER, backup_id("a")), 0.05)
    made.backup("a")
    for letter in "abc":
        interrupted(p.DeleteHsm(hsm_id(letter)), 0.1)
        made.do(p.DeleteHsm(hsm_id(letter)))
        assert not made.places.hsm_folder(hsm_id(letter)).exists()
    interrupted(p.CreateHsm(CLUSTER, hsm_id("d"), image_id=backup_id("a")), 0.9)
    assert made.create("d", image_id=backup_id("a")).keys == 2
    with made.user("d") as alice:
        alice.verify(public, DIGEST, alice.sign(private, DIGEST))


def test_an_hsm_whose_process_nobody_wrote_down_is_found_again(made: Fleet) -> None:
    pid = made.create("a").pid
    (made.places.hsm_folder(hsm_id("a")) / "hsm.pid").unlink()
    assert not made.call(p.StartHsm(hsm_id("a")), bool)
    assert made.describe("a").pid == pid
    assert launch.pid_of(made.places, hsm_id("a")) == pid


def attempt(one: Fleet, request: object) -> None:
    """Ask for something that is about to be disturbed."""
    with contextlib.suppress(OSError, frames.FrameError, p.FleetError):
        one.do(request)


def test_an_hsm_killed_while_its_cluster_is_restored_goes_on(made: Fleet) -> None:
    made.create("a", mode="NON_FIPS")
    made.initialize()
    made.activate("a")
    made.backup("a")
    made.do(p.DeleteHsm(hsm_id("a")))
    request = p.CreateHsm(CLUSTER, hsm_id("b"), mode="NON_FIPS", image_id=backup_id("a"))
    for seconds in (0.2, 0.6, 1.0):
        asking = threading.Thread(target=lambda: attempt(made, request))
        asking.start()
        time.sleep(seconds)
        attempt(made, p.KillHsm(hsm_id("b")))
        asking.join()
    made.do(request)
    assert made.describe("b").users == 5


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_only_the_fleets_own_users_are_heard(made: Fleet) -> None:
    program = (
        "import os, socket, sys\n"
        "from hsmsim.errors import CkrError\n"
        "from hsmsim.hsm import messages as m\n"
        "from hsmsim.hsm.client import HsmClient\n"
        f"os.setuid({pwd.getpwnam('nobody').pw_uid})\n"
        "try:\n"
        "    if sys.argv[2] == 'hsm':\n"
        "        HsmClient(sys.argv[1]).call(m.LimitedWriteRequest(1))\n"
        "    s = socket.socket(socket.AF_UNIX)\n"
        "    s.connect(sys.argv[1])\n"
        "    s.sendall(b'\\1\\0\\0\\0x')\n"
        "    print('answered' if s.recv(4) else 'closed')\n"
        "except ConnectionError:\n"
        "    print('closed')\n"
        "except PermissionError:\n"
        "    print('not permitted')\n"
        "except CkrError as error:\n"
        "    print(hex(error.rv))\n"
    )

    def ask(path: Path, what: str) -> str:
        command = [sys.executable, "-P", "-c", program, str(path), what]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    made.create("a")
    assert ask(made.places.fleet_socket, "fleet") == "not permitted"
    made.places.fleet_socket.chmod(0o666)
    assert ask(made.places.fleet_socket, "fleet") == "closed"
    assert ask(made.places.socket(hsm_id("a")), "hsm") == hex(CKR.USER_NOT_LOGGED_IN)


def test_nonsense_is_answered_and_the_daemon_goes_on(made: Fleet) -> None:
    with p.FleetClient(made.places.fleet_socket) as client:
        frames.write(client._file, b"\xc1nonsense")
        assert b"error" in (frames.read(client._file) or b"")
        client._file.write(b"\xff\xff\xff\x7f")
        client._file.flush()
        assert frames.read(client._file) is None
    assert made.call(p.ListHsms(), list[p.HsmView]) == []


def test_a_second_daemon_does_not_start_and_the_first_ends_in_order(made: Fleet) -> None:
    folders = {"HSMSIM_HOME": str(made.places.home), "HSMSIM_RUN": str(made.places.run), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "hsmsim.fleet"],
        env={**os.environ, **folders},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "runs already" in done.stderr
    pid = made.create("a").pid
    assert made.end(signal.SIGTERM) == 0
    assert not made.places.fleet_socket.exists()
    with HsmClient(made.places.socket(hsm_id("a"))) as client:
        assert client.call(m.HsmInfoRequest()).pid == pid
    made.start()
    assert made.describe("a").pid == pid


# ---- faults ----------------------------------------------------------------------------------------------------------


def test_faults_are_put_listed_and_taken_back(made: Fleet) -> None:
    made.create("a")
    one = hsm_id("a")
    well, ill = (
        p.FaultsView(one),
        p.FaultsView(one, slow_ms=2.5, drop_percent=1.25, cut=("clients", "database"), disk="read-only", clock_s=90),
    )
    assert made.call(p.ListFaults(), list[p.FaultsView]) == [well]
    made.do(p.PutFaults(ill))
    assert made.call(p.ListFaults(), list[p.FaultsView]) == [ill]
    made.do(p.PutFaults(well))
    assert made.call(p.ListFaults(), list[p.FaultsView]) == [well]
    for members, words in (
        ({"cut": ("moon",)}, "not moon"),
        ({"disk": "wet"}, "not wet"),
        ({"slow_ms": 10_001.0}, "0 to 10,000 ms"),
        ({"drop_percent": 101.0}, "0 to 100 percent"),
        ({"clock_s": 10**10}, "100 years"),
    ):
        refuses(made, p.PutFaults(p.FaultsView(one, **members)), words)
    refuses(made, p.PutFaults(p.FaultsView(hsm_id("b"))), "There is no HSM")
    assert made.call(p.ListFaults(), list[p.FaultsView]) == [well]


def test_a_paused_hsm_goes_on_and_can_be_stopped(made: Fleet) -> None:
    made.create("a")
    one = hsm_id("a")
    made.do(p.PutFaults(p.FaultsView(one, paused=True)))
    assert made.call(p.ListFaults(), list[p.FaultsView]) == [p.FaultsView(one, paused=True)]
    made.do(p.PutFaults(p.FaultsView(one)))
    assert made.describe("a").state == "RUNNING"
    made.do(p.PutFaults(p.FaultsView(one, paused=True)))
    began = time.monotonic()
    assert made.call(p.StopHsm(one), bool)
    assert time.monotonic() - began < processes.STOP_SECONDS
    refuses(made, p.PutFaults(p.FaultsView(one, paused=True)), "does not run")
