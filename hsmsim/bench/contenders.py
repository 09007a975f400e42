"""Who runs against whom: the table of contenders, and the simulators and tokens that they need.

A contender whose program is not on this machine is named in `missing`, with what to install.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hsmsim.bench import softhsm
from hsmsim.bench.measure import Contender, run_once
from hsmsim.bench.target import one_hsm
from hsmsim.errors import HsmsimError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from hsmsim.bench.softhsm import SoftToken
    from hsmsim.bench.target import Target

HSMSIM: Final = "hsmsim"
PLAIN: Final = "hsmsim, without batches"
SOCKET: Final = "hsmsim, socket only"
REFERENCE: Final = "hsmsim, SoftHSM2 as its engine"
OPENSSL: Final = "OpenSSL in process"
NEWER: Final = "OpenSSL of cryptography, in process"
SOFTHSM: Final = "SoftHSM2 in process, threads"
SOFTHSM_PROCESSES: Final = "SoftHSM2 in process, processes"
P11_KIT: Final = "SoftHSM2 through p11-kit server"
LANES: Final = "crypto_mb in a loop"


WARMUP: Final = 0.2


@dataclass(frozen=True, slots=True)
class Workload:
    """What a program of native/bench does: kind of operation, label of its key, seconds, and arguments of its own."""

    kind: str
    key: str
    seconds: float
    own: tuple[str, ...] = ()

    @property
    def arguments(self) -> tuple[str, ...]:
        """As native/bench's programs take them."""
        timing = ("--seconds", str(self.seconds), "--warmup", str(min(WARMUP, self.seconds)))
        return ("--kind", self.kind, *timing, *self.own)


@dataclass(frozen=True, slots=True)
class Client:
    """A PKCS#11 module as hsmsim-signbench is told of it; `threads`: its clients are threads of one process."""

    module: str
    token: str
    environment: Mapping[str, str]
    pin_env: str = "HSMSIM_PIN"
    threads: bool = False
    workers: tuple[int, ...] = ()
    hsms: tuple[int, ...] = ()

    @classmethod
    def of(cls, target: Target) -> Client:
        """A simulator's module."""
        return cls(str(target.module), target.token, target.environment, hsms=target.pids)

    def contender(
        self, name: str, tools: Path, workload: Workload, clients: int, processors: frozenset[int] | None = None
    ) -> Contender:
        """So many clients of it at a workload."""
        crowd = ("--processes", "1", "--threads", str(clients)) if self.threads else ("--processes", str(clients))
        command = (
            *(str(tools / "hsmsim-signbench"), "--module", self.module, "--token", self.token),
            *("--key", workload.key, "--pin-env", self.pin_env, *workload.arguments, *crowd),
        )
        return Contender(name, command, self.environment, processors, self.workers, self.hsms)


@dataclass(frozen=True, slots=True)
class Field:
    """Everybody, started; keys are labelled by their kind everywhere."""

    tools: Path
    clients: Mapping[str, Client]
    missing: Mapping[str, str]
    looped: tuple[str, ...] = ()  # kinds that bare crypto_mb does here

    @property
    def servers(self) -> tuple[int, ...]:
        """Processes that serve a client."""
        return tuple({pid for client in self.clients.values() for pid in client.hsms + client.workers})

    def contenders(self, workload: Workload, clients: int, processor: int | None = None) -> list[Contender]:
        """Everybody with so many clients; OpenSSL in process with no more processes than processors.

        `processor`: run all clients on that one.
        """
        where = None if processor is None else frozenset({processor})
        found = [client.contender(name, self.tools, workload, clients, where) for name, client in self.clients.items()]
        processes = ("--processes", str(1 if where else min(clients, os.cpu_count() or 1)))
        common = (*workload.arguments, *processes)
        ours, newer = (str(self.tools / "hsmsim-signbench"),), (sys.executable, "-P", "-m", PYCA)
        found.append(Contender(OPENSSL, (*ours, "--openssl", *common), processors=where))
        found.append(Contender(NEWER, (*newer, *common), processors=where))
        if workload.kind in self.looped:
            found.append(Contender(LANES, (*ours, "--crypto-mb", *common), processors=where))
        return found


PYCA: Final = "hsmsim.bench.pyca"
_ENGINES: Final = {HSMSIM: "fast", PLAIN: "plain", REFERENCE: "softhsm"}


@contextmanager
def field(kinds: tuple[str, ...], folder: Path, say: Callable[[str], None]) -> Iterator[Field]:
    """Start everybody, each with a key of each kind; `folder` takes SoftHSM2's token and configurations."""
    clients: dict[str, Client] = {}
    missing: dict[str, str] = {}
    labels = {kind: kind for kind in kinds}
    with ExitStack() as stack:
        for name, engine in _ENGINES.items():
            say(f"{name}: one HSM")
            target = stack.enter_context(one_hsm(say, engine, labels))
            clients[name] = Client.of(target)
            if name == HSMSIM:
                tools = target.tools
                clients[SOCKET] = Client.of(target.by_socket(folder))
        say("SoftHSM2: a token")
        token = softhsm.SoftToken.create(folder, kinds)
        soft = Client(softhsm.LIBRARY, softhsm.TOKEN, token.environment, "BENCH_PIN")
        clients[SOFTHSM] = Client(soft.module, soft.token, soft.environment, soft.pin_env, threads=True)
        clients[SOFTHSM_PROCESSES] = soft
        if softhsm.p11_kit_client():
            clients[P11_KIT] = _through_p11_kit(stack, token, folder)
        else:
            missing[P11_KIT] = "apt-get install p11-kit p11-kit-modules"
        looped = _looped(tools, missing)
        yield Field(tools, clients, missing, looped)


def _looped(tools: Path, missing: dict[str, str]) -> tuple[str, ...]:
    """What bare crypto_mb does here; none where it is not built in or the processor lacks what it needs."""
    kinds = ("rsa2048", "p256")
    try:
        for kind in kinds:
            run_once(Contender(LANES, (str(tools / "hsmsim-signbench"), "--crypto-mb", "--kind", kind, *_MOMENT)), 0.01)
    except HsmsimError as error:
        missing[LANES] = str(error)
        return ()
    return kinds


_MOMENT: Final = ("--seconds", "0.01", "--warmup", "0")


def _through_p11_kit(stack: ExitStack, token: SoftToken, folder: Path) -> Client:
    served = stack.enter_context(softhsm.served(token, folder))
    return Client(served.library, softhsm.TOKEN, served.environment, "BENCH_PIN", workers=(served.pid,))
