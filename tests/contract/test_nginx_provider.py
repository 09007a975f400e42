"""nginx with key files that name keys: the master reads them as root, the workers sign after the fork as others."""

from __future__ import annotations

import os
import pwd
import signal
import ssl
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.provider import OpenSsl, delete_keys, make_keys

from hsmsim.bench.serve import free_port
from tests.contract.test_nginx import VERSIONS, fetch, until_it_answers, workers_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Simulator

CONF = """
daemon off;
{user}
worker_processes 2;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
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
        ssl_certificate_key {folder}/{label}.pem;
        location / {{ return 200 "$ssl_protocol $pid {label}\\n"; }}
    }}
"""
LABELS = ("provider-rsa", "provider-p256")


@pytest.fixture
def folder(simulator: Simulator, tmp_path: Path) -> Iterator[Path]:
    for one in (tmp_path, *tmp_path.parents[:2]):
        one.chmod(0o755)
    make_keys(simulator, tmp_path, *LABELS)
    yield tmp_path
    delete_keys(simulator, *LABELS)


def test_workers_sign_after_the_fork(simulator: Simulator, folder: Path) -> None:
    """The PIN is in a file of root's alone, and no variable reaches a worker: what it needs was read before."""
    pin = folder / "pin"
    pin.write_text(simulator.ready.pin + "\n")
    pin.chmod(0o600)
    openssl = OpenSsl.make(simulator, folder, options=f"pin-source = {pin}", HSMSIM_PIN="")
    ports = {label: free_port() for label in LABELS}
    for label in LABELS:
        openssl.certificate(label)
    servers = "".join(SERVER.format(port=port, folder=folder, label=label) for label, port in ports.items())
    user = "user www-data;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(CONF.format(user=user, folder=folder, servers=servers))
    path = "/usr/sbin:/usr/bin:" + os.environ["PATH"]
    command = ["nginx", "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env={**openssl.environment, "PATH": path}, **quiet) as server:
        try:
            until_it_answers(server, folder, "provider-p256", ports["provider-p256"])
            first = workers_of(server.pid)
            if os.geteuid() == 0:
                www_data = pwd.getpwnam("www-data").pw_uid
                assert {Path(f"/proc/{worker}").stat().st_uid for worker in first} == {www_data}
            for label in LABELS:
                for name, version in VERSIONS.items():
                    protocol, worker = fetch(folder, label, ports[label], version)
                    assert (protocol, worker in first) == (name, True)
            server.send_signal(signal.SIGHUP)  # the master reads the keys again
            later = {
                fetch(folder, label, ports[label], ssl.TLSVersion.TLSv1_3)[1] for label in LABELS for _ in range(4)
            }
            assert later <= first | workers_of(server.pid)
            assert "[crit]" not in (folder / "error.log").read_text()
        finally:
            server.send_signal(signal.SIGQUIT)
