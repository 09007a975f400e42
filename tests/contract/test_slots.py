"""Slots and tokens: one unless there are partitions, there and gone with the HSMs, and who is told."""

from __future__ import annotations

import ctypes
import json
import threading
from typing import TYPE_CHECKING

from support.p11 import Module, refused

from hsmsim.hsm.cryptoki import CKA, CKF, CKK, CKO, CKR

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest
    from conftest import Simulator

FIRST = 0x2000000000000001  # AWS's
INFO_FLAGS = 96  # offset of CK_SLOT_INFO.flags


def slots(module: Module, *, present: bool = True) -> list[int]:
    """By the two calls that a careful program makes."""
    count = ctypes.c_ulong(99)
    module.call("C_GetSlotList", ctypes.c_ubyte(present), None, ctypes.byref(count))
    listed = (ctypes.c_ulong * max(1, count.value))()
    module.call("C_GetSlotList", ctypes.c_ubyte(present), listed, ctypes.byref(count))
    return list(listed[: count.value])


def slot_flags(module: Module) -> int:
    info = ctypes.create_string_buffer(112)
    module.call("C_GetSlotInfo", module.slot, info)
    return int.from_bytes(info.raw[INFO_FLAGS : INFO_FLAGS + 8], "little")


def test_one_slot_for_who_asks_for_one(module: Module) -> None:
    slot, count = ctypes.c_ulong(), ctypes.c_ulong(1)
    module.call("C_GetSlotList", ctypes.c_ubyte(1), ctypes.byref(slot), ctypes.byref(count))
    assert (slot.value, count.value) == (FIRST, 1)
    count.value = 0
    with refused(CKR.BUFFER_TOO_SMALL):
        module.call("C_GetSlotList", ctypes.c_ubyte(1), ctypes.byref(slot), ctypes.byref(count))
    assert count.value == 1
    assert slots(module) == slots(module, present=False) == [FIRST]
    assert slot_flags(module) == CKF.TOKEN_PRESENT | CKF.REMOVABLE_DEVICE | CKF.HW_SLOT


def test_the_mechanism_list(module: Module) -> None:
    count = ctypes.c_ulong()
    module.call("C_GetMechanismList", module.slot, None, ctypes.byref(count))
    listed, room = (ctypes.c_ulong * count.value)(), ctypes.c_ulong(count.value - 1)
    with refused(CKR.BUFFER_TOO_SMALL):
        module.call("C_GetMechanismList", module.slot, listed, ctypes.byref(room))
    assert room.value == count.value
    module.call("C_GetMechanismList", module.slot, listed, ctypes.byref(room))
    assert len(set(listed)) == count.value


# ---- partitions ----------------------------------------------------------------------------------------------------


def test_partitions_are_slots(new_simulator: Callable[..., Simulator], tmp_path: Path) -> None:
    one = new_simulator()
    password = tmp_path / "password"
    password.write_text("payments password")
    one.run("partition", "create", "payments", "--password-file", str(password))
    admin = ("--partition", "payments", "--admin-password-file", str(password))
    one.run("user", "create", "alice", "--password-file", str(password), *admin)
    config = tmp_path / "pkcs11.cfg"
    to = ("configure-pkcs11", "--output", str(config))
    one.run(*to)
    one.run(*to, "--add-cluster", "--partition", "payments", "--label", "payments")
    one.run(*to, "--add-cluster", "--partition", "nowhere", "--label", "nowhere")
    with Module({**one.environment, "HSMSIM_PKCS11_CONFIG": str(config)}, start=False) as module:
        module.call("C_Initialize", None)
        assert slots(module) == [FIRST, FIRST + 1]
        assert slots(module, present=False) == [FIRST, FIRST + 1, FIRST + 2]
        slot, count = ctypes.c_ulong(), ctypes.c_ulong(1)
        with refused(CKR.BUFFER_TOO_SMALL):
            module.call("C_GetSlotList", ctypes.c_ubyte(1), ctypes.byref(slot), ctypes.byref(count))
        assert (slot.value, count.value) == (0, 2)
        module.slot.value = FIRST + 1
        theirs = module.session()
        module.slot.value = FIRST
        ours = module.session(one.ready.pin)
        with refused(CKR.PIN_INCORRECT):
            theirs.login(one.ready.pin)
        theirs.login("alice:payments password")
        key = {CKA.CLASS: CKO.SECRET_KEY, CKA.KEY_TYPE: CKK.AES, CKA.VALUE: bytes(32), CKA.TOKEN: True}
        mine, other = ours.create(key), theirs.create(key)
        assert ours.find({CKA.CLASS: CKO.SECRET_KEY}) == [mine]
        assert theirs.find({CKA.CLASS: CKO.SECRET_KEY}) == [other]
        for session, handle in ((ours, other), (theirs, mine)):
            with refused(CKR.OBJECT_HANDLE_INVALID):
                session.attribute(handle, CKA.CLASS)
        serials = []
        for number in range(2):
            info = ctypes.create_string_buffer(256)
            module.call("C_GetTokenInfo", FIRST + number, info)
            assert info.raw[:32].rstrip() == (b"hsmsim", b"payments")[number]
            serials.append(info.raw[80:96])
        assert serials[0] != serials[1]
        with refused(CKR.TOKEN_NOT_PRESENT):
            module.call("C_GetTokenInfo", FIRST + 2, ctypes.create_string_buffer(256))
        theirs.call("C_Logout")
        ours.attribute(mine, CKA.CLASS)  # a logout is one slot's


