"""What the gateway has in memory is as new as the database, where another gateway may write to that.

Before a request is looked at, the database is asked for the number of the last change: what another gateway had
acknowledged when the request came in counts for it, a revoked key above all. All requests that come in while one
question is under way share the next one, so that many of them cost little more than one.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from hsmsim.gateway.ports import Memory
    from hsmsim.storage.database import Database


class Fresh:
    """Used on the event loop only. ask: the number of the last change. catch_up: blocks until memory has followed."""

    def __init__(self, memory: Memory, ask: Callable[[], Awaitable[int]], catch_up: Callable[[], None]) -> None:
        self._memory = memory
        self._ask = ask
        self._catch_up = catch_up
        self._next: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    async def now(self) -> None:
        """Return when all that was durable before this call has taken effect; StorageError where nobody can say."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        # A client that leaves takes nothing from the others who wait.
        await asyncio.shield(self._next)

    async def _run(self) -> None:
        while self._next is not None:
            waiting, self._next = self._next, None
            try:
                if await self._ask() > self._memory.known:
                    await asyncio.to_thread(self._catch_up)
            except Exception as error:  # noqa: BLE001 - handed on to all who wait
                waiting.set_exception(error)
                waiting.exception()  # all of them may have left
            else:
                waiting.set_result(None)
        self._task = None


@asynccontextmanager
async def following(memory: Memory | None, database: Database) -> AsyncIterator[Fresh | None]:
    """What keeps memory fresh; None where there is none, or nobody else writes to the database."""
    if memory is None or not database.shared:
        yield None
        return
    watch = database.watch(memory.question)

    def catch_up() -> None:
        with database.read() as tx:
            memory.catch_up(tx)

    try:
        yield Fresh(memory, watch.ask, catch_up)
    finally:
        await watch.close()
