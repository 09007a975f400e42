"""HSM processes: start, wait until they answer, stop, kill, and say which run.

A process is known by hsm.pid (see hsm.alone), which it writes itself as soon as it can, so that it is found even if the
command that started it was killed at once. All signals go through a pidfd. HSMs have a session of their own: Ctrl-C at
a terminal does not reach them, the command that started them may end.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from hsmsim.errors import HsmsimError
from hsmsim.fleet import simclock, state
from hsmsim.hsm import alone
from hsmsim.hsm.client import HsmClient
from hsmsim.hsm.messages import HsmInfoRequest, HsmInfoResponse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from hsmsim.config import Places

READY_SECONDS = 60.0
STOP_SECONDS = 15.0
LOG_LINES = 15
CLAIM = 3  # the HSM's descriptor of its lock
NOT_FOR_HSMS = frozenset({"HSMSIM_PIN", "GNUTLS_PIN"})

_children: set[int] = set()


def start(places: Places, hsm_id: str) -> bool:
    """Start the process if it does not run; whether it was started. `wait_ready` waits until it serves."""
    fleet = state.load(places)
    hsm = fleet.hsm(hsm_id)
    if is_running(places, hsm_id):
        return False
    folder = places.hsm_folder(hsm_id)
    claim = _claim(folder)
    if claim is None:
        return _adopt(places, hsm_id, fleet.account)
    try:
        _start(places, fleet, hsm, claim)
    finally:
        os.close(claim)
    return True


def _start(places: Places, fleet: state.Fleet, hsm: state.Hsm, claim: int) -> None:
    folder = places.hsm_folder(hsm.hsm_id)
    state.make_run(places, fleet.account)
    state.make_images(places, fleet.account)
    state.publish_roots(places)
    simclock.share(places)
    state.write_config(places, fleet.cluster_of(hsm.hsm_id), hsm, fleet.account)
    command = [sys.executable, "-P", "-m", "hsmsim.hsm", "--config", str(folder / "config.json")]
    if fleet.account:
        command += ["--user", fleet.account]
    with _undisturbed():
        pid = _spawn(command, folder / "hsm.log", claim)
        _children.add(pid)
        _record(places, hsm.hsm_id, pid, fleet.account)


def _record(places: Places, hsm_id: str, pid: int, account: str) -> None:
    state.write_private(places.hsm_folder(hsm_id) / alone.PID_FILE, alone.record(pid), account=account)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Take Ctrl-C afterwards: whoever stops what was started must know of it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _claim(folder: Path) -> int | None:
    """Take the HSM's lock, which its process inherits and holds for life; None where one holds it."""
    descriptor = os.open(folder / "hsm.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _adopt(places: Places, hsm_id: str, account: str) -> bool:
    """Note which process runs where its starter was killed before it could; False, or True if one had to be started."""
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        found = info(places, hsm_id)
        if found is not None:
            _record(places, hsm_id, found.pid, account)
            return False
        if (claim := _claim(places.hsm_folder(hsm_id))) is not None:
            os.close(claim)
            return start(places, hsm_id)
        time.sleep(0.05)
    raise HsmsimError(f"A process of {hsm_id} runs and does not answer. Its log says:\n{log_end(places, hsm_id)}")


def _spawn(command: list[str], log: Path, claim: int) -> int:
    """Start a process that outlives us. Not subprocess.Popen: that one warns when it is not waited for."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    output = os.open(log, flags, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.posix_spawn(
            command[0],
            command,
            {name: value for name, value in os.environ.items() if name not in NOT_FOR_HSMS},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, nothing, 0),
                (os.POSIX_SPAWN_DUP2, output, 1),
                (os.POSIX_SPAWN_DUP2, output, 2),
                (os.POSIX_SPAWN_DUP2, claim, CLAIM),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE),
        )
    finally:
        os.close(output)
        os.close(nothing)


def wait_ready(places: Places, hsm_ids: Iterable[str], seconds: float = READY_SECONDS) -> None:
    """Return when each answers; HsmsimError with the end of its log if one ends or takes too long."""
    deadline = time.monotonic() + seconds
    for hsm_id in hsm_ids:
        while info(places, hsm_id) is None:
            if not is_running(places, hsm_id):
                raise HsmsimError(f"{hsm_id} ended instead of starting. Its log says:\n{log_end(places, hsm_id)}")
            if time.monotonic() > deadline:
                raise HsmsimError(
                    f"{hsm_id} runs but did not answer within {seconds:.0f} s. Its log says:\n{log_end(places, hsm_id)}"
                )
            time.sleep(0.02)


def stop(places: Places, hsm_ids: Iterable[str], seconds: float = STOP_SECONDS) -> list[str]:
    """End the processes in an orderly way, all at once; SIGKILL after `seconds`. Return the ids of those that ran."""
    return _end(places, hsm_ids, signal.SIGTERM, seconds)


def kill(places: Places, hsm_id: str) -> bool:
    """SIGKILL, as a power failure would; whether it ran."""
    return bool(_end(places, [hsm_id], signal.SIGKILL, STOP_SECONDS))


def _end(places: Places, hsm_ids: Iterable[str], first: signal.Signals, seconds: float) -> list[str]:
    ended = []
    with _pidfds(places, hsm_ids) as processes:
        for descriptor in processes.values():
            signal.pidfd_send_signal(descriptor, first)
        deadline = time.monotonic() + seconds
        for hsm_id, descriptor in processes.items():
            if not _gone(descriptor, max(0.0, deadline - time.monotonic())):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                _gone(descriptor, STOP_SECONDS)
            ended.append(hsm_id)
    reap()
    return ended


@contextmanager
def _pidfds(places: Places, hsm_ids: Iterable[str]) -> Iterator[dict[str, int]]:
    found: dict[str, int] = {}
    try:
        for hsm_id in hsm_ids:
            descriptor = _open_process(places, hsm_id)
            if descriptor is not None:
                found[hsm_id] = descriptor
        yield found
    finally:
        for descriptor in found.values():
            os.close(descriptor)


def reap() -> None:
    """Collect HSM processes of ours that ended, so that they are not left as zombies."""
    for pid in list(_children):
        with suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG)[0] == 0:
                continue
        _children.discard(pid)


# ---- who runs ----------------------------------------------------------------------------------------------------


def pid_of(places: Places, hsm_id: str) -> int | None:
    """Return the id of the HSM's process, None if it does not run."""
    descriptor = _open_process(places, hsm_id)
    if descriptor is None:
        return None
    os.close(descriptor)
    return _recorded(places, hsm_id)[0]


def is_running(places: Places, hsm_id: str) -> bool:
    """Return whether the HSM's process runs (it may not serve yet)."""
    return pid_of(places, hsm_id) is not None


def _recorded(places: Places, hsm_id: str) -> tuple[int, int]:
    data = state.read_private(places.hsm_folder(hsm_id) / alone.PID_FILE)
    try:
        pid, born = (data or b"0 0").split()
        return int(pid), int(born)
    except ValueError:
        return 0, 0


def _open_process(places: Places, hsm_id: str) -> int | None:
    """Return a pidfd of the running process; None if it ended or the number is another process's by now."""
    pid, born = _recorded(places, hsm_id)
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


def info(places: Places, hsm_id: str) -> HsmInfoResponse | None:
    """Return what the HSM says of itself; None if it does not answer."""
    try:
        with HsmClient(places.socket(hsm_id)) as client:
            answer: HsmInfoResponse = client.call(HsmInfoRequest())
            return answer
    except (OSError, HsmsimError):
        return None


def log_end(places: Places, hsm_id: str) -> str:
    """Return the last lines of hsm.log."""
    path = places.hsm_folder(hsm_id) / "hsm.log"
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        lines = []
    return "\n".join(f"  {line}" for line in lines[-LOG_LINES:]) or "  (nothing)"
