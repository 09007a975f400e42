"""The HSM's index of objects."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hsmsim.hsm.firmware.index import SESSION_BIT, Index

EMPTY: Any = SimpleNamespace(objects={})


def test_no_hsm_gives_a_session_handle_that_another_has_given() -> None:
    """A client keeps the handles of a lost HSM for a while; on the next one they must name nothing."""
    hsms = [Index(EMPTY) for _ in range(50)]
    given = [hsm.new_session_handle() for hsm in hsms for _ in range(100)]
    assert len(set(given)) == len(given)
    assert all(SESSION_BIT <= handle < 2 * SESSION_BIT for handle in given)
