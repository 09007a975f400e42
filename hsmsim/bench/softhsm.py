"""SoftHSM2 used in process, as people use it today: the contender that the simulator must beat.

The token lives in a folder of the benchmark's own and holds keys made for the run. Its PIN is no secret.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hsmsim.errors import HsmsimError

if TYPE_CHECKING:
    from pathlib import Path

LIBRARY = "/usr/lib/softhsm/libsofthsm2.so"
PIN = "benchmark"
TOKEN = "contender"  # noqa: S105 - a label
KEY_TYPES = {
    "rsa2048": "rsa:2048",
    "rsa3072": "rsa:3072",
    "rsa4096": "rsa:4096",
    "p256": "EC:prime256v1",
    "p384": "EC:secp384r1",
    "p521": "EC:secp521r1",
    "ed25519": "EC:edwards25519",
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
                *("--keypairgen", "--key-type", KEY_TYPES[kind], "--label", kind, "--id", f"{number:02x}"),
            )
        return token

    def run(self, *command: str) -> None:
        """A tool on this token."""
        done = subprocess.run(  # noqa: S603 - fixed commands
            command, env={"PATH": "/usr/bin:/bin", **self.environment}, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            message = f"{command[0]} failed on the SoftHSM2 contender: {done.stderr.strip()}"
            raise HsmsimError(message)
