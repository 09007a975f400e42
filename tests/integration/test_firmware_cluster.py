"""Two HSM processes: the same keys under the same handles, and rights that end everywhere at once."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from support.hsm import ADMIN, Client, Cluster, cluster, eventually, patiently, refused

from hsmsim.errors import CkrError
from hsmsim.hsm import messages as m
from hsmsim.hsm.cryptoki import CKA, CKM, CKR, CKU

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DATA = bytes(range(32))


@pytest.fixture(scope="module")
def two(engine: str) -> Iterator[Cluster]:
    """With the key availability check; for tests that break nothing."""
    with cluster(hsms=2, engine=engine, check=True) as made:
        yield made


@pytest.fixture
def mortal(engine: str) -> Iterator[Cluster]:
    """The same, to be broken."""
    with cluster(hsms=2, engine=engine, check=True) as made:
        yield made


def test_a_new_key_is_on_both_under_one_handle(two: Cluster) -> None:
    with two.hsms[0].user("alice") as here, two.hsms[1].user("alice") as there:
        public, private = here.ec(token=True, label="both")
        there.verify(public, DATA, there.sign(private, DATA))
        here.verify(public, DATA, there.sign(private, DATA))
        assert there.find(label="both") == (public, private)
        there.destroy(private)
        assert here.find(label="both") == (public,)
        with refused(CKR.KEY_HANDLE_INVALID):
            here.sign(private, DATA)


def test_session_keys_stay_on_their_hsm(two: Cluster) -> None:
    with two.hsms[0].user("alice") as here, two.hsms[1].user("alice") as there:
        here.aes(label="local")
        assert there.find(label="local") == ()


def quickest(log_in: Callable[[], object], client: Client) -> float:
    """Seconds that a login takes at best; the client is logged in at the end."""
    times = []
    for _ in range(5):
        with suppress(CkrError):
            client.logout()
        began = time.perf_counter()
        log_in()
        times.append(time.perf_counter() - began)
    return min(times)


def test_a_ticket_lets_in_on_the_other_hsm_without_a_hash(two: Cluster) -> None:
    with two.hsms[0].user("alice") as here, two.hsms[1].client() as there:
        key = here.aes(token=True)
        assert quickest(lambda: there.call(m.LoginTicketRequest(here.login_ticket)), there) < 0.5 * quickest(
            lambda: there.login("alice"), there
        )
        assert there.encrypt(key, bytes(16)) == here.encrypt(key, bytes(16))


def test_rights_end_on_the_other_hsm_before_the_answer(two: Cluster) -> None:
    with two.hsms[0].user("alice") as owner, two.hsms[1].user("bob") as sharee:
        key = owner.aes(token=True)
        for _ in range(20):
            owner.call(m.KeyShareRequest(key, b"bob"))
            assert sharee.encrypt(key, bytes(16))
            owner.call(m.KeyUnshareRequest(key, b"bob"))
            with refused(CKR.KEY_HANDLE_INVALID):
                sharee.encrypt(key, bytes(16))


def test_no_operation_starts_after_an_unshare_was_answered(two: Cluster) -> None:
    with two.hsms[0].user("alice") as owner, two.hsms[1].user("bob") as sharee:
        key = owner.aes(token=True)
        owner.call(m.KeyShareRequest(key, b"bob"))
        began: list[float] = []

        def use() -> None:
            with suppress(CkrError):
                while True:
                    at = time.monotonic()
                    sharee.encrypt(key, bytes(16))
                    began.append(at)

        user = threading.Thread(target=use)
        user.start()
        eventually(lambda: len(began) > 50)
        owner.call(m.KeyUnshareRequest(key, b"bob"))
        answered = time.monotonic()
        user.join(5)
        assert not user.is_alive()
        assert max(began) < answered


def test_a_new_password_logs_out_everywhere(mortal: Cluster) -> None:
    with mortal.hsms[0].user("carol") as here, mortal.hsms[1].user("carol") as there:
        there.aes(token=True)
        here.call(m.SetPasswordRequest(b"carol-password", b"another-password"))
        with refused(CKR.USER_NOT_LOGGED_IN):
            there.aes()
        with refused(CKR.PIN_INCORRECT):
            there.login("carol", "carol-password")
        there.login("carol", "another-password")


def test_a_new_password_unlocks_an_hsm_that_was_off(mortal: Cluster) -> None:
    second = mortal.hsms[1]
    for _ in range(5):
        with second.client() as client, refused(CKR.PIN_INCORRECT):
            client.login("bob", "not-the-password")
    second.end()
    with mortal.hsms[0].client() as client:
        client.admin().call(m.UserPasswordRequest(b"bob", 2, b"another-password"))
    second.start()
    with second.client() as client:
        client.login("bob", "another-password")


def test_lockouts_are_each_hsms_own(mortal: Cluster) -> None:
    for _ in range(5):
        with mortal.hsms[0].client() as client, refused(CKR.PIN_INCORRECT):
            client.login("bob", "not-the-password")
    with mortal.hsms[0].client() as client, refused(CKR.PIN_LOCKED):
        client.login("bob")
    with mortal.hsms[1].user("bob"):
        pass


# ---- the key availability check ----------------------------------------------------------------------------------


def alone(mortal: Cluster) -> Client:
    """The second HSM is gone, and the first has noticed."""
    mortal.hsms[1].end(signal.SIGKILL)
    time.sleep(1.2)
    return mortal.hsms[0].user("alice")


def test_one_hsm_makes_no_token_keys(mortal: Cluster) -> None:
    with mortal.hsms[0].user("alice") as client:
        wrapping = client.aes(token=True, wrap=True, unwrap=True)
        wrapped = client.wrap(wrapping, client.aes(extractable=True))
    with alone(mortal) as client:
        version = mortal.hsms[0].info().version
        for make in (
            lambda: client.aes(token=True),
            lambda: client.ec(token=True),
            lambda: client.unwrap(wrapping, wrapped, token=True),
            lambda: client.call(m.CopyObjectRequest(wrapping, ())),
        ):
            with refused(CKR.FUNCTION_FAILED):
                make()
        assert mortal.hsms[0].info().version == version
        session_key = client.aes()
        assert client.encrypt(session_key, bytes(16))
        assert client.wrap(wrapping, client.aes(extractable=True))
        client.set(wrapping, label="still works")
        client.destroy(wrapping)


def test_a_client_may_waive_the_check(mortal: Cluster) -> None:
    alone(mortal).wire.close()
    with mortal.hsms[0].user("alice", profile=2) as client:
        key = client.aes(token=True)
        assert client.get(key, CKA.TOKEN) == (b"\1",)


def test_a_revocation_waits_at_most_a_second_for_a_dead_hsm(mortal: Cluster) -> None:
    with mortal.hsms[0].user("alice") as client:
        key = client.aes(token=True)
        mortal.hsms[1].end(signal.SIGKILL)
        began = time.monotonic()
        client.destroy(key)
        assert time.monotonic() - began < 2.5


def test_keys_that_a_frozen_second_hsm_never_had_are_not_acknowledged(mortal: Cluster) -> None:
    with mortal.hsms[0].user("alice") as client:
        mortal.hsms[1].freeze()
        outcomes = set()
        for _ in range(3):
            with pytest.raises(CkrError) as caught:
                client.aes(token=True, label="never")
            outcomes.add(caught.value.rv)
        assert outcomes <= {CKR.DEVICE_ERROR, CKR.FUNCTION_FAILED}
        assert client.find(label="never") == ()
        mortal.hsms[1].running.send_signal(signal.SIGCONT)
    with mortal.hsms[1].user("alice") as there:
        eventually(lambda: there.find(label="never") == ())


REVOCATIONS: dict[str, Callable[[Client, int], object]] = {
    "unshare": lambda owner, key: owner.call(m.KeyUnshareRequest(key, b"dave")),
    "destroy": lambda owner, key: owner.destroy(key),
    "attribute": lambda owner, key: owner.set(key, encrypt=False),
    "password": lambda owner, _: _as_admin(owner, m.UserPasswordRequest(b"dave", 2, b"another-password")),
    "user": lambda owner, _: _as_admin(owner, m.UserDeleteRequest(b"dave", 2)),
}


def _dave(two: Cluster) -> Client:
    """A new user on the second HSM, whoever was called so before."""
    with two.hsms[1].client() as admin:
        admin.admin()
        with suppress(CkrError):
            admin.call(m.UserDeleteRequest(b"dave", 2))
        admin.call(m.UserCreateRequest(b"dave", 2, b"dave-password"))
    client = two.hsms[1].client()
    client.login("dave", "dave-password")
    return client


def _as_admin(owner: Client, request: object) -> None:
    owner.logout()
    owner.admin().call(request)


@pytest.fixture
def thawed(two: Cluster) -> Iterator[Cluster]:
    """Two HSMs that see each other again when the test is over."""
    yield two
    with two.hsms[0].user("alice") as client:
        client.destroy(patiently(lambda: client.aes(token=True)))


@pytest.mark.parametrize("what", REVOCATIONS)
def test_a_frozen_hsm_serves_nothing_that_was_revoked_meanwhile(thawed: Cluster, what: str) -> None:
    """The revocation is acknowledged without it, and even a request that waits in its socket then is refused."""
    frozen = thawed.hsms[1]
    with thawed.hsms[0].user("alice") as owner, _dave(thawed) as sharee:
        key = owner.aes(token=True)
        owner.call(m.KeyShareRequest(key, b"dave"))
        assert sharee.encrypt(key, bytes(16))
        served: list[bytes] = []

        def use() -> None:
            with suppress(CkrError):
                served.append(sharee.encrypt(key, bytes(16)))

        frozen.freeze()
        try:
            user = threading.Thread(target=use)
            user.start()
            began = time.monotonic()
            REVOCATIONS[what](owner, key)
            assert time.monotonic() - began < 2.5
        finally:
            frozen.thaw()
        user.join(10)
        assert not user.is_alive()
        assert served == []
        for _ in range(50):
            with pytest.raises(CkrError):
                sharee.encrypt(key, bytes(16))


def test_a_revocation_waits_for_an_hsm_that_stands_still_for_a_moment(thawed: Cluster) -> None:
    frozen = thawed.hsms[1].running
    with thawed.hsms[0].user("alice") as owner, _dave(thawed) as sharee:
        key = owner.aes(token=True)
        owner.call(m.KeyShareRequest(key, b"dave"))
        for _ in range(5):
            frozen.send_signal(signal.SIGSTOP)
            thaw = threading.Timer(0.2, frozen.send_signal, (signal.SIGCONT,))
            thaw.start()
            owner.call(m.KeyUnshareRequest(key, b"dave"))
            with refused(CKR.KEY_HANDLE_INVALID):
                sharee.encrypt(key, bytes(16))
            thaw.join()
            owner.call(m.KeyShareRequest(key, b"dave"))
            assert sharee.encrypt(key, bytes(16))


def test_kills_of_one_hsm_lose_no_acknowledged_key(mortal: Cluster) -> None:
    """Keys are made on one, the other is killed at random times; what was acknowledged is on both afterwards."""
    made: dict[int, bytes] = {}
    for round_ in range(3):
        with mortal.hsms[0].user("alice") as client:
            killer = threading.Timer(0.03 * (round_ + 1), mortal.hsms[1].running.kill)
            killer.start()
            with suppress(CkrError):
                while True:
                    key = client.secret(token=True)
                    made[key] = client.sign(key, DATA, CKM.SHA256_HMAC)
            killer.join()
            there = set(client.find())
        mortal.hsms[1].running.wait()
        mortal.hsms[1].process = None
        mortal.hsms[1].start()
        with mortal.hsms[1].user("alice") as client:
            assert set(client.find()) == there
            for key, mac in made.items():
                assert client.sign(key, DATA, CKM.SHA256_HMAC) == mac
        assert made.keys() == there
        eventually(lambda: mortal.hsms[0].info().version == mortal.hsms[1].info().version)
        time.sleep(0.5)  # both see each other


@pytest.mark.parametrize("each", [15, pytest.param(300, marks=pytest.mark.soak)])
def test_both_hsms_write_at_a_time(mortal: Cluster, each: int, tell: Callable[[str], None]) -> None:
    made: list[int] = []

    def make(hsm: int) -> None:
        with mortal.hsms[hsm].user("alice") as client:
            for _ in range(each):
                with suppress(CkrError):  # an HSM that had no time to answer for a second counts as lost
                    made.append(client.aes(token=True))

    threads = [threading.Thread(target=make, args=(number % 2,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == len(made) > 2 * each
    for hsm in mortal.hsms:
        with hsm.user("alice") as client:
            assert set(client.find()) == set(made)
        assert hsm.settled(600).vault_objects == len(made)
    tell(f"{len(made)} of {4 * each} keys acknowledged by the two HSMs: all on both, and no other")


def test_everybody_revokes_at_a_time_and_nobody_waits_for_each_other(mortal: Cluster) -> None:
    """Twelve revocations on each HSM, each of which waits for the other one to answer."""

    def churn(hsm: int) -> None:
        with mortal.hsms[hsm].user("alice") as client:
            for _ in range(3):
                client.destroy(client.aes(token=True))

    threads = [threading.Thread(target=churn, args=(number % 2,)) for number in range(24)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began < 20
    for hsm in mortal.hsms:
        with hsm.client() as client:
            client.login("admin", ADMIN, CKU.SO)
            assert client.find() == ()
