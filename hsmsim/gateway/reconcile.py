"""Runs reconcilers: a thread each, woken when there is something to do, and when simulated time says so.

One that has parts gets a few threads more, so that a part that hangs holds up itself alone.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hsmsim.services.kernel import PartedReconciler

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hsmsim.services.kernel import Reconciler

_LOG: Final = logging.getLogger("hsmsim.gateway.reconcile")
FIRST_RETRY_S: Final = 0.5
LAST_RETRY_S: Final = 30.0
PARTS_AT_ONCE: Final = 8


class _Loop:
    """One reconciler's thread. A step that fails is done again, ever later."""

    def __init__(self, reconciler: Reconciler) -> None:
        self._reconciler = reconciler
        self._woken = threading.Event()
        self._changed = threading.Condition()
        self._asked = 0
        self._done = -1  # not before the first step has ended
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"reconcile-{reconciler.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def name(self) -> str:
        return self._reconciler.name

    def wake(self) -> None:
        with self._changed:
            self._asked += 1
        self._woken.set()

    def settled(self, deadline: float) -> bool:
        """Whether by then a step that began after the last wake has ended well, with nothing due at once."""
        with self._changed:
            return self._changed.wait_for(lambda: self._done == self._asked, max(0.0, deadline - time.monotonic()))

    def stop(self) -> None:
        self._stopping.set()
        self._woken.set()

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        retry = FIRST_RETRY_S
        while not self._stopping.is_set():
            self._woken.clear()
            asked = self._asked
            try:
                pause = self._reconciler.step()
                retry = FIRST_RETRY_S
                if pause is None or pause > 0:
                    self._note(asked)
            except Exception:  # noqa: BLE001 - the last edge: logged, and tried again
                _LOG.exception("%s failed; it is tried again in %.1f s.", self._reconciler.name, retry)
                pause, retry = retry, min(2 * retry, LAST_RETRY_S)
            self._woken.wait(pause)

    def _note(self, asked: int) -> None:
        with self._changed:
            self._done = asked
            self._changed.notify_all()


@dataclass(slots=True)
class _Part:
    """One part. begun, done: the wakes that its last step, and its last one that left nothing due, knew of."""

    begun: int = -1
    done: int = -1
    due: float = 0.0
    busy: bool = False
    retry: float = FIRST_RETRY_S


class _PartedLoop:
    """A thread that sees which part is due, and some that take the steps."""

    def __init__(self, reconciler: PartedReconciler) -> None:
        self._reconciler = reconciler
        self._changed = threading.Condition()
        self._asked = 0
        self._listed = -1
        self._ended = 0
        self._parts: dict[str, _Part] = {}
        self._stopping = False
        self._pool = ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix=f"reconcile-{reconciler.name}")
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
        retry = FIRST_RETRY_S
        while not self._stopping:
            asked, ended = self._asked, self._ended
            pause = math.inf
            try:
                if self._listed != asked:
                    self._list(asked)
                retry = FIRST_RETRY_S
            except Exception:  # noqa: BLE001 - the last edge: logged, and tried again
                _LOG.exception("%s failed; it is tried again in %.1f s.", self.name, retry)
                pause, retry = retry, min(2 * retry, LAST_RETRY_S)
            with self._changed:
                pause = min(pause, self._begin(asked))
                self._changed.wait_for(
                    lambda asked=asked, ended=ended: self._stopping or (self._asked, self._ended) != (asked, ended),  # type: ignore[misc]
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
        done = False
        try:
            pause = self._reconciler.step(name)
            part.retry, done = FIRST_RETRY_S, pause is None or pause > 0
        except Exception:  # noqa: BLE001 - the last edge: logged, and tried again
            _LOG.exception("%s of %s failed; it is tried again in %.1f s.", self.name, name, part.retry)
            pause, part.retry = part.retry, min(2 * part.retry, LAST_RETRY_S)
        with self._changed:
            part.busy = False
            part.due = math.inf if pause is None else time.monotonic() + pause
            if done:
                part.done = asked
            self._ended += 1
            self._changed.notify_all()


class Reconcilers:
    """All of them. Simulated time passes as real time does, and a change of it wakes everybody."""

    def __init__(self) -> None:
        self._loops: dict[str, _Loop | _PartedLoop] = {}

    def start(self, reconcilers: Iterable[Reconciler | PartedReconciler]) -> None:
        """Begin; each takes its first step at once."""
        self._loops = {
            one.name: _PartedLoop(one) if isinstance(one, PartedReconciler) else _Loop(one) for one in reconcilers
        }
        for loop in self._loops.values():
            loop.start()

    def wake(self, name: str) -> None:
        """Have it look for work now; before `start` that goes without saying."""
        loop = self._loops.get(name)
        if loop is not None:
            loop.wake()

    def wake_all(self) -> None:
        """Time was changed."""
        for loop in self._loops.values():
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
        """Let the steps that run end."""
        for loop in self._loops.values():
            loop.stop()
        for loop in self._loops.values():
            loop.join()
