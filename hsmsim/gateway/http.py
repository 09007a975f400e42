"""HTTP as the gateway takes it: uvicorn's protocol on httptools, with bounds that uvicorn leaves to a proxy.

Heads (request line and headers) are bounded in size and time, answers in the time that a client takes to read them,
connections in number (crowd.py); what is too large or too slow is answered or closed, so a client that sends nothing,
or without end, costs a socket for some seconds and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    import asyncio
    from asyncio import TimerHandle

    from uvicorn import Config
    from uvicorn.server import ServerState

    from hsmsim.gateway.crowd import Crowd

MAX_HEAD: Final = 64 << 10
MAX_CONNECTIONS: Final = 2000
HANDSHAKE_TIMEOUT_S: Final = 5.0
HEAD_TIMEOUT_S: Final = 5.0
SEND_TIMEOUT_S: Final = 20.0
KEEP_ALIVE_S: Final = 75
TLS: Final = "hsmsim.tls"
"""The scope's key for (version, cipher suite)."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, crowd: Crowd, config: Config, server_state: ServerState, app_state: dict[str, Any]) -> None:
        super().__init__(config, server_state, app_state)
        self.address = ""
        self._crowd = crowd
        self._whole = 0  # requests that have come in and are not answered yet
        self._send_timer: TimerHandle | None = None
        self._in_head = True
        self._begun_now = False
        self._head_size = 0
        self._head_timer: TimerHandle | None = None
        self._tls: tuple[str, str] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        cipher = transport.get_extra_info("cipher")
        if cipher:
            self._tls = (cipher[1], cipher[0])
        self.address = self.client[0] if self.client else ""
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, transport.close)
        self._crowd.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it, and the timers."""
        self._crowd.leave(self)
        self._stop_timer()
        self.resume_writing()
        super().connection_lost(exc)

    def give_up(self) -> None:
        """Close the connection, whatever it is about."""
        self.transport.abort()

    def pause_writing(self) -> None:
        """The client does not read its answers: that is suffered for a while."""
        super().pause_writing()
        self._send_timer = self.loop.call_later(SEND_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        """It does."""
        super().resume_writing()
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head that is not complete yet; one read bounds a head that is whole in it."""
        if self.transport.is_closing():
            return
        self._begun_now = False
        super().data_received(data)
        if not self._in_head:
            return
        # A head that began in this data may stand behind a body: what comes next is counted.
        self._head_size += 0 if self._begun_now else len(data)
        if self._head_size > MAX_HEAD:
            self._refuse_head()
        elif self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.close)

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._in_head, self._begun_now, self._head_size = True, True, 0
        if self._tls:
            self.scope["state"][TLS] = self._tls

    def on_headers_complete(self) -> None:
        """It is whole."""
        self._in_head = False
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is, too."""
        super().on_message_complete()
        if not self.cycle.response_complete:
            self._whole += 1
            self._crowd.served(self)

    def on_response_complete(self) -> None:
        """The next request may be there already."""
        super().on_response_complete()
        self._whole = max(0, self._whole - 1)
        if not self._whole:
            self._crowd.waits(self)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse_head(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(
                b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            )
        self.transport.close()
