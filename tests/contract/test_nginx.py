"""Real nginx: four workers as another user, each with connections of its own to the HSMs, and reloads under load."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from support.nginx import VERSIONS, fetch, require_another_user, serving, until_it_answers, workers_of

from hsmsim.bench.openssl import Engine, uri

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Simulator

WORKERS = 4
KINDS = {"contract-rsa": ("rsa", "--bits", "2048"), "contract-ec": ("ec", "--curve", "P-256")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for one in (tmp_path, *tmp_path.parents[:2]):
        one.chmod(0o755)  # the workers are somebody else
    return tmp_path


@pytest.fixture
def keys(simulator: Simulator) -> Iterator[tuple[str, ...]]:
    for label, options in KINDS.items():
        simulator.run("key", "generate", *options, "--label", label)
    yield tuple(KINDS)
    for label in KINDS:
        simulator.run("key", "delete", "--label", label, "--yes")


@contextmanager
def served(simulator: Simulator, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, int]]]:
    """nginx with a server for each key; label -> port."""
    engine = Engine(simulator.environment["HSMSIM_MODULE"], simulator.ready.pin, {})
    environment = {**simulator.environment, "OPENSSL_CONF": str(engine.configuration(folder))}
    keys = {label: uri(simulator.environment["HSMSIM_TOKEN"], label) for label in KINDS}
    for label, key in keys.items():
        request = ["openssl", "req", "-new", "-x509", "-engine", "pkcs11", "-keyform", "engine", "-key", key]
        names = ["-days", "9", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        out = ["-out", str(folder / f"{label}.crt")]
        subprocess.run([*request, *names, *out], env=environment, check=True, capture_output=True, timeout=60)
    named = {label: f"engine:pkcs11:{key}" for label, key in keys.items()}
    loading = "ssl_engine pkcs11;\nenv OPENSSL_CONF;\nenv HSMSIM_PKCS11_CONFIG;"
    with serving(folder, named, environment, WORKERS, loading) as started:
        yield started


def test_workers_serve_from_keys_in_the_hsm(simulator: Simulator, folder: Path, keys: tuple[str, ...]) -> None:
    with served(simulator, folder) as (server, ports):
        until_it_answers(server, folder, "contract-ec", ports["contract-ec"])
        first = workers_of(server.pid)
        assert len(first) == WORKERS
        require_another_user(first)
        for label in keys:
            for name, version in VERSIONS.items():
                assert fetch(folder, label, ports[label], version)[0] == name
        _under_load(folder, ports, lambda seen: seen == first)
        _under_load(folder, ports, lambda seen: len(seen - first) >= 2, lambda: server.send_signal(signal.SIGHUP))
        errors = (folder / "error.log").read_text()
        assert "[crit]" not in errors
        assert "exited on signal" not in errors


def test_workers_reach_the_hsms_by_tcp(new_simulator: Callable[..., Simulator], folder: Path) -> None:
    """The CA is read once, by the master; each worker has TLS of its own."""
    simulator = new_simulator()
    simulator.run("down")
    simulator.run("up", "--detach", "--no-gateway", "--hsm-host", "127.0.0.1")
    simulator.run("configure-pkcs11", "--tls", "--output", str(folder / "pkcs11.cfg"))
    by_tcp = replace(simulator, ready=replace(simulator.ready, module_config=folder / "pkcs11.cfg"))
    for label, options in KINDS.items():
        by_tcp.run("key", "generate", *options, "--label", label)
    with served(by_tcp, folder) as (server, ports):
        until_it_answers(server, folder, "contract-ec", ports["contract-ec"])
        (folder / "customerCA.crt").unlink()
        first = workers_of(server.pid)
        _under_load(folder, ports, lambda seen: seen == first)
        simulator.kill(0)
        _under_load(folder, ports, lambda seen: seen == first)
        assert "[crit]" not in (folder / "error.log").read_text()


def _under_load(
    folder: Path,
    ports: dict[str, int],
    enough: Callable[[set[int]], bool],
    begun: Callable[[], None] = lambda: None,
) -> None:
    """Eight clients ask until these workers have answered; every page that was asked for came."""
    stop = threading.Event()
    failed: list[Exception] = []
    seen: set[int] = set()

    def load(label: str, version: ssl.TLSVersion) -> None:
        while not stop.is_set():
            try:
                seen.add(fetch(folder, label, ports[label], version)[1])
            except (OSError, ValueError, AssertionError) as error:  # shown by the main thread
                failed.append(error)
                return

    threads = [threading.Thread(target=load, args=(label, version)) for label in KINDS for version in VERSIONS.values()]
    threads += [threading.Thread(target=load, args=("contract-rsa", VERSIONS["TLSv1.3"])) for _ in range(4)]
    for thread in threads:
        thread.start()
    begun()
    deadline = time.monotonic() + 60
    while not enough(set(seen)) and not failed:
        assert time.monotonic() < deadline, (folder / "error.log").read_text()
        stop.wait(0.02)
    stop.set()
    for thread in threads:
        thread.join()
    assert failed == []
