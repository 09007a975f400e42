"""The gateway's process: opens its database and sockets, serves until SIGTERM, and ends in order.

Order of the end: no new connections, requests under way are finished, reconcilers stop, the records that are still
behind are written, the writer closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec
import uvicorn
import uvloop

from hsmsim import __version__
from hsmsim.clock import Clock, SharedClock, SystemClock
from hsmsim.errors import HsmsimError
from hsmsim.gateway import manage, sigv4
from hsmsim.gateway.app import AwsApp, ManagementApp
from hsmsim.gateway.authenticate import Authenticator
from hsmsim.gateway.behind import Behind
from hsmsim.gateway.crowd import Crowd
from hsmsim.gateway.fleet import NoFleet, SocketFleet
from hsmsim.gateway.fresh import following
from hsmsim.gateway.http import HANDSHAKE_TIMEOUT_S, KEEP_ALIVE_S, MAX_CONNECTIONS, BoundedProtocol
from hsmsim.gateway.pipeline import Limits, Pipeline
from hsmsim.gateway.ports import Parts, Ports
from hsmsim.gateway.reconcile import Reconcilers
from hsmsim.ids import SystemIds
from hsmsim.storage.database import Database
from hsmsim.storage.lead import Led, lead_of
from hsmsim.storage.migrate import GATEWAY, migrate
from hsmsim.storage.writer import GroupWriter

if TYPE_CHECKING:
    from pathlib import Path

    from hsmsim.gateway.config import GatewayConfig

Build: TypeAlias = Callable[[Ports], Parts]
GRACE_S: Final = 20
BACKLOG: Final = 1024
_LOG: Final = logging.getLogger("hsmsim.gateway")


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket, what answers on it, and the connections that it shares its places with."""

    socket: socket.socket
    app: Any
    crowd: Crowd
    tls: ssl.SSLContext | None = None


class _Server(uvicorn.Server):
    """uvicorn with our protocol and signals left to the process; gives up a handshake of TLS earlier than asyncio."""

    def __init__(self, listener: Listener) -> None:
        super().__init__(_uvicorn_config(listener))
        self._crowd = listener.crowd

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await self.lifespan.startup()
        loop, config = asyncio.get_running_loop(), self.config

        def protocol() -> BoundedProtocol:
            return BoundedProtocol(self._crowd, config, self.server_state, self.lifespan.state)

        self.servers = []
        for one in sockets or []:
            patience = HANDSHAKE_TIMEOUT_S if config.ssl else None
            self.servers.append(
                await loop.create_server(
                    protocol, sock=one, ssl=config.ssl, backlog=config.backlog, ssl_handshake_timeout=patience
                )
            )
        self.started = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run(config: GatewayConfig, build: Build, clock: Clock | None = None) -> None:
    """Serve until SIGTERM or SIGINT."""
    os.umask(0o077)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    config.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    migrate(config.database_url, GATEWAY)
    if clock is None:
        clock = SharedClock(config.clock) if config.clock else SystemClock()
    uvloop.run(_serve(config, build, clock))


def make_ports(
    config: GatewayConfig,
    database: Database,
    writer: GroupWriter,
    clock: Clock,
    reconcilers: Reconcilers,
    forget_key: Callable[[str], None],
) -> Ports:
    """Return what services are built with."""
    return Ports(
        database=database,
        writer=writer,
        led=Led(writer, reconcilers.lead),
        clock=clock,
        ids=SystemIds(),
        wake=reconcilers.wake,
        wake_all=reconcilers.wake_all,
        forget_key=forget_key,
        default_account=config.default_account,
        home=config.home,
        fleet=SocketFleet(config.fleet) if config.fleet else NoFleet(),
        time_scale=config.time_scale,
        quotas=config.quotas,
        unverified=config.unverified,
        events=config.events,
    )


