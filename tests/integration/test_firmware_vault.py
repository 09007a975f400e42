"""SoftHSM2 behind the HSM: its objects follow the rows, and no state of its files costs a key."""

from __future__ import annotations

import signal
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from support.hsm import P256, Client, Hsm, cluster, refused

from hsmsim.errors import CkrError
from hsmsim.hsm import messages as m
from hsmsim.hsm.cryptoki import CKM, CKR

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ED25519 = bytes.fromhex("06032b6570")
DATA = bytes(range(32))


@pytest.fixture
def hsm(engine: str) -> Iterator[Hsm]:
    with cluster(engine=engine) as made:
        yield made.hsms[0]


def make(client: Client) -> dict[CKM, tuple[int, int]]:
    """Token keys of each kind, and what signs with them; three have a token object."""
    key = client.secret(token=True)
    return {
        CKM.ECDSA: client.ec(token=True),
        CKM.SHA256_RSA_PKCS: client.rsa(token=True),
        CKM.EDDSA: client.ec(curve=ED25519, kind=CKM.EC_EDWARDS_KEY_PAIR_GEN, token=True),
        CKM.SHA256_HMAC: (key, key),
    }


STORED = 3


def check(client: Client, keys: dict[CKM, tuple[int, int]]) -> None:
    for kind, (public, private) in keys.items():
        client.verify(public, DATA, client.sign(private, DATA, kind), kind)


def token_folder(hsm: Hsm) -> Path:
    (found,) = (hsm.folder / "tokens").iterdir()
    return found


def test_objects_follow_the_rows(hsm: Hsm) -> None:
    with hsm.user("alice") as client:
        keys = make(client)
        assert hsm.settled().vault_objects == STORED
        client.aes()  # a session object is none of SoftHSM2's token objects
        assert hsm.settled().vault_objects == STORED
        client.destroy(keys[CKM.ECDSA][1])
        assert hsm.settled().vault_objects == STORED - 1
        client.destroy(keys[CKM.ECDSA][0])
        assert hsm.settled().vault_objects == STORED - 1
    files = [path for path in token_folder(hsm).glob("*.object") if path.name != "token.object"]
    assert len(files) == STORED - 1


