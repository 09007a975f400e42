"""`hsmsim demo tls-offload`: nginx serves TLS from keys in the HSM, and how fast that is.

Three nginx servers with the same configuration but for where the key is: in the HSM, in a file, in SoftHSM2 used
directly. Each has an RSA-2048 and a P-256 certificate. Pages are fetched over TLS 1.2 and 1.3 by curl and
`openssl s_client`, which check the certificate; then full handshakes are counted, the servers in turn, several rounds.
"""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hsmsim.bench import chart, softhsm
from hsmsim.bench.measure import Contender, Figure, interleave
from hsmsim.demo.nginx import Engine, Site, running
from hsmsim.errors import HsmsimError

if TYPE_CHECKING:
    from collections.abc import Callable
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
    figures: dict[tuple[str, str], Figure]
    plot: Path


def _tool(command: list[str], environment: dict[str, str] | None = None, text: str = "") -> str:
    done = subprocess.run(  # noqa: S603 - fixed commands
        command, env=environment, input=text, capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode != 0:
        message = f"{command[0]} failed: {done.stderr.strip() or done.stdout.strip()}"
        raise HsmsimError(message)
    return done.stdout


def uri(token: str, label: str) -> str:
    """A PKCS#11 URI (RFC 7512) of a private key."""
    return f"pkcs11:token={token};object={label};type=private"


def _certificate(folder: Path, name: str, key: list[str], environment: dict[str, str] | None) -> Path:
    path = folder / f"{name}.crt"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "30", "-out", str(path)]
    _tool(["openssl", "req", "-new", "-x509", *key, *subject], environment)
    return path


def _engine_sites(folder: Path, where: str, engine: Engine, token: str, labels: dict[str, str]) -> dict[str, Site]:
    """A certificate for each key, made with the key where it is."""
    folder.mkdir(mode=0o755)
    environment = {"PATH": "/usr/bin:/bin", **engine.environment, "OPENSSL_CONF": str(engine.configuration(folder))}
    sites = {}
    for kind, label in labels.items():
        key = ["-engine", "pkcs11", "-keyform", "engine", "-key", uri(token, label)]
        certificate = _certificate(folder, kind, key, environment)
        sites[kind] = Site(
            certificate, f"engine:pkcs11:{uri(token, label)}", PAGE.format(kind=KINDS[kind], where=where)
        )
    return sites


def _file_sites(folder: Path) -> dict[str, Site]:
    folder.mkdir(mode=0o755)
    options = {
        "rsa2048": ["RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        "p256": ["EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
    }
    sites = {}
    for kind, chosen in options.items():
        key = folder / f"{kind}.key"
        _tool(["openssl", "genpkey", "-algorithm", *chosen, "-out", str(key)])
        certificate = _certificate(folder, kind, ["-key", str(key)], None)
        sites[kind] = Site(certificate, str(key), PAGE.format(kind=KINDS[kind], where=FILE))
    return sites


def _fetch(where: str, sites: dict[str, Site], ports: dict[str, int]) -> list[Fetch]:
    """Every key over both versions by both clients; HsmsimError where a page or a certificate is not the right one."""
    fetches = []
    for kind, site in sites.items():
        for version in VERSIONS:
            address = f"https://localhost:{ports[kind]}/"
            curl = ["curl", "--silent", "--show-error", "--cacert", str(site.certificate)]
            page = _tool([*curl, f"--tlsv{version}", "--tls-max", version, address]).strip()
            option = f"-tls{version.replace('.', '_')}"
            connect = ["openssl", "s_client", "-connect", f"127.0.0.1:{ports[kind]}", option, "-quiet", "-verify_quiet"]
            verify = ["-verify_return_error", "-CAfile", str(site.certificate), "-servername", "localhost"]
            raw = _tool([*connect, *verify, "-ign_eof"], text="GET / HTTP/1.0\r\n\r\n")
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
        HSM: (_engine_sites(folder / "hsm", HSM, ours, target.token, labels), ours),
        FILE: (_file_sites(folder / "file"), None),
        SOFTHSM: (
            _engine_sites(folder / "softhsm", SOFTHSM, theirs, softhsm.TOKEN, {kind: kind for kind in labels}),
            theirs,
        ),
    }
    fetches: list[Fetch] = []
    contenders: dict[str, tuple[str, str]] = {}
    commands = []
    with ExitStack() as stack:
        for number, (where, (sites, engine)) in enumerate(places.items()):
            step(f"nginx, {where}")
            ports = stack.enter_context(running(folder / f"nginx-{number}", sites, engine, plan.workers))
            fetches += _fetch(where, sites, ports)
            for kind in sites:
                name = f"{KINDS[kind]}, {where}"
                contenders[name] = (where, kind)
                tool = str(target.tools / "hsmsim-handshakes")
                options = ("--seconds", str(plan.seconds), "--connections", str(plan.connections), "--tls", "1.3")
                commands.append(Contender(name, (tool, "--port", str(ports[kind]), *options)))
        measured = interleave(commands, rounds=plan.rounds, seconds=plan.seconds, step=step)
    figures = {contenders[name]: figure for name, figure in measured.items()}
    plot = folder / "tls-offload.svg"
    series = {where: [figures[where, kind].median("per_second") for kind in labels] for where in places}
    chart.bars(
        plot, "nginx: full TLS 1.3 handshakes", [KINDS[kind] for kind in labels], series, "handshakes per second"
    )
    return Outcome(tuple(fetches), figures, plot)
