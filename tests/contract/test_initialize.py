"""C_Initialize, C_Finalize, and how a program comes by the function lists."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.p11 import FUNCTIONS, FunctionList30, Interface, Module

from hsmsim.hsm.cryptoki import CKA, CKF, CKO, CKR

if TYPE_CHECKING:
    from conftest import Simulator


class InitializeArgs(ctypes.Structure):
    _fields_ = (
        ("create", ctypes.c_void_p),
        ("destroy", ctypes.c_void_p),
        ("lock", ctypes.c_void_p),
        ("unlock", ctypes.c_void_p),
        ("flags", ctypes.c_ulong),
        ("reserved", ctypes.c_void_p),
    )


@ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_void_p)
def mutex(_: object) -> int:
    raise AssertionError("the module uses the system's locks")


MUTEX = ctypes.cast(mutex, ctypes.c_void_p).value
OS = CKF.OS_LOCKING_OK


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (InitializeArgs(), CKR.OK),
        (InitializeArgs(flags=OS), CKR.OK),
        (InitializeArgs(flags=OS | CKF.LIBRARY_CANT_CREATE_OS_THREADS), CKR.OK),
        (InitializeArgs(MUTEX, MUTEX, MUTEX, MUTEX, OS), CKR.OK),
        (InitializeArgs(MUTEX, MUTEX, MUTEX, MUTEX), CKR.CANT_LOCK),
        (InitializeArgs(MUTEX, None, None, None, OS), CKR.ARGUMENTS_BAD),
        (InitializeArgs(MUTEX, MUTEX, MUTEX, None, OS), CKR.ARGUMENTS_BAD),
        (InitializeArgs(flags=OS, reserved=MUTEX), CKR.ARGUMENTS_BAD),
    ],
)
def test_arguments(simulator: Simulator, arguments: InitializeArgs, expected: CKR) -> None:
    module = Module(simulator.environment, start=False)
    assert module.rv("C_Initialize", ctypes.byref(arguments)) is expected
    answer = CKR.CRYPTOKI_ALREADY_INITIALIZED if expected is CKR.OK else CKR.OK
    assert module.rv("C_Initialize", None) is answer


def test_a_life_after_c_finalize(simulator: Simulator) -> None:
    module = Module(simulator.environment)
    session = module.session(simulator.ready.pin)
    module.call("C_Finalize", None)
    assert module.rv("C_Finalize", None) is CKR.CRYPTOKI_NOT_INITIALIZED
    assert session.rv("C_Logout") is CKR.CRYPTOKI_NOT_INITIALIZED
    module.call("C_Initialize", None)
    assert session.rv("C_Logout") is CKR.SESSION_HANDLE_INVALID
    module.call("C_GetSlotList", ctypes.c_ubyte(1), ctypes.byref(module.slot), ctypes.byref(ctypes.c_ulong(1)))
    module.session(simulator.ready.pin).create({CKA.CLASS: CKO.DATA})
    module.call("C_Finalize", None)


def test_nothing_is_opened_before_it_is_needed(simulator: Simulator) -> None:
    """A server loads and initialises the module, then forks: nothing may exist that a child would share or lack."""

    def opened() -> tuple[int, int]:
        sockets = [one for one in Path("/proc/self/fd").iterdir() if "socket:" in _target(one)]
        return len(sockets), len(list(Path("/proc/self/task").iterdir()))

    before = opened()
    module = Module(simulator.environment, start=False)
    module.call("C_Initialize", None)
    count = ctypes.c_ulong(1)
    module.call("C_GetSlotList", ctypes.c_ubyte(0), ctypes.byref(module.slot), ctypes.byref(count))
    assert opened() == before
    module.call("C_GetMechanismList", module.slot, None, ctypes.byref(count))  # depends on the cluster's mode
    module.session()
    assert opened() == (before[0] + 1, before[1])
    module.call("C_Finalize", None)
    assert opened() == before


def _target(path: Path) -> str:
    try:
        return str(path.readlink())
    except FileNotFoundError:  # the descriptor of the listing itself
        return ""


# ---- interfaces, 3.0 5.4.5 and 5.4.6 -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unused(simulator: Simulator) -> Module:
    """Interfaces are there before C_Initialize."""
    return Module(simulator.environment, start=False)


def interface(module: Module, name: bytes | None, version: tuple[int, int] | None, flags: int = 0) -> Interface:
    found = ctypes.POINTER(Interface)()
    wanted = None if version is None else (ctypes.c_ubyte * 2)(*version)
    rv = CKR(module.library.C_GetInterface(name, wanted, ctypes.byref(found), ctypes.c_ulong(flags)))
    assert rv in {CKR.OK, CKR.FUNCTION_FAILED}
    if rv is not CKR.OK:
        raise LookupError
    made: Interface = found.contents
    return made


def test_the_interface_list(unused: Module) -> None:
    count = ctypes.c_ulong()
    assert unused.library.C_GetInterfaceList(None, ctypes.byref(count)) == CKR.OK
    assert count.value == 2
    listed = (Interface * 2)()
    for room in (0, 1):
        count.value = room
        assert unused.library.C_GetInterfaceList(listed, ctypes.byref(count)) == CKR.BUFFER_TOO_SMALL
        assert count.value == 2
    assert unused.library.C_GetInterfaceList(listed, ctypes.byref(count)) == CKR.OK
    assert [(one.name, tuple(one.functions.contents.version), one.flags) for one in listed] == [
        (b"PKCS 11", (3, 0), 0),
        (b"PKCS 11", (2, 40), 0),
    ]
    assert unused.library.C_GetInterfaceList(None, None) == CKR.ARGUMENTS_BAD


@pytest.mark.parametrize(
    ("name", "version", "expected"),
    [
        (None, None, (3, 0)),
        (b"PKCS 11", None, (3, 0)),
        (b"PKCS 11", (3, 0), (3, 0)),
        (b"PKCS 11", (2, 40), (2, 40)),
        (None, (2, 40), (2, 40)),
    ],
)
def test_an_interface(
    unused: Module, name: bytes | None, version: tuple[int, int] | None, expected: tuple[int, int]
) -> None:
    found = interface(unused, name, version)
    functions: FunctionList30 = found.functions.contents
    assert tuple(functions.version) == expected
    assert all(getattr(functions, one) for one in FUNCTIONS)


@pytest.mark.parametrize(
    ("name", "version", "flags"),
    [
        (b"PKCS 11", (3, 2), 0),
        (b"PKCS 11", (2, 20), 0),
        (b"pkcs 11", None, 0),
        (b"Vendor hsmsim", None, 0),
        # a child of a fork does not go on with its parent's sessions and logins, which is what this would promise
        (None, None, CKF.INTERFACE_FORK_SAFE),
    ],
)
def test_an_interface_that_is_not_there(
    unused: Module, name: bytes | None, version: tuple[int, int] | None, flags: int
) -> None:
    with pytest.raises(LookupError):
        interface(unused, name, version, flags)


def test_the_library_exports_nothing_else(simulator: Simulator) -> None:
    library = ctypes.CDLL(simulator.environment["HSMSIM_MODULE"])
    for name in ("C_Sign", "session_enter", "json_parse", "entry_C_Sign"):
        assert not hasattr(library, name)
