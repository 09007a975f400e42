"""`hsmsim demo tls-offload`: nginx serves TLS from keys in the HSM, and how fast that is.

Three nginx servers with the same configuration but for where the key is: in the HSM, in a file, in SoftHSM2 used
directly. Each has an RSA-2048 and a P-256 certificate. Pages are fetched over TLS 1.2 and 1.3 by curl and
`openssl s_client`, which check the certificate; then full handshakes are counted, the servers in turn, several rounds.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hsmsim.bench import chart, softhsm
from hsmsim.bench.measure import Contender, Measurement, Setting, interleave
from hsmsim.bench.nginx import running
from hsmsim.bench.openssl import Engine, Site, engine_sites, file_sites, tool
from hsmsim.errors import HsmsimError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from hsmsim.bench.target import Target

KINDS = {"rsa2048": "RSA-2048", "p256": "P-256"}
VERSIONS = ("1.2", "1.3")
HSM, FILE, SOFTHSM = "key in the HSM", "key in a file", "key in SoftHSM2"
PAGE = "served by nginx, {kind}, {where}"


@dataclass(frozen=True, slots=True)
class Plan:
    """Seconds a run, rounds, connections at a time, nginx workers."""

    seconds: float = 2.0
    rounds: int = 3
    connections: int = 8
    workers: int = 2


@dataclass(frozen=True, slots=True)
class Fetch:
    """One page fetched: by which client, over which TLS version, from which server, and what came."""

    client: str
    version: str
    kind: str
    where: str
    text: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """Fetches, and figures by (where, kind) in handshakes per second; `plot` is an SVG file."""

    fetches: tuple[Fetch, ...]
    figures: dict[tuple[str, str], Measurement]
    plot: Path


def _pages(where: str) -> dict[str, str]:
    return {kind: PAGE.format(kind=name, where=where) for kind, name in KINDS.items()}


def _fetch(where: str, sites: Mapping[str, Site], ports: Mapping[str, int]) -> list[Fetch]:
    """Every key over both versions by both clients; HsmsimError where a page or a certificate is not the right one."""
    fetches = []
    for kind, site in sites.items():
        for version in VERSIONS:
            address = f"https://localhost:{ports[kind]}/"
            curl = ["curl", "--silent", "--show-error", "--cacert", str(site.certificate)]
            page = tool([*curl, f"--tlsv{version}", "--tls-max", version, address]).strip()
            option = f"-tls{version.replace('.', '_')}"
            connect = ["openssl", "s_client", "-connect", f"127.0.0.1:{ports[kind]}", option, "-quiet", "-verify_quiet"]
            verify = ["-verify_return_error", "-CAfile", str(site.certificate), "-servername", "localhost"]
            raw = tool([*connect, *verify, "-ign_eof"], text="GET / HTTP/1.0\r\n\r\n")
            for client, text in (("curl", page), ("openssl s_client", raw.splitlines()[-1])):
                if text != site.text:
                    message = f"{client} got {text!r} over TLS {version} where nginx should say {site.text!r}"
                    raise HsmsimError(message)
                fetches.append(Fetch(client, version, kind, where, text))
    return fetches


def run(target: Target, labels: dict[str, str], folder: Path, plan: Plan, step: Callable[[str], None]) -> Outcome:
    """Make certificates, start the servers, fetch, measure, plot. `labels`: kind -> label of a key in the HSM."""
    step("SoftHSM2 contender")
    soft = softhsm.SoftToken.create(folder, tuple(labels))
    ours = Engine(str(target.module), target.environment["HSMSIM_PIN"], target.environment)
    theirs = Engine(softhsm.LIBRARY, softhsm.PIN, soft.environment)
    step("certificates")
    places = {
        HSM: (engine_sites(folder / "hsm", ours, target.token, labels, _pages(HSM)), ours),
        FILE: (file_sites(folder / "file", _pages(FILE)), None),
        SOFTHSM: (
            engine_sites(folder / "softhsm", theirs, softhsm.TOKEN, {kind: kind for kind in labels}, _pages(SOFTHSM)),
            theirs,
        ),
    }
    fetches: list[Fetch] = []
    commands: list[tuple[Contender, Setting]] = []
    program = str(target.tools / "hsmsim-handshakes")
    options = ("--seconds", str(plan.seconds), "--connections", str(plan.connections), "--tls", "1.3")
    with ExitStack() as stack:
        for number, (where, (sites, engine)) in enumerate(places.items()):
            step(f"nginx, {where}")
            server = stack.enter_context(running(folder / f"nginx-{number}", sites, engine, plan.workers))
            fetches += _fetch(where, sites, server.ports)
            for kind in sites:
                command = (program, "--port", str(server.ports[kind]), *options)
                commands.append((Contender(where, command), {"key": kind}))
        measured = interleave("handshakes", commands, rounds=plan.rounds, seconds=plan.seconds, step=step)
    figures = {(one.contender, str(one.setting["key"])): one for one in measured}
    plot = folder / "tls-offload.svg"
    series = {where: [figures[where, kind].median("per_second") for kind in labels] for where in places}
    chart.bars(
        plot, "nginx: full TLS 1.3 handshakes", [KINDS[kind] for kind in labels], series, "handshakes per second"
    )
    return Outcome(tuple(fetches), figures, plot)
