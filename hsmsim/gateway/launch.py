"""The gateways and the fleet's daemon as processes in the background of one state folder.

Rules: gateways have HOME/gateway and no other file of ours; started by root they run as the system user
`hsmsim-gateway`, where there is one that can reach what they need. Each can be killed at any point and started again.
There is one gateway, or several where their rows are in PostgreSQL: same folder, same options, other names and ports.
"""

from __future__ import annotations

import datetime as dt
import importlib.util
import os
import pwd
import re
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import structs

import hsmsim
from hsmsim.config import FIRST_GATEWAY
from hsmsim.errors import HsmsimError
from hsmsim.fleet import databases, ports, processes, state
from hsmsim.fleet.processes import Process, Program
from hsmsim.gateway.config import DEFAULT_PORT, DEFAULT_TLS_PORT, GatewayConfig
from hsmsim.gateway.tls import Authority
from hsmsim.services.iam import rootkey

if TYPE_CHECKING:
    from hsmsim.config import Places

FIRST: Final = FIRST_GATEWAY
_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,15}", re.ASCII)
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


def gateway(places: Places, name: str = FIRST) -> Process:
    """Return a gateway, which answers when it listens on all ports."""
    files = places.gateway(name)

    def answering() -> int | None:
        return processes.listening(files.socket) if files.ready.exists() else None

    known = "gateway" if name == FIRST else f"gateway-{name}"
    return Process(known.replace("-", " ", 1), *_files(places, known), answering)


def daemon(places: Places) -> Process:
    """Return the fleet's daemon."""
    return Process("fleet daemon", *_files(places, "fleet"), lambda: processes.listening(places.fleet_socket))


def _files(places: Places, name: str) -> tuple[Path, Path, Path]:
    return places.home / f"{name}.pid", places.home / f"{name}.claim", places.home / f"{name}.log"


def names(places: Places) -> list[str]:
    """The gateways that there are, whether or not they run: the first one, then the others by name."""
    kept = [path.stem.removeprefix("config-") for path in places.gateway_home.glob("config-*.json")]
    return [FIRST, *sorted(kept)]


def background(places: Places) -> list[Process]:
    """Every gateway, and the fleet's daemon."""
    return [*(gateway(places, name) for name in names(places)), daemon(places)]


# ---- starting ----------------------------------------------------------------------------------------------------


def start(places: Places, options: Options) -> None:
    """Start all that do not run; `wait_ready` waits until they answer. The caller holds the fleet's lock.

    HsmsimError if the first gateway runs with other options, or if another process has one of its ports.
    """
    config = _config(places, options)
    if processes.is_running(gateway(places)) and msgspec.to_builtins(config, enc_hook=str) != _kept(places):
        raise HsmsimError("The gateway runs with other options than these. Stop it first: hsmsim down")
    account = account_of(places)
    command = [sys.executable, "-P", "-m", "hsmsim.fleet", *(["--gateway-user", account] if account else [])]
    processes.start(daemon(places), Program(command, lambda: None, _folders(places)))
    _start(places, config, account)
    for name in names(places)[1:]:
        _start(places, _another(places, name, Options()), account)


def start_another(places: Places, name: str, options: Options) -> Ready:
    """Start one more gateway on the database of the first, and return when it answers. port, tls_port: of the options.

    HsmsimError where it runs already, the first one was never started, or the rows are in a file, which has one writer.
    """
    if name == FIRST or not _NAME.fullmatch(name):
        raise HsmsimError(f"{name!r} is no name for another gateway: a-z, 0-9 and -, 16 at most, and not {FIRST}.")
    with state.lock(places):
        if not state.load(places).database:
            raise HsmsimError("Gateways share rows in PostgreSQL, not in a file: hsmsim up --database local")
        if ready(places, name) is not None:
            raise HsmsimError(f"The gateway {name} runs already. To stop it: hsmsim gateway stop {name}")
        _start(places, _another(places, name, options), account_of(places))
    processes.wait_ready([gateway(places, name)])
    return _ready(places, name)


def _start(places: Places, config: GatewayConfig, account: str) -> None:
    def prepare() -> None:
        _require_ports(config)
        _prepare(places, config, account)

    command = [sys.executable, "-P", "-m", "hsmsim.gateway", "--config", str(places.gateway(config.name).config)]
    command += ["--user", account] if account else []
    processes.start(gateway(places, config.name), Program(command, prepare, _folders(places)))


def _folders(places: Places) -> dict[str, str]:
    return {"HSMSIM_HOME": str(places.home), "HSMSIM_RUN": str(places.run)}


def _require_ports(config: GatewayConfig) -> None:
    command = "up" if config.name == FIRST else f"gateway start {config.name}"
    for port, option in ((config.port, "--port"), (config.tls_port, "--tls-port")):
        if port is not None:
            ports.require_free(config.host, port, f"choose another one: hsmsim {command} {option} {port + 10}")


