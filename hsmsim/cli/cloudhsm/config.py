"""cloudhsm-cli.cfg: the clusters and their HSMs, in the shape of AWS's file and of the PKCS#11 module's.

It is looked for as the module looks for its own, and the module's own is taken where there is none: what the variable
names, then the user's file, then the system's.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from hsmsim.config import ROOT_RUN, SYSTEM_CONFIG, user_config
from hsmsim.errors import HsmsimError

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME: Final = "cloudhsm-cli.cfg"
_MODULE_NAME: Final = "pkcs11.cfg"
_VARIABLES: Final = ("HSMSIM_CLOUDHSM_CLI_CONFIG", "HSMSIM_PKCS11_CONFIG")


class _Known(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A misspelt member is an error: hsm_ca_file left out by mistake would be a check left out."""


class Server(_Known, frozen=True):
    """One HSM: on this machine with a socket, else reached by TCP with TLS."""

    socket: str = ""
    hostname: str = ""
    port: int = 2223
    enable: bool = True

    @property
    def name(self) -> str:
        """What a person knows it as."""
        return self.hostname if self.socket and self.hostname else self.socket or f"{self.hostname}:{self.port}"


class Inner(_Known, frozen=True):
    """The member `cluster`. client_cert_path is of AWS's TLS to the machine around an HSM, which is not there."""

    servers: tuple[Server, ...]
    cluster_id: str = ""
    hsm_ca_file: str = ""
    options: dict[str, bool] = {}
    client_cert_path: str = ""
    client_key_path: str = ""
    client_cert_hsm_tls_path: str = ""
    client_key_hsm_tls_path: str = ""


class Own(_Known, frozen=True):
    """What only the simulator's file has. uid: whom the HSMs run as, -1 for us."""

    partition: str = ""
    vantage: str = ""
    uid: int = -1
    label: str = ""


class Cluster(_Known, frozen=True):
    """One entry of `clusters`."""

    cluster: Inner
    type: str = ""
    hsmsim: Own = Own()

    @property
    def servers(self) -> tuple[Server, ...]:
        """The HSMs that are switched on."""
        return tuple(server for server in self.cluster.servers if server.enable)

    @property
    def uid(self) -> int:
        """Whose HSMs get a password."""
        return os.geteuid() if self.hsmsim.uid < 0 else self.hsmsim.uid


class Logging(_Known, frozen=True):
    """Where the log goes: `file` (log_file), `term` (standard error) or `syslog`."""

    log_type: str = "term"
    log_file: str = ""
    log_level: str = "warn"
    log_interval: str = ""


class Config(_Known, frozen=True):
    """The file. `hsmsim`: what only the module reads."""

    clusters: tuple[Cluster, ...]
    logging: Logging = Logging()
    hsmsim: dict[str, Any] = {}

    def cluster(self, cluster_id: str) -> Cluster:
        """Return the cluster of this id, or the only one."""
        if not cluster_id and len(self.clusters) == 1:
            return self.clusters[0]
        known = ", ".join(one.cluster.cluster_id or "one without an id" for one in self.clusters)
        if not cluster_id:
            raise HsmsimError(f"The configuration has several clusters ({known}). Say which: --cluster-id ID")
        for one in self.clusters:
            if one.cluster.cluster_id == cluster_id:
                return one
        raise HsmsimError(f"The configuration has no cluster {cluster_id}. It has: {known}.")


def find(environ: Mapping[str, str]) -> Path:
    """Return the file to read; HsmsimError says where it was looked for."""
    named = next((environ[name] for name in _VARIABLES if environ.get(name)), "")
    if named:
        return Path(named)
    folders = (user_config(environ), SYSTEM_CONFIG)
    places = [folder / name for folder in folders for name in (NAME, _MODULE_NAME)] + [ROOT_RUN / _MODULE_NAME]
    found = next((path for path in places if path.exists()), None)
    if found is None:
        raise HsmsimError(
            f"There is no configuration: looked at ${', $'.join(_VARIABLES)}, {', '.join(map(str, places))}. "
            "Write one: hsmsim configure-cli"
        )
    return found


def load(environ: Mapping[str, str]) -> Config:
    """Find and read the configuration."""
    path = find(environ)
    try:
        config = msgspec.json.decode(path.read_bytes(), type=Config)
    except OSError as error:
        raise HsmsimError(f"{path}: {error.strerror}. Write it: hsmsim configure-cli") from error
    except msgspec.DecodeError as error:
        raise HsmsimError(f"{path}: {error}. Write it anew: hsmsim configure-cli") from error
    if not config.clusters or not all(one.servers for one in config.clusters):
        raise HsmsimError(f"{path} names no HSM of a cluster. Write it anew: hsmsim configure-cli")
    for one in config.clusters:
        _require_tls(path, one)
    return config


def _require_tls(path: Path, one: Cluster) -> None:
    """By TCP an HSM is known by its certificate alone."""
    inner = one.cluster
    if any(not server.socket and not (server.hostname and inner.hsm_ca_file) for server in one.servers):
        raise HsmsimError(f"{path}: an HSM without `socket` needs `hostname`, and the cluster `hsm_ca_file`.")
    if bool(inner.client_cert_hsm_tls_path) != bool(inner.client_key_hsm_tls_path):
        raise HsmsimError(f"{path}: client_cert_hsm_tls_path and client_key_hsm_tls_path belong together.")
