"""Events that no transaction of their own carries (reads, errors): gathered, then written by the one writer.

Rules: used on the event loop only. Events keep their order. What cannot be written is kept and tried again, without
what turns out to have been written: a server may die right after a commit, before it says so. A caller waits once too
much is kept, so nothing is dropped while the gateway runs, and close() writes the rest.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from hsmsim.errors import StorageError

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from hsmsim.gateway.ports import Recorder, Writer

_LOG: Final = logging.getLogger("hsmsim.gateway.audit")
DELAY_S: Final = 0.02
RETRY_S: Final = 1.0
BATCH: Final = 1000
HIGH: Final = 20_000


class Behind:
    """The events that are still to be written."""

    def __init__(self, recorder: Recorder, writer: Writer) -> None:
        self._recorder = recorder
        self._writer = writer
        self._events: list[dict[str, Any]] = []
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def put(self, event: dict[str, Any]) -> None:
        """Have the event written soon."""
        self._events.append(event)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    @property
    def full(self) -> bool:
        """Whether callers should wait for `room`."""
        return len(self._events) >= HIGH

    async def room(self) -> None:
        """Return when there is room again."""
        while self.full:  # noqa: ASYNC110 - rare, and nothing is lost by looking again
            await asyncio.sleep(DELAY_S)

    async def close(self) -> None:
        """Write what is left; what the database does not take now is lost, and the log says so."""
        self._closing.set()
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        pause, again = DELAY_S, False
        while self._events:
            await self._wait(pause)
            batch = self._events[:BATCH]
            try:
                await asyncio.wrap_future(self._writer.submit(partial(self._record, batch, again=again)))
                pause, again = DELAY_S, False
            except StorageError:
                _LOG.exception("%d events could not be written yet.", len(self._events))
                if self._closing.is_set():
                    break
                pause, again = RETRY_S, True
                continue
            except Exception:  # noqa: BLE001 - a defect of the recorder: to try again would hold up those behind
                _LOG.exception("Events are lost: %s.", [event["requestID"] for event in batch])
            del self._events[: len(batch)]
        self._task = None

    async def _wait(self, pause: float) -> None:
        """Let more events gather, unless the gateway is closing."""
        try:
            async with asyncio.timeout(pause):
                await self._closing.wait()
        except TimeoutError:
            pass

    def _record(self, batch: list[dict[str, Any]], connection: Connection, *, again: bool) -> None:
        self._recorder.record(connection, *batch, again=again)
