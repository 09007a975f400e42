"""Run contenders in turn, several rounds, and say what the medians are.

A contender is a command that prints one line of JSON (``native/bench``). One round runs each contender once, in order,
so that a machine that gets slower gets slower for all of them. A figure is the median over the rounds; the spread is
the smallest and the largest round. Rates are operations per second, latencies microseconds, shares those of one
processor.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hsmsim.errors import HsmsimError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

SECONDS_FOR_START = 60
SECONDS_TO_REST = 60
IDLE = 0.15  # of a processor: an idle HSM takes some hundredths
_TICKS = os.sysconf("SC_CLK_TCK")

Setting = dict[str, str | int]
"""What was measured besides the contender: kind of key, clients, size, version of TLS."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A named command. `environment` is added to ours; `processors` is where it may run (None: anywhere).

    `workers` and `hsms`: processes that work for it, whose processor time counts as its own.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    processors: frozenset[int] | None = None
    workers: tuple[int, ...] = ()
    hsms: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Measurement:
    """The rounds of one contender at one workload: what each printed, as numbers, and `others_cpu`.

    `others_cpu`: processors that programs of nobody here used meanwhile; above some tenths a figure is worth little.
    """

    workload: str
    contender: str
    setting: Setting
    rounds: tuple[Mapping[str, float], ...]

    def median(self, key: str) -> float:
        """Median over the rounds of the number named `key`."""
        return statistics.median(one[key] for one in self.rounds)

    def spread(self, key: str) -> tuple[float, float]:
        """Smallest and largest round."""
        values = [one[key] for one in self.rounds]
        return min(values), max(values)

    def fits(self, workload: str, contender: str, setting: Mapping[str, str | int]) -> bool:
        """Whether this is that contender's at that workload; members of the setting not named may be any."""
        same = all(self.setting.get(key) == value for key, value in setting.items())
        return self.workload == workload and self.contender == contender and same


def find(measured: Iterable[Measurement], workload: str, contender: str, **setting: str | int) -> list[Measurement]:
    """Return all measurements that fit."""
    return [one for one in measured if one.fits(workload, contender, setting)]


def processor_seconds(pids: Iterable[int]) -> float:
    """User and system time of processes and the children that they waited for (proc(5), stat); one gone has none."""
    ticks = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            continue
        fields = text.rpartition(")")[2].split()
        ticks += sum(int(one) for one in fields[11:15])
    return ticks / _TICKS


def busy_seconds(processors: Iterable[int]) -> float:
    """Time in which these processors ran something (proc(5), stat: all but idle, iowait and stolen)."""
    names = {f"cpu{number}" for number in processors}
    ticks = 0
    for line in Path("/proc/stat").read_text(encoding="ascii").splitlines():
        name, *fields = line.split()
        if name in names:
            user, nice, system, _idle, _iowait, irq, softirq = (int(one) for one in fields[:7])
            ticks += user + nice + system + irq + softirq
    return ticks / _TICKS


def wait_idle(pids: tuple[int, ...]) -> None:
    """Wait until these processes have done what they do after their start; HsmsimError if they do not come to rest."""
    deadline = time.monotonic() + SECONDS_TO_REST
    while time.monotonic() < deadline:
        before = processor_seconds(pids)
        time.sleep(0.2)
        if processor_seconds(pids) - before <= IDLE * 0.2:
            return
    raise HsmsimError(
        f"The HSM (process {pids}) is still busy {SECONDS_TO_REST} s after its start; its log may say why."
    )


def place_on(processors: frozenset[int] | None) -> Callable[[], None]:
    """What a new process does first in order to run on these processors alone."""

    def place() -> None:
        if processors is not None:
            os.sched_setaffinity(0, processors)

    return place


@contextmanager
def pinned(pids: tuple[int, ...], processor: int) -> Iterator[None]:
    """Every thread of these processes on one processor, and back. PermissionError where they are somebody else's."""
    threads = [int(task.name) for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]
    before = {thread: os.sched_getaffinity(thread) for thread in threads}
    try:
        for thread in threads:
            os.sched_setaffinity(thread, {processor})
        yield
    finally:
        for thread, where in before.items():
            if Path(f"/proc/{thread}").exists():
                os.sched_setaffinity(thread, where)


def run_once(contender: Contender, seconds: float) -> dict[str, float]:
    """One run; HsmsimError names the contender and quotes what it complained of."""
    everywhere = range(os.cpu_count() or 1)
    before = os.times()
    workers, hsms = processor_seconds(contender.workers), processor_seconds(contender.hsms)
    busy, began = busy_seconds(everywhere), time.monotonic()
    done = subprocess.run(  # noqa: S603 - our own programs
        contender.command,
        env={**os.environ, **contender.environment},
        capture_output=True,
        text=True,
        timeout=seconds + SECONDS_FOR_START,
        preexec_fn=place_on(contender.processors),
        check=False,
    )
    elapsed = time.monotonic() - began
    if done.returncode != 0:
        message = f"{contender.name} did not run: {done.stderr.strip() or f'exit {done.returncode}'}"
        raise HsmsimError(message)
    after = os.times()
    own = after.children_user + after.children_system - before.children_user - before.children_system
    workers = processor_seconds(contender.workers) - workers
    hsms = processor_seconds(contender.hsms) - hsms
    others = busy_seconds(everywhere) - busy - own - workers - hsms
    printed: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    numbers = {key: float(value) for key, value in printed.items() if isinstance(value, int | float)}
    used = {"clients_s": own, "workers_s": workers, "hsms_s": hsms, "elapsed_s": elapsed}
    return numbers | used | {"others_cpu": max(0.0, others / elapsed)}


def interleave(
    workload: str,
    contenders: Sequence[tuple[Contender, Setting]],
    *,
    rounds: int,
    seconds: float,
    step: Callable[[str], None],
    run: Callable[[Contender, float], dict[str, float]] = run_once,
) -> list[Measurement]:
    """All contenders, `rounds` times in turn; `step` is told who runs in what."""
    seen: list[list[dict[str, float]]] = [[] for _ in contenders]
    for number in range(rounds):
        for (contender, setting), done in zip(contenders, seen, strict=True):
            what = " ".join(str(value) for value in setting.values())
            step(f"{workload} {what}: {contender.name} ({number + 1}/{rounds})")
            done.append(run(contender, seconds))
    return [
        Measurement(workload, contender.name, setting, tuple(done))
        for (contender, setting), done in zip(contenders, seen, strict=True)
    ]
