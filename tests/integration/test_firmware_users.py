"""Users as CloudHSM has them, on a real HSM process: names, passwords, roles, lockout, tickets."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from support.hsm import ADMIN, USERS, Client, Cluster, Hsm, cluster, refused

from hsmsim.errors import CkrError
from hsmsim.hsm import messages as m
from hsmsim.hsm.cryptoki import CKF, CKR, CKU

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def one(engine: str) -> Iterator[Cluster]:
    with cluster(engine=engine) as made:
        yield made


@pytest.fixture
def hsm(one: Cluster) -> Hsm:
    return one.hsms[0]


@pytest.fixture
def admin(hsm: Hsm) -> Iterator[Client]:
    with hsm.client() as client:
        yield client.admin()


def create(admin: Client, name: str, password: str = "a-good-password", role: int = 2) -> int:
    return int(admin.call(m.UserCreateRequest(name.encode(), role, password.encode())).user_id)


def names(client: Client) -> dict[str, tuple[int, int]]:
    """Name -> role and bad logins."""
    answer = client.call(m.UserListRequest())
    return {
        name.decode(): (role, failures)
        for name, role, failures in zip(answer.names, answer.roles, answer.failures, strict=True)
    }


def guess(hsm: Hsm, name: str, count: int) -> None:
    with hsm.client() as client:
        for _ in range(count):
            with refused(CKR.PIN_INCORRECT):
                client.login(name, "not-the-password")


def test_the_list_is_open_and_has_the_appliance_user(hsm: Hsm) -> None:
    with hsm.client() as client:
        listed = names(client)
    assert listed["admin"][0] == 1
    assert listed["app_user"][0] == 3
    assert listed["alice"] == (2, 0)


def test_before_activation_nobody_logs_in(engine: str) -> None:
    with cluster(engine=engine) as made:
        fresh = Cluster(made.home / "fresh", engine)
        fresh.home.mkdir()
        try:
            new = fresh.add()
            assert new.info().state == b"UNINITIALIZED"
            with new.client() as client, refused(CKR.USER_PIN_NOT_INITIALIZED):
                client.login("admin", ADMIN, CKU.SO)
        finally:
            new.end()


def test_activation_happens_once(hsm: Hsm) -> None:
    with hsm.client() as client, refused(CKR.FUNCTION_REJECTED):
        client.call(m.ActivateRequest(b"another-password"))


def test_names_are_case_insensitive_and_shown_in_lower_case(hsm: Hsm, admin: Client) -> None:
    create(admin, "Mixed_Case1", "Mixed-Password")
    assert "mixed_case1" in names(admin)
    with hsm.client() as client:
        client.login("MIXED_case1", "Mixed-Password")
    with refused(CKR.USER_TOO_MANY_TYPES):
        create(admin, "mixed_CASE1")
    with hsm.client() as client, refused(CKR.PIN_INCORRECT):
        client.login("mixed_case1", "mixed-password")  # a password is not


@pytest.mark.parametrize("name", ["", "a" * 32, "a b", "a:b", "a-b", "é", "a\n"])
def test_bad_names_are_refused(admin: Client, name: str) -> None:
    with refused(CKR.ARGUMENTS_BAD):
        create(admin, name)


def test_a_name_has_up_to_31_characters(admin: Client) -> None:
    create(admin, "n" * 31)
    assert "n" * 31 in names(admin)


@pytest.mark.parametrize(
    ("password", "code"),
    [("1234567", CKR.PIN_LEN_RANGE), ("p" * 33, CKR.PIN_LEN_RANGE), ("pass:word", CKR.PIN_INVALID)],
)
def test_bad_passwords_are_refused(admin: Client, password: str, code: CKR) -> None:
    with refused(code):
        create(admin, "never", password)
    assert "never" not in names(admin)


def test_passwords_have_8_to_32_bytes(hsm: Hsm, admin: Client) -> None:
    for name, password in (("short", "p" * 8), ("long", "p" * 32)):
        create(admin, name, password)
        with hsm.client() as client:
            client.login(name, password)


def test_only_an_admin_manages_users(hsm: Hsm) -> None:
    with hsm.user("alice") as client:
        for request in (
            m.UserCreateRequest(b"mallory", 1, b"a-good-password"),
            m.UserDeleteRequest(b"bob", 2),
            m.UserPasswordRequest(b"bob", 2, b"a-good-password"),
            m.PartitionCreateRequest(b"hers", b"a-good-password"),
        ):
            with refused(CKR.USER_NOT_LOGGED_IN):
                client.call(request)


def test_roles_log_in_as_what_they_are(hsm: Hsm) -> None:
    with hsm.client() as client:
        with refused(CKR.PIN_INCORRECT):
            client.login("alice", kind=CKU.SO)
        with refused(CKR.PIN_INCORRECT):
            client.login("admin", ADMIN)
        with refused(CKR.PIN_INCORRECT):
            client.login("app_user", "anything-at-all")
        with refused(CKR.USER_TYPE_INVALID):
            client.login("alice", kind=CKU.CONTEXT_SPECIFIC)


def test_one_login_a_client(hsm: Hsm) -> None:
    with hsm.user("alice") as client:
        with refused(CKR.USER_ALREADY_LOGGED_IN):
            client.login("bob")
        with refused(CKR.USER_ANOTHER_ALREADY_LOGGED_IN):
            client.admin()
        client.logout()
        with refused(CKR.USER_NOT_LOGGED_IN):
            client.logout()
        client.login("bob")


def test_admins_have_no_read_only_sessions(hsm: Hsm) -> None:
    with hsm.client() as client:
        client.open(2, CKF.SERIAL_SESSION)
        with refused(CKR.SESSION_READ_ONLY_EXISTS):
            client.admin()
        client.call(m.CloseSessionsRequest((2,)))
        client.admin()
        with refused(CKR.SESSION_READ_WRITE_SO_EXISTS):
            client.open(2, CKF.SERIAL_SESSION)


def test_closing_the_last_session_logs_out(hsm: Hsm) -> None:
    with hsm.user("alice") as client:
        client.call(m.CloseSessionsRequest(()))
        client.open(1)
        with refused(CKR.USER_NOT_LOGGED_IN):
            client.aes()


def test_five_bad_logins_lock_until_an_admin_sets_a_password(hsm: Hsm, admin: Client) -> None:
    create(admin, "locked")
    guess(hsm, "locked", 4)
    with hsm.client() as client:
        client.login("locked", "a-good-password")  # a good one starts the count again
    guess(hsm, "locked", 5)
    assert names(admin)["locked"] == (2, 5)
    with hsm.client() as client:
        for password in ("a-good-password", "not-the-password"):
            with refused(CKR.PIN_LOCKED):
                client.login("locked", password)
    admin.call(m.UserPasswordRequest(b"locked", 2, b"a-new-password"))
    assert names(admin)["locked"] == (2, 0)
    with hsm.client() as client:
        client.login("locked", "a-new-password")


def test_guesses_at_a_time_are_five_all_the_same(hsm: Hsm, admin: Client) -> None:
    create(admin, "raced")
    clients = [hsm.client() for _ in range(12)]

    def wrong(client: Client) -> str:
        try:
            client.login("raced", "not-the-password")
        except CkrError as error:
            return CKR(error.rv).name
        return "in"

    with ThreadPoolExecutor(len(clients)) as pool:
        answers = list(pool.map(wrong, clients))
    assert sorted(set(answers)) == ["PIN_INCORRECT", "PIN_LOCKED"]
    assert answers.count("PIN_INCORRECT") == 5
    for client in clients:
        client.wire.close()


def test_a_user_who_is_logged_in_or_owns_keys_is_not_deleted(hsm: Hsm, admin: Client) -> None:
    create(admin, "keeper")
    client = hsm.client()
    client.login("keeper", "a-good-password")
    key = client.aes(token=True)
    with refused(CKR.FUNCTION_REJECTED):
        admin.call(m.UserDeleteRequest(b"keeper", 2))
    client.logout()
    with refused(CKR.FUNCTION_REJECTED):
        admin.call(m.UserDeleteRequest(b"keeper", 2))
    client.login("keeper", "a-good-password")
    client.destroy(key)
    client.wire.close()
    delete_when_gone(hsm, admin, b"keeper")
    assert "keeper" not in names(admin)
    with hsm.client() as again, refused(CKR.PIN_INCORRECT):
        again.login("keeper", "a-good-password")


def delete_when_gone(hsm: Hsm, admin: Client, name: bytes) -> None:
    """The HSM notices a closed connection a moment later."""
    deadline = time.monotonic() + 5
    while True:
        try:
            admin.call(m.UserDeleteRequest(name, 2))
        except CkrError:
            assert time.monotonic() < deadline, hsm.log
            time.sleep(0.01)
        else:
            return


def test_the_last_admin_stays(admin: Client) -> None:
    with refused(CKR.FUNCTION_REJECTED):
        admin.call(m.UserDeleteRequest(b"admin", 1))
    with refused(CKR.FUNCTION_REJECTED):
        admin.call(m.UserDeleteRequest(b"app_user", 3))


def test_users_change_the_own_password_and_keep_nobody_in(hsm: Hsm, admin: Client) -> None:
    create(admin, "changing", "first-password")
    first, second = hsm.client(), hsm.client()
    for client in (first, second):
        client.login("changing", "first-password")
    with refused(CKR.PIN_INCORRECT):
        first.call(m.SetPasswordRequest(b"wrong-password", b"second-password"))
    with refused(CKR.FUNCTION_REJECTED):
        admin.call(m.UserPasswordRequest(b"changing", 2, b"another-password"))  # while logged in
    first.call(m.SetPasswordRequest(b"first-password", b"second-password"))
    with refused(CKR.USER_NOT_LOGGED_IN):
        second.aes()
    with refused(CKR.PIN_INCORRECT):
        second.login("changing", "first-password")
    second.login("changing", "second-password")
    for client in (first, second):
        client.wire.close()


def test_guesses_at_the_old_password_count_too(hsm: Hsm, admin: Client) -> None:
    create(admin, "quinn", "the-old-password")
    with hsm.client() as client:
        client.login("quinn", "the-old-password")
        for bad in range(1, 6):
            with refused(CKR.PIN_INCORRECT):
                client.call(m.SetPasswordRequest(b"not-the-password", b"the-new-password"))
            assert names(client)["quinn"] == (2, bad)
        with refused(CKR.PIN_LOCKED):
            client.call(m.SetPasswordRequest(b"the-old-password", b"the-new-password"))
    with hsm.client() as client, refused(CKR.PIN_LOCKED):
        client.login("quinn", "the-old-password")


def test_a_ticket_lets_the_same_process_in_until_the_password_changes(hsm: Hsm, admin: Client) -> None:
    create(admin, "ticketed", "first-password")
    with hsm.client() as client:
        ticket = client.login("ticketed", "first-password").ticket
    with hsm.client() as client:
        answer = client.call(m.LoginTicketRequest(ticket))
        assert answer.role == 2
        client.aes()
    with hsm.client() as client:
        with refused(CKR.PIN_EXPIRED):
            client.call(m.LoginTicketRequest(ticket[:-1] + bytes([ticket[-1] ^ 1])))
        with refused(CKR.PIN_EXPIRED):
            client.call(m.LoginTicketRequest(b"\1" + ticket[1:]))
        with refused(CKR.PIN_EXPIRED):
            client.call(m.LoginTicketRequest(b""))
    with hsm.client() as client:
        client.login("ticketed", "first-password")
        client.call(m.SetPasswordRequest(b"first-password", b"second-password"))
    with hsm.client() as client, refused(CKR.PIN_EXPIRED):
        client.call(m.LoginTicketRequest(ticket))


def test_partitions_are_worlds_of_their_own(hsm: Hsm, admin: Client) -> None:
    with hsm.user("alice") as client:
        key = client.aes(token=True, label="first partition's")
    admin.call(m.PartitionCreateRequest(b"Second", b"second-admins-password"))
    with refused(CKR.USER_TOO_MANY_TYPES):
        admin.call(m.PartitionCreateRequest(b"second", b"second-admins-password"))
    with hsm.client("SECOND") as second:
        second.admin("second-admins-password")
        assert names(second).keys() == {"admin", "app_user"}
        with refused(CKR.FUNCTION_REJECTED):
            second.call(m.PartitionCreateRequest(b"third", b"third-admins-password"))
        create(second, "alice", USERS["bob"])
        assert second.find() == ()
        listed = second.call(m.PartitionListRequest())
        assert listed.names == (b"", b"second")
        assert listed.keys == (2**64 - 1, 0)  # the first one's are not the second one's business
    with hsm.client("second") as second:
        with refused(CKR.PIN_INCORRECT):
            second.login("alice")  # with the password of the first partition's alice
        second.login("alice", USERS["bob"])
        assert second.find() == ()
        with refused(CKR.OBJECT_HANDLE_INVALID):
            second.destroy(key)
        with refused(CKR.KEY_HANDLE_INVALID):
            second.encrypt(key, bytes(16))
        own = second.aes(token=True)
        assert second.find() == (own,)
    with hsm.client() as client, refused(CKR.TOKEN_NOT_PRESENT):
        client.wire.connect(hsm.socket, "third")
    assert admin.call(m.PartitionListRequest()).keys[1] == 1
    hsm.settled()


def test_lockouts_logins_and_partitions_survive_a_restart(engine: str) -> None:
    with cluster(engine=engine) as made:
        hsm = made.hsms[0]
        guess(hsm, "bob", 5)
        with hsm.user("alice") as client:
            key = client.aes(token=True)
            ticket = client.login_ticket
        with hsm.client() as client:
            client.admin().call(m.PartitionCreateRequest(b"second", b"second-admins-password"))
        assert hsm.end() == 0
        hsm.start()
        with hsm.client() as client:
            with refused(CKR.PIN_LOCKED):
                client.login("bob")
            client.call(m.LoginTicketRequest(ticket))
            assert client.find() == (key,)
        with hsm.client("second") as client:
            client.admin("second-admins-password")
