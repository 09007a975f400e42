"""After simulated time was moved, `settle` returns when what is due has been done, and names what has not."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hsmsim.gateway import reconcile
from hsmsim.gateway.reconcile import Reconcilers
from hsmsim.storage.lead import Alone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pytest


@dataclass
class Work:
    """A reconciler that does what it is told."""

    name: str
    do: Callable[[], float | None]
    steps: int = 0
    first: threading.Event = field(default_factory=threading.Event)

    def step(self) -> float | None:
        self.steps += 1
        try:
            return self.do()
        finally:
            self.first.set()


@contextmanager
def running(*works: Work) -> Iterator[Reconcilers]:
    reconcilers = Reconcilers(Alone())
    reconcilers.start(works)
    try:
        assert all(work.first.wait(10) for work in works)
        yield reconcilers
    finally:
        reconcilers.stop()


def test_a_step_that_began_before_the_wake_does_not_count() -> None:
    due, done = [0], [0]

    def do() -> None:
        done[0] = due[0]

    with running(Work("one", do)) as reconcilers:
        for now in range(1, 20):
            due[0] = now
            assert reconcilers.settle(10) == []
            assert done[0] == now


def test_one_that_wakes_another_is_waited_for_with_it() -> None:
    log: list[str] = []
    reconcilers = Reconcilers(Alone())
    orders = [0]

    def front() -> None:
        if orders[0]:
            orders[0] = 0
            log.append("front")
            reconcilers.wake("back")

    def back() -> None:
        if "front" in log:
            log.append("back")

    # In this order `back` is looked at before `front` has woken it.
    reconcilers.start([Work("back", back), Work("front", front)])
    try:
        orders[0] = 1
        assert reconcilers.settle(10) == []
        assert log[0] == "front"
        assert "back" in log
    finally:
        reconcilers.stop()


def test_more_steps_at_once_are_all_taken() -> None:
    left = [5]

    def do() -> float | None:
        left[0] = max(0, left[0] - 1)
        return 0.0 if left[0] else 60.0

    with running(Work("many", do)) as reconcilers:
        left[0] = 5
        assert reconcilers.settle(10) == []
        assert left[0] == 0


def test_one_that_fails_is_named_and_later_done() -> None:
    broken = [True]

    def do() -> None:
        if broken[0]:
            raise OSError("away")

    with running(Work("broken", do), Work("whole", lambda: None)) as reconcilers:
        assert reconcilers.settle(0.05) == ["broken"]
        broken[0] = False
        assert reconcilers.settle(reconcile.LAST_RETRY_S) == []


@dataclass
class Parts:
    """A reconciler whose parts do what they are told."""

    do: dict[str, Callable[[], float | None]]
    name: str = "parts"
    taken: list[str] = field(default_factory=list)

    def parts(self) -> list[str]:
        return list(self.do)

    def step(self, part: str) -> float | None:
        self.taken.append(part)
        return self.do[part]()


@contextmanager
def following(parts: Parts) -> Iterator[Reconcilers]:
    reconcilers = Reconcilers(Alone())
    reconcilers.start([parts])
    try:
        yield reconcilers
    finally:
        reconcilers.stop()


def test_a_part_that_hangs_holds_up_no_other_and_never_runs_twice() -> None:
    free, begun, done = threading.Event(), threading.Event(), [0]

    def hang() -> None:
        begun.set()
        assert free.wait(30)

    def work() -> None:
        done[0] += 1

    parts = Parts({"hangs": hang, "works": work})
    with following(parts) as reconcilers:
        try:
            assert begun.wait(30)
            for number in range(1, 4):
                assert reconcilers.settle(0.02) == ["parts"]
                reached = threading.Event()
                parts.do[f"new {number}"] = reached.set
                reconcilers.wake("parts")
                assert reached.wait(30)
            assert parts.taken.count("hangs") == 1
            assert done[0] > 0
        finally:
            free.set()
        assert reconcilers.settle(30) == []
        assert parts.taken.count("hangs") > 1


def test_a_part_is_stepped_until_nothing_is_due_and_again_when_it_is() -> None:
    left, again = [3], threading.Event()

    def do() -> float | None:
        if left[0]:
            left[0] -= 1
            return 0.0
        again.set()
        return 0.01

    with following(Parts({"one": do})) as reconcilers:
        assert reconcilers.settle(30) == []
        assert left[0] == 0
        again.clear()
        assert again.wait(30)


def test_a_part_that_fails_is_tried_again_and_a_list_that_fails_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "FIRST_RETRY_S", 0.01)
    failures = {"list": 2, "step": 2}

    def failing(what: str) -> None:
        if failures[what]:
            failures[what] -= 1
            raise OSError("away")

    class Broken(Parts):
        def parts(self) -> list[str]:
            failing("list")
            return super().parts()

    with following(Broken({"one": lambda: failing("step")})) as reconcilers:
        assert reconcilers.settle(30) == []
        assert failures == {"list": 0, "step": 0}
