"""A gateway with the services of gateway_parts, for the tests of one file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.certificates import authority_and_server
from support.gateway import Gateway, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    return authority_and_server(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, certificates: tuple[Path, Path, Path]) -> Iterator[Gateway]:
    _, certificate, key = certificates
    folder = tmp_path_factory.mktemp("gateway")
    with running(folder, tls_port=0, certificate=str(certificate), key=str(key)) as one:
        yield one