# ---- HSMs that go and come -----------------------------------------------------------------------------------------


def test_a_token_that_is_not_there(new_simulator: Callable[..., Simulator]) -> None:
    one = new_simulator(hsms=1)
    one.stop(0)
    with Module(one.environment, start=False) as module:
        module.call("C_Initialize", None)
        module.slot.value = FIRST
        assert slots(module) == []
        assert slots(module, present=False) == [FIRST]
        assert slot_flags(module) == CKF.REMOVABLE_DEVICE | CKF.HW_SLOT
        with refused(CKR.TOKEN_NOT_PRESENT):
            module.call("C_GetTokenInfo", module.slot, ctypes.create_string_buffer(256))
        with refused(CKR.TOKEN_NOT_PRESENT):
            module.session()
        module.call("C_GetMechanismList", module.slot, None, ctypes.byref(ctypes.c_ulong()))
        module.call("C_CloseAllSessions", module.slot)
        one.start(0)
        assert slots(module) == [FIRST]
        session = module.session(one.ready.pin)
        one.stop(0)
        with refused(CKR.DEVICE_REMOVED):
            session.find({})
        session.call("C_CloseSession")  # always works: it is the program's


def test_events(new_simulator: Callable[..., Simulator], capfd: pytest.CaptureFixture[str]) -> None:
    one = new_simulator(hsms=1)
    found = ctypes.c_ulong()
    with Module(one.environment) as module:

        def wait(flags: int = CKF.DONT_BLOCK) -> CKR:
            found.value = 0
            return module.rv("C_WaitForSlotEvent", flags, ctypes.byref(found), None)

        assert wait() is CKR.NO_EVENT  # what C_GetSlotList found is no news
        one.stop(0)
        assert wait() is CKR.OK
        assert found.value == FIRST
        assert wait() is CKR.NO_EVENT
        starting = threading.Thread(target=one.start, args=(0,))
        starting.start()
        assert wait(0) is CKR.OK  # blocks until it is back
        assert found.value == FIRST
        assert slots(module) == [FIRST]
        starting.join()
        assert wait() is CKR.NO_EVENT
    assert capfd.readouterr().err.count("no HSM of") == 1  # however often it was looked


def test_a_new_life_has_no_old_events(new_simulator: Callable[..., Simulator]) -> None:
    one = new_simulator(hsms=1)
    with Module(one.environment) as module:
        module.call("C_Finalize", None)
        one.stop(0)
        module.call("C_Initialize", None)
        assert slots(module) == []
        assert module.rv("C_WaitForSlotEvent", CKF.DONT_BLOCK, ctypes.byref(module.slot), None) is CKR.NO_EVENT


def test_c_finalize_wakes_who_waits(simulator: Simulator) -> None:
    module = Module(simulator.environment)
    answers: list[CKR] = []
    together = threading.Barrier(4)

    def wait() -> None:
        together.wait()
        answers.append(module.rv("C_WaitForSlotEvent", 0, ctypes.byref(ctypes.c_ulong()), None))

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    together.wait()
    module.call("C_Finalize", None)
    module.call("C_Initialize", None)  # at once: who waited belongs to the life before, or came after and waits on
    module.call("C_Finalize", None)
    for thread in threads:
        thread.join(10)
    assert answers == [CKR.CRYPTOKI_NOT_INITIALIZED] * 3


def test_another_profile_has_no_events(simulator: Simulator, tmp_path: Path) -> None:
    config = json.loads(simulator.places.module_config.read_text())
    config["hsmsim"]["profile"] = "cloudhsm"
    path = tmp_path / "pkcs11.cfg"
    path.write_text(json.dumps(config))
    with Module({**simulator.environment, "HSMSIM_PKCS11_CONFIG": str(path)}) as module:
        rv = module.rv("C_WaitForSlotEvent", CKF.DONT_BLOCK, ctypes.byref(module.slot), None)
        assert rv is CKR.FUNCTION_NOT_SUPPORTED
