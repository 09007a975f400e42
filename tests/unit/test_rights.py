"""Who may see, use and change what: the decisions alone."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from hsmsim.cluster.model import ROLE_ADMIN, ROLE_APPLIANCE_USER, ROLE_CRYPTO_USER, ObjectRow
from hsmsim.hsm.cryptoki import CKA, CKK, CKM, CKO, CKR
from hsmsim.hsm.firmware import rights, values
from hsmsim.hsm.firmware.rights import What, Who

OWNER, SHAREE, OTHER, ADMIN = 17, 18, 19, 20
HERE, THERE = 1, 2
CLIENT, ELSEWHERE = 5, 6


def who(user: int, role: int = ROLE_CRYPTO_USER, *, partition: int = HERE, client: int = CLIENT) -> Who:
    return Who(client, partition, user, role)


def what(*, private: bool = True, client: int = 0, **attributes: Any) -> What:
    given = {CKA[name.upper()]: value for name, value in attributes.items()}
    row = ObjectRow(33, HERE, OWNER, CKO.SECRET_KEY, CKK.AES, private, values.pack(given), b"masked")
    return What(row, client, frozenset({SHAREE}))


NOBODY = who(0, 0)
PEOPLE = {
    "owner": who(OWNER),
    "sharee": who(SHAREE),
    "other": who(OTHER),
    "admin": who(ADMIN, ROLE_ADMIN),
    "appliance": who(21, ROLE_APPLIANCE_USER),
    "nobody": NOBODY,
    "owner's number as an admin": who(OWNER, ROLE_ADMIN),
    "owner's number in another partition": who(OWNER, partition=THERE),
    "admin of another partition": who(ADMIN, ROLE_ADMIN, partition=THERE),
}


@pytest.mark.parametrize(
    ("private", "expected"),
    [
        (True, {"owner", "sharee", "admin", "owner's number as an admin"}),
        (False, PEOPLE.keys() - {"owner's number in another partition", "admin of another partition"}),
    ],
)
def test_who_sees_a_token_object(private: bool, expected: set[str]) -> None:  # noqa: FBT001 - a parameter of the test
    assert {name for name, one in PEOPLE.items() if rights.visible(one, what(private=private))} == expected


def test_session_objects_exist_for_their_client_only() -> None:
    mine = what(private=False, client=CLIENT)
    assert rights.visible(who(OWNER), mine)
    assert not rights.visible(who(OWNER, client=ELSEWHERE), mine)
    assert not rights.visible(who(ADMIN, ROLE_ADMIN, client=ELSEWHERE), mine)


def test_only_the_owner_owns() -> None:
    assert {name for name, one in PEOPLE.items() if rights.owns(one, what())} == {
        "owner",
        "owner's number in another partition",  # who does not see it: every use asks visible() first
    }


def test_users_are_owner_and_sharees() -> None:
    assert rights.users(what()) == (OWNER, SHAREE)


def test_usage_bits_follow_key_facts() -> None:
    assert rights.usage_bits({CKA.ENCRYPT: True, CKA.SIGN: True, CKA.DERIVE: True, CKA.WRAP: False}) == 0b1_0000_0101


@pytest.mark.parametrize(
    ("person", "answer"),
    [
        ("owner", None),
        ("sharee", None),
        ("other", CKR.KEY_HANDLE_INVALID),
        ("admin", CKR.KEY_FUNCTION_NOT_PERMITTED),
        ("appliance", CKR.KEY_HANDLE_INVALID),
        ("nobody", CKR.KEY_HANDLE_INVALID),
        ("owner's number in another partition", CKR.KEY_HANDLE_INVALID),
    ],
)
def test_who_uses_a_private_key(person: str, answer: CKR | None) -> None:
    assert rights.why_not(PEOPLE[person], what(encrypt=True), CKA.ENCRYPT, CKM.AES_ECB) is answer


def test_a_key_is_used_for_what_it_is_for() -> None:
    key = what(encrypt=True, decrypt=False)
    assert rights.why_not(who(OWNER), key, CKA.DECRYPT, CKM.AES_ECB) is CKR.KEY_FUNCTION_NOT_PERMITTED
    assert rights.why_not(who(OWNER), key, CKA.SIGN, CKM.AES_CMAC) is CKR.KEY_FUNCTION_NOT_PERMITTED


def test_allowed_mechanisms_bind() -> None:
    key = what(encrypt=True, allowed_mechanisms=CKM.AES_GCM.to_bytes(8, "little"))
    assert rights.why_not(who(OWNER), key, CKA.ENCRYPT, CKM.AES_GCM) is None
    assert rights.why_not(who(OWNER), key, CKA.ENCRYPT, CKM.AES_ECB) is CKR.MECHANISM_INVALID


def test_a_missing_key_and_an_invisible_one_look_the_same() -> None:
    assert rights.why_not(who(OWNER), None, CKA.SIGN, CKM.ECDSA) is CKR.KEY_HANDLE_INVALID
    assert rights.why_not(who(OTHER), what(sign=True), CKA.SIGN, CKM.ECDSA) is CKR.KEY_HANDLE_INVALID


def test_the_secret_is_the_owners_and_only_of_an_open_key() -> None:
    for sensitive, extractable, person in product((True, False), (True, False), PEOPLE):
        key = what(sensitive=sensitive, extractable=extractable)
        readable = rights.may_read_secret(PEOPLE[person], key, values.unpack(key.row.attributes))
        assert readable == (not sensitive and extractable and rights.owns(PEOPLE[person], key)), person


def test_a_key_that_does_not_say_is_closed() -> None:
    assert not rights.may_read_secret(who(OWNER), what(), {})


def test_an_admin_reads_what_identifies_a_private_object_and_no_more() -> None:
    admin = PEOPLE["admin"]
    assert rights.may_read(admin, what(), CKA.LABEL)
    assert rights.may_read(admin, what(), CKA.TRUSTED)
    assert not rights.may_read(admin, what(), CKA.CHECK_VALUE)
    assert not rights.may_read(admin, what(), CKA.VALUE_LEN)
    assert rights.may_read(admin, what(private=False), CKA.MODULUS)
    assert rights.may_read(who(SHAREE), what(), CKA.CHECK_VALUE)
