"""A private nginx for a demonstration: its configuration, its start and its end.

Each server gets a folder of its own, one loopback port per key, and no session cache or tickets, so that every
connection is a full handshake with a private-key operation.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hsmsim.errors import HsmsimError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SECONDS_TO_START = 15
ENGINE_PATHS = ("/usr/lib/x86_64-linux-gnu/engines-3/pkcs11.so", "/usr/lib/aarch64-linux-gnu/engines-3/pkcs11.so")

OPENSSL_CNF = """\
openssl_conf = openssl_init
[openssl_init]
engines = engines
[engines]
pkcs11 = pkcs11
[pkcs11]
engine_id = pkcs11
MODULE_PATH = {module}
PIN = {pin}
init = 0
[req]
distinguished_name = name
[name]
"""

NGINX_CONF = """\
daemon off;
{user}worker_processes {workers};
pid {folder}/nginx.pid;
error_log {folder}/error.log;
{engine}{environment}events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_session_cache off;
    ssl_session_tickets off;
    keepalive_timeout 0;
{servers}}}
"""

SERVER = """\
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key "{key}";
        return 200 "{text}\\n";
    }}
"""


@dataclass(frozen=True, slots=True)
class Site:
    """One TLS server block: certificate file, nginx's key reference, the page's text."""

    certificate: Path
    key: str
    text: str


@dataclass(frozen=True, slots=True)
class Engine:
    """libengine-pkcs11-openssl over a PKCS#11 module; `environment`: what the module reads."""

    module: str
    pin: str
    environment: Mapping[str, str]

    def configuration(self, folder: Path) -> Path:
        """An openssl.cnf (0600: it holds the PIN) that loads the module."""
        if not any(Path(path).exists() for path in ENGINE_PATHS):
            message = "OpenSSL's PKCS#11 engine is missing; install it: apt-get install libengine-pkcs11-openssl"
            raise HsmsimError(message)
        path = folder / "openssl.cnf"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(OPENSSL_CNF.format(module=self.module, pin=self.pin))
        return path


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running(folder: Path, sites: dict[str, Site], engine: Engine | None, workers: int) -> Iterator[dict[str, int]]:
    """nginx with these sites; yields name -> port; stops it at the end. HsmsimError quotes nginx's own log."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/sbin:/bin")
    if program is None:
        message = "nginx is missing; install it: apt-get install nginx-light"
        raise HsmsimError(message)
    folder.mkdir(mode=0o755, parents=True)
    ports = {name: free_port() for name in sites}
    environment = dict(os.environ)
    if engine is not None:
        environment |= {**engine.environment, "OPENSSL_CONF": str(engine.configuration(folder))}
    text = NGINX_CONF.format(
        # SoftHSM2's tokens are readable for their owner alone, so nginx's usual www-data workers could not sign
        user="user root;\n" if os.geteuid() == 0 else "",
        workers=workers,
        folder=folder,
        engine="ssl_engine pkcs11;\n" if engine else "",
        environment="".join(f"env {name};\n" for name in ("OPENSSL_CONF", *engine.environment)) if engine else "",
        servers="".join(
            SERVER.format(port=ports[name], certificate=site.certificate, key=site.key, text=site.text)
            for name, site in sites.items()
        ),
    )
    (folder / "nginx.conf").write_text(text, encoding="utf-8")
    with subprocess.Popen(  # noqa: S603 - found above
        [program, "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            _wait(server, folder, ports)
            yield ports
        finally:
            server.terminate()


def _wait(server: subprocess.Popen[bytes], folder: Path, ports: dict[str, int]) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while not all(_answers(port) for port in ports.values()):
        if server.poll() is not None or time.monotonic() > deadline:
            log = folder / "error.log"
            said = log.read_text(encoding="utf-8", errors="replace").strip() if log.exists() else "(no log)"
            message = f"nginx in {folder} did not start: {said}"
            raise HsmsimError(message)
        time.sleep(0.05)
