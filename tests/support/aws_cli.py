"""The AWS CLI, as it is installed: a process for each command, with no configuration but its environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_S = 60.0
REFUSED = 255


@dataclass(frozen=True, slots=True)
class Aws:
    """Somebody with an access key and the CLI. Commands are of cloudhsmv2."""

    url: str
    keys: dict[str, str]
    region: str
    more: dict[str, str] = field(default_factory=dict)

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        own = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.keys["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": self.keys["SecretAccessKey"],
            "AWS_DEFAULT_REGION": self.region,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "1",
            "PATH": os.environ["PATH"],
            **self.more,
        }
        program = str(Path(sys.executable).parent / "aws")
        return subprocess.run(
            [program, "cloudhsmv2", *arguments],
            env=own,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def text(self, *arguments: str) -> str:
        """What a command prints."""
        done = self._run(*arguments)
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def __call__(self, *arguments: str) -> Any:
        """What a command answers, in JSON."""
        return json.loads(self.text(*arguments, "--output", "json"))

    def error(self, *arguments: str) -> str:
        """What a command says that is refused."""
        done = self._run(*arguments)
        assert (done.returncode, done.stdout) == (REFUSED, "")
        return done.stderr.strip()

    def until(self, wanted: str, *arguments: str) -> None:
        """Ask, as a script does, until the answer is this text."""
        self.when(lambda found: found == wanted, *arguments)

    def when(self, met: Callable[[str], bool], *arguments: str) -> str:
        deadline = time.monotonic() + PATIENCE_S
        while not met(found := self.text(*arguments, "--output", "text").strip()):
            assert time.monotonic() < deadline, found
        return found
