"""Real nginx: four workers as another user, each with connections of its own to the HSMs, and reloads under load."""

from __future__ import annotations

import os
import pwd
import signal
import ssl
import subprocess
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from http.client import HTTPSConnection
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hsmsim.bench.openssl import Engine, uri
from hsmsim.bench.serve import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Simulator

WORKERS = 4
CONF = """
daemon off;
{user}
worker_processes {workers};
pid {folder}/nginx.pid;
error_log {folder}/error.log;
ssl_engine pkcs11;
env OPENSSL_CONF;
env HSMSIM_PKCS11_CONFIG;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
    uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
    ssl_session_cache off;
    ssl_session_tickets off;
    keepalive_timeout 0;
    {servers}
}}
"""
SERVER = """
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {folder}/{label}.crt;
        ssl_certificate_key "engine:pkcs11:{key}";
        ssl_protocols TLSv1.2 TLSv1.3;
        location / {{ return 200 "$ssl_protocol $pid {label}\\n"; }}
    }}
"""
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
def serving(simulator: Simulator, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, int]]]:
    """nginx with a server for each key; label -> port."""
    engine = Engine(simulator.environment["HSMSIM_MODULE"], simulator.ready.pin, {})
    environment = {**simulator.environment, "OPENSSL_CONF": str(engine.configuration(folder))}
    ports = {label: free_port() for label in KINDS}
    servers = ""
    for label, port in ports.items():
        key = uri(simulator.environment["HSMSIM_TOKEN"], label)
        request = [
            "openssl",
            "req",
            "-new",
            "-x509",
            "-engine",
            "pkcs11",
            "-keyform",
            "engine",
            "-key",
            key,
            "-days",
            "9",
        ]
        names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        out = ["-out", str(folder / f"{label}.crt")]
        subprocess.run([*request, *names, *out], env=environment, check=True, capture_output=True, timeout=60)
        servers += SERVER.format(port=port, folder=folder, label=label, key=key)
    user = "user www-data;" if os.geteuid() == 0 else ""
    configuration = folder / "nginx.conf"
    configuration.write_text(CONF.format(user=user, workers=WORKERS, folder=folder, servers=servers))
    path = "/usr/sbin:/usr/bin:" + os.environ["PATH"]
    command = ["nginx", "-e", str(folder / "error.log"), "-c", str(configuration)]
    with subprocess.Popen(
        command, env={**environment, "PATH": path}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            yield server, ports
        finally:
            server.send_signal(signal.SIGQUIT)


def fetch(folder: Path, label: str, port: int, version: ssl.TLSVersion) -> tuple[str, int]:
    """One page over a connection of its own, the certificate checked: protocol and worker."""
    context = ssl.create_default_context(cafile=str(folder / f"{label}.crt"))
    context.minimum_version = context.maximum_version = version
    connection = HTTPSConnection("localhost", port, context=context, timeout=30)
    connection.request("GET", "/")
    answer = connection.getresponse()
    protocol, worker, name = answer.read().decode().split()
    connection.close()
    assert (answer.status, name) == (200, label)
    return protocol, int(worker)


def workers_of(master: int) -> set[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(master)], check=False, capture_output=True, text=True)
    return {int(line) for line in listed.stdout.split()}


def until_it_answers(server: subprocess.Popen[bytes], folder: Path, label: str, port: int) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            fetch(folder, label, port, ssl.TLSVersion.TLSv1_3)
        except ConnectionError:
            log = folder / "error.log"
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
        else:
            return


VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}


def test_workers_serve_from_keys_in_the_hsm(simulator: Simulator, folder: Path, keys: tuple[str, ...]) -> None:
    with serving(simulator, folder) as (server, ports):
        until_it_answers(server, folder, "contract-ec", ports["contract-ec"])
        first = workers_of(server.pid)
        assert len(first) == WORKERS
        if os.geteuid() == 0:
            www_data = pwd.getpwnam("www-data").pw_uid
            assert {Path(f"/proc/{worker}").stat().st_uid for worker in first} == {www_data}
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
    with serving(by_tcp, folder) as (server, ports):
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
