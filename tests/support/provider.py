"""Programs that use hsmsim-provider.so: an openssl.cnf that activates it, keys of a test, and their reference PEMs."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from conftest import Simulator

CONF = """
openssl_conf = openssl_init
[openssl_init]
providers = provider_sect
[provider_sect]
default = default_sect
hsmsim = hsmsim_sect
[default_sect]
activate = 1
[hsmsim_sect]
module = {module}
{options}
activate = 1
[req]
distinguished_name = name
[name]
"""
KINDS = {
    "provider-rsa": ("rsa", "--bits", "2048"),
    "provider-p256": ("ec", "--curve", "P-256"),
    "provider-p384": ("ec", "--curve", "P-384"),
    "provider-p521": ("ec", "--curve", "P-521"),
    "provider-ed25519": ("ed25519",),
}


def provider_of(simulator: Simulator) -> Path:
    return Path(simulator.environment["HSMSIM_MODULE"]).with_name("hsmsim-provider.so")


@dataclass(frozen=True)
class OpenSsl:
    """The `openssl` command with the provider, in a folder with the reference PEMs."""

    folder: Path
    environment: Mapping[str, str]
    options: str = field(default="")

    @classmethod
    def make(
        cls, simulator: Simulator, folder: Path, *, module: Path | None = None, options: str = "", **own: str
    ) -> OpenSsl:
        conf = folder / f"openssl-{len(list(folder.iterdir()))}.cnf"
        conf.write_text(CONF.format(module=module or provider_of(simulator), options=options))
        return cls(folder, {**simulator.environment, "OPENSSL_CONF": str(conf), **own})

    def run(self, *arguments: str, status: int = 0, data: bytes = b"") -> bytes:
        """Its standard output; where it is to fail, its standard error."""
        command = ["openssl", *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, input=data, capture_output=True, timeout=60, check=False
        )
        assert done.returncode == status, f"{command}: {done.returncode}\n{done.stdout!r}\n{done.stderr.decode()}"
        return done.stdout if status == 0 else done.stderr

    def certificate(self, label: str) -> Path:
        """A self-signed certificate for localhost, made with the key in the HSM."""
        names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
        self.run("req", "-new", "-x509", "-key", f"{label}.pem", "-days", "9", *names, "-out", f"{label}.crt")
        return self.folder / f"{label}.crt"


def make_keys(simulator: Simulator, folder: Path, *labels: str) -> None:
    """Key pairs in the HSM and, in the folder, a PEM that names each."""
    for label in labels:
        simulator.run("key", "generate", *KINDS[label], "--label", label)
        simulator.run("key", "generate-file", "--label", label, "--path", str(folder / f"{label}.pem"))


def delete_keys(simulator: Simulator, *labels: str) -> None:
    for label in labels:
        simulator.run("key", "delete", "--label", label, "--yes")
