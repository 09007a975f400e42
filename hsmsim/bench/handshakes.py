"""`hsmsim bench handshakes`: full TLS handshakes of nginx and HAProxy for each second of their processor.

The client has one processor, the server and the HSM another. What counts is handshakes / (user and system time of the
server and the HSM), so a server that waits is not taken for a slow one; a round counts only if the server's processor
was at least 95 % busy and the client used at most 90 % of its own (`doubt`).
"""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from hsmsim.bench import haproxy, nginx, softhsm
from hsmsim.bench.measure import Contender, Setting, busy_seconds, interleave, pinned, run_once
from hsmsim.bench.openssl import Engine, Provider, engine_sites, file_sites, provider_sites
from hsmsim.bench.signing import Done
from hsmsim.bench.target import one_hsm
from hsmsim.errors import HsmsimError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from hsmsim.bench.measure import Measurement
    from hsmsim.bench.openssl import Loader, Site
    from hsmsim.bench.serve import Server
    from hsmsim.bench.signing import Pace
    from hsmsim.bench.target import Target

HANDSHAKES: Final = "handshakes"
NGINX_FILE: Final = "nginx, key in a file"
NGINX_ENGINE: Final = "nginx, key in the HSM, by OpenSSL's engine"
NGINX_PROVIDER: Final = "nginx, key in the HSM, by the provider"
NGINX_SOFTHSM: Final = "nginx, key in SoftHSM2, by OpenSSL's engine"
HAPROXY_FILE: Final = "HAProxy, key in a file"
HAPROXY_PROVIDER: Final = "HAProxy, key in the HSM, by the provider, asynchronous"

KINDS: Final = ("rsa2048", "p256")
VERSIONS: Final = ("1.2", "1.3")
SERVERS_PROCESSOR, CLIENTS_PROCESSOR = 0, 1
BUSY: Final = 0.95
CLIENT_AT_MOST: Final = 0.9
WARMUP: Final = 0.1  # seconds: nginx's workers log in when they first sign


@dataclass(frozen=True, slots=True)
class Plan:
    """Kinds of key, versions of TLS, nginx's numbers of workers (the best counts), connections at a time."""

    kinds: tuple[str, ...] = KINDS
    versions: tuple[str, ...] = VERSIONS
    workers: tuple[int, ...] = (1, 16)
    connections: int = 32


