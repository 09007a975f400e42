"""Many processes that sign without a pause, with a key that is there already; see Signers for how a test has them.

python signers.py LABEL PROCESSES: forks them, each a client of its own, says "ready", and answers each line of its
standard input with a line of JSON: what they have signed, the longest C_Sign since the last answer, and the longest
that a little arithmetic took meanwhile: what the machine itself makes a process wait. At the end of the input they
stop.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

DIGEST: Final = bytes(range(32))
_COUNTS: Final = struct.Struct("=Q d d")  # signed, longest C_Sign, longest arithmetic
_STOP, _RESET, _READY = range(3)
_VERIFY_EVERY: Final = 100


@dataclass(frozen=True, slots=True)
class Told:
    """Of all processes; seconds."""

    signed: tuple[int, ...]
    longest: float
    machine: float


class Signers:
    """The processes, from when all of them sign until the end of the block, at which none may have failed."""

    def __init__(self, environment: Mapping[str, str], label: str, processes: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).resolve()), label, str(processes)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        assert self._line() == "ready"
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        status = self._process.wait(60)
        assert self._process.stdout is not None
        self._process.stdout.close()
        assert kind is not None or status == 0, "a signature failed"

    def tell(self) -> Told:
        """What was done since the last call, but `signed`, which only grows."""
        assert self._process.stdin is not None
        self._process.stdin.write("tell\n")
        self._process.stdin.flush()
        told = json.loads(self._line())
        return Told(tuple(told["signed"]), told["longest"], told["machine"])

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        assert line, "a signer failed"
        return line


# ---- the processes --------------------------------------------------------------------------------------------------


class _Board:
    """Memory that they share: flags, then a place for each."""

    def __init__(self, processes: int) -> None:
        self.memory = mmap.mmap(-1, 16 + processes * (_COUNTS.size + 2))
        self.processes = processes

    def place(self, number: int) -> int:
        return 16 + number * (_COUNTS.size + 2)

    def ready(self) -> int:
        return sum(self.memory[self.place(number) + _COUNTS.size] for number in range(self.processes))

    def tell(self) -> dict[str, object]:
        rows = [_COUNTS.unpack_from(self.memory, self.place(number)) for number in range(self.processes)]
        for number in range(self.processes):
            self.memory[self.place(number) + _COUNTS.size + 1] = 1  # begin anew
        return {
            "signed": [row[0] for row in rows],
            "longest": max(r[1] for r in rows),
            "machine": max(r[2] for r in rows),
        }


def _sign(board: _Board, number: int, label: str) -> None:
    import pkcs11  # noqa: PLC0415 - after the fork

    token = pkcs11.lib(os.environ["HSMSIM_MODULE"]).get_token(token_label=os.environ["HSMSIM_TOKEN"])
    session = token.open(rw=True, user_pin=os.environ["HSMSIM_PIN"])
    private = session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, label=label)
    public = session.get_key(object_class=pkcs11.ObjectClass.PUBLIC_KEY, label=label)
    place, memory = board.place(number), board.memory
    signed, longest, machine = 0, 0.0, 0.0
    while not memory[_STOP]:
        start = time.monotonic()
        signature = private.sign(DIGEST, mechanism=pkcs11.Mechanism.ECDSA)
        middle = time.monotonic()
        sum(range(1000))
        longest, machine = max(longest, middle - start), max(machine, time.monotonic() - middle)
        signed += 1
        if memory[place + _COUNTS.size + 1]:
            memory[place + _COUNTS.size + 1] = 0
            longest = machine = 0.0
        _COUNTS.pack_into(memory, place, signed, longest, machine)
        memory[place + _COUNTS.size] = 1
        if signed % _VERIFY_EVERY == 0:
            assert public.verify(DIGEST, signature, mechanism=pkcs11.Mechanism.ECDSA)


def _child(board: _Board, number: int, label: str) -> None:
    status = 1
    try:
        _sign(board, number, label)
        status = 0
    finally:
        os._exit(status)


def main(label: str, processes: int) -> int:
    """Return 0 if all of them have signed to the end."""
    board = _Board(processes)
    pids = []
    for number in range(processes):
        pid = os.fork()
        if pid == 0:
            _child(board, number, label)
        pids.append(pid)
    while board.ready() < processes:
        if os.waitpid(-1, os.WNOHANG) != (0, 0):
            return 1
        time.sleep(0.01)
    print("ready", flush=True)
    for _ in sys.stdin:
        print(json.dumps(board.tell()), flush=True)
    board.memory[_STOP] = 1
    return max(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
