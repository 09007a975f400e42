"""The session's simulator through one instance of the module, logged in as its crypto user."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.p11 import Module, Session

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Simulator


@pytest.fixture(scope="module")
def module(simulator: Simulator) -> Iterator[Module]:
    with Module(simulator.environment) as one:
        yield one


@pytest.fixture(scope="module")
def session(module: Module, simulator: Simulator) -> Session:
    return module.session(simulator.ready.pin)
