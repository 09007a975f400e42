"""The gateway with all its services as a process, on a simulated clock of its own, and clients of it.

Run as a program it is that gateway: python assembled.py CONFIG CLOCK.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from subprocess import Popen
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config

from hsmsim.clock import SharedClock, set_offset
from hsmsim.config import FIRST_GATEWAY, GatewayFiles
from hsmsim.gateway import assembly, manage, process
from hsmsim.gateway.config import GatewayConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

ACCOUNT = "123456789012"
ONCE = Config(retries={"total_max_attempts": 1, "mode": "standard"}, connect_timeout=5, read_timeout=30)


class Gateway:
    """A process of the gateway, and clients of it."""

    def __init__(self, folder: Path, name: str = FIRST_GATEWAY, **config: Any) -> None:
        """name: of one of several in the same folder."""
        self.name, self.home, self._ready = name, folder / "home", folder / f"ready-{name}.json"
        self._ready.unlink(missing_ok=True)
        path, self._clock = folder / f"gateway-{name}.json", folder / "clock"
        own = {"home": str(self.home), "name": name, "port": 0, "ready": str(self._ready)}
        path.write_text(json.dumps({**own, **config}))
        if not self._clock.exists():
            self.set_clock(0)
        self._log = folder / f"gateway-{name}.log"
        environment = {**os.environ, "HSMSIM_RUN": str(folder / "run")}
        with self._log.open("ab") as log:
            command = [sys.executable, "-P", __file__, str(path), str(self._clock)]
            self.process = Popen(command, stdout=log, stderr=log, env=environment)
        deadline = time.monotonic() + 180
        while not self._ready.exists():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)
        self.url = f"http://127.0.0.1:{json.loads(self._ready.read_text())['http']}"

    def client(self, service: str, keys: Mapping[str, Any], region: str = "eu-west-1") -> Any:
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name=region,
            aws_access_key_id=keys["AccessKeyId"],
            aws_secret_access_key=keys["SecretAccessKey"],
            aws_session_token=keys.get("SessionToken"),
            config=ONCE,
        )

    @property
    def root(self) -> dict[str, str]:
        kept = json.loads((self.home / "root-key.json").read_text())
        return {"AccessKeyId": kept["access_key_id"], "SecretAccessKey": kept["secret_access_key"]}

    def set_clock(self, seconds: int) -> None:
        """Have simulated time be ahead by so much."""
        set_offset(self._clock, seconds)

    @property
    def leads(self) -> bool:
        """Whether this one of several takes the reconcilers' steps."""
        return manage.leads(GatewayFiles(self.home, self.name).socket)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(30)

    def log(self) -> str:
        return self._log.read_text()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


if __name__ == "__main__":
    process.run(GatewayConfig.read(Path(sys.argv[1])), assembly.build, SharedClock(Path(sys.argv[2])))
