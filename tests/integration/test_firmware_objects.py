"""Objects on a real HSM process: find, read, change, copy, destroy, share; sessions and what dies with them."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import pytest
from support.hsm import ADMIN, P256, Client, Hsm, cluster, refused

from hsmsim.hsm import messages as m
from hsmsim.hsm.cryptoki import CKA, CKC, CKF, CKK, CKM, CKO, CKR, CKU
from hsmsim.hsm.wire import Attr

if TYPE_CHECKING:
    from collections.abc import Iterator

UNAVAILABLE = None
CERTIFICATE = {
    CKA.CLASS: CKO.CERTIFICATE,
    CKA.CERTIFICATE_TYPE: CKC.X_509,
    CKA.SUBJECT: b"0\0",
    CKA.VALUE: b"0\x03\x02\x01\x05",
    CKA.TOKEN: True,
}


@pytest.fixture(scope="module")
def hsm(engine: str) -> Iterator[Hsm]:
    with cluster(engine=engine) as made:
        yield made.hsms[0]


@pytest.fixture
def alice(hsm: Hsm) -> Iterator[Client]:
    with hsm.user("alice") as client:
        yield client


@pytest.fixture
def bob(hsm: Hsm) -> Iterator[Client]:
    with hsm.user("bob") as client:
        yield client


# ---- find --------------------------------------------------------------------------------------------------------


def test_find_by_what_people_search_for(alice: Client) -> None:
    public, private = alice.ec(token=True, label="found", id=b"\1\2")
    key = alice.aes(token=True, label="found", id=b"\3")
    assert alice.find(label="found") == (public, private, key)
    assert alice.find(label="found", object_class=CKO.PRIVATE_KEY) == (private,)
    assert alice.find(id=b"\1\2") == (public, private)
    assert alice.find(id=b"\1\2", label="another") == ()
    assert alice.find(key_type=CKK.EC, id=b"\1\2", sign=True) == (private,)
    assert alice.find(label="found", value_len=32) == (key,)
    assert set(alice.find(object_class=CKO.SECRET_KEY)) >= {key}
    assert set(alice.find()) >= {public, private, key}


def test_find_never_compares_key_material(alice: Client) -> None:
    key = alice.create(
        {CKA.CLASS: CKO.SECRET_KEY, CKA.KEY_TYPE: CKK.AES, CKA.VALUE: b"k" * 16, CKA.LABEL: "not by value"}
    )
    assert alice.find(label="not by value") == (key,)
    assert alice.find(label="not by value", value=b"k" * 16) == ()
    assert alice.find(label="not by value", value=bytes(16)) == ()


def test_an_attribute_that_nobody_knows_finds_nothing(alice: Client) -> None:
    alice.aes(label="plain")
    assert alice.call(m.FindRequest((Attr(0x80001234, b"x"),))).objects == ()


def test_find_by_label_among_many(bob: Client) -> None:
    made = {}
    for number in range(250):
        made[number] = bob.create(CERTIFICATE | {CKA.LABEL: f"many-{number}", CKA.TOKEN: False})
    for number, handle in made.items():
        assert bob.find(label=f"many-{number}") == (handle,)


# ---- read --------------------------------------------------------------------------------------------------------


def test_attributes_of_a_new_key_pair(alice: Client) -> None:
    public, private = alice.ec(label="pair", id=b"\7")
    assert alice.get(public, CKA.CLASS, CKA.KEY_TYPE, CKA.EC_PARAMS, CKA.VERIFY, CKA.LOCAL) == (
        CKO.PUBLIC_KEY.to_bytes(8, "little"),
        CKK.EC.to_bytes(8, "little"),
        P256,
        b"\1",
        b"\1",
    )
    point = alice.get(public, CKA.EC_POINT)[0]
    assert point is not None
    assert point[:3] == b"\x04\x41\x04"
    assert alice.get(private, CKA.SENSITIVE, CKA.ALWAYS_SENSITIVE, CKA.EXTRACTABLE, CKA.NEVER_EXTRACTABLE) == (
        b"\1",
        b"\1",
        b"\0",
        b"\1",
    )
    assert alice.get(private, CKA.KEY_GEN_MECHANISM, CKA.EC_PARAMS) == (
        CKM.EC_KEY_PAIR_GEN.to_bytes(8, "little"),
        P256,
    )


def test_what_is_not_told_is_marked_and_the_rest_is_there(alice: Client) -> None:
    key = alice.aes(label="closed")
    rv, values = alice.ask(key, CKA.LABEL, CKA.VALUE, CKA.MODULUS, CKA.VALUE_LEN)
    assert rv in (CKR.ATTRIBUTE_SENSITIVE, CKR.ATTRIBUTE_TYPE_INVALID)
    assert values == (b"closed", UNAVAILABLE, UNAVAILABLE, (32).to_bytes(8, "little"))
    assert alice.ask(key, CKA.VALUE)[0] == CKR.ATTRIBUTE_SENSITIVE
    assert alice.ask(key, CKA.MODULUS)[0] == CKR.ATTRIBUTE_TYPE_INVALID


def test_a_read_names_as_many_attributes_as_a_template_has(alice: Client) -> None:
    key = alice.aes(sensitive=False, extractable=True)
    assert len(set(alice.get(key, *[CKA.VALUE] * 256))) == 1
    with refused(CKR.ARGUMENTS_BAD):
        alice.get(key, *[CKA.VALUE] * 257)


def test_an_open_key_is_read_by_its_owner_alone(hsm: Hsm, alice: Client, bob: Client) -> None:
    value = bytes(range(16))
    key = alice.create(
        {
            CKA.CLASS: CKO.SECRET_KEY,
            CKA.KEY_TYPE: CKK.AES,
            CKA.VALUE: value,
            CKA.SENSITIVE: False,
            CKA.EXTRACTABLE: True,
            CKA.TOKEN: True,
            CKA.LABEL: "open",
        }
    )
    assert alice.get(key, CKA.LABEL, CKA.VALUE, CKA.VALUE_LEN) == (b"open", value, (16).to_bytes(8, "little"))
    alice.call(m.KeyShareRequest(key, b"bob"))
    assert bob.ask(key, CKA.VALUE) == (CKR.ATTRIBUTE_SENSITIVE, (UNAVAILABLE,))
    with hsm.client() as admin:
        admin.admin()
        assert admin.ask(key, CKA.VALUE) == (CKR.ATTRIBUTE_SENSITIVE, (UNAVAILABLE,))


def test_an_open_private_key_gives_its_numbers(alice: Client) -> None:
    _, private = alice.rsa(sensitive=False, extractable=True)
    names = (CKA.MODULUS, CKA.PRIME_1, CKA.PRIME_2, CKA.PRIVATE_EXPONENT, CKA.PUBLIC_EXPONENT)
    n, p, q, d, e = (int.from_bytes(value or b"", "big") for value in alice.get(private, *names))
    assert n == p * q
    assert e * d % math.lcm(p - 1, q - 1) == 1


# ---- who ---------------------------------------------------------------------------------------------------------


def test_an_admin_sees_that_keys_are_there_and_uses_none(hsm: Hsm, alice: Client) -> None:
    key = alice.aes(token=True, label="alice's", encrypt=True, wrap=True, derive=True)
    public, private = alice.ec(token=True, label="alice's")
    with hsm.client() as admin:
        admin.admin()
        assert admin.find(label="alice's") == (key, public, private)
        assert admin.find(label="alice's", value_len=32) == ()  # what it may not read it may not ask for
        assert admin.ask(key, CKA.CHECK_VALUE)[0] == CKR.ATTRIBUTE_SENSITIVE
        for use in (
            lambda: admin.encrypt(key, bytes(16)),
            lambda: admin.sign(private, bytes(32)),
            lambda: admin.verify(public, bytes(32), bytes(64)),
        ):
            with refused(CKR.KEY_FUNCTION_NOT_PERMITTED):
                use()
        for change in (
            lambda: admin.wrap(key, key),
            lambda: admin.destroy(key),
            lambda: admin.call(m.CopyObjectRequest(key, ())),
            lambda: admin.set(key, label="admin's"),
            lambda: admin.call(m.KeyShareRequest(key, b"bob")),
            admin.aes,
        ):
            with refused(CKR.USER_NOT_LOGGED_IN):
                change()
    assert alice.get(key, CKA.LABEL) == (b"alice's",)


def test_only_an_admin_makes_a_key_trusted(hsm: Hsm, alice: Client) -> None:
    with refused(CKR.ATTRIBUTE_READ_ONLY):
        alice.aes(token=True, trusted=True)
    key = alice.aes(token=True, wrap=True)
    with refused(CKR.ATTRIBUTE_READ_ONLY):
        alice.set(key, trusted=True)
    with hsm.client() as admin:
        admin.admin().set(key, trusted=True)
    assert alice.get(key, CKA.TRUSTED) == (b"\1",)
    copy = int(alice.call(m.CopyObjectRequest(key, ())).object)
    assert alice.get(copy, CKA.TRUSTED) == (b"\0",)


def test_others_do_not_see_private_keys_and_see_public_ones(alice: Client, bob: Client) -> None:
    public, private = alice.ec(token=True, label="not bob's")
    assert bob.find(label="not bob's") == (public,)
    with refused(CKR.KEY_HANDLE_INVALID):
        bob.sign(private, bytes(32))
    bob.verify(public, bytes(32), alice.sign(private, bytes(32)))
    with refused(CKR.ACTION_PROHIBITED):
        bob.destroy(public)


def test_a_sharee_uses_a_key_and_nothing_else(alice: Client, bob: Client) -> None:
    key = alice.aes(token=True, label="shared", encrypt=True, decrypt=True, derive=True, extractable=True)
    wrapping = bob.aes(wrap=True)
    alice.call(m.KeyShareRequest(key, b"BOB"))
    assert bob.find(label="shared") == (key,)
    assert bob.decrypt(key, bob.encrypt(key, bytes(16))) == bytes(16)
    derive = m.DeriveKeyRequest(m.Mechanism(CKM.SP800_108_COUNTER_KDF, m.Sp800108Params(CKM.SHA256_HMAC, ())), key, ())
    for request in (
        m.DestroyObjectRequest(key),
        m.CopyObjectRequest(key, ()),
        m.SetAttributesRequest(key, (Attr(CKA.LABEL, b"bob's"),)),
        m.KeyShareRequest(key, b"carol"),
        m.KeyUnshareRequest(key, b"bob"),
        m.WrapKeyRequest(m.Mechanism(CKM.AES_KEY_WRAP_PAD), wrapping, key),
        derive,
    ):
        with refused(CKR.ACTION_PROHIBITED):
            bob.call(request)
    users = alice.call(m.KeyUsersRequest(key))
    assert (users.owner, users.shared) == (b"alice", (b"bob",))
    alice.call(m.KeyUnshareRequest(key, b"bob"))
    assert bob.find(label="shared") == ()
    with refused(CKR.KEY_HANDLE_INVALID):
        bob.encrypt(key, bytes(16))
    assert alice.encrypt(key, bytes(16))


def test_sharing_wants_another_crypto_user_and_a_token_key(alice: Client) -> None:
    key = alice.aes(token=True)
    for name in (b"nobody", b"admin", b"alice"):
        with refused(CKR.ARGUMENTS_BAD):
            alice.call(m.KeyShareRequest(key, name))
    with refused(CKR.ARGUMENTS_BAD):
        alice.call(m.KeyShareRequest(alice.aes(), b"bob"))
    with refused(CKR.ARGUMENTS_BAD):
        alice.call(m.KeyUnshareRequest(key, b"bob"))


def test_without_a_login_public_objects_are_there_and_nothing_is_made(hsm: Hsm, alice: Client) -> None:
    public, private = alice.ec(token=True, label="for all")
    signature = alice.sign(private, bytes(32))
    with hsm.client() as client:
        assert client.find(label="for all") == (public,)
        client.verify(public, bytes(32), signature)
        with refused(CKR.KEY_HANDLE_INVALID):
            client.sign(private, bytes(32))
        with refused(CKR.USER_NOT_LOGGED_IN):
            client.aes()
        with refused(CKR.USER_NOT_LOGGED_IN):
            client.create(CERTIFICATE)
        with refused(CKR.USER_NOT_LOGGED_IN):
            client.destroy(public)


# ---- change, copy, destroy ---------------------------------------------------------------------------------------


def test_attributes_only_get_stricter(alice: Client) -> None:
    key = alice.aes(token=True, sensitive=False, extractable=True)
    alice.set(key, sensitive=True, extractable=False, wrap_with_trusted=True, label="new", id=b"\5", decrypt=False)
    assert alice.get(key, CKA.LABEL, CKA.ID, CKA.DECRYPT) == (b"new", b"\5", b"\0")
    assert alice.get(key, CKA.ALWAYS_SENSITIVE, CKA.NEVER_EXTRACTABLE) == (b"\0", b"\0")
    assert alice.find(label="new", id=b"\5") == (key,)
    with refused(CKR.KEY_FUNCTION_NOT_PERMITTED):
        alice.decrypt(key, bytes(16))
    for name in ("sensitive", "wrap_with_trusted"):
        with refused(CKR.ATTRIBUTE_READ_ONLY):
            alice.set(key, **{name: False})
    with refused(CKR.ATTRIBUTE_READ_ONLY):
        alice.set(key, extractable=True)
    for name, value in (("token", False), ("local", False), ("key_type", CKK.RSA), ("value_len", 16)):
        with refused(CKR.ATTRIBUTE_READ_ONLY):
            alice.set(key, **{name: value})


def test_a_change_is_whole_or_not_at_all(alice: Client) -> None:
    key = alice.aes(label="before")
    with refused(CKR.ATTRIBUTE_READ_ONLY):
        alice.set(key, label="after", sensitive=False)
    assert alice.get(key, CKA.LABEL) == (b"before",)


def test_modifiable_copyable_and_destroyable_are_kept(alice: Client) -> None:
    key = alice.aes(token=True, modifiable=False, copyable=False, destroyable=False)
    with refused(CKR.ACTION_PROHIBITED):
        alice.set(key, label="no")
    with refused(CKR.ACTION_PROHIBITED):
        alice.call(m.CopyObjectRequest(key, ()))
    with refused(CKR.ACTION_PROHIBITED):
        alice.destroy(key)


def test_a_copy_is_of_the_same_key_and_never_laxer(alice: Client) -> None:
    key = alice.aes(label="first", extractable=True)
    copy = int(alice.call(m.CopyObjectRequest(key, (Attr(CKA.LABEL, b"second"), Attr(CKA.EXTRACTABLE, b"\0")))).object)
    assert copy != key
    assert alice.get(copy, CKA.LABEL, CKA.EXTRACTABLE) == (b"second", b"\0")
    assert alice.decrypt(copy, alice.encrypt(key, b"0123456789abcdef")) == b"0123456789abcdef"
    with refused(CKR.ATTRIBUTE_READ_ONLY):
        alice.call(m.CopyObjectRequest(copy, (Attr(CKA.EXTRACTABLE, b"\1"),)))
    with refused(CKR.ATTRIBUTE_READ_ONLY):
        alice.call(m.CopyObjectRequest(key, (Attr(CKA.VALUE, bytes(32)),)))


def test_read_only_sessions_leave_token_objects_alone(alice: Client) -> None:
    alice.open(9, CKF.SERIAL_SESSION)
    key = alice.aes(token=True)
    with refused(CKR.SESSION_READ_ONLY):
        alice.aes(token=True, session=9)
    with refused(CKR.SESSION_READ_ONLY):
        alice.call(m.DestroyObjectRequest(key), 9)
    with refused(CKR.SESSION_READ_ONLY):
        alice.call(m.SetAttributesRequest(key, (Attr(CKA.LABEL, b"x"),)), 9)
    session_key = alice.aes(session=9)
    alice.call(m.SetAttributesRequest(session_key, (Attr(CKA.LABEL, b"x"),)), 9)
    with refused(CKR.SESSION_HANDLE_INVALID):
        alice.call(m.FindRequest(()), 77)


def test_a_destroyed_key_is_gone(alice: Client) -> None:
    key = alice.aes(token=True, label="short life")
    assert alice.encrypt(key, bytes(16))
    alice.destroy(key)
    with refused(CKR.KEY_HANDLE_INVALID):
        alice.encrypt(key, bytes(16))
    with refused(CKR.OBJECT_HANDLE_INVALID):
        alice.destroy(key)
    with refused(CKR.OBJECT_HANDLE_INVALID):
        alice.get(key, CKA.LABEL)
    assert alice.find(label="short life") == ()
    assert alice.aes(token=True) > key  # handles are not given twice


def test_session_objects_die_with_session_login_or_client(hsm: Hsm, alice: Client) -> None:
    alice.open(5)
    in_five, in_one = alice.aes(label="mine", session=5), alice.aes(label="mine")
    public = alice.create(CERTIFICATE | {CKA.TOKEN: False, CKA.LABEL: "public"})
    with hsm.user("alice") as other:
        assert other.find(label="mine") == ()  # another application of the same user
        with refused(CKR.KEY_HANDLE_INVALID):
            other.encrypt(in_one, bytes(16))
    alice.call(m.CloseSessionsRequest((5,)))
    assert alice.find(label="mine") == (in_one,)
    with refused(CKR.KEY_HANDLE_INVALID):
        alice.encrypt(in_five, bytes(16))
    alice.logout()
    alice.login("alice")
    assert alice.find(label="mine") == ()
    assert alice.find(label="public") == (public,)


def test_certificates_and_data(alice: Client, bob: Client) -> None:
    certificate = alice.create(CERTIFICATE | {CKA.LABEL: "cert", CKA.ID: b"\1"})
    assert bob.get(certificate, CKA.VALUE, CKA.LABEL) == (b"0\x03\x02\x01\x05", b"cert")
    assert bob.find(value=b"0\x03\x02\x01\x05", object_class=CKO.CERTIFICATE) == (certificate,)
    data = alice.create({CKA.CLASS: CKO.DATA, CKA.VALUE: b"text", CKA.LABEL: "data", CKA.TOKEN: True})
    assert alice.get(data, CKA.VALUE, CKA.PRIVATE) == (b"text", b"\1")
    assert bob.find(label="data") == ()
    with refused(CKR.ATTRIBUTE_READ_ONLY):
        alice.set(data, value=b"changed")
    assert alice.get(data, CKA.VALUE) == (b"text",)
    with refused(CKR.KEY_HANDLE_INVALID):
        alice.encrypt(certificate, bytes(16))


def test_key_facts(alice: Client) -> None:
    _, private = alice.ec(token=True, decrypt=False, derive=False)
    facts = alice.call(m.KeyFactsRequest(private))
    assert (facts.class_, facts.key_type, facts.bits) == (CKO.PRIVATE_KEY, CKK.EC, 256)
    assert facts.usage == 1 << 2
    assert facts.flags == 1 | 2
    key = alice.aes(length=16, allowed_mechanisms=(CKM.AES_GCM, CKM.AES_CTR))
    facts = alice.call(m.KeyFactsRequest(key))
    assert (facts.bits, facts.allowed, facts.flags) == (128, (CKM.AES_GCM, CKM.AES_CTR), 1)
    with refused(CKR.KEY_HANDLE_INVALID):
        alice.call(m.KeyFactsRequest(1))


def test_the_cloudhsm_profile_has_other_defaults(hsm: Hsm) -> None:
    with hsm.user("alice", profile=1) as client:
        key = client.aes(token=True)
        assert client.get(key, CKA.ENCRYPT, CKA.SIGN, CKA.EXTRACTABLE) == (b"\0", b"\1", b"\1")
        with refused(CKR.ATTRIBUTE_VALUE_INVALID):
            client.aes(private=False)
        with refused(CKR.ATTRIBUTE_TYPE_INVALID):
            client.aes(copyable=True)


def test_token_info_tells_the_truth(alice: Client) -> None:
    alice.open(40, CKF.SERIAL_SESSION)
    info = alice.call(m.TokenInfoRequest())
    assert (info.sessions, info.rw_sessions, info.max_sessions) == (2, 1, 1024)
    assert info.flags & CKF.USER_PIN_INITIALIZED
    assert info.flags & CKF.LOGIN_REQUIRED
    alice.call(m.OpenSessionsRequest(tuple(range(100, 1122)), (CKF.SERIAL_SESSION | CKF.RW_SESSION,) * 1022))
    with refused(CKR.SESSION_COUNT):
        alice.open(2000)
    assert alice.call(m.TokenInfoRequest()).sessions == 1024


def _wait_for_no_session(hsm: Hsm) -> None:
    """The HSM sees a client go a moment after the client has gone."""
    deadline = time.monotonic() + 10
    while hsm.info().sessions:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_client_that_dies_leaves_nothing(hsm: Hsm) -> None:
    _wait_for_no_session(hsm)
    with hsm.client() as client:
        client.login("alice")
        client.aes()
        assert hsm.info().sessions == 1
        client.wire.close()
    _wait_for_no_session(hsm)
    with hsm.client() as admin:
        admin.login("admin", ADMIN, CKU.SO)