def test_the_vault_is_filled_after_a_start_without_one(hsm: Hsm) -> None:
    with hsm.user("alice") as client:
        keys = make(client)
    hsm.settled()
    hsm.end()
    for path in sorted((hsm.folder / "tokens").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    hsm.start()
    with hsm.user("alice") as client:
        check(client, keys)
    assert hsm.settled().vault_objects == STORED


@pytest.mark.parametrize("keep", [0, 0.5, 0.99])
def test_a_vault_cut_off_file_by_file_costs_nothing(hsm: Hsm, keep: float) -> None:
    with hsm.user("alice") as client:
        keys = make(client)
    hsm.settled()
    count = len(list(token_folder(hsm).iterdir()))
    for number in range(count):
        hsm.end(signal.SIGKILL)
        path = sorted(token_folder(hsm).iterdir())[number % len(list(token_folder(hsm).iterdir()))]
        path.write_bytes(path.read_bytes()[: int(len(path.read_bytes()) * keep)])
        hsm.start()
        with hsm.user("alice") as client:
            check(client, keys)
            client.destroy(client.aes(token=True))
        assert hsm.settled().vault_objects == STORED, f"{path.name} cut\n{hsm.log}"


def test_garbage_in_the_vault_costs_nothing(hsm: Hsm) -> None:
    with hsm.user("alice") as client:
        keys = make(client)
    hsm.settled()
    for number in range(len(list(token_folder(hsm).glob("*.object")))):
        hsm.end()
        path = sorted(token_folder(hsm).glob("*.object"))[number]
        data = bytearray(path.read_bytes())
        data[len(data) // 2 :] = bytes(byte ^ 0x55 for byte in data[len(data) // 2 :])
        path.write_bytes(data)
        hsm.start()
        with hsm.user("alice") as client:
            check(client, keys)
        assert hsm.settled().vault_objects == STORED, f"{path.name} garbled\n{hsm.log}"


def test_a_vault_from_another_time_is_brought_up_to_date(hsm: Hsm) -> None:
    """Objects without a row go, rows without an object come."""
    with hsm.user("alice") as client:
        gone = client.aes(token=True)
    hsm.settled()
    hsm.end()
    folder = token_folder(hsm)
    old = {path: path.read_bytes() for path in folder.iterdir()}
    with restarted_in_order(hsm) as client:
        client.destroy(gone)
        kept = client.secret(token=True), client.secret(token=True)
    assert hsm.settled().vault_objects == 2
    hsm.end()
    for path in folder.iterdir():
        path.unlink()
    for path, data in old.items():
        path.write_bytes(data)
    with restarted_in_order(hsm) as client:
        assert hsm.settled().vault_objects == 2
        assert client.find() == kept


def restarted_in_order(hsm: Hsm) -> Client:
    hsm.end()
    hsm.start()
    return hsm.user("alice")


def test_kills_while_keys_come_and_go_lose_no_acknowledged_key(hsm: Hsm) -> None:
    alive: dict[int, bytes] = {}
    unsure: set[int] = set()
    for round_ in range(5):
        timer = threading.Timer(0.05 + 0.04 * round_, hsm.running.kill)
        with hsm.user("alice") as client, suppress(OSError):
            timer.start()
            churn(client, alive, unsure)
        timer.join()
        hsm.running.wait()
        hsm.process = None
        hsm.start()
        with hsm.user("alice") as client:
            there = set(client.find())
            assert alive.keys() - unsure <= there, hsm.log
            for key, mac in alive.items():
                if key in there:
                    assert client.sign(key, DATA, CKM.SHA256_HMAC) == mac
            for key in unsure & alive.keys() - there:
                del alive[key]
            unsure.clear()
            everything = len(client.find())
        assert hsm.settled().vault_objects == everything
    assert len(alive) > 5


def churn(client: Client, alive: dict[int, bytes], unsure: set[int]) -> None:
    """Make keys, and destroy every third, until the HSM is gone."""
    while True:
        for _ in range(3):
            key = client.secret(token=True)
            alive[key] = client.sign(key, DATA, CKM.SHA256_HMAC)
        victim = next(iter(alive))
        unsure.add(victim)
        client.destroy(victim)
        del alive[victim]
        unsure.discard(victim)


def test_nobody_waits_for_a_token_object(hsm: Hsm) -> None:
    with hsm.user("alice") as client:
        pending = []
        for _ in range(30):
            client.ec(token=True)
            pending.append(hsm.info().vault_pending)
        with refused(CKR.KEY_HANDLE_INVALID):
            client.sign(0, DATA)
    assert max(pending) > 0  # acknowledged, and not in the vault yet
    hsm.settled()


def test_makers_at_a_time_get_keys_of_their_own(hsm: Hsm) -> None:
    made: list[int] = []

    def many() -> None:
        with hsm.user("alice") as client:
            for number in range(12):
                made.append(client.ec(curve=P256, token=number % 2 == 0)[1])
                client.aes(token=number % 3 == 0)

    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 48
    assert "SoftHSM2 does not follow" not in hsm.log
    assert hsm.settled().vault_objects == 4 * (6 + 4)


def test_each_partition_has_a_token_of_its_own(hsm: Hsm) -> None:
    with hsm.client() as client:
        client.admin()
        for name in (b"second", b"third"):
            client.call(m.PartitionCreateRequest(name, b"admins-password"))
    with hsm.client("third") as client:
        client.admin("admins-password")
        client.call(m.UserCreateRequest(b"alice", 2, b"alice-in-third"))
    with hsm.client("third") as client:
        client.login("alice", "alice-in-third")
        keys = make(client)
    assert hsm.settled().vault_objects == STORED
    assert len(list((hsm.folder / "tokens").iterdir())) == 3
    hsm.end(signal.SIGKILL)
    hsm.start()
    with hsm.client("third") as client:
        client.login("alice", "alice-in-third")
        check(client, keys)
    assert hsm.settled().vault_objects == STORED
    with pytest.raises(CkrError):
        hsm.client("fourth")
