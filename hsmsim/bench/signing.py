"""`hsmsim bench sign`: signatures a second and the time of one, beside OpenSSL and SoftHSM2 in process.

Two workloads per kind of key. Throughput: `processes` client processes on all processors. Latency: one client, and the
HSMs, on one processor (what a signature costs when nothing runs beside it), and the same unpinned.
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hsmsim.bench import softhsm
from hsmsim.bench.measure import Contender, Figure, interleave
from hsmsim.fleet import modulecfg

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hsmsim.bench.target import Target

HSMSIM = "hsmsim"
SOCKET = "hsmsim, socket only"
PLAIN = "hsmsim, without batches"
OPENSSL = "OpenSSL in process"
SOFTHSM = "SoftHSM2 in process"
PINNED = " (one processor)"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run: kinds of key, client processes, seconds a run, rounds."""

    kinds: tuple[str, ...] = ("rsa2048", "p256")
    processes: int = 8
    seconds: float = 2.0
    rounds: int = 5


@dataclass(frozen=True, slots=True)
class Result:
    """Figures by contender for one kind of key: `throughput` per second, `latency` in microseconds (p50)."""

    kind: str
    throughput: dict[str, Figure]
    latency: dict[str, Figure]

    def rate_ratio(self, against: str) -> float:
        """Signatures a second of hsmsim over those of a contender."""
        return self.throughput[HSMSIM].median("per_second") / self.throughput[against].median("per_second")

    def extra_latency(self) -> float:
        """Microseconds that a signature takes beyond OpenSSL's own, client and HSM on one processor."""
        return self.latency[HSMSIM + PINNED].median("p50_us") - self.latency[OPENSSL + PINNED].median("p50_us")


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


def _socket_only(target: Target, folder: Path) -> dict[str, str]:
    """The clients' environment with a configuration that keeps them off shared memory."""
    content = json.loads(Path(target.environment["HSMSIM_PKCS11_CONFIG"]).read_text(encoding="utf-8"))
    path = folder / "socket.cfg"
    path.write_bytes(modulecfg.encoded(content | {"hsmsim": content["hsmsim"] | {"transport": "socket"}}))
    return {**target.environment, "HSMSIM_PKCS11_CONFIG": str(path)}


def _command(target: Target, plan: Plan, kind: str, processes: int, *more: str) -> tuple[str, ...]:
    tool = str(target.tools / "hsmsim-signbench")
    return (tool, "--kind", kind, "--processes", str(processes), "--seconds", str(plan.seconds), *more)


@dataclass(frozen=True, slots=True)
class _Field:
    """Who runs against whom."""

    target: Target
    plain: Target
    soft: softhsm.SoftToken
    socket_only: dict[str, str]

    @classmethod
    def of(cls, target: Target, plain: Target, plan: Plan, folder: Path) -> _Field:
        soft = softhsm.SoftToken.create(folder, plan.kinds)
        return cls(target, plain, soft, _socket_only(target, folder))


def _contenders(
    field: _Field, plan: Plan, kind: str, key: str, processes: int, processor: int | None
) -> list[Contender]:
    where = None if processor is None else frozenset({processor})
    suffix = "" if processor is None else PINNED
    target = field.target
    ours = ("--module", str(target.module), "--token", target.token, "--key", key)
    theirs = ("--module", softhsm.LIBRARY, "--token", softhsm.TOKEN, "--key", kind, "--pin-env", "BENCH_PIN")
    return [
        Contender(name + suffix, _command(target, plan, kind, count, *arguments), environment, where)
        for name, count, arguments, environment in (
            (HSMSIM, processes, ours, target.environment),
            (PLAIN, processes, ours, field.plain.environment),
            (SOCKET, processes, ours, field.socket_only),
            (OPENSSL, min(processes, os.cpu_count() or 1), ("--openssl",), {}),
            (SOFTHSM, processes, theirs, field.soft.environment),
        )
    ]


def run(
    target: Target, plain: Target, plan: Plan, keys: dict[str, str], folder: Path, step: Callable[[str], None]
) -> list[Result]:
    """Measure. `plain`: a simulator without batches; `keys`: kind -> label of a private key in both simulators.

    `folder` takes the SoftHSM2 contender.
    """
    field = _Field.of(target, plain, plan, folder)
    results = []
    for kind in plan.kinds:

        def tell(name: str, kind: str = kind) -> None:
            step(f"{kind}: {name}")

        many = _contenders(field, plan, kind, keys[kind], plan.processes, None)
        throughput = interleave(many, rounds=plan.rounds, seconds=plan.seconds, step=tell)
        one = _contenders(field, plan, kind, keys[kind], 1, None)
        latency = interleave(one, rounds=plan.rounds, seconds=plan.seconds, step=tell)
        with pinned(target.pids + plain.pids, 0):
            alone = _contenders(field, plan, kind, keys[kind], 1, 0)
            latency |= interleave(alone, rounds=plan.rounds, seconds=plan.seconds, step=tell)
        results.append(Result(kind, throughput, latency))
    return results
