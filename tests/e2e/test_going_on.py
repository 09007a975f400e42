"""A client of the module keeps its work when the HSM under it is killed, and starts anew after a fork."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from support.hsm import eventually
from support.signers import Signers

from hsmsim.cli.hsm import describe

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Simulator

SIGN: Final = (Path(__file__).resolve().parents[1] / "support" / "signer.py").read_text(encoding="utf-8")


HSMS: Final = 3
PROCESSES: Final = 16
STALL: Final = 0.25
"""Seconds that no signature takes longer than, beside what the machine itself makes a process wait."""


def stands(simulator: Simulator, name: str) -> list[int]:
    """A number that `hsmsim hsm list` shows, of each HSM; 0 of one that does not run."""
    return [int(str(describe(simulator.places, hsm_id)[name] or 0)) for hsm_id in simulator.hsm_ids]


def all_sign(simulator: Simulator) -> bool:
    before = stands(simulator, "operations")
    time.sleep(0.5)
    return all(now > was for now, was in zip(stands(simulator, "operations"), before, strict=True))


@pytest.mark.parametrize("rounds", [2, pytest.param(20, marks=pytest.mark.soak)])
def test_no_signature_fails_when_the_hsms_are_killed_in_turn(
    new_simulator: Callable[..., Simulator], rounds: int, tell: Callable[[str], None]
) -> None:
    """Two of three die, and come back; a key that was made meanwhile is then on all."""
    simulator = new_simulator(hsms=HSMS)
    simulator.run("key", "generate", "ec", "--curve", "P-256", "--label", "going-on")
    longest = machine = 0.0
    with Signers(simulator.environment, "going-on", PROCESSES) as signers:
        for round_ in range(rounds):
            eventually(lambda: all_sign(simulator), 60)
            signers.tell()
            first, second = round_ % HSMS, (round_ + 1) % HSMS
            simulator.kill(first)
            time.sleep(0.7)
            patiently_made(simulator, f"going-on-{round_}")
            simulator.kill(second)
            time.sleep(0.7)
            told = signers.tell()
            assert told.longest < STALL + told.machine
            longest, machine = max(longest, told.longest), max(machine, told.machine)
            simulator.start(first)
            simulator.start(second)
        eventually(lambda: all_sign(simulator), 60)
        eventually(lambda: stands(simulator, "keys") == [2 + rounds] * HSMS, 20)
        signed = sum(signers.tell().signed)
    assert signed > 500 * rounds
    tell(
        f"{2 * rounds} kills in turn, {signed} signatures by {PROCESSES} processes and none failed; "
        f"the longest took {longest:.3f} s, where the machine made a process wait for up to {machine:.3f} s"
    )


def patiently_made(simulator: Simulator, label: str) -> None:
    """A key, as soon as those that are left agree that two of them live."""
    deadline = time.monotonic() + 20
    while True:
        try:
            simulator.run("key", "generate", "aes", "--label", label)
        except AssertionError:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        else:
            return


def test_no_signature_fails_while_the_last_hsm_waits_for_its_lease(new_simulator: Callable[..., Simulator]) -> None:
    simulator = new_simulator()
    folder = simulator.places.cluster_folder(simulator.ready.cluster_id)
    with simulator.client(SIGN, "ready") as client:
        simulator.kill(1)
        with closing(sqlite3.connect(folder / "cluster.db", isolation_level=None)) as blocker:
            blocker.execute("BEGIN IMMEDIATE")  # nobody renews a lease meanwhile
            time.sleep(1.8)
            blocker.execute("ROLLBACK")
        time.sleep(0.5)
        simulator.start(1)  # a key is destroyed on two HSMs
        words = client.communicate()[0].split()
    assert client.returncode == 0
    assert float(words[3]) > 0.2  # seconds: it was refused for a while


def test_a_handle_names_the_same_key_on_both_hsms(new_simulator: Callable[..., Simulator]) -> None:
    simulator = new_simulator()
    made = simulator.run("key", "generate", "aes", "--label", "both", "--json")
    listed = []
    for number in (0, 1):
        simulator.stop(1 - number)
        listed.append(simulator.run("key", "list", "--json"))
        simulator.start(1 - number)
    assert '"both"' in listed[0]
    assert listed[0] == listed[1]
    assert json.loads(made)["key"] in listed[0]


@pytest.mark.parametrize("finalize_first", [False, True], ids=["initialize", "finalize-then-initialize"])
def test_a_forked_child_starts_anew(simulator: Simulator, finalize_first: bool) -> None:  # noqa: FBT001
    script = f"""
import ctypes, os
lib = ctypes.CDLL(os.environ["HSMSIM_MODULE"])
table = ctypes.POINTER(ctypes.c_void_p)()
assert lib.C_GetFunctionList(ctypes.byref(table)) == 0
# CK_FUNCTION_LIST: CK_VERSION padded to a pointer, then C_Initialize, C_Finalize, C_GetInfo, ...
call = lambda index, *args: ctypes.CFUNCTYPE(ctypes.c_ulong, *[type(a) for a in args])(table[1 + index])(*args)
NULL = ctypes.c_void_p(None)
INITIALIZE, FINALIZE, GET_INFO, GET_SLOT_LIST, OPEN, LOGIN, RANDOM = 0, 1, 2, 4, 12, 18, 64
slot, session = ctypes.c_ulong(), ctypes.c_ulong()
def work():
    count = ctypes.c_ulong(1)
    assert call(GET_SLOT_LIST, ctypes.c_ubyte(1), ctypes.pointer(slot), ctypes.pointer(count)) == 0
    assert call(OPEN, slot, ctypes.c_ulong(6), NULL, NULL, ctypes.pointer(session)) == 0
    pin = os.environ["HSMSIM_PIN"].encode()
    assert call(LOGIN, session, ctypes.c_ulong(1), ctypes.c_char_p(pin), ctypes.c_ulong(len(pin))) == 0
    buffer = ctypes.create_string_buffer(32)
    assert call(RANDOM, session, ctypes.cast(buffer, ctypes.c_void_p), ctypes.c_ulong(32)) == 0
    return buffer.raw
assert call(INITIALIZE, NULL) == 0
first = work()
child = os.fork()
if child == 0:
    assert call(GET_INFO, NULL) == 0x190  # CKR_CRYPTOKI_NOT_INITIALIZED
    if {finalize_first}:
        assert call(FINALIZE, NULL) == 0
    assert call(INITIALIZE, NULL) == 0
    assert work() != first
    assert call(FINALIZE, NULL) == 0
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
buffer = ctypes.create_string_buffer(32)
assert call(RANDOM, session, ctypes.cast(buffer, ctypes.c_void_p), ctypes.c_ulong(32)) == 0
assert call(FINALIZE, NULL) == 0
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=simulator.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_client_that_dies_leaves_no_session(simulator: Simulator) -> None:
    def sessions() -> int:
        return sum(one["sessions"] or 0 for one in json.loads(simulator.run("hsm", "list", "--json")))

    before = sessions()
    clients = [
        subprocess.Popen(
            [sys.executable, "-c", SIGN],
            env=simulator.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for client in clients:
        assert client.stdout is not None
        assert client.stdout.readline() == "ready\n"
    assert sessions() >= before + 3  # and one more where a client is a guest
    for client in clients:
        client.kill()
        client.wait()
        for end in (client.stdin, client.stdout):
            end.close()  # type: ignore[union-attr]
    deadline = time.monotonic() + 10
    while sessions() != before and time.monotonic() < deadline:
        threading.Event().wait(0.1)
    assert sessions() == before
    simulator.run("key", "delete", "--label", "going-on", "--yes")
