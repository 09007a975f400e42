"""A whole simulator of a test's own: `hsmsim up` as a program, in folders that go with the test."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config

from hsmsim.config import Places
from hsmsim.fleet import processes
from hsmsim.gateway import launch, simulator

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
ONCE = Config(retries={"total_max_attempts": 1, "mode": "standard"}, connect_timeout=5, read_timeout=30)


@dataclass(slots=True)
class Whole:
    """Its folders, and the command."""

    places: Places
    python: str = sys.executable
    more: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        own = {"HSMSIM_HOME": str(self.places.home), "HSMSIM_RUN": str(self.places.run), "PYTHONPATH": str(ROOT)}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        return {**kept, **own, "HSMSIM_PORT": "0", "HSMSIM_TLS_PORT": "0", **self.more}

    @property
    def path(self) -> str:
        """With this environment's programs first."""
        return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

    def command(self, *arguments: str) -> list[str]:
        return [self.python, "-P", "-m", "hsmsim.cli", *arguments]

    def run(self, *arguments: str, status: int = 0) -> str:
        """Run the command; its standard output, or what it said to standard error where it is to fail."""
        done = self.done(*arguments, status=status)
        return done.stdout if status == 0 else done.stderr

    def done(self, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        """Run the command; all that it said."""
        done = subprocess.run(
            self.command(*arguments), env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == status, f"hsmsim {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def up(self, *arguments: str, status: int = 0) -> str:
        """With one HSM: the gateway is what is looked at."""
        return self.run("up", "--detach", "--hsms", "1", *arguments, status=status)

    def env(self, *arguments: str) -> dict[str, str]:
        found: dict[str, str] = json.loads(self.run("env", "--json", *arguments))
        return found

    def shell(self, script: str, *env: str) -> str:
        """Run a shell script after `eval "$(hsmsim env)"`, with this environment's programs."""
        done = subprocess.run(
            ["/bin/bash", "-euc", f"{self.run('env', *env)}{script}"],
            env={"PATH": self.path, "HOME": "/nonexistent"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}{done.stderr}"
        return done.stdout

    def client(self, service: str, keys: dict[str, Any] | None = None, region: str = "eu-central-1") -> Any:
        """keys: as STS answers them; left out, the root user's."""
        env = self.env()
        keys = keys or {"AccessKeyId": env["AWS_ACCESS_KEY_ID"], "SecretAccessKey": env["AWS_SECRET_ACCESS_KEY"]}
        return boto3.client(
            service,
            endpoint_url=env["AWS_ENDPOINT_URL"],
            region_name=region,
            aws_access_key_id=keys["AccessKeyId"],
            aws_secret_access_key=keys["SecretAccessKey"],
            aws_session_token=keys.get("SessionToken"),
            config=ONCE,
        )

    @property
    def background(self) -> dict[str, processes.Process]:
        return {"gateway": launch.gateway(self.places), "fleet": launch.daemon(self.places)}

    def pid(self, name: str) -> int:
        pid = processes.pid_of(self.background[name])
        assert pid is not None, f"no {name} runs"
        return pid

    def kill(self, name: str) -> None:
        """SIGKILL, and wait until it is gone."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while processes.is_running(self.background[name]):
            assert time.monotonic() < deadline
            time.sleep(0.01)


@contextmanager
def whole(*, private: bool = False, **more: str) -> Iterator[Whole]:
    """Folders for a simulator; whatever was started in them is gone at the end. private: no other user gets in."""
    folder = Path(tempfile.mkdtemp(prefix="hsmsim-whole-"))
    folder.chmod(0o700 if private else 0o711)
    one = Whole(Places(folder / "home", folder / "run"), more=more)
    try:
        yield one
    finally:
        if one.places.home.exists():
            simulator.take_down(one.places)
        shutil.rmtree(folder)
