"""Who leads, of several processes on one database: one at a time does what must not be done twice at once.

Rules: the leader holds an advisory lock of PostgreSQL on a connection that does nothing else. The server frees it at
once where the process dies, and after IDLE_S where it is stopped or cannot be reached; another one takes over within
LOOK_S. It begins when all that its predecessor has written is there; and a predecessor that does not know yet that it
was replaced writes nothing any more, because a leader's writes ask first, in their own transaction, whether it leads.
Who does not lead tells who does what there is to do.
"""

from __future__ import annotations

import logging
import os
import select
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from sqlalchemy import text

from hsmsim.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import Connection

    from hsmsim.storage.database import Database
    from hsmsim.storage.writer import GroupWriter

_LOG: Final = logging.getLogger("hsmsim.lead")
LOOK_S: Final = 1.0
IDLE_S: Final = 10
EVERY_S: Final = 5.0
"""How often a leader looks for work that nobody could tell of: who should have died first."""
_CLASS: Final = 1752395124
"""The lock's first number, beside that of a lone writer (storage.database); the second one stands for the schema."""
_LOCK: Final = f"SELECT pg_try_advisory_lock({_CLASS}, hashtext(current_schema()))"
_WHO: Final = "SELECT pid, backend_start::text FROM pg_stat_activity WHERE pid = pg_backend_pid()"
_HOLDS: Final = text(
    "SELECT 1 FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE locktype = 'advisory' AND granted "
    "AND CAST(classid AS bigint) = :class AND objid = CAST(hashtext(current_schema()) AS oid) "
    "AND pid = :pid AND CAST(backend_start AS text) = :start"
)
_TELL: Final = text("SELECT pg_notify(current_schema(), :name)")
ALL: Final = ""
T = TypeVar("T")


class Lead(Protocol):
    """Whether this process leads."""

    @property
    def held(self) -> bool:
        """Whether it does, as far as it knows."""

    def start(self, told: Callable[[str], None]) -> None:
        """Take part. told: called with a name when there is work for who leads, and with ALL at the beginning of it."""

    def tell(self, name: str) -> None:
        """Have who leads be told. Safe from any thread, never waits."""

    def require(self, tx: Connection) -> None:
        """Return if what this transaction writes is the leader's; StorageError."""

    def stop(self) -> None:
        """Let another one lead."""


class Alone:
    """Nobody else is there."""

    held = True

    def start(self, told: Callable[[str], None]) -> None:
        """Nothing is to be waited for."""

    def tell(self, name: str) -> None:
        """Who leads knows."""

    def require(self, tx: Connection) -> None:
        """It is."""

    def stop(self) -> None:
        """Nobody waits."""


def lead_of(database: Database) -> Lead:
    """How the processes on this database find out who leads."""
    return Elected(database) if database.shared else Alone()


class Elected:
    """One of several."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._told: Callable[[str], None] = lambda _: None
        self._who: tuple[int, str] | None = None  # the session that holds the lock
        self._outbox: set[str] = set()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._telling = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lead", daemon=True)

    @property
    def held(self) -> bool:
        """See Lead."""
        return self._who is not None

    def start(self, told: Callable[[str], None]) -> None:
        """See Lead."""
        self._told = told
        self._thread.start()

    def tell(self, name: str) -> None:
        """See Lead."""
        with self._telling:
            if not self._stopping.is_set():
                self._outbox.add(name)
                os.eventfd_write(self._wake, 1)

    def require(self, tx: Connection) -> None:
        """See Lead."""
        who = self._who
        if who is None or tx.execute(_HOLDS, {"class": _CLASS, "pid": who[0], "start": who[1]}).first() is None:
            raise StorageError("Another gateway has taken over what this one was about to do.")

    def stop(self) -> None:
        """See Lead. Whatever needs the lead has ended before."""
        with self._telling:
            self._stopping.set()
            os.eventfd_write(self._wake, 1)
        if self._thread.is_alive():
            self._thread.join()
        os.close(self._wake)

    def _run(self) -> None:
        away = False
        while not self._stopping.is_set():
            try:
                with self._database.session() as connection:
                    away = False
                    self._take_part(connection)
            except StorageError as error:
                if not away:
                    _LOG.warning("This gateway takes no part in who leads: %s", error)
                away = True
            finally:
                self._who = None
            self._stopping.wait(LOOK_S)

    def _take_part(self, connection: Connection) -> None:
        """Try to lead, then lead, for as long as this connection lasts."""
        driver: Any = connection.connection.driver_connection
        driver.add_notify_handler(lambda notify: self._hear(notify.payload))
        socket: int = driver.fileno()
        connection.exec_driver_sql(f"SET idle_session_timeout = '{IDLE_S}s'")
        connection.exec_driver_sql(f'LISTEN "{connection.exec_driver_sql("SELECT current_schema()").scalar_one()}"')
        looked = time.monotonic()
        while not self._stopping.is_set():
            if not self.held and connection.exec_driver_sql(_LOCK).scalar_one():
                self._begin(connection)
            select.select([socket, self._wake], [], [], LOOK_S)
            self._send(connection)
            if time.monotonic() > looked + EVERY_S:
                looked = time.monotonic()
                self._hear(ALL)

    def _begin(self, connection: Connection) -> None:
        """Lead, now that the lock is ours."""
        with self._database.write(alone=True):
            """What the predecessor was writing is there, and what it begins to write now is refused."""
        pid, start = connection.exec_driver_sql(_WHO).one()
        self._who = (pid, start)
        _LOG.info("This gateway leads: it makes HSMs follow the rows.")
        self._told(ALL)

    def _send(self, connection: Connection) -> None:
        """Tell the others what is to be told; the answer to the last statement brings what they have told us."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        with self._telling:
            names, self._outbox = self._outbox, set()
        for name in names:
            connection.execute(_TELL, {"name": name})
        connection.exec_driver_sql("SELECT 1")

    def _hear(self, name: str) -> None:
        if self.held:
            self._told(name)


class Led:
    """The writer for who leads: what it is given is written while this process does, and refused otherwise."""

    def __init__(self, writer: GroupWriter, lead: Lead) -> None:
        self._writer = writer
        self._lead = lead

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run work in a transaction and return its result once that is durable; StorageError, as GroupWriter does."""

        def led(tx: Connection) -> T:
            self._lead.require(tx)
            return work(tx)

        return self._writer.write(led)
