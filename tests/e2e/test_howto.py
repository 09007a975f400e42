"""Every how-to page does what it says, command by command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import postgres
from support.whole import whole

from tests.e2e.howto import run_page

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Simulator

PAGES = sorted((Path(__file__).resolve().parents[2] / "docs" / "how-to").glob("*.md"))
DESTRUCTIVE = {"failover.md", "faults.md", "partitions.md", "timing-profiles.md"}
WITH_AWS = {"backups.md", "cloudtrail.md", "cluster-from-nothing.md"}
FROM_NOTHING = {"mtls.md", "postgresql.md", "tcp.md", "two-gateways.md"}
TWO_HOSTS = {"several-hosts.md"}
NOT_RUN = {"docker.md"}
ELSEWHERE = DESTRUCTIVE | WITH_AWS | FROM_NOTHING | TWO_HOSTS | NOT_RUN


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in ELSEWHERE], ids=lambda page: page.stem)
def test_page(page: Path, simulator: Simulator, tmp_path: Path) -> None:
    """Against the session's simulator; pages delete the keys that they make."""
    run_page(page, tmp_path, simulator.environment)


@pytest.mark.parametrize("page", [page for page in PAGES if page.name in DESTRUCTIVE], ids=lambda page: page.stem)
def test_page_that_changes_the_cluster(page: Path, new_simulator: Callable[..., Simulator], tmp_path: Path) -> None:
    """Against a simulator of its own."""
    run_page(page, tmp_path, new_simulator().environment)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page.name in WITH_AWS], ids=lambda page: page.stem)
def test_page_that_calls_aws(page: Path, tmp_path: Path) -> None:
    """Against a gateway of its own, by the commands as they are installed."""
    with whole() as one:
        one.up()
        run_page(page, tmp_path, one.environment | {"PATH": one.path})


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page.name in FROM_NOTHING], ids=lambda page: page.stem)
def test_page_that_makes_its_simulator(page: Path, tmp_path: Path) -> None:
    """In empty folders, by the commands as they are installed."""
    with whole() as one:
        run_page(page, tmp_path, one.environment | {"PATH": one.path})


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page.name in TWO_HOSTS], ids=lambda page: page.stem)
def test_page_on_two_hosts(page: Path, tmp_path: Path) -> None:
    """The hosts are addresses of this machine, each with folders of its own, and ssh is a change of folders."""
    with whole(private=True) as first, whole(private=True) as second, postgres.server() as server:
        remote = " ".join(f"{name}={second.environment[name]}" for name in ("HSMSIM_HOME", "HSMSIM_RUN"))
        ssh = tmp_path / "bin" / "ssh"
        ssh.parent.mkdir()
        ssh.write_text(f'#!/bin/sh\n[ "$1" = second ] && shift && {remote} exec /bin/sh -c "$*"\n')
        ssh.chmod(0o700)
        own = {
            "PATH": f"{ssh.parent}:{first.path}",
            "DATABASE": server.url,
            "FIRST": "127.0.0.1",
            "SECOND": "127.0.0.2",
        }
        run_page(page, tmp_path, first.environment | own)
