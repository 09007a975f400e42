"""Run contenders in turn, several rounds, and say what the medians are.

A contender is a command that prints one line of JSON (``native/bench``). One round runs each contender once, in order,
so that a machine that gets slower gets slower for all of them. A figure is the median over the rounds; the spread is
the smallest and the largest round. Rates are operations per second, latencies microseconds.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hsmsim.errors import HsmsimError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SECONDS_FOR_START = 60


@dataclass(frozen=True, slots=True)
class Contender:
    """A named command. `environment` is added to ours; `processors` is where it may run (None: anywhere)."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    processors: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class Figure:
    """The rounds of one contender: what each printed, as numbers."""

    name: str
    rounds: tuple[Mapping[str, float], ...]

    def median(self, key: str) -> float:
        """Median over the rounds of the number named `key`."""
        return statistics.median(one[key] for one in self.rounds)

    def spread(self, key: str) -> tuple[float, float]:
        """Smallest and largest round."""
        values = [one[key] for one in self.rounds]
        return min(values), max(values)


def run_once(contender: Contender, seconds: float) -> dict[str, float]:
    """One run; HsmsimError names the contender and quotes what it complained of."""
    allowed = contender.processors

    def place() -> None:
        if allowed is not None:
            os.sched_setaffinity(0, allowed)

    done = subprocess.run(  # noqa: S603 - our own programs
        contender.command,
        env={**os.environ, **contender.environment},
        capture_output=True,
        text=True,
        timeout=seconds + SECONDS_FOR_START,
        preexec_fn=place,
        check=False,
    )
    if done.returncode != 0:
        message = f"{contender.name} did not run: {done.stderr.strip() or f'exit {done.returncode}'}"
        raise HsmsimError(message)
    printed: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {key: float(value) for key, value in printed.items() if isinstance(value, int | float)}


def interleave(
    contenders: Sequence[Contender], *, rounds: int, seconds: float, step: Callable[[str], None]
) -> dict[str, Figure]:
    """All contenders, `rounds` times in turn; `step` is told each name before it runs."""
    seen: dict[str, list[dict[str, float]]] = {contender.name: [] for contender in contenders}
    for _ in range(rounds):
        for contender in contenders:
            step(contender.name)
            seen[contender.name].append(run_once(contender, seconds))
    return {name: Figure(name, tuple(done)) for name, done in seen.items()}


def machine() -> dict[str, str]:
    """Processor, count and versions: without them a figure says nothing."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    openssl = subprocess.run(["openssl", "version"], capture_output=True, text=True, check=False)  # noqa: S607
    return {
        "processor": model,
        "processors": str(os.cpu_count()),
        "system": platform.platform(),
        "python": platform.python_version(),
        "openssl": openssl.stdout.strip(),
    }
