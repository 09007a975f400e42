"""After simulated time was moved, `settle` returns when what is due has been done, and names what has not."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hsmsim.gateway import reconcile
from hsmsim.gateway.reconcile import Reconcilers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


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
    reconcilers = Reconcilers()
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
    reconcilers = Reconcilers()
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
