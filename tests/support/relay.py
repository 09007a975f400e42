"""A network between hosts, in user space: every connection goes through a relay that delays, loses, holds up or cuts.

Rules: bytes keep their order and none is dropped, as TCP sees a network; a lost segment is one that comes a
retransmission later, and so does all that follows it. What is sent while the network is cut arrives when it is healed.
"""

from __future__ import annotations

import asyncio
import random
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path
    from typing import Any

RETRANSMISSION_S: Final = 0.2
"""Linux's shortest, which is what a connection between near hosts has."""
CHUNK: Final = 65536
BACKLOG: Final = 512
Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Weather:
    """delay_s: each way; loss: the share of segments that are sent again."""

    delay_s: float = 0.0
    loss: float = 0.0
    cut: bool = False


FAIR: Final = Weather()


class Relay:
    """One address, and where its connections go. `to` and `weather` may be changed at any time.

    A connection suffers the weather here, and that of its source where that has a relay of its own.
    """

    def __init__(self, network: Network, to: Address | Path, seed: int) -> None:
        self.address: Address = ("", 0)
        self.to = to
        self._network = network
        self._connections: set[asyncio.Task[Any]] = set()
        self._random = random.Random(seed)
        self._weather = FAIR
        self._clear = asyncio.Event()
        self._server: asyncio.Server | None = None

    @property
    def weather(self) -> Weather:
        return self._weather

    @weather.setter
    def weather(self, wanted: Weather) -> None:
        async def change() -> None:
            self._weather = wanted
            (self._clear.clear if wanted.cut else self._clear.set)()

        self._network.run(change())

    def hang_up(self) -> None:
        """End every connection."""

        async def end() -> None:
            for task in list(self._connections):
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

        self._network.run(end())

    async def open(self, host: str, port: int) -> None:
        self._clear.set()
        self._server = await asyncio.start_server(self._talk, host, port, backlog=BACKLOG)
        self.address = self._server.sockets[0].getsockname()[:2]

    def close(self) -> None:
        """Take no more connections, and end those that there are."""

        async def end() -> None:
            if self._server is not None:
                self._server.close()

        self._network.run(end())
        self.hang_up()

    async def clear(self) -> None:
        """Wait until the network is not cut here."""
        await self._clear.wait()

    def journey(self) -> float:
        """How long a segment is under way here."""
        seconds, again = self._weather.delay_s, RETRANSMISSION_S
        while self._random.random() < self._weather.loss:
            seconds, again = seconds + again, again * 2  # RFC 6298 5.5
        return seconds

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        through = self._network.between(writer.get_extra_info("peername")[0], self)
        try:
            await _all_clear(through)
            far_reader, far_writer = await self._onward()
            try:
                ways = (reader, far_writer), (far_reader, writer)
                await _until_one_ends({asyncio.create_task(_carry(*way, through)) for way in ways})
            finally:
                far_writer.close()
        except (OSError, asyncio.CancelledError):
            pass  # nobody listens there; or hang_up()
        finally:
            self._connections.discard(task)
            writer.close()

    async def _onward(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self.to, tuple):
            return await asyncio.open_connection(*self.to)
        return await asyncio.open_unix_connection(self.to)


async def _all_clear(through: tuple[Relay, ...]) -> None:
    for relay in through:
        await relay.clear()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, through: tuple[Relay, ...]) -> None:
    """One direction, until its end has arrived: what is read gets a time of arrival."""
    loop = asyncio.get_running_loop()
    underway: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    def send(data: bytes) -> None:
        underway.put_nowait((loop.time() + sum(relay.journey() for relay in through), data))

    async def receive() -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                send(data)
        send(b"")

    receiving = asyncio.create_task(receive())
    try:
        while True:
            arrival, data = await underway.get()
            await asyncio.sleep(arrival - loop.time())
            await _all_clear(through)
            if not data:
                return
            writer.write(data)
            await writer.drain()
    except OSError:
        return  # the other end has closed
    finally:
        receiving.cancel()


async def _until_one_ends(ways: set[asyncio.Task[None]]) -> None:
    """The protocols that come through here leave nothing half open."""
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


class Network:
    """All relays, in a thread of their own."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._relays: list[Relay] = []
        self._sources: dict[str, Relay] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for relay in self._relays:
            relay.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def relay(self, host: str, to: Address | Path, port: int = 0) -> Relay:
        """A relay that listens at an address of this machine; its port is a free one, unless given."""
        made = Relay(self, to, self._seed + len(self._relays))
        self.run(made.open(host, port))
        self._relays.append(made)
        return made

    def stands_behind(self, source: str, relay: Relay) -> None:
        """What comes from this address suffers a relay's weather, too."""
        self._sources[source] = relay

    def between(self, source: str, relay: Relay) -> tuple[Relay, ...]:
        """The relays whose weather a connection suffers."""
        own = self._sources.get(source, relay)
        return (relay,) if own is relay else (own, relay)
