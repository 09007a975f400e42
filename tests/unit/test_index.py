"""The HSM's index of objects."""

from __future__ import annotations

from types import SimpleNamespace

from hsmsim.hsm.firmware.index import SESSION_BIT, Index


def test_no_hsm_gives_a_session_handle_that_another_has_given() -> None:
    """A client keeps the handles of a lost HSM for a while; on the next one they must name nothing."""
    hsms = [Index(SimpleNamespace(objects={})) for _ in range(50)]  # type: ignore[arg-type]
    given = [hsm.new_session_handle() for hsm in hsms for _ in range(100)]
    assert len(set(given)) == len(given)
    assert all(SESSION_BIT <= handle < 2 * SESSION_BIT for handle in given)
