"""Whose request is next."""

from __future__ import annotations

from hsmsim.hsm.firmware.fair import FairQueue


def test_one_who_asks_often_waits_behind_himself() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(1000):
        queue.put(33, f"guess {number}")
    queue.put(0, "login")
    queue.put(1000, "another login")
    assert [queue.get() for _ in range(5)] == ["guess 0", "login", "another login", "guess 1", "guess 2"]


def test_each_ones_requests_stay_in_order() -> None:
    queue: FairQueue[int] = FairQueue()
    for number in range(30):
        queue.put(number % 3, number)
    taken = [queue.get() for _ in range(30)]
    assert [one for one in taken if one % 3 == 1] == list(range(1, 30, 3))
