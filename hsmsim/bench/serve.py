"""Start a TLS server's process, wait until it answers, stop it."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hsmsim.bench.measure import place_on
from hsmsim.errors import HsmsimError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SECONDS_TO_START = 15
SECONDS_TO_STOP = 10


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers: its ports by kind of key, and its processes."""

    ports: Mapping[str, int]
    pids: tuple[int, ...]


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _children(pid: int) -> list[int]:
    """The children of a process (proc(5), children)."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


@contextmanager
def started(
    command: list[str],
    environment: Mapping[str, str],
    log: Path,
    ports: Mapping[str, int],
    workers: int,
    processors: frozenset[int] | None,
) -> Iterator[Server]:
    """Run the server in the foreground, on these processors alone, until it has so many child processes.

    HsmsimError quotes its log.
    """
    with (
        log.open("ab") as complaints,
        subprocess.Popen(  # noqa: S603 - found by the caller
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=complaints,
            preexec_fn=place_on(processors),  # noqa: PLW1509 - before any thread of ours
        ) as server,
    ):
        try:
            _wait(server, Path(command[0]).name, log, ports, workers)
            yield Server(ports, (server.pid, *_children(server.pid)))
        finally:
            server.terminate()
            try:
                server.wait(SECONDS_TO_STOP)
            except subprocess.TimeoutExpired:
                server.kill()


def _wait(server: subprocess.Popen[bytes], name: str, log: Path, ports: Mapping[str, int], workers: int) -> None:
    """The ports answer before the last worker is there."""
    deadline = time.monotonic() + SECONDS_TO_START
    while not all(_answers(port) for port in ports.values()) or len(_children(server.pid)) < workers:
        if server.poll() is not None or time.monotonic() > deadline:
            said = log.read_text(encoding="utf-8", errors="replace").strip()
            message = f"{name} in {log.parent} did not start: {said or '(it said nothing)'}"
            raise HsmsimError(message)
        time.sleep(0.05)
