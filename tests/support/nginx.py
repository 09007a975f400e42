"""nginx for tests: workers as another user, a port for each key, pages that name protocol, worker and key."""

from __future__ import annotations

import os
import pwd
import signal
import ssl
import subprocess
import time
from contextlib import contextmanager
from http.client import HTTPSConnection
from pathlib import Path
from typing import TYPE_CHECKING

from hsmsim.bench.serve import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}
CONF = """
daemon off;
{user}
worker_processes {workers};
pid {folder}/nginx.pid;
error_log {folder}/error.log;
{loading}
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
    uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
    ssl_session_cache off;
    ssl_session_tickets off;
    keepalive_timeout 0;
    ssl_protocols TLSv1.2 TLSv1.3;
    {servers}
}}
"""
SERVER = """
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {folder}/{label}.crt;
        ssl_certificate_key "{key}";
        location / {{ return 200 "$ssl_protocol $pid {label}\\n"; }}
    }}
"""


@contextmanager
def serving(
    folder: Path, keys: Mapping[str, str], environment: Mapping[str, str], workers: int, loading: str = ""
) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, int]]]:
    """nginx with a server for each of `keys` (label: ssl_certificate_key), certificates in LABEL.crt; label: port."""
    ports = {label: free_port() for label in keys}
    servers = "".join(
        SERVER.format(port=ports[label], folder=folder, label=label, key=key) for label, key in keys.items()
    )
    user = "user www-data;" if os.geteuid() == 0 else ""
    configuration = folder / "nginx.conf"
    configuration.write_text(
        CONF.format(user=user, workers=workers, folder=folder, loading=loading, servers=servers), encoding="utf-8"
    )
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


def workers_of(master: int) -> set[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(master)], check=False, capture_output=True, text=True)
    return {int(line) for line in listed.stdout.split()}


def require_another_user(workers: set[int]) -> None:
    """Whether they are not root's, where the master is."""
    if os.geteuid() == 0:
        assert {Path(f"/proc/{worker}").stat().st_uid for worker in workers} == {pwd.getpwnam("www-data").pw_uid}
