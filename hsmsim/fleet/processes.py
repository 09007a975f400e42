"""Processes in the background: start one, know it again, end it. HSMs, the fleet's daemon and the gateway are such.

A process is known by a file with its id and its start time, so that a number used again is not mistaken for it. Its
lock is taken by whoever starts it, and inherited: while it is held a process runs or is about to, also where its
starter was killed before it could write the file. All signals go through a pidfd. Each has a session of its own: Ctrl-C
at a terminal does not reach it, and the command that started it may end.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import struct
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from hsmsim.errors import HsmsimError
from hsmsim.fleet import state
from hsmsim.hsm import alone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

READY_SECONDS: Final = 60.0
STOP_SECONDS: Final = 15.0
LOG_LINES: Final = 15
LOOK_SECONDS: Final = 0.02
_CLAIM: Final = 3  # the process's descriptor of its lock
_SECRETS: Final = frozenset({"HSMSIM_PIN", "GNUTLS_PIN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"})
_CREDENTIALS: Final = struct.Struct("3i")

_children: set[int] = set()


@dataclass(frozen=True, slots=True)
class Process:
    """One process. name: as people call it; answering: the id of the process that answers for it, None if none does.

    account: the user that it runs as and that its file belongs to, empty for ours.
    """

    name: str
    pid_file: Path
    lock_file: Path
    log_file: Path
    answering: Callable[[], int | None]
    account: str = ""


@dataclass(frozen=True, slots=True)
class Program:
    """What is started. prepare: writes what it reads, and runs when it is certain that no such process runs."""

    command: list[str]
    prepare: Callable[[], None]
    environment: Mapping[str, str] = field(default_factory=dict)


def start(process: Process, program: Program) -> bool:
    """Start it if it does not run; whether it was started. `wait_ready` waits until it answers."""
    if is_running(process):
        return False
    claim = _claim(process)
    if claim is None:
        return _adopt(process, program)
    try:
        program.prepare()
        with _undisturbed():
            pid = _spawn(program.command, process.log_file, claim, {**os.environ, **program.environment})
            _children.add(pid)
            _record(process, pid)
    finally:
        os.close(claim)
    return True


def _record(process: Process, pid: int) -> None:
    state.write_private(process.pid_file, alone.record(pid), account=process.account)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Take Ctrl-C afterwards: whoever stops what was started must know of it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _claim(process: Process) -> int | None:
    """Take the lock, which the process inherits and holds for life; None where one holds it."""
    descriptor = os.open(process.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _adopt(process: Process, program: Program) -> bool:
    """Note which process runs where its starter was killed before it could; False, or True if one had to be started."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        pid = process.answering()
        if pid is not None:
            _record(process, pid)
            return False
        if (claim := _claim(process)) is not None:
            os.close(claim)
            return start(process, program)
        time.sleep(LOOK_SECONDS)
    raise HsmsimError(f"A process of {process.name} runs and does not answer. Its log says:\n{log_end(process)}")


def _spawn(command: list[str], log: Path, claim: int, environment: Mapping[str, str]) -> int:
    """Start a process that outlives us. Not subprocess.Popen: that one warns when it is not waited for."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    output = os.open(log, flags, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.posix_spawn(
            command[0],
            command,
            {name: value for name, value in environment.items() if name not in _SECRETS},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, nothing, 0),
                (os.POSIX_SPAWN_DUP2, output, 1),
                (os.POSIX_SPAWN_DUP2, output, 2),
                (os.POSIX_SPAWN_DUP2, claim, _CLAIM),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE),
        )
    finally:
        os.close(output)
        os.close(nothing)


def wait_ready(wanted: Iterable[Process], seconds: float = READY_SECONDS) -> None:
    """Return when each answers; HsmsimError with the end of its log if one ends or takes too long."""
    deadline = time.monotonic() + seconds
    for process in wanted:
        while process.answering() is None:
            if not is_running(process):
                raise HsmsimError(f"{process.name} ended instead of starting. Its log says:\n{log_end(process)}")
            if time.monotonic() > deadline:
                raise HsmsimError(
                    f"{process.name} runs but did not answer within {seconds:.0f} s. Its log says:\n{log_end(process)}"
                )
            time.sleep(LOOK_SECONDS)


def end(wanted: Iterable[Process], first: signal.Signals = signal.SIGTERM, seconds: float = STOP_SECONDS) -> list[str]:
    """Send the signal to all at once, SIGKILL after `seconds`, and wait. Return the names of those that ran."""
    ended = []
    with _pidfds(wanted) as processes:
        for descriptor in processes.values():
            # One that is paused cannot hear, and what waits for it until it goes on may reach a thread that is not
            # Python's main one, which then sleeps on.
            signal.pidfd_send_signal(descriptor, signal.SIGCONT)
            signal.pidfd_send_signal(descriptor, first)
        deadline = time.monotonic() + seconds
        for name, descriptor in processes.items():
            if not _gone(descriptor, max(0.0, deadline - time.monotonic())):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                _gone(descriptor, STOP_SECONDS)
            ended.append(name)
    reap()
    return ended


def send(process: Process, number: signal.Signals) -> bool:
    """Send a signal that does not end it; whether it runs."""
    with _pidfds([process]) as found:
        for descriptor in found.values():
            signal.pidfd_send_signal(descriptor, number)
    return bool(found)


@contextmanager
def _pidfds(wanted: Iterable[Process]) -> Iterator[dict[str, int]]:
    found: dict[str, int] = {}
    try:
        for process in wanted:
            descriptor = _open_process(process)
            if descriptor is not None:
                found[process.name] = descriptor
        yield found
    finally:
        for descriptor in found.values():
            os.close(descriptor)


def reap() -> None:
    """Collect processes of ours that ended, so that they are not left as zombies."""
    for pid in list(_children):
        with suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG)[0] == 0:
                continue
        _children.discard(pid)


# ---- who runs ----------------------------------------------------------------------------------------------------


def pid_of(process: Process) -> int | None:
    """Return its id, None if it does not run."""
    descriptor = _open_process(process)
    if descriptor is None:
        return None
    os.close(descriptor)
    return _recorded(process)[0]


def is_running(process: Process) -> bool:
    """Return whether it runs (it may not answer yet)."""
    return pid_of(process) is not None


def _recorded(process: Process) -> tuple[int, int]:
    data = state.read_private(process.pid_file)
    try:
        pid, born = (data or b"0 0").split()
        return int(pid), int(born)
    except ValueError:
        return 0, 0


def _open_process(process: Process) -> int | None:
    """Return a pidfd of the running process; None if it ended or the number is another process's by now."""
    pid, born = _recorded(process)
    if pid == 0:
        return None
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    if alone.started(pid) == born and not _gone(descriptor, 0):
        return descriptor
    os.close(descriptor)
    return None


def _gone(descriptor: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def listening(path: Path) -> int | None:
    """Return the id of the process that listens on a unix socket; None if none does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.settimeout(STOP_SECONDS)
        try:
            probe.connect(str(path))
        except OSError:
            return None
        raw = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid: int = _CREDENTIALS.unpack(raw)[0]
    return pid


def log_end(process: Process) -> str:
    """Return the last lines of its log."""
    try:
        lines = process.log_file.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        lines = []
    return "\n".join(f"  {line}" for line in lines[-LOG_LINES:]) or "  (nothing)"
