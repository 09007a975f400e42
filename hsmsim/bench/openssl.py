"""Where a TLS server's OpenSSL finds a key: in a file, or behind PKCS#11 through the engine or through our provider."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from hsmsim.config import module_path
from hsmsim.errors import HsmsimError
from hsmsim.fleet import keyreference

if TYPE_CHECKING:
    from collections.abc import Mapping

ENGINE_PATHS: Final = (
    "/usr/lib/x86_64-linux-gnu/engines-3/pkcs11.so",
    "/usr/lib/aarch64-linux-gnu/engines-3/pkcs11.so",
)

ENGINE_CNF: Final = """\
openssl_conf = openssl_init
[openssl_init]
engines = engines
[engines]
pkcs11 = pkcs11
[pkcs11]
engine_id = pkcs11
MODULE_PATH = {module}
PIN = {pin}
init = 0
[req]
distinguished_name = name
[name]
"""

PROVIDER_CNF: Final = """\
openssl_conf = openssl_init
[openssl_init]
providers = providers
[providers]
default = own
hsmsim = hsm
[own]
activate = 1
[hsm]
module = {module}
pin-source = {pin_file}
activate = 1
"""

KEY_OPTIONS: Final = {
    "rsa2048": ("RSA", "-pkeyopt", "rsa_keygen_bits:2048"),
    "p256": ("EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
}


@dataclass(frozen=True, slots=True)
class Site:
    """One TLS server: certificate file, the key as the server's configuration names it, the page's text."""

    certificate: Path
    key: str
    text: str


class Loader(Protocol):
    """How a server's OpenSSL comes to keys that are in no file."""

    @property
    def environment(self) -> Mapping[str, str]:
        """What the module reads."""

    @property
    def engine(self) -> str:
        """The engine's id, empty for a provider."""

    def configuration(self, folder: Path) -> Path:
        """Write openssl.cnf (0600) into the folder."""


@dataclass(frozen=True, slots=True)
class Engine:
    """libengine-pkcs11-openssl over a PKCS#11 module; `environment`: what the module reads."""

    module: str
    pin: str
    environment: Mapping[str, str]
    engine: str = "pkcs11"

    def configuration(self, folder: Path) -> Path:
        """An openssl.cnf (0600: it holds the PIN) that loads the module."""
        if not any(Path(path).exists() for path in ENGINE_PATHS):
            message = "OpenSSL's PKCS#11 engine is missing; install it: apt-get install libengine-pkcs11-openssl"
            raise HsmsimError(message)
        return private_file(folder / "openssl.cnf", ENGINE_CNF.format(module=self.module, pin=self.pin))


@dataclass(frozen=True, slots=True)
class Provider:
    """hsmsim-provider.so, which has the module inside."""

    pin: str
    environment: Mapping[str, str]
    engine: str = ""

    @staticmethod
    def path() -> Path:
        """Where it is, or would be if it were built."""
        return module_path().with_name("hsmsim-provider.so")

    def configuration(self, folder: Path) -> Path:
        """An openssl.cnf that loads the provider, and beside it the PIN's file."""
        pin_file = private_file(folder / "pin", self.pin + "\n")
        return private_file(folder / "openssl.cnf", PROVIDER_CNF.format(module=self.path(), pin_file=pin_file))


def private_file(path: Path, text: str) -> Path:
    """Write a file that its owner alone may read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    return path


def uri(token: str, label: str) -> str:
    """A PKCS#11 URI (RFC 7512) of a private key."""
    return f"pkcs11:token={token};object={label};type=private"


def tool(command: list[str], environment: Mapping[str, str] | None = None, text: str = "") -> str:
    """Run a command-line tool; its standard output. HsmsimError quotes what it complained of."""
    done = subprocess.run(  # noqa: S603 - fixed commands
        command, env=environment, input=text, capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode != 0:
        message = f"{command[0]} failed: {done.stderr.strip() or done.stdout.strip()}"
        raise HsmsimError(message)
    return done.stdout


def _certificate(folder: Path, name: str, key: list[str], environment: Mapping[str, str] | None) -> Path:
    path = folder / f"{name}.crt"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "30", "-out", str(path)]
    tool(["openssl", "req", "-new", "-x509", *key, *subject], environment)
    return path


def engine_sites(
    folder: Path, engine: Engine, token: str, labels: Mapping[str, str], texts: Mapping[str, str]
) -> dict[str, Site]:
    """A certificate for each key, made with the key where it is. `labels`, `texts`: by kind of key."""
    folder.mkdir(mode=0o755)
    environment = {"PATH": "/usr/bin:/bin", **engine.environment, "OPENSSL_CONF": str(engine.configuration(folder))}
    sites = {}
    for kind, label in labels.items():
        key = ["-engine", "pkcs11", "-keyform", "engine", "-key", uri(token, label)]
        certificate = _certificate(folder, kind, key, environment)
        sites[kind] = Site(certificate, f"engine:pkcs11:{uri(token, label)}", texts[kind])
    return sites


def file_sites(folder: Path, texts: Mapping[str, str]) -> dict[str, Site]:
    """A key in a file and its certificate, of each kind."""
    folder.mkdir(mode=0o755)
    sites = {}
    for kind, text in texts.items():
        key = folder / f"{kind}.key"
        tool(["openssl", "genpkey", "-algorithm", *KEY_OPTIONS[kind], "-out", str(key)])
        sites[kind] = Site(_certificate(folder, kind, ["-key", str(key)], None), str(key), text)
    return sites


def provider_sites(folder: Path, sites: Mapping[str, Site], token: str, labels: Mapping[str, str]) -> dict[str, Site]:
    """The same certificates, with a file that names the key for the provider."""
    folder.mkdir(mode=0o755)
    named = {}
    for kind, site in sites.items():
        key = folder / f"{kind}.pem"
        key.write_bytes(keyreference.document(uri(token, labels[kind])))
        named[kind] = Site(site.certificate, str(key), site.text)
    return named
