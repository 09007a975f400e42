"""The gateway and the fleet's daemon as processes in the background of one state folder.

Rules: the gateway has HOME/gateway and no other file of ours; started by root it runs as the system user
`hsmsim-gateway`, where there is one that can reach what it needs. Each can be killed at any point and started again.
"""

from __future__ import annotations

import datetime as dt
import importlib.util
import os
import pwd
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

import hsmsim
from hsmsim.errors import HsmsimError
from hsmsim.fleet import databases, ports, processes, state
from hsmsim.fleet.processes import Process, Program
from hsmsim.gateway.config import DEFAULT_PORT, DEFAULT_TLS_PORT, GatewayConfig
from hsmsim.gateway.tls import Authority
from hsmsim.services.iam import rootkey

if TYPE_CHECKING:
    from hsmsim.config import Places

ACCOUNT: Final = databases.GATEWAY_ACCOUNT
HOST: Final = "127.0.0.1"
EVERYWHERE: Final = "0.0.0.0"  # noqa: S104 - only for those who say so
REGION: Final = "us-east-1"
STOP_SECONDS: Final = 25.0
"""Above the time that the gateway gives to requests which are under way."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a person chose for the gateway; None: as the last time, else the default.

    host: the address to listen on, HOST or EVERYWHERE.
    """

    port: int | None = None
    tls_port: int | None = None
    accept_any_credentials: bool | None = None
    time_scale: float | None = None
    host: str | None = None


class Ready(msgspec.Struct, frozen=True):
    """What the gateway says of itself when it listens."""

    pid: int
    http: int
    https: int

    @property
    def url(self) -> str:
        """The endpoint for clients."""
        return f"http://{HOST}:{self.http}"

    @property
    def secure_url(self) -> str:
        """The endpoint over TLS."""
        return f"https://localhost:{self.https}"


def account_of(places: Places) -> str:
    """Return whom the gateway runs as; empty: us."""
    if os.geteuid() != 0:
        return ""
    try:
        entry = pwd.getpwnam(ACCOUNT)
    except KeyError:
        return ""
    code = (sys.executable, os.__file__, hsmsim.__file__, _origin("botocore"))
    needed = (places.gateway_home, places.clock_file, *map(Path, code))
    return ACCOUNT if all(state.reaches(entry, path) for path in needed) else ""


def _origin(module: str) -> str:
    """Where a module lies, without importing it."""
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise HsmsimError(f"The Python package {module} is missing. Run scripts/up, or install hsmsim again.")
    return found.origin


def gateway(places: Places) -> Process:
    """Return the gateway, which answers when it listens on all ports."""

    def answering() -> int | None:
        return processes.listening(places.gateway_socket) if places.gateway_ready_file.exists() else None

    return Process("gateway", *_files(places, "gateway"), answering)


def daemon(places: Places) -> Process:
    """Return the fleet's daemon."""
    return Process("fleet daemon", *_files(places, "fleet"), lambda: processes.listening(places.fleet_socket))


def _files(places: Places, name: str) -> tuple[Path, Path, Path]:
    return places.home / f"{name}.pid", places.home / f"{name}.claim", places.home / f"{name}.log"


def start(places: Places, options: Options) -> None:
    """Start both if they do not run; `wait_ready` waits until they answer. The caller holds the fleet's lock.

    HsmsimError if the gateway runs with other options, or if another process has one of its ports.
    """
    account = account_of(places)
    folders = {"HSMSIM_HOME": str(places.home), "HSMSIM_RUN": str(places.run)}
    config = _config(places, options)
    if processes.is_running(gateway(places)) and msgspec.to_builtins(config, enc_hook=str) != _kept(places):
        raise HsmsimError("The gateway runs with other options than these. Stop it first: hsmsim down")

    def prepare() -> None:
        _require_ports(config)
        _prepare(places, config, account)

    command = [sys.executable, "-P", "-m", "hsmsim.fleet", *(["--gateway-user", account] if account else [])]
    processes.start(daemon(places), Program(command, lambda: None, folders))
    command = [sys.executable, "-P", "-m", "hsmsim.gateway", "--config", str(places.gateway_config)]
    command += ["--user", account] if account else []
    processes.start(gateway(places), Program(command, prepare, folders))


