"""Runs reconcilers: a thread each, woken when there is something to do, and when simulated time says so."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hsmsim.services.kernel import Reconciler

_LOG: Final = logging.getLogger("hsmsim.gateway.reconcile")
FIRST_RETRY_S: Final = 0.5
LAST_RETRY_S: Final = 30.0


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


class Reconcilers:
    """All of them. Simulated time passes as real time does, and a change of it wakes everybody."""

    def __init__(self) -> None:
        self._loops: dict[str, _Loop] = {}

    def start(self, reconcilers: Iterable[Reconciler]) -> None:
        """Begin; each takes its first step at once."""
        self._loops = {reconciler.name: _Loop(reconciler) for reconciler in reconcilers}
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
