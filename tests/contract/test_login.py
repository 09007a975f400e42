"""Logins as the module tells them: PINs, kinds of user, sessions, lockout and what C_GetTokenInfo says of it."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import pytest
from support.p11 import Module, Session, refused

from hsmsim.fleet import credentials
from hsmsim.hsm.cryptoki import CKA, CKF, CKK, CKM, CKO, CKR, CKS, CKU

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Simulator

RO, RW = CKF.SERIAL_SESSION, CKF.SERIAL_SESSION | CKF.RW_SESSION
SECRET = {CKA.CLASS: CKO.SECRET_KEY, CKA.KEY_TYPE: CKK.AES, CKA.VALUE: bytes(32)}
PASSWORD = "password of mallory"


class TokenInfo(ctypes.Structure):
    _fields_ = (
        ("label", ctypes.c_char * 32),
        ("manufacturer", ctypes.c_char * 32),
        ("model", ctypes.c_char * 16),
        ("serial", ctypes.c_char * 16),
        ("flags", ctypes.c_ulong),
        ("max_sessions", ctypes.c_ulong),
        ("sessions", ctypes.c_ulong),
        ("max_rw_sessions", ctypes.c_ulong),
        ("rw_sessions", ctypes.c_ulong),
        *((name, ctypes.c_ulong) for name in ("max_pin", "min_pin", "total_public", "free_public")),
        *((name, ctypes.c_ulong) for name in ("total_private", "free_private")),
        ("versions", ctypes.c_ubyte * 4),
        ("time", ctypes.c_char * 16),
    )


class SessionInfo(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_ulong) for name in ("slot", "state", "flags", "error"))


def token(module: Module) -> TokenInfo:
    info = TokenInfo()
    module.call("C_GetTokenInfo", module.slot, ctypes.byref(info))
    return info


def state(session: Session) -> int:
    info = SessionInfo()
    session.call("C_GetSessionInfo", ctypes.byref(info))
    assert info.slot == session.module.slot.value
    return int(info.state)


@pytest.fixture
def fresh(simulator: Simulator) -> Iterator[Module]:
    with Module(simulator.environment) as one:
        yield one


@pytest.fixture
def admin_pin(simulator: Simulator) -> str:
    users = credentials.load(simulator.places)
    return next(one.pin for one in users if one.role == "admin")


@pytest.fixture
def mallory(simulator: Simulator) -> Iterator[str]:
    simulator.run("user", "create", "mallory", "--password-file", "-", text=PASSWORD)
    yield "mallory"
    simulator.run("user", "delete", "mallory")


# ---- PINs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pin",
    ["", ":", "no colon", "nobody:at all here", "{user}:", "{user}: {password}", "{user}:{password} ", "x" * 5000],
)
def test_a_wrong_pin(fresh: Module, simulator: Simulator, pin: str) -> None:
    session = fresh.session()
    with refused(CKR.PIN_INCORRECT):
        session.login(pin.format(user=simulator.user, password=simulator.password))
    assert state(session) == CKS.RW_PUBLIC_SESSION
    session.login(simulator.ready.pin)  # which takes the count of bad ones back


def test_the_users_name_in_any_case(fresh: Module, simulator: Simulator) -> None:
    session = fresh.session()
    session.login(f"{simulator.user.upper()}:{simulator.password}")
    session.call("C_Logout")
    with refused(CKR.PIN_INCORRECT):
        session.login(f"{simulator.user}:{simulator.password.swapcase()}")
    session.login(simulator.ready.pin)


def test_name_and_password_apart(fresh: Module, simulator: Simulator) -> None:
    session = fresh.use_3_0().session()
    name, password = simulator.user.encode(), simulator.password.encode()
    with refused(CKR.ARGUMENTS_BAD):
        session.call("C_LoginUser", CKU.USER, password, len(password), None, len(name))
    with refused(CKR.ARGUMENTS_BAD):
        session.call("C_LoginUser", CKU.USER, None, len(password), name, len(name))
    for length in (65, 1 << 32, (1 << 64) - 1):
        with refused(CKR.PIN_INCORRECT):
            session.call("C_LoginUser", CKU.USER, password, len(password), name, length)
    with refused(CKR.USER_TYPE_INVALID):
        session.call("C_LoginUser", 3, password, len(password), name, len(name))
    session.call("C_LoginUser", CKU.USER, password, len(password), name, len(name))
    assert state(session) == CKS.RW_USER_FUNCTIONS
    with refused(CKR.USER_ALREADY_LOGGED_IN):
        session.call("C_LoginUser", CKU.USER, password, len(password), name, len(name))
    session.call("C_Logout")
    pin = simulator.ready.pin.encode()
    session.call("C_LoginUser", CKU.USER, pin, len(pin), None, 0)  # no name: the PIN has it


def test_kinds_of_user(fresh: Module, simulator: Simulator, admin_pin: str) -> None:
    session = fresh.session()
    for kind in (3, 99, (1 << 64) - 1):
        with refused(CKR.USER_TYPE_INVALID):
            session.login(simulator.ready.pin, kind)  # type: ignore[arg-type]
    with refused(CKR.OPERATION_NOT_INITIALIZED):
        session.login(simulator.ready.pin, CKU.CONTEXT_SPECIFIC)
    for pin, kind in ((simulator.ready.pin, CKU.SO), (admin_pin, CKU.USER)):
        with refused(CKR.PIN_INCORRECT):
            session.login(pin, kind)
    session.login(admin_pin, CKU.SO)
    assert state(session) == CKS.RW_SO_FUNCTIONS
    with refused(CKR.USER_ANOTHER_ALREADY_LOGGED_IN):
        session.login(simulator.ready.pin)
    with refused(CKR.USER_ALREADY_LOGGED_IN):
        session.login(admin_pin, CKU.SO)
    with refused(CKR.SESSION_READ_WRITE_SO_EXISTS):
        fresh.session(flags=RO)
    with refused(CKR.USER_NOT_LOGGED_IN):
        session.create(SECRET)
    session.call("C_Logout")
    with refused(CKR.USER_NOT_LOGGED_IN):
        session.call("C_Logout")
    fresh.session(flags=RO)
    with refused(CKR.SESSION_READ_ONLY_EXISTS):
        session.login(admin_pin, CKU.SO)


# ---- sessions ------------------------------------------------------------------------------------------------------


def test_one_login_is_every_sessions(fresh: Module, simulator: Simulator) -> None:
    first, second, third = fresh.session(), fresh.session(flags=RO), fresh.session()
    assert [state(one) for one in (first, second)] == [CKS.RW_PUBLIC_SESSION, CKS.RO_PUBLIC_SESSION]
    second.login(simulator.ready.pin)
    assert [state(one) for one in (first, second)] == [CKS.RW_USER_FUNCTIONS, CKS.RO_USER_FUNCTIONS]
    with refused(CKR.USER_ALREADY_LOGGED_IN):
        first.login(simulator.ready.pin)
    second.call("C_CloseSession")
    assert state(first) == CKS.RW_USER_FUNCTIONS
    third.call("C_Logout")
    assert state(first) == CKS.RW_PUBLIC_SESSION


def test_the_last_session_takes_the_login_with_it(fresh: Module, simulator: Simulator) -> None:
    for close in ("C_CloseSession", "C_CloseAllSessions"):
        one, other = fresh.session(simulator.ready.pin), fresh.session()
        if close == "C_CloseSession":
            one.call(close)
            other.call(close)
        else:
            fresh.call(close, fresh.slot)
            assert one.rv("C_CloseSession") is CKR.SESSION_HANDLE_INVALID
        again = fresh.session()
        assert state(again) == CKS.RW_PUBLIC_SESSION
        with refused(CKR.USER_NOT_LOGGED_IN):
            again.create(SECRET)
        again.call("C_CloseSession")


def test_a_read_only_session_changes_no_token_object(fresh: Module, simulator: Simulator) -> None:
    reading, writing = fresh.session(simulator.ready.pin, flags=RO), fresh.session()
    with refused(CKR.SESSION_READ_ONLY):
        reading.create(SECRET | {CKA.TOKEN: True})
    with refused(CKR.SESSION_READ_ONLY):
        reading.generate(CKM.AES_KEY_GEN, {CKA.VALUE_LEN: 32, CKA.TOKEN: True})
    made = writing.create(SECRET | {CKA.TOKEN: True})
    for name, arguments in (("change", (made, {CKA.LABEL: "no"})), ("destroy", (made,))):
        with refused(CKR.SESSION_READ_ONLY):
            getattr(reading, name)(*arguments)
    with refused(CKR.SESSION_READ_ONLY):
        reading.copy(made, {CKA.TOKEN: True})
    reading.destroy(reading.copy(made, {CKA.TOKEN: False}))
    writing.destroy(made)


def test_a_logout_ends_operations_with_keys(fresh: Module, simulator: Simulator) -> None:
    session, other = fresh.session(simulator.ready.pin), fresh.session()
    key = session.create(SECRET | {CKA.ENCRYPT: True})
    for one in (session, other):
        one.init("C_EncryptInit", CKM.AES_CTR, key, (128).to_bytes(8, "little") + bytes(16))
        assert len(one.produce("C_EncryptUpdate", b"x", 1)) == 1  # 15 bytes of key stream wait in the module
        one.init("C_DigestInit", CKM.SHA256, None)
    session.call("C_Logout")
    for one in (session, other):
        with refused(CKR.OPERATION_NOT_INITIALIZED):
            one.produce("C_EncryptUpdate", b"x", 1)
        assert len(one.produce("C_DigestFinal")) == 32
        with refused(CKR.KEY_HANDLE_INVALID):
            one.init("C_EncryptInit", CKM.AES_ECB, key)


def test_as_many_sessions_as_the_token_says(fresh: Module, simulator: Simulator) -> None:
    first = fresh.session(simulator.ready.pin)
    limit = token(fresh).max_sessions
    assert limit == 1024
    sessions = [fresh.session(flags=RO if number % 2 else RW) for number in range(limit - 1)]
    for flags in (RO, RW):
        with refused(CKR.SESSION_COUNT):
            fresh.session(flags=flags)
    info = token(fresh)
    assert (info.sessions, info.rw_sessions) == (1024, 513)
    assert state(sessions[500]) == CKS.RW_USER_FUNCTIONS
    sessions[7].call("C_CloseSession")
    fresh.session()
    fresh.call("C_CloseAllSessions", fresh.slot)
    assert token(fresh).sessions == 0
    assert first.rv("C_CloseSession") is CKR.SESSION_HANDLE_INVALID


# ---- lockout -------------------------------------------------------------------------------------------------------


def test_the_token_tells_how_near_the_lock_is(fresh: Module, simulator: Simulator, mallory: str) -> None:
    low, final, locked = CKF.USER_PIN_COUNT_LOW, CKF.USER_PIN_FINAL_TRY, CKF.USER_PIN_LOCKED
    session, every = fresh.session(), low | final | locked
    assert token(fresh).flags & every == 0
    for expected in (low, low, low, low | final):
        with refused(CKR.PIN_INCORRECT):
            session.login(f"{mallory}:not the password")
        assert token(fresh).flags & every == expected
    with Module(simulator.environment) as stranger:  # who has tried nobody
        assert token(stranger).flags & every == 0
    session.login(f"{mallory}:{PASSWORD}")
    assert token(fresh).flags & every == 0
    session.call("C_Logout")
    for _ in range(5):
        with refused(CKR.PIN_INCORRECT):
            session.login(f"{mallory}:not the password")
    assert token(fresh).flags & every == low | locked
    for password in (PASSWORD, "not the password"):
        with refused(CKR.PIN_LOCKED):
            session.login(f"{mallory}:{password}")
    session.login(simulator.ready.pin)  # others are not locked, and the flags are of whom one tried last
    assert token(fresh).flags & every == 0


def test_what_else_the_token_says(fresh: Module, simulator: Simulator) -> None:
    info = token(fresh)
    always = CKF.RNG | CKF.LOGIN_REQUIRED | CKF.USER_PIN_INITIALIZED | CKF.TOKEN_INITIALIZED
    assert info.flags == always | CKF.CLOCK_ON_TOKEN | CKF.DUAL_CRYPTO_OPERATIONS
    assert (info.min_pin, info.max_pin) == (10, 64)
    assert (info.max_sessions, info.max_rw_sessions, info.sessions, info.rw_sessions) == (1024, 1024, 0, 0)
    assert info.free_private == (1 << 64) - 1  # CK_UNAVAILABLE_INFORMATION
    assert len(bytes(info.time)) == 16
    assert bytes(info.time).isdigit()
    assert bytes(info.label) == simulator.environment["HSMSIM_TOKEN"].encode().ljust(32)


# ---- C_SetPIN ------------------------------------------------------------------------------------------------------


def test_a_user_changes_the_own_password(fresh: Module, simulator: Simulator, mallory: str) -> None:
    session, reading = fresh.session(), fresh.session(flags=RO)
    new = "a new password"

    def change(old: str, to: str, by: Session = session) -> None:
        by.call("C_SetPIN", old.encode(), len(old), to.encode(), len(to))

    with refused(CKR.USER_NOT_LOGGED_IN):
        change(PASSWORD, new)
    session.login(f"{mallory}:{PASSWORD}")
    with refused(CKR.SESSION_READ_ONLY):
        change(PASSWORD, new, reading)
    with refused(CKR.PIN_INCORRECT):
        change("not the password", new)
    for bad in ("seven77", "x" * 33):
        with refused(CKR.PIN_LEN_RANGE):
            change(PASSWORD, bad)
    with refused(CKR.PIN_INVALID):
        change(PASSWORD, f"{mallory}:with:colons")
    change(f"{mallory}:{PASSWORD}", f"{mallory}:{new}")
    assert state(session) == CKS.RW_PUBLIC_SESSION  # a new password ends every login of the user
    session.login(f"{mallory}:{new}")
    session.call("C_Logout")
    with Module(simulator.environment) as other:
        with refused(CKR.PIN_INCORRECT):
            other.session().login(f"{mallory}:{PASSWORD}")
        other.session(f"{mallory}:{new}")
