"""The HSM process, but it dies at a named step of its work, as `kill -9` at that moment would have it.

The product has no hook for this: it is the real process, with functions of it wrapped before it starts. A step is
armed by its name in the file `dies` of the HSM's folder, and strikes the next time that it is reached; of several, a
line each, one after another in as many lives. A step `within` a call is a write of SoftHSM2's cut off by the kernel:
"storing:300" ends the process at byte 300 of the file.
"""

from __future__ import annotations

import functools
import os
import resource
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from hsmsim.cluster import founding, sql
from hsmsim.cluster.audit import AuditLog
from hsmsim.cluster.replica import Replica
from hsmsim.hsm import certify, images, process
from hsmsim.hsm.firmware import birth
from hsmsim.hsm.firmware.state import State
from hsmsim.hsm.peers import Links
from hsmsim.hsm.vault import tokens, vault

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ARMED: Final = "dies"
FIRMWARE, FOLLOWING, VAULT, MAIN = ("firmware",), ("peer", "poller"), ("vault",), ("MainThread",)
"""Threads by the beginning of their names: they answer clients, follow other HSMs, write token objects, start."""

ANSWER_SECONDS: Final = 0.3
"""SoftHSM2's objects are written behind the work: so long the client has its answer, for certain."""


@dataclass(frozen=True, slots=True)
class Step:
    """A moment around the calls of owner.function in some threads; within: the files that it writes are cut."""

    when: Literal["before", "after", "within"]
    owner: Any
    function: str
    threads: tuple[str, ...]


STEPS: Final = {
    "asked to make": Step("before", vault.Vault, "_make", FIRMWARE),
    "made": Step("after", vault.Vault, "_make", FIRMWARE),
    "bearing": Step("before", birth, "bear", FIRMWARE),
    "burying": Step("before", birth, "bury", FIRMWARE),
    "writing": Step("after", sql, "advance", FIRMWARE),
    "written": Step("after", AuditLog, "insert", FIRMWARE),
    "committed": Step("before", Replica, "_commit_to_memory", FIRMWARE),
    "applied": Step("before", Links, "announce", FIRMWARE),
    "told": Step("after", Links, "announce", FIRMWARE),
    "answered": Step("before", vault.Vault, "_settle", VAULT),
    "storing": Step("within", vault, "store", VAULT),
    "stored": Step("after", vault, "store", VAULT),
    "removing": Step("before", vault.Vault, "_remove", VAULT),
    "removed": Step("after", vault.Vault, "_remove", VAULT),
    "unlocking a token": Step("within", tokens.Tokens, "_unlock", MAIN),
    "opening a token": Step("within", tokens.Tokens, "_open", MAIN),
    "founding": Step("before", founding, "found", MAIN),
    "founded": Step("after", founding, "found", MAIN),
    "certified": Step("after", certify, "ensure", MAIN),
    "a candidate": Step("after", founding, "put_candidate", MAIN),
    "restored": Step("after", founding, "restore", MAIN),
    "granting": Step("before", State, "grant", FIRMWARE),
    "granted": Step("after", State, "grant", FIRMWARE),
    "writing an image": Step("before", images, "write", FIRMWARE),
    "wrote an image": Step("after", images, "write", FIRMWARE),
    "heard of it": Step("before", Replica, "_commit_to_memory", FOLLOWING),
    "followed": Step("after", Replica, "_commit_to_memory", FOLLOWING),
}


def install(folder: Path, steps: Mapping[str, Step] = STEPS) -> None:
    """Wrap the functions of the steps; AttributeError where the product has no such function any more."""
    for owner, function in {(step.owner, step.function) for step in steps.values()}:
        here = {name: step for name, step in steps.items() if (step.owner, step.function) == (owner, function)}
        setattr(owner, function, _wrapped(getattr(owner, function), here, folder / ARMED))


def _wrapped(real: Callable[..., Any], steps: dict[str, Step], armed: Path) -> Callable[..., Any]:
    @functools.wraps(real)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        _reach("before", steps, armed)
        _reach("within", steps, armed)
        result = real(*arguments, **named)
        _reach("after", steps, armed)
        return result

    return wrapped


def _reach(when: str, steps: dict[str, Step], armed: Path) -> None:
    try:
        first, _, later = armed.read_text(encoding="ascii").partition("\n")
    except FileNotFoundError:
        return
    name, _, size = first.partition(":")
    step = steps.get(name)
    if step is None or step.when != when or not threading.current_thread().name.startswith(step.threads):
        return
    if later:
        armed.write_text(later, encoding="ascii")
    else:
        armed.unlink()
    if step.threads is VAULT:
        time.sleep(ANSWER_SECONDS)
    if when == "within":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), int(size)))
    else:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
    install(Path(sys.argv[sys.argv.index("--config") + 1]).parent)
    process.main()
