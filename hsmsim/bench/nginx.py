"""A private nginx for a benchmark or demonstration: its configuration, its start and its end.

Each server gets a folder of its own, one loopback port per key, and no session cache or tickets, so that every
connection is a full handshake with a private-key operation.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from hsmsim.bench.serve import Server, free_port, started
from hsmsim.errors import HsmsimError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from hsmsim.bench.openssl import Loader, Site

SBIN: Final = "/usr/sbin:/usr/bin:/sbin:/bin"

NGINX_CONF: Final = """\
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

SERVER: Final = """\
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key "{key}";
        return 200 "{text}\\n";
    }}
"""


@contextmanager
def running(
    folder: Path,
    sites: Mapping[str, Site],
    loader: Loader | None,
    workers: int,
    processors: frozenset[int] | None = None,
) -> Iterator[Server]:
    """nginx with these sites, stopped at the end. HsmsimError quotes nginx's own log."""
    program = shutil.which("nginx", path=SBIN)
    if program is None:
        raise HsmsimError("nginx is missing; install it: apt-get install nginx-light")
    folder.mkdir(mode=0o755, parents=True)
    ports = {name: free_port() for name in sites}
    own: dict[str, str] = {}
    if loader is not None:
        own = {**loader.environment, "OPENSSL_CONF": str(loader.configuration(folder))}
    text = NGINX_CONF.format(
        # SoftHSM2's tokens are readable for their owner alone, so nginx's usual www-data workers could not sign
        user="user root;\n" if os.geteuid() == 0 else "",
        workers=workers,
        folder=folder,
        engine=f"ssl_engine {loader.engine};\n" if loader is not None and loader.engine else "",
        environment="".join(f"env {name};\n" for name in own),
        servers="".join(
            SERVER.format(port=ports[name], certificate=site.certificate, key=site.key, text=site.text)
            for name, site in sites.items()
        ),
    )
    (folder / "nginx.conf").write_text(text, encoding="utf-8")
    log = folder / "error.log"
    command = [program, "-e", str(log), "-c", str(folder / "nginx.conf")]
    with started(command, own, log, ports, workers, processors) as server:
        yield server
