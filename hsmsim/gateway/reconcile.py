"""Runs reconcilers: each in a few threads, woken when there is something to do, and when simulated time says so.

Rules: a reconciler's parts are followed side by side, so that one that hangs holds up itself alone; a plain reconciler
is one with a single part. No part takes two steps at once: of several gateways on one database only the one that leads
takes any (storage.lead). What fails, whatever it is, is logged with its reason and done again, ever later, in one place
(`_Patience`).
"""

from __future__ import annotations

import logging
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from hsmsim.errors import HsmsimError
from hsmsim.services.kernel import PartedReconciler
from hsmsim.storage.lead import ALL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from hsmsim.services.kernel import Reconciler
    from hsmsim.storage.lead import Lead

_LOG: Final = logging.getLogger("hsmsim.gateway.reconcile")
FIRST_RETRY_S: Final = 0.5
LAST_RETRY_S: Final = 30.0
PARTS_AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class _Whole:
    """A plain reconciler as one that has a single part."""

    reconciler: Reconciler

    @property
    def name(self) -> str:
        return self.reconciler.name

    def parts(self) -> tuple[str]:
        return ("",)

    def step(self, _part: str) -> float | None:
        return self.reconciler.step()


@dataclass(slots=True)
class _Patience:
    """Does what may fail, and says when to do it again."""

    retry: float = field(default_factory=lambda: FIRST_RETRY_S)

    def attempt(self, what: str, work: Callable[[], float | None]) -> tuple[bool, float]:
        """Whether it went well, and after how many seconds it is to be done again: infinity where a wake brings that.

        A step meets databases that are away, fleets that refuse, and its own defects. None of them may end the thread:
        nobody would make the world follow the rows any more, and nobody would know.
        """
        try:
            pause = work()
        except Exception as error:  # noqa: BLE001 - see above; this is the last edge
            pause, self.retry = self.retry, min(2 * self.retry, LAST_RETRY_S)
            known = isinstance(error, HsmsimError)
            _LOG.error("%s failed: %s. It is tried again in %.1f s.", what, error, pause, exc_info=not known)
            return False, pause
        self.retry = FIRST_RETRY_S
        return True, math.inf if pause is None else pause


@dataclass(slots=True)
class _Part:
    """One part. begun, done: the wakes that its last step, and its last one that left nothing due, knew of."""

    begun: int = -1
    done: int = -1
    due: float = 0.0
    busy: bool = False
    patience: _Patience = field(default_factory=_Patience)


class _Loop:
    """A thread that sees which part is due, and some that take the steps."""

    def __init__(self, reconciler: PartedReconciler, lead: Lead, at_once: int) -> None:
        self._reconciler = reconciler
        self._lead = lead
        self._changed = threading.Condition()
        self._asked = 0
        self._listed = -1
        self._ended = 0
        self._parts: dict[str, _Part] = {}
        self._patience = _Patience()
        self._stopping = False
        self._pool = ThreadPoolExecutor(at_once, thread_name_prefix=f"reconcile-{reconciler.name}")
        self._thread = threading.Thread(target=self._run, name=f"reconcile-{reconciler.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def name(self) -> str:
        return self._reconciler.name

    def wake(self) -> None:
        with self._changed:
            self._asked += 1
            self._changed.notify_all()

    def settled(self, deadline: float) -> bool:
        """Whether by then every part has taken a step that began after the last wake, with nothing due at once."""

        def all_done() -> bool:
            parts = self._parts.values()
            return self._listed == self._asked and all(part.done == self._asked for part in parts)

        with self._changed:
            return self._changed.wait_for(all_done, max(0.0, deadline - time.monotonic()))

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def join(self) -> None:
        self._thread.join()
        self._pool.shutdown()

    def _run(self) -> None:
        while not self._stopping:
            asked, ended, pause = self._asked, self._ended, math.inf
            leads = self._lead.held
            if leads and self._listed != asked:
                _, pause = self._patience.attempt(self.name, partial(self._list, asked))
            with self._changed:
                if leads:
                    pause = min(pause, self._begin(asked))
                self._wait(asked, ended, pause)

    def _wait(self, asked: int, ended: int, pause: float) -> None:
        """Wait until something is due, somebody asks, or a step ends."""
        self._changed.wait_for(
            lambda: self._stopping or (self._asked, self._ended) != (asked, ended),
            None if pause == math.inf else pause,
        )

    def _list(self, asked: int) -> None:
        names = list(self._reconciler.parts())
        with self._changed:
            self._parts = {name: self._parts.get(name) or _Part() for name in names}
            self._listed = asked
            self._changed.notify_all()

    def _begin(self, asked: int) -> float:
        """Have each part that is due take a step; seconds until another one is."""
        now, pause = time.monotonic(), math.inf
        for name, part in self._parts.items():
            if part.busy:
                continue
            if part.begun == asked and part.due > now:
                pause = min(pause, part.due - now)
                continue
            part.busy, part.begun = True, asked
            self._pool.submit(self._step, name, part, asked)
        return pause

    def _step(self, name: str, part: _Part, asked: int) -> None:
        what = f"{self.name} of {name}" if name else self.name
        well, pause = part.patience.attempt(what, partial(self._reconciler.step, name))
        with self._changed:
            part.busy = False
            part.due = time.monotonic() + pause
            if well and pause > 0:
                part.done = asked
            self._ended += 1
            self._changed.notify_all()


def _loop(reconciler: Reconciler | PartedReconciler, lead: Lead) -> _Loop:
    if isinstance(reconciler, PartedReconciler):
        return _Loop(reconciler, lead, PARTS_AT_ONCE)
    return _Loop(_Whole(reconciler), lead, 1)


class Reconcilers:
    """All of them. Simulated time passes as real time does, and a change of it wakes everybody."""

    def __init__(self, lead: Lead) -> None:
        self.lead = lead
        self._loops: dict[str, _Loop] = {}

    def start(self, reconcilers: Iterable[Reconciler | PartedReconciler]) -> None:
        """Begin; where this gateway leads each takes its first step at once."""
        self._loops = {one.name: _loop(one, self.lead) for one in reconcilers}
        for loop in self._loops.values():
            loop.start()
        self.lead.start(self._told)

    def wake(self, name: str) -> None:
        """Have it look for work now, in whichever gateway; before `start` that goes without saying."""
        if self.lead.held:
            self._told(name)
        else:
            self.lead.tell(name)

    def wake_all(self) -> None:
        """Time was changed."""
        self.wake(ALL)

    def _told(self, name: str) -> None:
        for loop in self._loops.values():
            if name in {ALL, loop.name}:
                loop.wake()

    def settle(self, seconds: float) -> list[str]:
        """Wake everybody and wait until nothing is due any more; the names of those that are not done by then."""
        deadline = time.monotonic() + seconds
        self.wake_all()
        while True:
            late = [loop.name for loop in self._loops.values() if not loop.settled(deadline)]
            # One may have woken another that was looked at before.
            if late or all(loop.settled(0) for loop in self._loops.values()):
                return late

    def stop(self) -> None:
        """Let the steps that run end, and another gateway lead."""
        for loop in self._loops.values():
            loop.stop()
        for loop in self._loops.values():
            loop.join()
        self.lead.stop()
