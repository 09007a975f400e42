"""Objects through the module: finding, reading, changing and copying them, and what they say of their past."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.keywrap import aes_key_wrap_with_padding
from support.p11 import Attribute, Module, Session, refused

from hsmsim.hsm.cryptoki import CKA, CKK, CKM, CKO, CKR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Simulator

P256 = bytes.fromhex("06082a8648ce3d030107")
GONE = (1 << 64) - 1  # CK_UNAVAILABLE_INFORMATION
TRUE, FALSE = b"\1", b"\0"
AES = {CKA.CLASS: CKO.SECRET_KEY, CKA.KEY_TYPE: CKK.AES, CKA.VALUE: bytes(range(32))}


@pytest.fixture
def session(module: Module, session: Session) -> Iterator[Session]:
    """A session of the test's own under the module's login: the objects of a test go with it."""
    assert session.module is module
    one = module.session()
    yield one
    one.call("C_CloseSession")


def data(session: Session, label: str, **more: bytes | bool) -> int:
    values = {CKA.CLASS: CKO.DATA, CKA.LABEL: label, CKA.APPLICATION: "contract", CKA.VALUE: label.encode()}
    return session.create(values | {CKA[name]: value for name, value in more.items()})


# ---- find ----------------------------------------------------------------------------------------------------------


def test_templates_find_what_matches_every_row(session: Session) -> None:
    aes = session.create(AES | {CKA.LABEL: "one", CKA.ID: b"\1"})
    public, private = session.pair(CKM.EC_KEY_PAIR_GEN, {CKA.EC_PARAMS: P256, CKA.LABEL: "one"}, {CKA.ID: b"\1"})
    ours = {CKA.TOKEN: False}
    assert set(session.find({})) >= {aes, public, private}
    assert set(session.find(ours)) == {aes, public, private}
    assert set(session.find(ours | {CKA.LABEL: "one"})) == {aes, public}
    assert set(session.find(ours | {CKA.ID: b"\1"})) == {aes, private}
    assert session.find(ours | {CKA.CLASS: CKO.PUBLIC_KEY, CKA.LABEL: "one"}) == [public]
    assert session.find(ours | {CKA.CLASS: CKO.SECRET_KEY, CKA.KEY_TYPE: CKK.AES}) == [aes]
    assert session.find(ours | {CKA.EC_PARAMS: P256, CKA.CLASS: CKO.PRIVATE_KEY}) == [private]
    assert session.find(ours | {CKA.LABEL: "on"}) == []
    assert session.find(ours | {CKA.VALUE: AES[CKA.VALUE]}) == []  # a search is no oracle for a secret


@pytest.mark.parametrize("chunk", [1, 7, 250, 1000])
def test_results_come_in_chunks(session: Session, chunk: int) -> None:
    made = {data(session, f"{number}") for number in range(250)}
    found = session.find({CKA.APPLICATION: "contract"}, chunk=chunk)
    assert len(found) == 250
    assert set(found) == made


def test_a_find_goes_on_while_objects_vanish(session: Session) -> None:
    made = [data(session, f"{number}") for number in range(20)]
    template, _kept = session.template({CKA.APPLICATION: "contract"})
    session.call("C_FindObjectsInit", template, 1)
    session.destroy(*made[5:])
    handles, count = (ctypes.c_ulong * 100)(), ctypes.c_ulong()
    session.call("C_FindObjects", handles, 100, ctypes.byref(count))
    assert set(made[:5]) <= set(handles[: count.value]) <= set(made)
    session.call("C_FindObjects", handles, 100, ctypes.byref(count))
    assert count.value == 0
    session.call("C_FindObjectsFinal")
    for gone in made[5:]:
        with refused(CKR.OBJECT_HANDLE_INVALID):
            session.attribute(gone, CKA.LABEL)


def test_one_find_a_session(module: Module, session: Session) -> None:
    session.call("C_FindObjectsInit", None, 0)
    assert session.rv("C_FindObjectsInit", None, 0) is CKR.OPERATION_ACTIVE
    other = module.session()
    other.find({})
    other.call("C_CloseSession")
    session.call("C_FindObjectsFinal")
    session.find({})


# ---- read ----------------------------------------------------------------------------------------------------------


def read(session: Session, handle: int, *asked: tuple[int, int | None]) -> tuple[CKR, list[tuple[int, bytes]]]:
    """C_GetAttributeValue for (type, room); room None: no buffer. The code, and length and bytes of each row."""
    buffers = [None if room is None else ctypes.create_string_buffer(b"?" * room, room) for _, room in asked]
    rows = (Attribute * len(asked))(
        *(
            Attribute(name, None if buffer is None else ctypes.addressof(buffer), room or 0)
            for (name, room), buffer in zip(asked, buffers, strict=True)
        )
    )
    rv = session.rv("C_GetAttributeValue", handle, rows, len(asked))
    return rv, [(row.length, b"" if buffer is None else buffer.raw) for row, buffer in zip(rows, buffers, strict=True)]


def test_every_row_that_can_be_filled_is(session: Session) -> None:
    key = session.create(AES | {CKA.LABEL: "label", CKA.ID: b"id"})
    fine = (CKA.LABEL, 5), (CKA.ID, None), (CKA.VALUE_LEN, 8)
    filled = [(5, b"label"), (2, b""), (8, (32).to_bytes(8, "little"))]
    assert read(session, key, *fine) == (CKR.OK, filled)
    for bad, answer, code in (
        ((CKA.VALUE, 32), (GONE, b"?" * 32), CKR.ATTRIBUTE_SENSITIVE),
        ((CKA.VALUE, None), (GONE, b""), CKR.ATTRIBUTE_SENSITIVE),
        ((CKA.MODULUS, 8), (GONE, b"?" * 8), CKR.ATTRIBUTE_TYPE_INVALID),
        ((0x7FFFFFFF, None), (GONE, b""), CKR.ATTRIBUTE_TYPE_INVALID),
        ((CKA.LABEL, 4), (GONE, b"????"), CKR.BUFFER_TOO_SMALL),
    ):
        for at in range(4):
            asked = [*fine[:at], bad, *fine[at:]]
            assert read(session, key, *asked) == (code, [*filled[:at], answer, *filled[at:]])
    every = read(session, key, (CKA.VALUE, 32), (CKA.LABEL, 1), (CKA.MODULUS, 8), (CKA.ID, 2))
    assert every[0] in {CKR.ATTRIBUTE_SENSITIVE, CKR.BUFFER_TOO_SMALL, CKR.ATTRIBUTE_TYPE_INVALID}
    assert [length for length, _ in every[1]] == [GONE, GONE, GONE, 2]


def test_a_value_that_may_be_read_is(session: Session) -> None:
    key = session.create(AES | {CKA.SENSITIVE: False, CKA.EXTRACTABLE: True})
    assert session.attribute(key, CKA.VALUE) == AES[CKA.VALUE]
    session.change(key, {CKA.SENSITIVE: True})
    with refused(CKR.ATTRIBUTE_SENSITIVE):
        session.attribute(key, CKA.VALUE)


def test_a_template_inside_an_attribute(session: Session) -> None:
    inner, _kept = session.template({CKA.LABEL: "unwrapped", CKA.EXTRACTABLE: False})
    key = session.create(AES | {CKA.UNWRAP: True, CKA.UNWRAP_TEMPLATE: bytes(inner)})
    assert read(session, key, (CKA.UNWRAP_TEMPLATE, None))[1] == [(2 * ctypes.sizeof(Attribute), b"")]
    text = ctypes.create_string_buffer(9)
    rows = (Attribute * 2)(Attribute(0, ctypes.addressof(text), 9), Attribute(0, None, 0))
    outer = Attribute(CKA.UNWRAP_TEMPLATE, ctypes.addressof(rows), ctypes.sizeof(rows))
    session.call("C_GetAttributeValue", key, ctypes.byref(outer), 1)
    assert [(row.type, row.length) for row in rows] == [(CKA.LABEL, 9), (CKA.EXTRACTABLE, 1)]
    assert text.raw == b"unwrapped"


def test_object_sizes(session: Session) -> None:
    size = ctypes.c_ulong()
    sizes = []
    for label in ("x", "x" * 101):
        session.call("C_GetObjectSize", data(session, label), ctypes.byref(size))
        sizes.append(size.value)
    assert sizes[1] - sizes[0] >= 200  # label and value


# ---- change and copy -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [False, True])
@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        ({CKA.VALUE: b"another"}, CKR.ATTRIBUTE_READ_ONLY),
        ({CKA.CLASS: CKO.DATA}, CKR.ATTRIBUTE_READ_ONLY),
        ({CKA.LOCAL: True}, CKR.ATTRIBUTE_READ_ONLY),
        ({CKA.NEVER_EXTRACTABLE: True}, CKR.ATTRIBUTE_READ_ONLY),
        ({CKA.TRUSTED: True}, CKR.ATTRIBUTE_READ_ONLY),
        ({CKA.EXTRACTABLE: True}, CKR.ATTRIBUTE_READ_ONLY),
        ({CKA.MODULUS_BITS: 2048}, CKR.ATTRIBUTE_TYPE_INVALID),
        ({CKA.ENCRYPT: b"no bool"}, CKR.ATTRIBUTE_VALUE_INVALID),
    ],
)
def test_a_change_is_all_or_nothing(
    session: Session, bad: dict[CKA, bytes | bool | int], expected: CKR, *, token: bool
) -> None:
    key = session.create(AES | {CKA.LABEL: "before", CKA.ENCRYPT: False, CKA.TOKEN: token})
    try:
        good = {CKA.LABEL: "after", CKA.ENCRYPT: True}
        for changes in (good | bad, bad | {name: value for name, value in good.items() if name not in bad}):
            with refused(expected):
                session.change(key, changes)
            assert session.attribute(key, CKA.LABEL) == b"before"
            assert session.attribute(key, CKA.ENCRYPT) == FALSE
        session.change(key, {CKA.LABEL: "after", CKA.ENCRYPT: True})
        assert session.find({CKA.LABEL: "after", CKA.TOKEN: token}) == [key]
        session.init("C_EncryptInit", CKM.AES_ECB, key)
        session.call("C_EncryptInit", None, 0)
    finally:
        session.destroy(key)


def test_a_copy(session: Session) -> None:
    key = session.create(AES | {CKA.LABEL: "first", CKA.ENCRYPT: True, CKA.EXTRACTABLE: True})
    copied = session.copy(key, {CKA.LABEL: "second", CKA.EXTRACTABLE: False})
    assert session.attribute(copied, CKA.LABEL) == b"second"
    assert session.attribute(key, CKA.LABEL) == b"first"
    assert session.attribute(copied, CKA.EXTRACTABLE) == FALSE
    assert session.attribute(copied, CKA.UNIQUE_ID) != session.attribute(key, CKA.UNIQUE_ID)
    block = bytes(16)
    assert session.whole("Encrypt", CKM.AES_ECB, copied, block) == session.whole("Encrypt", CKM.AES_ECB, key, block)
    for laxer in ({CKA.EXTRACTABLE: True}, {CKA.SENSITIVE: False}, {CKA.VALUE: bytes(32)}, {CKA.KEY_TYPE: CKK.DES3}):
        with refused(CKR.ATTRIBUTE_READ_ONLY):
            session.copy(copied, laxer)
    kept = session.create(AES | {CKA.COPYABLE: False})
    with refused(CKR.ACTION_PROHIBITED):
        session.copy(kept, {})


def test_what_an_object_forbids(session: Session) -> None:
    fixed = session.create(AES | {CKA.MODIFIABLE: False})
    with refused(CKR.ACTION_PROHIBITED):
        session.change(fixed, {CKA.LABEL: "new"})
    other = session.module.session()
    kept = other.create(AES | {CKA.DESTROYABLE: False})
    with refused(CKR.ACTION_PROHIBITED):
        other.destroy(kept)
    assert kept in session.find({})
    other.call("C_CloseSession")  # which no attribute outlives
    assert kept not in session.find({})


def test_a_login_for_each_use_is_refused(session: Session) -> None:
    """CKA_ALWAYS_AUTHENTICATE would be a promise that nobody keeps."""
    with refused(CKR.ATTRIBUTE_VALUE_INVALID):
        session.pair(CKM.EC_KEY_PAIR_GEN, {CKA.EC_PARAMS: P256}, {CKA.ALWAYS_AUTHENTICATE: True})
    private = session.pair(CKM.EC_KEY_PAIR_GEN, {CKA.EC_PARAMS: P256}, {CKA.ALWAYS_AUTHENTICATE: False})[1]
    assert session.attribute(private, CKA.ALWAYS_AUTHENTICATE) == FALSE
    with refused(CKR.ATTRIBUTE_READ_ONLY):
        session.change(private, {CKA.ALWAYS_AUTHENTICATE: True})


# ---- the past of a key ---------------------------------------------------------------------------------------------

PAST = (CKA.LOCAL, CKA.ALWAYS_SENSITIVE, CKA.NEVER_EXTRACTABLE)


def past(session: Session, handle: int) -> tuple[bytes, ...]:
    return tuple(session.attribute(handle, name) for name in PAST)


@pytest.mark.parametrize(
    ("sensitive", "extractable", "expected"),
    [
        (True, False, (TRUE, TRUE, TRUE)),
        (True, True, (TRUE, TRUE, FALSE)),
        (False, False, (TRUE, FALSE, TRUE)),
        (False, True, (TRUE, FALSE, FALSE)),
    ],
)
def test_a_keys_past_is_told(
    session: Session, expected: tuple[bytes, ...], *, sensitive: bool, extractable: bool
) -> None:
    said = {CKA.SENSITIVE: sensitive, CKA.EXTRACTABLE: extractable}
    key = session.generate(CKM.AES_KEY_GEN, {CKA.VALUE_LEN: 32, CKA.DERIVE: True} | said)
    assert past(session, key) == expected
    assert past(session, session.copy(key, {})) == expected  # LOCAL: generated locally, "or as a copy of such" (4.10)
    session.change(key, {CKA.SENSITIVE: True, CKA.EXTRACTABLE: False})
    assert past(session, key) == expected
    assert past(session, session.copy(key, {})) == expected
    # derived: LOCAL is false, and the rest is true only if it was for the base key (5.14.5)
    salt = ctypes.create_string_buffer(b"salt")
    hkdf = b"\1\1" + bytes(6) + int(CKM.SHA256).to_bytes(8, "little")
    hkdf += (2).to_bytes(8, "little") + ctypes.addressof(salt).to_bytes(8, "little") + (4).to_bytes(8, "little")
    hkdf += bytes(24)
    made = {CKA.CLASS: CKO.SECRET_KEY, CKA.KEY_TYPE: CKK.AES, CKA.VALUE_LEN: 16}
    strict = session.derive(CKM.HKDF_DERIVE, key, made | {CKA.SENSITIVE: True, CKA.EXTRACTABLE: False}, hkdf)
    assert past(session, strict) == (FALSE, *expected[1:])
    lax = session.derive(CKM.HKDF_DERIVE, key, made | {CKA.SENSITIVE: False, CKA.EXTRACTABLE: True}, hkdf)
    assert past(session, lax) == (FALSE, FALSE, FALSE)


def test_keys_from_outside_have_no_good_past(session: Session) -> None:
    strict = {CKA.SENSITIVE: True, CKA.EXTRACTABLE: False}
    wrapping = session.create(AES | {CKA.UNWRAP: True})
    wrapped = aes_key_wrap_with_padding(bytes(range(32)), bytes(16))
    made = {CKA.CLASS: CKO.SECRET_KEY, CKA.KEY_TYPE: CKK.AES}
    for key in (session.create(AES | strict), session.unwrap(CKM.AES_KEY_WRAP_KWP, wrapping, wrapped, made | strict)):
        assert past(session, key) == (FALSE, FALSE, FALSE)
        assert past(session, session.copy(key, {})) == (FALSE, FALSE, FALSE)
        assert int.from_bytes(session.attribute(key, CKA.KEY_GEN_MECHANISM), "little") == GONE
    for name in PAST:
        with refused(CKR.ATTRIBUTE_READ_ONLY):
            session.create(AES | {name: True})
    pair = session.pair(CKM.EC_KEY_PAIR_GEN, {CKA.EC_PARAMS: P256}, strict)
    assert past(session, pair[1]) == (TRUE, TRUE, TRUE)
    assert session.attribute(pair[0], CKA.LOCAL) == TRUE
    assert int.from_bytes(session.attribute(pair[1], CKA.KEY_GEN_MECHANISM), "little") == CKM.EC_KEY_PAIR_GEN


# ---- another HSM ---------------------------------------------------------------------------------------------------


def test_handles_are_the_same_on_the_other_hsm(new_simulator: Callable[..., Simulator]) -> None:
    one = new_simulator()
    with Module(one.environment) as module:
        session, *_ = module.session(one.ready.pin), module.session(), module.session()
        token = {CKA.TOKEN: True, CKA.LABEL: "token"}
        key = session.create(AES | token | {CKA.ENCRYPT: True})
        public, private = session.pair(CKM.EC_KEY_PAIR_GEN, {CKA.EC_PARAMS: P256} | token, token)
        session_key = session.create(AES)
        expected = session.whole("Encrypt", CKM.AES_ECB, key, bytes(16))
        unique = session.attribute(private, CKA.UNIQUE_ID)
        one.kill(one.home())
        assert set(session.find({CKA.LABEL: "token"})) == {key, public, private}
        assert session.whole("Encrypt", CKM.AES_ECB, key, bytes(16)) == expected
        assert session.attribute(private, CKA.UNIQUE_ID) == unique
        session.verify(CKM.ECDSA, public, bytes(32), session.whole("Sign", CKM.ECDSA, private, bytes(32)))
        with refused(CKR.OBJECT_HANDLE_INVALID):  # a session object was the dead HSM's
            session.attribute(session_key, CKA.LABEL)
