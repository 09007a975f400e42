"""HAProxy, `ssl-mode-async`, one thread: handshakes that wait for the HSM hold up nobody, whatever becomes of it.

An HSM that is stopped (SIGSTOP) has every request under way. How many calls were paused at once shows as the process's
timers: one for each place that was ever taken.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from support.provider import OpenSsl, delete_keys, make_keys

from hsmsim.bench.serve import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Simulator

CONF = """
global
    nbthread 1
    ssl-mode-async
    tune.ssl.cachesize 0
defaults
    mode http
    timeout connect 30s
    timeout client 30s
    timeout server 30s
frontend plain
    bind 127.0.0.1:{plain}
    http-request return status 200 content-type text/plain string plain
frontend rsa
    bind 127.0.0.1:{rsa} ssl crt {folder}/provider-rsa.site no-tls-tickets
    http-request return status 200 content-type text/plain string rsa
frontend p256
    bind 127.0.0.1:{p256} ssl crt {folder}/provider-p256.site no-tls-tickets
    http-request return status 200 content-type text/plain string p256
"""
LABELS = ("provider-rsa", "provider-p256")
PLACES = 32


def until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@dataclass(frozen=True)
class Proxy:
    pid: int
    folder: Path
    ports: dict[str, int]

    def plain(self) -> str:
        with closing(HTTPConnection("127.0.0.1", self.ports["plain"], timeout=10)) as connection:
            connection.request("GET", "/")
            return connection.getresponse().read().decode()

    def fetch(self, name: str = "p256", version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> str:
        """A page over a full handshake, the certificate checked."""
        context = ssl.create_default_context(cafile=str(self.folder / f"provider-{name}.crt"))
        context.minimum_version = context.maximum_version = version
        with (
            socket.create_connection(("127.0.0.1", self.ports[name]), timeout=60) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as secure,
        ):
            assert not secure.session_reused
            secure.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return b"".join(iter(lambda: secure.recv(4096), b"")).rpartition(b"\r\n")[2].decode()

    def hello(self, name: str = "p256") -> socket.socket:
        """A connection whose server has a signature to make, if it is there."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        raw = socket.create_connection(("127.0.0.1", self.ports[name]), timeout=60)
        raw.sendall(outgoing.read())
        return raw

    def most_paused(self) -> int:
        """How many calls were paused at once, at most, since the start."""
        links = []
        for one in Path(f"/proc/{self.pid}/fd").iterdir():
            try:
                links.append(one.readlink())
            except FileNotFoundError:
                continue
        return sum(str(link) == "anon_inode:[timerfd]" for link in links)


