"""Clients that are slow, greedy or hostile, and one that is not: it is answered meanwhile."""

from __future__ import annotations

import http.client
import resource
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from support.gateway_parts import ACCOUNT

from hsmsim.gateway.http import MAX_CONNECTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.gateway import Gateway

HOSTILE = "127.0.0.2"
HEALTH = b"GET /_hsmsim/health HTTP/1.1\r\nHost: x\r\n\r\n"
PATIENCE_S = 60


@pytest.fixture
def files() -> Iterator[int]:
    """How many files this process and the gateway may have open, all of that raised."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield before[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def connected(gateway: Gateway, open_: ExitStack, data: bytes, scheme: str = "http") -> socket.socket:
    """A hostile connection, which has sent this."""
    made = socket.create_connection(("127.0.0.1", gateway.ports[scheme]), PATIENCE_S, (HOSTILE, 0))
    open_.callback(made.close)
    made.sendall(data)
    return made


def works(gateway: Gateway, authority: Path | None = None) -> None:
    """The good client, each time with a new connection; over TLS with an authority to trust."""
    secure = {} if authority is None else {"scheme": "https", "verify": str(authority)}
    client = gateway.client("sts", **secure)
    assert client.get_caller_identity()["Account"] == ACCOUNT


def closed(connection: socket.socket) -> bool:
    """Whether the gateway has closed it by now; what it answered before is read."""
    connection.settimeout(0)
    try:
        while connection.recv(65536):
            pass
    except BlockingIOError:
        return False
    except ConnectionResetError:
        pass
    return True


def test_idle_connections_without_end_drive_out_their_own(
    gateway: Gateway, certificates: tuple[Path, Path, Path], files: int
) -> None:
    most = min(MAX_CONNECTIONS, files // 2)
    patient = http.client.HTTPConnection("127.0.0.1", gateway.ports["http"], timeout=PATIENCE_S)
    with ExitStack() as open_:
        open_.callback(patient.close)
        patient.request("GET", "/_hsmsim/health")
        assert patient.getresponse().read()
        flood = [connected(gateway, open_, HEALTH) for _ in range(most + 100)]
        assert b" 200 OK" in flood[-1].recv(65536)  # so all before it were taken
        works(gateway)
        works(gateway, certificates[0])
        patient.request("GET", "/_hsmsim/health")
        assert patient.getresponse().status == 200
        assert sum(closed(one) for one in flood) >= 100
        assert not closed(flood[-1])


def test_large_bodies_that_do_not_end_are_given_up_for_others(gateway: Gateway) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n"
    chunk = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1d4c00\r\n"
    with ExitStack() as open_:
        slow = [connected(gateway, open_, start + bytes(1_900_000)) for start in (head, chunk) * 20]
        works(gateway)
        assert slow[0].recv(65536).startswith(b"HTTP/1.1 408 ")
        works(gateway)
        assert not closed(slow[-1])


def test_requests_without_end_on_one_connection_take_turns_with_others(gateway: Gateway) -> None:
    with ExitStack() as open_:
        greedy = [connected(gateway, open_, HEALTH * 1000) for _ in range(20)]
        for _ in range(3):
            works(gateway)
        for one in greedy[:2]:
            one.settimeout(PATIENCE_S)
            answers = b""
            while answers.count(b"HTTP/1.1 200 OK") < 1000:
                part = one.recv(1 << 20)
                assert part
                answers += part


def test_handshakes_that_do_not_come_are_given_up(gateway: Gateway, certificates: tuple[Path, Path, Path]) -> None:
    with ExitStack() as open_:
        silent = [connected(gateway, open_, data, "https") for data in (b"", b"\x16\x03\x01\x02\x00\x01") * 50]
        works(gateway, certificates[0])
        for one in silent[:2]:
            one.settimeout(PATIENCE_S)
            assert one.recv(1) == b""
