"""HSMs on hosts of their own, which reach each other by TCP and their rows in PostgreSQL (DESIGN D6)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from support import postgres
from support.hosts import KINDS, HostedCluster, hosted
from support.hsm import Client, eventually, patiently
from support.relay import FAIR, Weather
from support.tls import issue, server

from hsmsim.errors import CkrError
from hsmsim.hsm import messages as m
from hsmsim.hsm.cryptoki import CKR

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hsmsim.fleet.postgresql import LocalServer

DIGEST = bytes(32)


@pytest.fixture(scope="module")
def database() -> Iterator[LocalServer]:
    with postgres.server() as made:
        yield made


@pytest.fixture(scope="module", params=KINDS)
def served(request: pytest.FixtureRequest, database: LocalServer) -> Iterator[HostedCluster]:
    with hosted(request.param, database) as made:
        yield made


def user(served: HostedCluster, number: int, name: str) -> Client:
    """By TCP, as from another host."""
    client = Client(served.hsms[number].address)
    client.login(name)
    return client


def code(call: Callable[[], object]) -> int:
    try:
        call()
    except CkrError as error:
        return error.rv
    return CKR.OK


def test_a_key_is_on_all_hosts_and_they_hear_each_other(served: HostedCluster) -> None:
    with user(served, 0, "alice") as client:
        public, private = patiently(lambda: client.ec(token=True, label="everywhere"))
    for number in (1, 2):
        with user(served, number, "alice") as client:
            eventually(lambda client=client: client.find(label="everywhere") != ())
            client.verify(public, DIGEST, patiently(lambda client=client: client.sign(private, DIGEST)))


def test_without_the_database_hosts_that_hear_each_other_sign_and_nothing_is_lost(
    served: HostedCluster, database: LocalServer
) -> None:
    with user(served, 0, "alice") as client, user(served, 2, "alice") as other:
        _, key = patiently(lambda: client.ec(token=True, label="before"))
        eventually(lambda: len({hsm.info().version for hsm in served.hsms}) == 1, 20)  # one that is behind stays so
        database.stop("immediate")
        try:
            time.sleep(2.5)  # longer than every lease
            for _ in range(20):  # a busy machine may hold them up for a second; they hear each other again
                for one in (client, other):
                    assert len(patiently(lambda one=one: one.sign(key, DIGEST))) == 64
            assert code(lambda: client.aes(token=True, label="meanwhile")) == CKR.DEVICE_ERROR
        finally:
            database.start()
        made = patiently(lambda: client.aes(token=True, label="after"))
        eventually(lambda: other.find(label="after") == (made,), 20)
        assert key in other.find(label="before")
        assert client.find(label="meanwhile") == other.find(label="meanwhile") == ()


def test_a_host_that_is_cut_off_uses_no_right_that_is_revoked_meanwhile_and_comes_back(
    served: HostedCluster, tell: Callable[[str], None]
) -> None:
    post, victim = served.posts[1], served.hsms[1]
    with user(served, 0, "alice") as owner, victim.user("bob") as sharee:  # bob stands on the victim's own host
        key = patiently(lambda: owner.aes(token=True))
        owner.call(m.KeyShareRequest(key, b"bob"))
        assert patiently(lambda: sharee.encrypt(key, bytes(16)))
        post.weather(Weather(cut=True))
        try:
            owner.call(m.KeyUnshareRequest(key, b"bob"))
            for _ in range(20):
                assert code(lambda: sharee.encrypt(key, bytes(16))) in {CKR.DEVICE_ERROR, CKR.KEY_HANDLE_INVALID}
        finally:
            post.weather(FAIR)
            healed = time.monotonic()
        eventually(lambda: code(lambda: sharee.encrypt(key, bytes(16))) == CKR.KEY_HANDLE_INVALID, 20)
    with user(served, 1, "alice") as client:
        eventually(lambda: code(lambda: client.encrypt(key, bytes(16))) == CKR.OK, 20)
    tell(f"the host serves clients again {time.monotonic() - healed:.1f} s after its network was healed")


def test_who_shows_another_certificate_of_the_customers_ca_is_told_nothing(
    served: HostedCluster, tmp_path: Path
) -> None:
    """As the module would trust it; an HSM of the cluster shows the cluster's own."""
    context, relay = issue(served.home / "customer", tmp_path), served.posts[2].asked
    genuine, told = relay.to, []

    def answer(one: socket.socket) -> None:
        with context.wrap_socket(one, server_side=True) as shaken:
            told.append(shaken.recv(1024))

    with server(answer) as port:
        relay.to = ("127.0.0.1", port)
        relay.hang_up()
        try:
            eventually(lambda: len(told) >= 4, 20)  # both others have tried again
        finally:
            relay.to = genuine
            relay.hang_up()
    assert set(told) == {b""}
    with user(served, 2, "alice") as client:
        patiently(lambda: client.aes(token=True, label="heard again"))