def _prepare(places: Places, config: GatewayConfig, account: str) -> None:
    """Write what the gateway reads."""
    folder, files = places.gateway_home, places.gateway(config.name)
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != state.uid_of(account):  # new, or of a gateway that ran as another user
        for path in (*folder.iterdir(), folder):
            state.give(path, account or "root")
    files.ready.unlink(missing_ok=True)
    authority = Authority(places.authority_folder, dt.datetime.now(dt.UTC))
    server = authority.server()
    state.write_private(places.authority_certificate, authority.certificate, mode=0o644)
    for path, content in (
        (files.certificate, server.certificate),
        (files.key, server.key),
        (files.config, msgspec.json.format(msgspec.json.encode(config, enc_hook=str))),
    ):
        state.write_private(path, content, account=account)


def _kept(places: Places, name: str = FIRST) -> dict[str, Any]:
    """What a gateway was started with the last time."""
    path = places.gateway(name).config
    data = state.read_private(path)
    try:
        return msgspec.json.decode(data, type=dict[str, Any]) if data else {}
    except msgspec.DecodeError as error:
        raise HsmsimError(f"{path} is damaged ({error}). Remove it.") from error


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

    files = places.gateway()
    return GatewayConfig(
        home=places.gateway_home,
        database=databases.url_of(places, "gateway"),
        host=given("host", HOST),
        port=chosen("port", DEFAULT_PORT),
        tls_port=chosen("tls_port", DEFAULT_TLS_PORT),
        certificate=files.certificate,
        key=files.key,
        ready=files.ready,
        accept_any_credentials=given("accept_any_credentials", default=False),
        clock=places.clock_file,
        fleet=places.fleet_socket,
        time_scale=chosen("time_scale", 0.0),
        quotas=kept.get("quotas", {}),
        unverified=kept.get("unverified", {}),
    )


def _another(places: Places, name: str, options: Options) -> GatewayConfig:
    """Another gateway is what the first one was started as, at other ports: those of the last time, else free ones."""
    if not places.gateway().config.exists():
        raise HsmsimError("The first gateway was never started. Start it: hsmsim up --detach")
    files, kept = places.gateway(name), _kept(places, name)

    def port(wanted: int | None, before: str) -> int:
        return int(kept.get(before, 0)) if wanted is None else wanted

    return structs.replace(
        GatewayConfig.read(places.gateway().config),
        name=name,
        port=port(options.port, "port"),
        tls_port=port(options.tls_port, "tls_port"),
        certificate=files.certificate,
        key=files.key,
        ready=files.ready,
    )


# ---- what runs ---------------------------------------------------------------------------------------------------


def wait_ready(places: Places) -> Ready:
    """Return when all answer."""
    processes.wait_ready(reversed(background(places)))
    return _ready(places, FIRST)


def _ready(places: Places, name: str) -> Ready:
    found = ready(places, name)
    if found is None:
        log = processes.log_end(gateway(places, name))
        raise HsmsimError(f"The gateway ended right after its start. Its log says:\n{log}")
    return found


def ready(places: Places, name: str = FIRST) -> Ready | None:
    """Return on which ports a gateway listens; None if it does not."""
    data = state.read_private(places.gateway(name).ready)
    if data is None or not processes.is_running(gateway(places, name)):
        return None
    return msgspec.json.decode(data, type=Ready)


def serving(places: Places) -> list[str]:
    """The gateways that listen; each of them serves all that there is."""
    return [name for name in names(places) if ready(places, name) is not None]


def management(places: Places) -> list[Path]:
    """Their management sockets."""
    return [places.gateway(name).socket for name in serving(places)]


def a_socket(places: Places) -> Path:
    """The management socket of one that listens; the first one's, which is then missed by its name, where none does."""
    return next(iter(management(places)), places.gateway().socket)


def stop(places: Places) -> list[str]:
    """End the gateways, then the daemon that they ask; the names of those that ran."""
    *gateways, fleet = background(places)
    return processes.end(gateways, seconds=STOP_SECONDS) + processes.end([fleet])


def stop_one(places: Places, name: str) -> bool:
    """End a gateway in order, and forget it unless it is the first; whether it ran. HsmsimError if there is none."""
    ended = processes.end([_known(places, name)], seconds=STOP_SECONDS)
    if name != FIRST:
        files = places.gateway(name)
        for path in (files.config, files.ready, files.certificate, files.key):
            path.unlink(missing_ok=True)
    return bool(ended)


def kill(places: Places, name: str) -> bool:
    """SIGKILL, as a power failure would; whether it ran. HsmsimError if there is none."""
    return bool(processes.end([_known(places, name)], first=signal.SIGKILL))


def _known(places: Places, name: str) -> Process:
    if name not in names(places):
        raise HsmsimError(f"There is no gateway {name!r}. There are: {', '.join(names(places))}.")
    return gateway(places, name)


def root_key(places: Places) -> rootkey.RootKey | None:
    """Return the access key of the first account's root user; None before the first start."""
    return rootkey.kept(places.of_gateway())


def environment(places: Places, *, secure: bool = False, name: str = "") -> dict[str, str]:
    """Return what AWS's tools read; nothing where no gateway runs. name: of the gateway; else the first that runs."""
    running, key = serving(places), root_key(places)
    found = next((ready(places, one) for one in running if name in {"", one}), None)
    if found is None or key is None:
        return {}
    return {
        "AWS_ENDPOINT_URL": found.secure_url if secure else found.url,
        **key.environment(),
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        **({"AWS_CA_BUNDLE": str(places.authority_certificate)} if secure else {}),
    }