async def _serve(config: GatewayConfig, build: Build, clock: Clock) -> None:
    database = Database(config.database_url)
    writer = GroupWriter(database)
    reconcilers = Reconcilers(lead_of(database))
    keys = sigv4.KeyCache()
    loop = asyncio.get_running_loop()

    def forget(access_key_id: str) -> None:
        loop.call_soon_threadsafe(keys.forget, access_key_id)

    try:
        ports = make_ports(config, database, writer, clock, reconcilers, forget)
        parts = build(ports)
        behind = Behind(parts.recorder, writer)
        authenticator = Authenticator(
            parts.credentials, clock, keys, config.default_account, config.accept_any_credentials
        )
        limits = Limits(threads=config.threads)
        async with following(parts.memory, database) as fresh:
            pipeline = Pipeline(parts, authenticator, database, writer, behind, clock, SystemIds(), limits, fresh)
            reconcilers.start(parts.reconcilers)
            try:
                calls = {**manage.routes(clock, reconcilers, ports.fleet), **parts.routes}
                await _listen(config, AwsApp(pipeline, __version__), ManagementApp(calls, __version__))
            finally:
                await asyncio.to_thread(reconcilers.stop)
                await asyncio.to_thread(pipeline.close)
                await behind.close()
    finally:
        await asyncio.to_thread(writer.close)
        database.close()


async def _listen(config: GatewayConfig, aws: AwsApp, management: ManagementApp) -> None:
    most = min(MAX_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
    own, public = Crowd(most), Crowd(most)
    listeners = [Listener(_unix_socket(config.socket), management, own)]
    if config.port is not None:
        listeners.append(Listener(_tcp_socket(config.host, config.port), aws, public))
    if config.tls_port is not None:
        listeners.append(Listener(_tcp_socket(config.host, config.tls_port), aws, public, _tls(config)))
    servers = [_Server(listener) for listener in listeners]
    _stop_on_signals(servers)
    tasks = [
        asyncio.create_task(server.serve([listener.socket]))
        for server, listener in zip(servers, listeners, strict=True)
    ]
    try:
        await _announce(config, listeners, servers, tasks)
        await asyncio.gather(*tasks)
    finally:
        config.socket.unlink(missing_ok=True)
        if config.ready:
            config.ready.unlink(missing_ok=True)
    _LOG.info("The gateway has stopped.")


async def _announce(
    config: GatewayConfig, listeners: list[Listener], servers: list[_Server], tasks: list[asyncio.Task[None]]
) -> None:
    while not all(server.started for server in servers) and not any(task.done() for task in tasks):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    # What was imported and built until now lives as long as the process: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    ports = {
        "https" if listener.tls else "http": listener.socket.getsockname()[1]
        for listener in listeners
        if listener.socket.family != socket.AF_UNIX
    }
    _LOG.info("The gateway listens on %s: %s.", config.host, ports)
    if config.ready:
        new = config.ready.with_suffix(".new")
        new.write_bytes(msgspec.json.encode({"pid": os.getpid(), **ports}))
        new.rename(config.ready)


def _stop_on_signals(servers: list[_Server]) -> None:
    def stop() -> None:
        for server in servers:
            server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)


def _uvicorn_config(listener: Listener) -> uvicorn.Config:
    context = listener.tls
    config = uvicorn.Config(
        listener.app,
        http="httptools",
        ws="none",
        loop="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        ssl_context_factory=(lambda _config, _default: context) if context else None,
    )
    config.load()
    return config


def _tcp_socket(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server(
            (host, port), backlog=BACKLOG, family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
    except OSError as error:
        raise HsmsimError(
            f"The gateway cannot listen on {host}:{port}: {error.strerror}. Stop what does, or choose another port."
        ) from error


def _unix_socket(path: Path) -> socket.socket:
    """A socket that only this user opens: 0600, in a folder that is 0700. One that a dead gateway left is replaced."""
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        path.unlink(missing_ok=True)
    except OSError as error:
        raise HsmsimError(f"{path} cannot be used: {error.strerror}.") from error
    else:
        raise HsmsimError(f"A gateway runs in {path.parent} already. Stop it with: hsmsim down")
    finally:
        probe.close()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listening.bind(str(path))
    except OSError as error:
        raise HsmsimError(f"{path} cannot be made: {error.strerror or error}.") from error
    finally:
        os.umask(before)
    listening.listen(BACKLOG)
    return listening


def _tls(config: GatewayConfig) -> ssl.SSLContext:
    assert config.certificate is not None and config.key is not None  # noqa: S101, PT018 - GatewayConfig.read saw to it
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(config.certificate, config.key)
    except OSError as error:
        raise HsmsimError(f"The certificate {config.certificate} and its key cannot be used: {error}.") from error
    return context