def _require_ports(config: GatewayConfig) -> None:
    for port, option in ((config.port, "--port"), (config.tls_port, "--tls-port")):
        if port is not None:
            ports.require_free(config.host, port, f"choose another one: hsmsim up {option} {port + 10}")


def _prepare(places: Places, config: GatewayConfig, account: str) -> None:
    """Write what the gateway reads."""
    folder = places.gateway_home
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != state.uid_of(account):  # new, or of a gateway that ran as another user
        for path in (*folder.iterdir(), folder):
            state.give(path, account or "root")
    places.gateway_ready_file.unlink(missing_ok=True)
    authority = Authority(places.authority_folder, dt.datetime.now(dt.UTC))
    server = authority.server()
    state.write_private(places.authority_certificate, authority.certificate, mode=0o644)
    for path, content in (
        (folder / "https.pem", server.certificate),
        (folder / "https.key", server.key),
        (places.gateway_config, msgspec.json.format(msgspec.json.encode(config, enc_hook=str))),
    ):
        state.write_private(path, content, account=account)


def _kept(places: Places) -> dict[str, Any]:
    """What the gateway was started with the last time."""
    data = state.read_private(places.gateway_config)
    try:
        return msgspec.json.decode(data, type=dict[str, Any]) if data else {}
    except msgspec.DecodeError as error:
        raise HsmsimError(f"{places.gateway_config} is damaged ({error}). Remove it.") from error


def _config(places: Places, options: Options) -> GatewayConfig:
    kept = _kept(places)

    def chosen(name: str, default: Any) -> Any:  # noqa: ANN401 - one of the options
        value = getattr(options, name)
        return kept.get(name, default) if value is None else value

    def given(name: str, default: Any) -> Any:  # noqa: ANN401 - one of the options
        """Not kept from one start to the next: who leaves such an option out wants what is safe."""
        if processes.is_running(gateway(places)):
            return chosen(name, default)
        return getattr(options, name) or default

    folder = places.gateway_home
    return GatewayConfig(
        home=folder,
        database=databases.url_of(places, "gateway"),
        host=given("host", HOST),
        port=chosen("port", DEFAULT_PORT),
        tls_port=chosen("tls_port", DEFAULT_TLS_PORT),
        certificate=folder / "https.pem",
        key=folder / "https.key",
        ready=places.gateway_ready_file,
        accept_any_credentials=given("accept_any_credentials", default=False),
        clock=places.clock_file,
        fleet=places.fleet_socket,
        time_scale=chosen("time_scale", 0.0),
        quotas=kept.get("quotas", {}),
        unverified=kept.get("unverified", {}),
    )


def wait_ready(places: Places) -> Ready:
    """Return when both answer."""
    processes.wait_ready([daemon(places), gateway(places)])
    found = ready(places)
    if found is None:
        raise HsmsimError(
            f"The gateway ended right after its start. Its log says:\n{processes.log_end(gateway(places))}"
        )
    return found


def ready(places: Places) -> Ready | None:
    """Return on which ports the gateway listens; None if it does not."""
    data = state.read_private(places.gateway_ready_file)
    if data is None or not processes.is_running(gateway(places)):
        return None
    return msgspec.json.decode(data, type=Ready)


def stop(places: Places) -> list[str]:
    """End the gateway, then the daemon that it asks; the names of those that ran."""
    ended = processes.end([gateway(places)], seconds=STOP_SECONDS)
    return ended + processes.end([daemon(places)])


def root_key(places: Places) -> rootkey.RootKey | None:
    """Return the access key of the first account's root user; None before the first start."""
    return rootkey.kept(places.of_gateway())


def environment(places: Places, *, secure: bool = False) -> dict[str, str]:
    """Return what AWS's tools read; nothing where no gateway runs."""
    found, key = ready(places), root_key(places)
    if found is None or key is None:
        return {}
    return {
        "AWS_ENDPOINT_URL": found.secure_url if secure else found.url,
        **key.environment(),
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        **({"AWS_CA_BUNDLE": str(places.authority_certificate)} if secure else {}),
    }
