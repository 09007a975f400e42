"""One number of a PostgreSQL database, asked for again and again by an event loop: a fifth of what a thread would cost.

Rules: one question at a time, outside of transactions, on a connection of its own. A question is asked once more where
the connection turns out to be lost, then it is a StorageError; one that gets no answer is given up after ANSWER_S.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import psycopg

from hsmsim.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from psycopg import AsyncConnection, AsyncCursor

ANSWER_S: Final = 5.0


class Watch:
    """The number that a statement answers. parameters: what SQLAlchemy gives the driver for a connection."""

    def __init__(self, parameters: Mapping[str, Any], statement: str) -> None:
        self._parameters = parameters
        self._statement = statement.encode()
        self._connection: AsyncConnection | None = None
        self._cursor: AsyncCursor | None = None

    async def ask(self) -> int:
        """Return the number as it is now."""
        try:
            async with asyncio.timeout(ANSWER_S):
                if self._cursor is not None:
                    try:
                        return await self._answer(self._cursor)
                    except psycopg.OperationalError:
                        await self.close()
                return await self._answer(await self._connect())
        except (psycopg.Error, TimeoutError) as error:
            await self.close()
            reason = str(error) or f"no answer within {ANSWER_S:.0f} s"
            raise StorageError(f"The database cannot be asked what is new: {reason}.") from error

    async def close(self) -> None:
        """Close the connection; the next question opens another one."""
        connection, self._connection, self._cursor = self._connection, None, None
        if connection is not None:
            await connection.close()

    async def _connect(self) -> AsyncCursor:
        self._connection = await psycopg.AsyncConnection.connect(autocommit=True, **self._parameters)
        self._cursor = self._connection.cursor()
        return self._cursor

    async def _answer(self, cursor: AsyncCursor) -> int:
        row = await (await cursor.execute(self._statement)).fetchone()
        assert row is not None  # noqa: S101 - an aggregate has a row
        return int(row[0])
