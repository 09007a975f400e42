"""Where everything lies: one state folder (HSMSIM_HOME), one folder of sockets (HSMSIM_RUN), the native libraries.

The state folder is for its owner alone. The run folder is for everybody who may connect: sockets and the module's
configuration, never a secret (DESIGN D15).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from hsmsim.errors import HsmsimError

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT_HOME = Path("/var/lib/hsmsim")
ROOT_RUN = Path("/run/hsmsim")
SYSTEM_CONFIG = Path("/etc/hsmsim")
"""The folder of clients' configuration files for every user of the machine; user_config() for one user's."""

FIRST_GATEWAY = "first"

_PACKAGE = Path(__file__).resolve().parent
_SOFTHSM_LIBRARIES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so")


@dataclass(frozen=True, slots=True)
class GatewayFiles:
    """What a gateway has for itself in the folder that all gateways of a simulator share."""

    folder: Path
    name: str = FIRST_GATEWAY

    def _path(self, stem: str, suffix: str) -> Path:
        mark = "" if self.name == FIRST_GATEWAY else f"-{self.name}"
        return self.folder / f"{stem}{mark}{suffix}"

    @property
    def config(self) -> Path:
        """What it was started with."""
        return self._path("config", ".json")

    @property
    def ready(self) -> Path:
        """On which ports it listens; there while it does."""
        return self._path("ready", ".json")

    @property
    def socket(self) -> Path:
        """Its management socket."""
        return self._path("gateway", ".sock")

    @property
    def certificate(self) -> Path:
        """For HTTPS."""
        return self._path("https", ".pem")

    @property
    def key(self) -> Path:
        """Of the certificate."""
        return self._path("https", ".key")


@dataclass(frozen=True, slots=True)
class Places:
    """The folders of one simulator; every path below them is named here and nowhere else."""

    home: Path
    run: Path

    @classmethod
    def resolve(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Take HSMSIM_HOME and HSMSIM_RUN, else the defaults: system-wide as root, else this user's own."""
        environ = os.environ if environ is None else environ
        as_root = os.geteuid() == 0
        default = ROOT_HOME if as_root else Path(environ.get("HOME") or Path.home()) / ".local/state/hsmsim"
        home = Path(environ.get("HSMSIM_HOME") or default).absolute()
        if environ.get("HSMSIM_RUN"):
            return cls(home, Path(environ["HSMSIM_RUN"]).absolute())
        if as_root and home == ROOT_HOME:
            return cls(home, ROOT_RUN)
        mark = hashlib.sha256(os.fsencode(home)).hexdigest()[:8]
        return cls(home, Path(tempfile.gettempdir()) / f"hsmsim-{os.geteuid()}-{mark}")

    @property
    def fleet_file(self) -> Path:
        """Clusters and HSMs."""
        return self.home / "fleet.json"

    @property
    def credentials_file(self) -> Path:
        """Users and passwords that the quickstart made."""
        return self.home / "credentials.json"

    @property
    def gateway_home(self) -> Path:
        """The gateways' own state folder: they may be another user, who gets no other file of ours."""
        return self.home / "gateway"

    def of_gateway(self) -> Self:
        """Return the folders as the gateway has them."""
        return replace(self, home=self.gateway_home)

    def gateway(self, name: str = FIRST_GATEWAY) -> GatewayFiles:
        """Return the files of one gateway."""
        return GatewayFiles(self.gateway_home, name)

    @property
    def authority_folder(self) -> Path:
        """The authority for the gateway's HTTPS certificate: its key, its certificate."""
        return self.home / "https"

    @property
    def authority_certificate(self) -> Path:
        """The same certificate, where every client can read it."""
        return self.run / "https-ca.pem"

    @property
    def gateway_key_file(self) -> Path:
        """The key that the gateway seals secrets with."""
        return self.home / "gateway.key"

    @property
    def root_key_file(self) -> Path:
        """The access key of the account's root user."""
        return self.home / "root-key.json"

    @property
    def module_config(self) -> Path:
        """What libhsmsim_pkcs11.so reads."""
        return self.run / "pkcs11.cfg"

    @property
    def clock_file(self) -> Path:
        """The offset of simulated time, which every process maps."""
        return self.run / "clock"

    @property
    def saved_clock_file(self) -> Path:
        """The same, for after a restart of the machine."""
        return self.home / "clock"

    @property
    def images_folder(self) -> Path:
        """Backup images."""
        return self.home / "images"

    @property
    def fleet_socket(self) -> Path:
        """Where the fleet's daemon answers."""
        return self.run / "fleet.sock"

    def cluster_folder(self, cluster_id: str) -> Path:
        """Return the folder of the cluster's database."""
        return self.home / "clusters" / cluster_id

    def hsm_folder(self, hsm_id: str) -> Path:
        """Return the folder of the HSM's seed, vault, configuration and log."""
        return self.home / "hsms" / hsm_id

    def socket(self, hsm_id: str) -> Path:
        """Return the HSM's socket, which stands for its network port."""
        return self.run / f"{hsm_id}.sock"


def user_config(environ: Mapping[str, str] | None = None) -> Path:
    """Return the folder of this user's configuration files of clients."""
    environ = os.environ if environ is None else environ
    return Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "hsmsim"


def module_path() -> Path:
    """Return the absolute path of libhsmsim_pkcs11.so; HsmsimError where it was not built."""
    path = _PACKAGE / "libhsmsim_pkcs11.so"
    if not path.exists():
        raise HsmsimError(f"The PKCS#11 module is not built: {path} is missing. Run scripts/up once.")
    return path


def tools_folder() -> Path:
    """Return the folder of the native benchmark programs: in the package of a wheel, else in the checkout's build."""
    packaged = _PACKAGE / "tools"
    return packaged if packaged.is_dir() else _PACKAGE.parent / "build" / "native" / "bench"


def softhsm_library(environ: Mapping[str, str] | None = None) -> Path:
    """Return the path of SoftHSM2's library: $SOFTHSM2_LIBRARY, else where Debian and others put it."""
    environ = os.environ if environ is None else environ
    if environ.get("SOFTHSM2_LIBRARY"):
        named = Path(environ["SOFTHSM2_LIBRARY"])
        if not named.exists():
            raise HsmsimError(f"SOFTHSM2_LIBRARY names {named}, which is not there. Set it to libsofthsm2.so's path.")
        return named
    found = [Path(path) for path in _SOFTHSM_LIBRARIES if Path(path).exists()]
    found += sorted(Path("/usr").glob("lib*/*/softhsm/libsofthsm2.so"))
    if not found:
        raise HsmsimError(
            "SoftHSM2 is missing: no libsofthsm2.so below /usr/lib. Install it (Debian: apt-get install softhsm2), "
            "or set SOFTHSM2_LIBRARY to its path."
        )
    return found[0]
