"""Runs reconcilers: a thread each, woken when there is something to do, and when simulated time says so."""

from __future__ import annotations

import logging
import threading
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
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"reconcile-{reconciler.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._woken.set()

    def stop(self) -> None:
        self._stopping.set()
        self._woken.set()

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        retry = FIRST_RETRY_S
        while not self._stopping.is_set():
            self._woken.clear()
            try:
                pause = self._reconciler.step()
                retry = FIRST_RETRY_S
            except Exception:  # noqa: BLE001 - the last edge: logged, and tried again
                _LOG.exception("%s failed; it is tried again in %.1f s.", self._reconciler.name, retry)
                pause, retry = retry, min(2 * retry, LAST_RETRY_S)
            self._woken.wait(pause)


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

    def stop(self) -> None:
        """Let the steps that run end."""
        for loop in self._loops.values():
            loop.stop()
        for loop in self._loops.values():
            loop.join()
