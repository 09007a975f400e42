"""`cloudhsm-cli` as a person runs it: a command, a shell fed by a pipe, a shell at a terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import subprocess
import sys
import time
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from hsmsim.cli.cloudhsm import main

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.hsm import Cluster

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = [sys.executable, "-P", "-m", "hsmsim.cli.cloudhsm"]
PROMPT = "aws-cloudhsm > "


def entry(cluster: Cluster, **members: Any) -> dict[str, Any]:
    """The cluster's entry in a configuration."""
    servers = [
        {"hostname": hsm.hsm_id, "port": 2223, "enable": True, "socket": str(hsm.socket)} for hsm in cluster.hsms
    ]
    cluster_id = cluster.hsms[0].config["cluster_id"]
    return {"type": "hsm2m", "cluster": {"cluster_id": cluster_id, "servers": servers, **members}}


@dataclass(slots=True)
class Cli:
    """The program with a configuration of its own."""

    config: Path
    environment: dict[str, str] = field(default_factory=dict)

    def configure(self, *entries: dict[str, Any], **members: Any) -> None:
        self.config.write_text(json.dumps({"clusters": entries, **members}))

    def as_user(self, role: str, name: str, password: str) -> Cli:
        """The same, with a login in the environment."""
        return Cli(self.config, {"CLOUDHSM_ROLE": role, "CLOUDHSM_PIN": f"{name}:{password}"})

    @property
    def environ(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("CLOUDHSM_", "HSMSIM_"))}
        return kept | {"HSMSIM_CLOUDHSM_CLI_CONFIG": str(self.config), "PYTHONPATH": str(ROOT)} | self.environment

    def run(self, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*PROGRAM, *arguments],
            env=self.environ,
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            start_new_session=True,  # no terminal to ask at
        )

    def ok(self, *arguments: str) -> Any:
        """`data` of a command that succeeds."""
        return self._answer(0, arguments)

    def refused(self, *arguments: str) -> str:
        """The sentence of a command that does not."""
        return str(self._answer(1, arguments))

    def _answer(self, status: int, arguments: tuple[str, ...]) -> Any:
        """Run it in this process: a program's start takes longer than what it does."""
        printed = io.StringIO()
        with mock.patch.dict(os.environ, self.environ, clear=True), redirect_stdout(printed):
            found = main.run(list(arguments))
        answer = json.loads(printed.getvalue())
        assert (found, answer["error_code"]) == (status, status), answer
        assert list(answer) == ["error_code", "data"]
        return answer["data"]

    def shell(self, *lines: str) -> list[dict[str, Any]]:
        """The answers of interactive mode to these lines."""
        done = self.run("interactive", text="".join(f"{line}\n" for line in lines))
        assert done.returncode == 0, done
        decoder, found, rest = json.JSONDecoder(), [], done.stdout.replace(PROMPT, "").strip()
        while rest:
            answer, end = decoder.raw_decode(rest)
            found.append(answer)
            rest = rest[end:].strip()
        return found

    @contextmanager
    def terminal(self, *arguments: str) -> Iterator[Terminal]:
        """The program at a terminal of its own."""
        master, slave = pty.openpty()
        command = ["setsid", "--ctty", "--wait", *PROGRAM, *arguments]
        process = subprocess.Popen(command, env=self.environ, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        try:
            yield Terminal(master, process)
        finally:
            os.close(master)  # hangs up
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise


@dataclass(slots=True)
class Terminal:
    """What the person sees and types."""

    master: int
    process: subprocess.Popen[bytes]
    seen: str = ""
    _at: int = 0

    def expect(self, text: str, seconds: float = 30) -> str:
        """Read until this is seen; what came before it since the last time."""
        deadline = time.monotonic() + seconds
        while (found := self.seen.find(text, self._at)) < 0:
            assert time.monotonic() < deadline, self.seen
            if select.select([self.master], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self.master, 4096).decode()
                except OSError:  # EIO: the program has ended
                    raise AssertionError(f"ended without {text!r}:\n{self.seen}") from None
        before, self._at = self.seen[self._at : found], found + len(text)
        return before

    def type(self, text: str) -> None:
        os.write(self.master, text.encode() + b"\n")

    def answer(self) -> dict[str, Any]:
        """The JSON that comes next."""
        self.expect("{\r\n")
        return dict(json.loads("{" + self.expect("\r\n}") + "}"))
