"""HSMs on hosts of their own: network namespaces where this machine makes them, else loopback addresses.

Either way a host has two addresses: the inner one, where its HSM listens, and the outer one, where a relay of the
network answers for it. Nobody is told of the inner one. The rows are in PostgreSQL, which each host reaches by a relay
of its own. An HSM's unix socket is for the test alone, which looks into an HSM whatever the network does.
"""

from __future__ import annotations

import os
import pwd
import random
import secrets
import shutil
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import make_url
from support.chaos import Chaos
from support.hsm import CLUSTER, USERS, Cluster, Hsm
from support.relay import FAIR, Network, Relay, Weather

from hsmsim.bench.serve import free_port
from hsmsim.config import module_path
from hsmsim.fleet import customer, modulecfg
from hsmsim.fleet.locate import Server, Where
from hsmsim.hsm.address import joined
from hsmsim.storage.database import drop_schema, in_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hsmsim.fleet.postgresql import LocalServer

LOOPBACK: Final = "loopback"
NAMESPACES: Final = "namespaces"
STORMS: Final = (
    Weather(delay_s=0.03),
    Weather(delay_s=0.005, loss=0.05),
    Weather(cut=True),
)


def _name() -> str:
    """A name of a namespace and a device. None is used again: a device goes some time after its namespace."""
    return f"hs{secrets.token_hex(4)}"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def why_no_namespaces() -> str:
    """Why this machine makes no network namespaces; empty where it does."""
    if os.geteuid() != 0:
        return "network namespaces are made by root"
    if shutil.which("ip") is None:
        return "network namespaces are made by iproute2's `ip`, which is not installed"
    name = _name()
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return f"this machine makes no network namespaces: {made.stderr.strip()}"
    pair = ["ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name]
    linked = subprocess.run(pair, capture_output=True, text=True, check=False)
    _ip("netns", "delete", name)
    return f"this machine links no network namespaces: {linked.stderr.strip()}" if linked.returncode != 0 else ""


MISSING: Final = why_no_namespaces()
BEST: Final = LOOPBACK if MISSING else NAMESPACES
KINDS: Final = (LOOPBACK, pytest.param(NAMESPACES, marks=pytest.mark.skipif(bool(MISSING), reason=MISSING)))


# ---- hosts -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Host:
    """A machine of its own. outer: where this machine, and through it every other, is reached from there."""

    inner: str
    outer: str
    within: tuple[str, ...] = ()


@contextmanager
def _namespace(inner: str, outer: str) -> Iterator[Host]:
    mark = _name()
    _ip("netns", "add", mark)
    try:
        _ip("link", "add", mark, "type", "veth", "peer", "name", "eth0", "netns", mark)
        _ip("address", "add", f"{outer}/24", "dev", mark)
        _ip("link", "set", mark, "up")
        _ip("-n", mark, "address", "add", f"{inner}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", mark, "link", "set", device, "up")
        _ip("-n", mark, "route", "add", "default", "via", outer)
        yield Host(inner, outer, ("nsenter", f"--net=/run/netns/{mark}"))
    finally:
        _ip("netns", "delete", mark)  # and with it the pair of devices


@contextmanager
def _hosts(kind: str, count: int) -> Iterator[list[Host]]:
    second = random.SystemRandom().randrange(1, 255)  # others of this machine have hosts, too
    with ExitStack() as stack:
        if kind == LOOPBACK:
            yield [Host(f"127.{second}.{number}.2", f"127.{second}.{number}.1") for number in range(count)]
        else:
            yield [
                stack.enter_context(_namespace(f"10.{second}.{number}.2", f"10.{second}.{number}.1"))
                for number in range(count)
            ]


# ---- the cluster -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Post:
    """An HSM's place in the network. asked: the relay of all that is asked of it; database: of what it asks there."""

    host: Host
    port: int
    asked: Relay
    database: Relay

    def weather(self, wanted: Weather) -> None:
        """Between this host and all others; on loopback, where no source is known, not for what it asks of HSMs."""
        self.asked.weather = self.database.weather = wanted


@dataclass(slots=True)
class HostedCluster(Cluster):
    """Each HSM on a host of its own; `database` is as this machine reaches it. client: a host without an HSM."""

    posts: list[Post] = field(default_factory=list)
    client: Host | None = None

    def module(self, folder: Path, **options: Any) -> dict[str, str]:
        """The environment of an application that knows the HSMs by their outer addresses."""
        servers = tuple(Server(post.asked.address[0], Path(), post.asked.address[1]) for post in self.posts)
        where = Where(CLUSTER, self.model, os.geteuid(), servers)
        chosen = modulecfg.Options(hsm_ca_file=str(self.home / "customer" / customer.ROOT_CERTIFICATE), **options)
        path = folder / "pkcs11.cfg"
        path.write_bytes(modulecfg.encoded(modulecfg.document(where, chosen)))
        return {
            **os.environ,
            "HSMSIM_MODULE": str(module_path()),
            "HSMSIM_PKCS11_CONFIG": str(path),
            "HSMSIM_TOKEN": modulecfg.TOKEN,
            "HSMSIM_PIN": f"alice:{USERS['alice']}",
        }

    def new(self) -> Hsm:
        hsm = Cluster.new(self)
        post = self.posts[len(self.hsms) - 1]
        hsm.within = post.host.within
        hsm.config |= {
            "listen": joined(post.host.inner, post.port),
            "advertise": joined(*post.asked.address),
            "database_url": self._url(post),
        }
        return hsm

    def _url(self, post: Post) -> str:
        (address, port), user = post.database.address, pwd.getpwuid(os.geteuid()).pw_name
        url = make_url(self.database).difference_update_query(["host"])
        return url.set(username=user, host=address, port=port).render_as_string(hide_password=False)


@contextmanager
def hosted(kind: str, server: LocalServer, *, hsms: int = 3, engine: str = "fast") -> Iterator[HostedCluster]:
    """An active cluster on hosts of their own, gone at the end. The first HSM is initialized before the others join."""
    rows = in_schema(server.url, f"hosts_{secrets.token_hex(8)}")
    with _hosts(kind, hsms + 1) as hosts, Network() as network:
        posts = [_post(network, host, server) for host in hosts[:hsms]]
        home = Path(tempfile.mkdtemp(prefix="hsmsim-hosts-"))
        (home / "images").mkdir(mode=0o700)
        made = HostedCluster(home, engine, check=True, database=rows, posts=posts, client=hosts[hsms])
        try:
            made.add()
            made.initialize()
            for _ in range(hsms - 1):
                made.add()
            made.activate()
            yield made
        finally:
            made.end()
            drop_schema(rows)


def _post(network: Network, host: Host, server: LocalServer) -> Post:
    port = free_port()
    asked = network.relay(host.outer, (host.inner, port))
    if host.within:
        network.stands_behind(host.inner, asked)
    return Post(host, port, asked, network.relay(host.outer, server.run / ".s.PGSQL.5432"))


# ---- what goes wrong there ---------------------------------------------------------------------------------------


class NetworkChaos(Chaos):
    """Chaos, and bad weather."""

    def __init__(self, cluster: HostedCluster, seed: int) -> None:
        super().__init__(cluster, seed)
        self._posts = dict(zip((hsm.hsm_id for hsm in cluster.hsms), cluster.posts, strict=True))

    def ills(self) -> tuple[Callable[[list[Hsm]], None], ...]:
        return (*super().ills(), self._storm, self._storm, self._storm, self._storm)

    def _storm(self, victims: list[Hsm]) -> None:
        weather = self.random.choice(STORMS)
        posts = [self._posts[hsm.hsm_id] for hsm in victims]
        parts = [self.random.choice(((post.asked,), (post.database,), (post.asked, post.database))) for post in posts]
        for relay in (relay for part in parts for relay in part):
            relay.weather = weather
            self.note("cut" if weather.cut else "storm")
        time.sleep(self.random.uniform(0.3, 2.5))
        for relay in (relay for part in parts for relay in part):
            relay.weather = FAIR
