"""Whoever may knock on an HSM's socket cannot keep it from its work."""

from __future__ import annotations

import resource
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from support.hsm import Cluster, cluster

from hsmsim.hsm.cryptoki import CKM

if TYPE_CHECKING:
    from collections.abc import Iterator

SHELL_LIMIT = 1024  # what login shells have as RLIMIT_NOFILE's soft limit
KNOCKS = 1100


@pytest.fixture
def started_from_a_shell() -> Iterator[Cluster]:
    """An HSM started under the soft limit of a shell, by a test that has room for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2 * KNOCKS:
        pytest.skip("RLIMIT_NOFILE is too small here to knock often enough")
    resource.setrlimit(resource.RLIMIT_NOFILE, (SHELL_LIMIT, hard))
    try:
        with cluster() as made:
            resource.setrlimit(resource.RLIMIT_NOFILE, (2 * KNOCKS, hard))
            yield made
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_connections_take_no_file_that_the_hsm_needs(started_from_a_shell: Cluster) -> None:
    hsm = started_from_a_shell.hsms[0]
    with ExitStack() as stack:
        for _ in range(KNOCKS):
            stack.enter_context(socket.socket(socket.AF_UNIX)).connect(str(hsm.socket))
        client = stack.enter_context(hsm.user("alice"))
        key = client.aes(token=True, encrypt=True)
        assert len(client.encrypt(key, bytes(16), CKM.AES_ECB)) == 16
        hsm.settled()
    assert "SoftHSM2 does not follow" not in hsm.log
