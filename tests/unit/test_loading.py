"""A key is loaded under its rights of the moment, and dropped with them."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from hsmsim.cluster.model import ROLE_CRYPTO_USER, ObjectRow
from hsmsim.errors import CkrError
from hsmsim.hsm.cryptoki import CKA, CKK, CKO, CKR
from hsmsim.hsm.firmware import connections, keys, values

HANDLE, USER = 33, 17
ROW = ObjectRow(HANDLE, 1, USER, CKO.SECRET_KEY, CKK.AES, True, values.pack({CKA.ENCRYPT: True}), b"masked")  # noqa: FBT003
CLIENT: Any = SimpleNamespace(id=5, partition=1, user=USER, role=ROLE_CRYPTO_USER, admin=False, session=lambda _: True)
REQUEST: Any = SimpleNamespace(payload=HANDLE.to_bytes(8, "little"), session=1)


class Engine:
    """Keeps what is done in turn; `meanwhile` runs in the middle of a load."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.meanwhile = lambda: None

    def key_load(self, _key: object) -> None:
        self.meanwhile()
        self.done.append("load")

    def key_drop(self, _handle: int) -> None:
        self.done.append("drop")


@pytest.fixture
def state() -> Any:
    rows = {HANDLE: ROW}
    index = SimpleNamespace(get=lambda handle: (rows[handle], 0) if handle in rows else None, rows=rows)
    replica = SimpleNamespace(shares=lambda _: frozenset())
    return SimpleNamespace(engine=Engine(), index=index, replica=replica, reference=None, loading=threading.Lock())


def test_what_is_taken_away_during_a_load_is_dropped_after_it(state: Any) -> None:
    """Or a key would be back in the engine when others have been told that it is gone."""

    def destroy() -> None:
        del state.index.rows[HANDLE]
        connections.forget_key(state, HANDLE)

    taker = threading.Thread(target=destroy)

    def meanwhile() -> None:
        taker.start()
        taker.join(0.1)

    state.engine.meanwhile = meanwhile
    keys.load_for(state, CLIENT, REQUEST)
    taker.join()
    assert state.engine.done == ["load", "drop"]


def test_what_was_taken_away_is_not_loaded(state: Any) -> None:
    del state.index.rows[HANDLE]
    with pytest.raises(CkrError) as caught:
        keys.load_for(state, CLIENT, REQUEST)
    assert caught.value.rv == CKR.KEY_HANDLE_INVALID
    assert state.engine.done == []
    assert not state.loading.locked()
