"""SoftHSM2 as people use it today, in process or through p11-kit's server: the contender that the simulator must beat.

The token lives in a folder of the benchmark's own and holds keys made for the run. Its PIN is no secret.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hsmsim.errors import HsmsimError

if TYPE_CHECKING:
    from collections.abc import Iterator

LIBRARY = "/usr/lib/softhsm/libsofthsm2.so"
PIN = "benchmark"
TOKEN = "contender"  # noqa: S105 - a label
PATH = "/usr/bin:/bin"
SECONDS_TO_START = 15
KEY_TYPES = {
    "rsa2048": "rsa:2048",
    "rsa3072": "rsa:3072",
    "rsa4096": "rsa:4096",
    "p256": "EC:prime256v1",
    "p384": "EC:secp384r1",
    "p521": "EC:secp521r1",
    "ed25519": "EC:edwards25519",
    "aes256": "AES:32",
}


@dataclass(frozen=True, slots=True)
class SoftToken:
    """A SoftHSM2 token with one key per kind, labelled by the kind's name."""

    environment: dict[str, str]

    @classmethod
    def create(cls, folder: Path, kinds: tuple[str, ...]) -> SoftToken:
        """Make the token and a key of each kind; HsmsimError says which tool failed."""
        tokens = folder / "softhsm-tokens"
        tokens.mkdir(mode=0o700)
        config = folder / "softhsm2.conf"
        config.write_text(f"directories.tokendir = {tokens}\nlog.level = ERROR\n", encoding="utf-8")
        token = cls({"SOFTHSM2_CONF": str(config), "BENCH_PIN": PIN})
        token.run("softhsm2-util", "--init-token", "--free", "--label", TOKEN, "--pin", PIN, "--so-pin", PIN)
        for number, kind in enumerate(kinds, start=1):
            token.run(
                *("pkcs11-tool", "--module", LIBRARY, "--token-label", TOKEN, "--login", "--pin", "env:BENCH_PIN"),
                "--keygen" if KEY_TYPES[kind].startswith("AES") else "--keypairgen",
                *("--key-type", KEY_TYPES[kind], "--label", kind, "--id", f"{number:02x}"),
            )
        return token

    def run(self, *command: str) -> None:
        """A tool on this token."""
        done = subprocess.run(  # noqa: S603 - fixed commands
            command, env={"PATH": PATH, **self.environment}, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            message = f"{command[0]} failed on the SoftHSM2 contender: {done.stderr.strip()}"
            raise HsmsimError(message)


@dataclass(frozen=True, slots=True)
class Served:
    """The same token behind p11-kit's server: what its clients load, their environment, the server's process."""

    library: str
    environment: dict[str, str]
    pid: int


def p11_kit_client() -> str:
    """Path of p11-kit-client.so, empty where p11-kit's server or client is not installed."""
    found = sorted(Path("/usr").glob("lib*/**/pkcs11/p11-kit-client.so"))
    return str(found[0]) if found and shutil.which("p11-kit", path=PATH) else ""


@contextmanager
def served(token: SoftToken, folder: Path) -> Iterator[Served]:
    """Start p11-kit's server (a process for each connection) over the token."""
    socket = folder / "p11-kit.sock"
    command = ["p11-kit", "server", "--foreground", "--name", str(socket), "--provider", LIBRARY]
    with subprocess.Popen(  # noqa: S603 - fixed command
        [*command, f"pkcs11:token={TOKEN}"],
        env={"PATH": PATH, **token.environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as server:
        try:
            deadline = time.monotonic() + SECONDS_TO_START
            while not socket.exists():
                if server.poll() is not None or time.monotonic() > deadline:
                    server.kill()
                    said = server.stderr.read().decode(errors="replace").strip() if server.stderr else ""
                    raise HsmsimError(f"p11-kit server did not start: {said or 'it made no socket'}")
                time.sleep(0.02)
            address = {"P11_KIT_SERVER_ADDRESS": f"unix:path={socket}"}
            yield Served(p11_kit_client(), {**token.environment, **address}, server.pid)
        finally:
            server.terminate()
