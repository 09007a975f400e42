"""A private HAProxy of one thread, as a TLS server that answers by itself.

With the key behind the provider it runs with ssl-mode-async: its thread goes on with other connections while the HSM
signs. No session cache, no tickets: every connection is a full handshake.
"""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hsmsim.bench.nginx import SBIN
from hsmsim.bench.openssl import private_file
from hsmsim.bench.serve import Server, free_port, started

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hsmsim.bench.openssl import Loader, Site

HAPROXY_CFG: Final = """\
global
    nbthread 1
    maxconn 512
    tune.ssl.cachesize 0
{mode}defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
{frontends}"""

FRONTEND: Final = """\
frontend {name}
    bind 127.0.0.1:{port} ssl crt {bundle} no-tls-tickets ssl-min-ver TLSv1.2
    http-request return status 200 content-type text/plain string "{text}"
"""


def program() -> str:
    """Path of haproxy, empty where it is not installed."""
    return shutil.which("haproxy", path=SBIN) or ""


@contextmanager
def running(
    folder: Path, sites: Mapping[str, Site], loader: Loader | None, processors: frozenset[int] | None = None
) -> Iterator[Server]:
    """HAProxy with these sites, whose keys are files; stopped at the end. HsmsimError quotes its log."""
    folder.mkdir(mode=0o755, parents=True)
    ports = {name: free_port() for name in sites}
    frontends = ""
    for name, site in sites.items():
        pair = site.certificate.read_text(encoding="ascii") + Path(site.key).read_text(encoding="ascii")
        bundle = private_file(folder / f"{name}.bundle.pem", pair)
        frontends += FRONTEND.format(name=name, port=ports[name], bundle=bundle, text=site.text)
    own: dict[str, str] = {}
    if loader is not None:
        own = {**loader.environment, "OPENSSL_CONF": str(loader.configuration(folder))}
    config = folder / "haproxy.cfg"
    mode = "    ssl-mode-async\n" if loader is not None else ""
    config.write_text(HAPROXY_CFG.format(mode=mode, frontends=frontends), encoding="utf-8")
    with started([program(), "-db", "-f", str(config)], own, folder / "error.log", ports, 0, processors) as server:
        yield server
