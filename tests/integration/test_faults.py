"""Faults that a person asks of an HSM: what the HSM then does, and what its clients see (DESIGN D13)."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select
from support.hsm import Client, Cluster, Hsm, cluster, eventually, patiently, refused

from hsmsim import faults
from hsmsim.errors import CkrError
from hsmsim.faults import Cut, Disk, Faults
from hsmsim.hsm import messages as m
from hsmsim.hsm.cryptoki import CKR
from hsmsim.storage.database import Database
from hsmsim.storage.tables import AUDIT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Suffer = Callable[[Faults], Hsm]

DATA = bytes(32)


@pytest.fixture(scope="module")
def pair(engine: str) -> Iterator[Cluster]:
    with cluster(hsms=2, engine=engine, check=True) as made:
        yield made


@pytest.fixture
def suffer(pair: Cluster) -> Iterator[Suffer]:
    """Have the second HSM suffer; afterwards both are well again and see each other."""
    second = pair.hsms[1]

    def store(wanted: Faults) -> Hsm:
        faults.store(second.folder / faults.FILE, wanted)
        return second

    yield store
    store(Faults())
    for hsm in pair.hsms:
        with hsm.user("alice") as client:
            client.destroy(patiently(lambda: client.aes(token=True)))


def impatient(hsm: Hsm) -> Client:
    """A client that waits for one second."""
    client = hsm.user("alice")
    client.wire._socket.settimeout(1)
    return client


def test_a_slow_hsm_takes_its_time_for_every_request(pair: Cluster, suffer: Suffer) -> None:
    with pair.hsms[1].user("alice") as client:
        _, key = client.ec()
        suffer(Faults(slow_us=200_000))
        for call in (lambda: client.sign(key, DATA), lambda: client.find(label="none")):
            began = time.monotonic()
            call()
            assert time.monotonic() - began >= 0.2
        suffer(Faults())
        client.sign(key, DATA)


def test_a_request_that_is_lost_has_no_answer_and_the_box_still_has_its_lights(pair: Cluster, suffer: Suffer) -> None:
    with impatient(pair.hsms[1]) as client:
        hsm = suffer(Faults(drop_ppm=faults.MILLION))
        with pytest.raises(TimeoutError):
            client.find(label="none")
        assert hsm.info().state == b"ACTIVE"


def test_some_requests_are_lost_and_the_others_answered(pair: Cluster, suffer: Suffer) -> None:
    answered = 0
    with ExitStack() as stack:
        clients = [stack.enter_context(pair.hsms[1].client()) for _ in range(24)]
        suffer(Faults(drop_ppm=faults.MILLION // 2))
        for client in clients:
            client.wire._socket.settimeout(0.5)
            with suppress(TimeoutError):
                client.call(m.TokenInfoRequest())
                answered += 1
    assert 0 < answered < 24


def test_cut_off_from_clients_it_still_backs_the_other(pair: Cluster, suffer: Suffer) -> None:
    first, second = pair.hsms
    with first.user("alice") as client, impatient(second) as lost:
        suffer(Faults(cut=Cut.CLIENTS))
        with pytest.raises(TimeoutError):
            lost.find(label="none")
        key = client.aes(token=True, label="backed")  # acknowledged: on the second HSM, too
        suffer(Faults())
        with second.user("alice") as healed:
            assert healed.find(label="backed") == (key,)


def test_cut_off_from_its_peers_it_serves_by_the_database(pair: Cluster, suffer: Suffer) -> None:
    first, second = pair.hsms
    with first.user("alice") as client, second.user("alice") as other:
        _, key = patiently(lambda: other.ec(token=True))
        suffer(Faults(cut=Cut.PEERS))
        time.sleep(1.5)  # longer than a lease
        assert len(other.sign(key, DATA)) == 64
        with pytest.raises(CkrError) as alone:
            client.aes(token=True, label="alone")
        assert alone.value.rv in {CKR.FUNCTION_FAILED, CKR.DEVICE_ERROR}
        assert client.find(label="alone") == ()


def test_cut_off_from_the_database_it_signs_and_does_not_write(pair: Cluster, suffer: Suffer) -> None:
    first, second = pair.hsms
    with first.user("alice") as client, second.user("alice") as other:
        _, key = patiently(lambda: other.ec(token=True))
        suffer(Faults(cut=Cut.DATABASE))
        time.sleep(1.5)
        assert len(other.sign(key, DATA)) == 64
        with refused(CKR.DEVICE_ERROR):
            other.aes(token=True, label="unwritten")
        suffer(Faults())
        eventually(lambda: client.find(label="unwritten") == other.find(label="unwritten") == ())


def test_cut_off_from_both_it_serves_nothing_and_uses_no_right_that_is_revoked_meanwhile(
    pair: Cluster, suffer: Suffer
) -> None:
    first, second = pair.hsms
    with first.user("alice") as owner, second.user("bob") as sharee:
        key = patiently(lambda: owner.aes(token=True))
        owner.call(m.KeyShareRequest(key, b"bob"))
        assert sharee.encrypt(key, bytes(16))
        suffer(Faults(cut=Cut.PEERS | Cut.DATABASE))
        owner.call(m.KeyUnshareRequest(key, b"bob"))
        for _ in range(20):
            with pytest.raises(CkrError) as told:
                sharee.encrypt(key, bytes(16))
            assert told.value.rv in {CKR.DEVICE_ERROR, CKR.KEY_HANDLE_INVALID}
        suffer(Faults())
        eventually(lambda: _code(lambda: sharee.encrypt(key, bytes(16))) == CKR.KEY_HANDLE_INVALID)


def _code(call: Callable[[], object]) -> int:
    try:
        call()
    except CkrError as error:
        return error.rv
    return CKR.OK


@pytest.mark.parametrize("disk", [Disk.FULL, Disk.READ_ONLY])
def test_without_a_disk_it_signs_and_refuses_to_write(pair: Cluster, suffer: Suffer, disk: Disk) -> None:
    first, second = pair.hsms
    with first.user("alice") as client, second.user("alice") as other:
        _, key = patiently(lambda: other.ec(token=True))
        suffer(Faults(disk=disk))
        with refused(CKR.DEVICE_ERROR):
            other.aes(token=True, label=f"unwritten-{disk}")
        assert len(other.sign(key, DATA)) == 64
        suffer(Faults())
        made = patiently(lambda: other.aes(token=True, label=f"written-{disk}"))
        assert client.find(label=f"written-{disk}") == (made,)
        assert client.find(label=f"unwritten-{disk}") == ()


def test_a_clock_that_jumps_dates_the_audit_log_and_nothing_else(pair: Cluster, suffer: Suffer) -> None:
    with pair.hsms[1].user("alice") as client:
        key = patiently(lambda: client.aes(token=True))
        suffer(Faults(clock_s=86_400))
        before = time.time()
        client.destroy(key)
        client.sign(client.ec()[1], DATA)
    database = Database(pair.database_url)
    with database.read() as connection:
        query = select(AUDIT.c.time).where(AUDIT.c.hsm_id == pair.hsms[1].hsm_id, AUDIT.c.handle == key)
        last = max(connection.execute(query).scalars())
    database.close()
    assert before + 86_400 <= last / 1_000_000 <= time.time() + 86_400


def test_faults_last_over_a_restart(engine: str) -> None:
    with cluster(engine=engine) as made:
        [hsm] = made.hsms
        faults.store(hsm.folder / faults.FILE, Faults(slow_us=200_000))
        hsm.end()
        hsm.start()
        began = time.monotonic()
        with hsm.user("alice"):
            assert time.monotonic() - began >= 0.4  # HELLO and LOGIN


def test_the_vault_catches_up_when_there_is_a_disk_again(pair: Cluster, suffer: Suffer) -> None:
    first, second = pair.hsms
    with first.user("alice") as client:
        patiently(lambda: client.aes(token=True))
        before = second.settled().vault_objects
        suffer(Faults(disk=Disk.FULL))
        time.sleep(0.5)
        handles = [client.aes(token=True) for _ in range(3)]  # acknowledged: the second HSM has the rows
        eventually(lambda: second.info().vault_pending == len(handles), 20)
        suffer(Faults())
        assert second.settled().vault_objects == before + len(handles)
