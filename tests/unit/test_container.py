"""What can be said of the container without an engine: linters, and that it agrees with the program that it runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from hsmsim.cli.simulator import up
from hsmsim.gateway.config import DEFAULT_PORT, DEFAULT_TLS_PORT

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def linted(*command: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name(command[0])
    return subprocess.run([program, *command[1:]], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def service() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]["hsmsim"]
    return found


@pytest.mark.parametrize(
    "command", [("hadolint", "Dockerfile"), ("compose-lint", "check", "--fail-on", "low", "compose.yaml")]
)
def test_linters_find_nothing(command: tuple[str, ...]) -> None:
    done = linted(*command)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_linters_would_find_something(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM debian\nRUN cd /tmp\n")
    (tmp_path / "compose.yaml").write_text("services:\n  one:\n    image: debian\n    privileged: true\n")
    assert "DL3003" in linted("hadolint", str(tmp_path / "Dockerfile")).stdout
    assert linted("compose-lint", "check", str(tmp_path / "compose.yaml")).returncode == 1


def test_the_entry_point_is_a_command_that_there_is() -> None:
    match = re.search(r"^ENTRYPOINT (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert match is not None
    program, command, *options = json.loads(match[1])
    assert (program, command) == ("hsmsim", "up")
    found = up.make_context("up", options).params
    assert found["host"] == "0.0.0.0"
    assert not found["detach"]  # the container lives as long as the simulator


def test_the_ports_are_the_gateways_and_for_this_machine_alone(service: dict[str, Any]) -> None:
    assert service["ports"] == [f"127.0.0.1:{port}:{port}" for port in (DEFAULT_PORT, DEFAULT_TLS_PORT)]
    assert f"EXPOSE {DEFAULT_PORT} {DEFAULT_TLS_PORT}" in DOCKERFILE.splitlines()


def test_the_state_is_below_the_volume(service: dict[str, Any]) -> None:
    volume = re.search(r"^VOLUME (\S+)$", DOCKERFILE, re.MULTILINE)
    home = re.search(r"HSMSIM_HOME=(\S+)", DOCKERFILE)
    assert volume is not None
    assert home is not None
    assert service["volumes"] == [f"state:{volume[1]}"]
    assert Path(home[1]).parent == Path(volume[1])