@contextmanager
def serving(simulator: Simulator, folder: Path, **own: object) -> Iterator[Proxy]:
    program = shutil.which("haproxy", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    assert program is not None, "haproxy is missing: apt-get install haproxy"
    environment = simulator.configured(folder, timeout_ms=30_000, **own)
    openssl = OpenSsl.make(simulator, folder)
    for label in LABELS:
        certificate = openssl.certificate(label).read_bytes()
        (folder / f"{label}.site").write_bytes(certificate + (folder / f"{label}.pem").read_bytes())
    ports = {name: free_port() for name in ("plain", "rsa", "p256")}
    (folder / "haproxy.cfg").write_text(CONF.format(folder=folder, **ports))
    with (
        (folder / "haproxy.log").open("wb") as log,
        subprocess.Popen(
            [program, "-db", "-f", str(folder / "haproxy.cfg")],
            env={**openssl.environment, **environment},
            stdout=log,
            stderr=log,
        ) as process,
    ):
        proxy = Proxy(process.pid, folder, ports)
        try:
            until(lambda: _up(proxy, process), (folder / "haproxy.log").read_text())
            yield proxy
        finally:
            process.terminate()
            status = process.wait(30)
    assert status in (0, 128 + signal.SIGTERM, -signal.SIGTERM), (folder / "haproxy.log").read_text()


def _up(proxy: Proxy, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, (proxy.folder / "haproxy.log").read_text()
    try:
        return proxy.plain() == "plain"
    except ConnectionError:
        return False


def _stands_still(pid: int) -> bool:
    states = [one.read_text().rpartition(")")[2].split()[0] for one in Path(f"/proc/{pid}/task").glob("*/stat")]
    return set(states) == {"T"}


HELD: Final = {"spread": False}
"""For HSMs that stand still: a guest's call would not wait there, but go home, where it waits for a connection."""


@contextmanager
def stopped(*pids: int | None) -> Iterator[None]:
    """HSM processes that take requests and answer none."""
    running = [pid for pid in pids if pid is not None]
    for pid in running:
        os.kill(pid, signal.SIGSTOP)
        until(lambda pid=pid: _stands_still(pid), f"process {pid} goes on")
    try:
        yield
    finally:
        for pid in running:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                continue


def warm_up(simulator: Simulator, proxy: Proxy, clients: ThreadPoolExecutor, count: int) -> None:
    """Connections and sessions for so many calls at once: each is opened, and waited for, when it is needed first."""
    deadline = time.monotonic() + 60
    while proxy.most_paused() < count:
        assert time.monotonic() < deadline, f"{proxy.most_paused()} of {count} are there"
        with stopped(simulator.pid(0), simulator.pid(1)):
            pages = [clients.submit(proxy.fetch) for _ in range(count)]
            time.sleep(0.1)
        assert [page.result() for page in pages] == ["p256"] * count


@pytest.fixture(scope="module")
def folder(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    one = tmp_path_factory.mktemp("haproxy")
    make_keys(simulator, one, *LABELS)
    yield one
    delete_keys(simulator, *LABELS)


@pytest.mark.parametrize("transport", ["auto", "socket"])
def test_many_signatures_under_way_from_one_thread(simulator: Simulator, folder: Path, transport: str) -> None:
    count = 8
    with serving(simulator, folder, transport=transport, **HELD) as proxy, ThreadPoolExecutor(count) as clients:
        for name in ("rsa", "p256"):
            for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                assert proxy.fetch(name, version) == name
        warm_up(simulator, proxy, clients, count)
        with stopped(simulator.pid(0), simulator.pid(1)):
            pages = [clients.submit(proxy.fetch, "p256" if i % 2 else "rsa") for i in range(count)]
            time.sleep(0.3)
            assert proxy.plain() == "plain"  # the only thread waits for none of them
            assert not any(page.done() for page in pages)
        assert [page.result() for page in pages] == ["rsa", "p256"] * (count // 2)
        assert proxy.most_paused() == count


def test_no_more_than_thirty_two_are_paused(simulator: Simulator, folder: Path) -> None:
    count = PLACES + 8
    with serving(simulator, folder, **HELD) as proxy, ThreadPoolExecutor(count) as clients:
        warm_up(simulator, proxy, clients, PLACES)
        with stopped(simulator.pid(0), simulator.pid(1)):
            pages = [clients.submit(proxy.fetch, "rsa") for _ in range(count)]
            time.sleep(0.3)
        assert [page.result() for page in pages] == ["rsa"] * count
        assert proxy.most_paused() == PLACES


def test_switched_off(simulator: Simulator, folder: Path) -> None:
    with serving(simulator, folder, **{"async": False}) as proxy:
        assert [proxy.fetch() for _ in range(4)] == ["p256"] * 4
        assert proxy.most_paused() == 0


def test_clients_that_leave_while_their_signature_is_made(simulator: Simulator, folder: Path) -> None:
    """More of them than there are places: what a paused call had comes back when its connection goes."""
    with serving(simulator, folder, **HELD) as proxy, ThreadPoolExecutor(8) as clients:
        warm_up(simulator, proxy, clients, 8)
        for _ in range(3):
            with stopped(simulator.pid(0), simulator.pid(1)):
                connections = [proxy.hello() for _ in range(8)]
                time.sleep(0.3)
                assert proxy.plain() == "plain"
                for connection in connections:
                    connection.close()
                assert proxy.plain() == "plain"
            assert list(clients.map(proxy.fetch, ["p256"] * 8)) == ["p256"] * 8
        with stopped(simulator.pid(0), simulator.pid(1)):
            pages = [clients.submit(proxy.fetch) for _ in range(8)]
            time.sleep(0.5)
            assert proxy.plain() == "plain"  # none of the eight found the places taken and holds up the thread
        assert [page.result() for page in pages] == ["p256"] * 8


def test_signatures_that_fail(simulator: Simulator, folder: Path) -> None:
    """A key that goes while others serve: its handshakes end with an alert, the others' go on."""
    with serving(simulator, folder) as proxy, ThreadPoolExecutor(8) as clients:
        assert proxy.fetch("rsa") == "rsa"
        delete_keys(simulator, "provider-rsa")
        try:
            pages = [clients.submit(proxy.fetch, "p256" if i % 2 else "rsa") for i in range(8)]
            assert [page.result() for page in pages[1::2]] == ["p256"] * 4
            for page in pages[::2]:
                with pytest.raises(ssl.SSLError, match=r"ALERT|EOF"):
                    page.result()
            assert [proxy.fetch() for _ in range(4)] == ["p256"] * 4
        finally:
            (folder / "provider-rsa.pem").unlink()
            make_keys(simulator, folder, "provider-rsa")


def test_an_hsm_that_dies_with_signatures_under_way(new_simulator: Callable[..., Simulator], tmp_path: Path) -> None:
    """Each is asked for again at the other HSM: no handshake fails."""
    simulator = new_simulator()
    make_keys(simulator, tmp_path, *LABELS)
    count = 8
    with serving(simulator, tmp_path) as proxy, ThreadPoolExecutor(count) as clients:
        assert proxy.fetch("rsa") == "rsa"
        warm_up(simulator, proxy, clients, count)
        first = json.loads(simulator.ready.module_config.read_text())["clusters"][0]["cluster"]["servers"][0]
        serves = [str(simulator.socket(number)) for number in (0, 1)].index(first["socket"])
        with stopped(simulator.pid(serves)):
            pages = [clients.submit(proxy.fetch, "p256" if i % 2 else "rsa") for i in range(count)]
            time.sleep(0.3)
            assert proxy.plain() == "plain"
            simulator.kill(serves)
        assert [page.result() for page in pages] == ["rsa", "p256"] * (count // 2)