def doubt(one: Measurement) -> str:
    """Why a measurement of handshakes proves nothing, empty if it does."""
    client, busy = one.median("client_cpu"), one.median("busy")
    if client > CLIENT_AT_MOST:
        return f"void: the client used {client:.0%} of its processor"
    return "" if busy >= BUSY else f"void: the server's processor was only {busy:.0%} busy"


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of server: its sites, how it finds their keys, and who starts it."""

    sites: Mapping[str, Site]
    loader: Loader | None
    is_nginx: bool
    hsms: tuple[int, ...] = ()

    @contextmanager
    def running(self, folder: Path, workers: int) -> Iterator[Server]:
        where = frozenset({SERVERS_PROCESSOR})
        if self.is_nginx:
            with nginx.running(folder, self.sites, self.loader, workers, where) as server:
                yield server
        else:
            with haproxy.running(folder, self.sites, self.loader, where) as server:
                yield server


def run(plan: Plan, pace: Pace, folder: Path, step: Callable[[str], None]) -> Done:
    """Measure. `folder` takes certificates, configurations and logs."""
    if len(os.sched_getaffinity(0)) <= CLIENTS_PROCESSOR:
        raise HsmsimError("Handshakes need two processors: one for the client, one for the server and the HSM.")
    measured: list[Measurement] = []
    with ExitStack() as stack:
        target = stack.enter_context(one_hsm(step, "fast", {kind: kind for kind in plan.kinds}))
        stack.enter_context(pinned(target.pids, SERVERS_PROCESSOR))
        step("certificates")
        kinds, missing = _kinds(target, plan, folder)
        servers: list[tuple[str, int, Server, tuple[int, ...]]] = []
        for name, kind in kinds.items():
            for workers in plan.workers if kind.is_nginx else (1,):
                place = folder / f"server-{len(servers)}"
                servers.append((name, workers, stack.enter_context(kind.running(place, workers)), kind.hsms))
        for key in plan.kinds:
            for version in plan.versions:
                turns: list[tuple[Contender, Setting]] = []
                for name, workers, server, hsms in servers:
                    setting: Setting = {"key": key, "tls": version, "workers": workers}
                    where = frozenset({CLIENTS_PROCESSOR})
                    client = Contender(name, (), {}, where, server.pids, hsms)
                    port = server.ports[key]
                    run_once(replace(client, command=_command(target, plan, WARMUP, port, version)), WARMUP)
                    command = _command(target, plan, pace.seconds, port, version)
                    turns.append((replace(client, command=command), setting))
                measured += interleave(
                    HANDSHAKES, turns, rounds=pace.rounds, seconds=pace.seconds, step=step, run=_shake
                )
    return Done(measured, missing)


def _kinds(target: Target, plan: Plan, folder: Path) -> tuple[dict[str, _Kind], dict[str, str]]:
    """The table of servers, and those that this machine lacks."""
    labels = {kind: kind for kind in plan.kinds}
    pages = {kind: f"served by {kind}" for kind in plan.kinds}
    pin = target.environment["HSMSIM_PIN"]
    ours = Engine(str(target.module), pin, target.environment)
    soft = softhsm.SoftToken.create(folder, plan.kinds)
    theirs = Engine(softhsm.LIBRARY, softhsm.PIN, soft.environment)
    files = file_sites(folder / "file", pages)
    in_hsm = engine_sites(folder / "hsm", ours, target.token, labels, pages)
    in_softhsm = engine_sites(folder / "softhsm", theirs, softhsm.TOKEN, labels, pages)
    kinds = {
        NGINX_FILE: _Kind(files, None, is_nginx=True),
        NGINX_ENGINE: _Kind(in_hsm, ours, is_nginx=True, hsms=target.pids),
        NGINX_SOFTHSM: _Kind(in_softhsm, theirs, is_nginx=True),
    }
    missing = {}
    if haproxy.program():
        kinds[HAPROXY_FILE] = _Kind(files, None, is_nginx=False)
    else:
        missing[HAPROXY_FILE] = missing[HAPROXY_PROVIDER] = "apt-get install haproxy"
    if Provider.path().exists():
        named = provider_sites(folder / "provider", in_hsm, target.token, labels)
        provider = Provider(pin, target.environment)
        kinds[NGINX_PROVIDER] = _Kind(named, provider, is_nginx=True, hsms=target.pids)
        if haproxy.program():
            kinds[HAPROXY_PROVIDER] = _Kind(named, provider, is_nginx=False, hsms=target.pids)
    else:
        missing[NGINX_PROVIDER] = f"{Provider.path()} is not built"
        missing.setdefault(HAPROXY_PROVIDER, missing[NGINX_PROVIDER])
    return kinds, missing


def _command(target: Target, plan: Plan, seconds: float, port: int, version: str) -> tuple[str, ...]:
    return (
        *(str(target.tools / "hsmsim-handshakes"), "--port", str(port), "--seconds", str(seconds)),
        *("--connections", str(plan.connections), "--tls", version),
    )


def _shake(contender: Contender, seconds: float) -> dict[str, float]:
    """A round, with what a handshake cost the server and the HSM."""
    before = busy_seconds((SERVERS_PROCESSOR,))
    numbers = run_once(contender, seconds)
    busy = (busy_seconds((SERVERS_PROCESSOR,)) - before) / numbers["elapsed_s"]
    count, used = numbers["handshakes"], numbers["workers_s"] + numbers["hsms_s"]
    return numbers | {
        "busy": min(1.0, busy),
        "per_server_core_second": count / max(used, 0.01),
        "worker_us": numbers["workers_s"] / count * 1e6,
        "hsm_us": numbers["hsms_s"] / count * 1e6,
    }
