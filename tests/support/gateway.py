"""A gateway process for tests, and clients of it."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from support.gateway_parts import ROLE, SECRET, TOKEN, USER

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
NO_RETRIES = Config(retries={"total_max_attempts": 1, "mode": "standard"}, connect_timeout=5, read_timeout=20)


@dataclass(slots=True)
class Gateway:
    """A running gateway."""

    home: Path
    process: subprocess.Popen[bytes]
    ports: dict[str, int]

    def url(self, scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{self.ports[scheme]}"

    def client(
        self,
        service: str,
        *,
        key: str = USER.access_key_id,
        secret: str = SECRET,
        token: str | None = None,
        scheme: str = "http",
        **more: Any,
    ) -> Any:
        return boto3.client(
            service,
            endpoint_url=self.url(scheme),
            region_name="eu-central-1",
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            aws_session_token=token,
            config=NO_RETRIES,
            **more,
        )

    def role_client(self, service: str) -> Any:
        return self.client(service, key=ROLE.access_key_id, token=TOKEN)

    def manage(self, method: str, path: str, body: str | None = None) -> tuple[int, dict[str, Any]]:
        """A call on the management socket."""
        connection = http.client.HTTPConnection("localhost", timeout=10)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.connect(str(self.home / "gateway.sock"))
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def event(self, request_id: str) -> dict[str, Any]:
        """The CloudTrail record of a request, which may be written a moment after the answer."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            found = [event for event in self.manage("GET", "/events")[1]["events"] if event["requestID"] == request_id]
            if found:
                assert len(found) == 1
                return found[0]
            time.sleep(0.02)
        raise AssertionError(f"no event of request {request_id}")


@contextmanager
def running(folder: Path, **config: Any) -> Iterator[Gateway]:
    """Start a gateway with the services of gateway_parts, wait until it listens, stop it."""
    home, ready = folder / "home", folder / "ready.json"
    path = folder / "gateway.json"
    path.write_text(json.dumps({"home": str(home), "port": 0, "ready": str(ready), **config}))
    with (folder / "gateway.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", str(ROOT / "tests/support/gateway_parts.py"), "--config", str(path)],
            stderr=log,
            stdout=log,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        )
    try:
        deadline = time.monotonic() + 30
        while not ready.exists():
            assert process.poll() is None, (folder / "gateway.log").read_text()
            assert time.monotonic() < deadline, (folder / "gateway.log").read_text()
            time.sleep(0.01)
        ports = json.loads(ready.read_text())
        assert ports.pop("pid") == process.pid
        yield Gateway(home, process, ports)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(30)
