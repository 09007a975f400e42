"""The module as a C program sees it: the function list, called through ctypes.

Every Module is an instance of its own (a copy of the file), whatever else this process has loaded.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
import tomllib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

from hsmsim.hsm.cryptoki import CKA, CKF, CKM, CKR, CKU

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).resolve().parents[2]
_TABLE = tomllib.loads((ROOT / "native/tables/functions.toml").read_text())
FUNCTIONS = tuple(_TABLE["2.40"])
FUNCTIONS_3_0 = (*FUNCTIONS, *_TABLE["3.0"])
Value = bool | int | bytes | str


class Mechanism(ctypes.Structure):
    _fields_ = (("mechanism", ctypes.c_ulong), ("parameter", ctypes.c_void_p), ("length", ctypes.c_ulong))


class Attribute(ctypes.Structure):
    _fields_ = (("type", ctypes.c_ulong), ("value", ctypes.c_void_p), ("length", ctypes.c_ulong))


class FunctionList(ctypes.Structure):
    _fields_ = (("version", ctypes.c_ubyte * 2), *((name, ctypes.c_void_p) for name in FUNCTIONS))


class FunctionList30(ctypes.Structure):
    _fields_ = (("version", ctypes.c_ubyte * 2), *((name, ctypes.c_void_p) for name in FUNCTIONS_3_0))


class Interface(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("functions", ctypes.POINTER(FunctionList30)), ("flags", ctypes.c_ulong))


def structure(*fields: int | bytes | ctypes.Array[ctypes.c_char] | None) -> bytes:
    """A parameter structure of CK_ULONGs and pointers; bytes are put in as they are."""
    out = b""
    for field in fields:
        if isinstance(field, bytes):
            out += field
        elif isinstance(field, int):
            out += field.to_bytes(8, "little")
        else:
            out += (0 if field is None else ctypes.addressof(field)).to_bytes(8, "little")
    return out


def encoded(value: Value) -> bytes:
    if isinstance(value, bool):
        return bytes([value])
    if isinstance(value, int):
        return value.to_bytes(8, "little")
    return value.encode() if isinstance(value, str) else value


class RefusedError(Exception):
    def __init__(self, name: str, rv: int) -> None:
        super().__init__(f"{name}: {CKR(rv).name}")
        self.rv = CKR(rv)


@contextmanager
def refused(rv: CKR) -> Iterator[None]:
    """A block in which a call must be answered with this code."""
    with pytest.raises(RefusedError) as caught:
        yield
    assert caught.value.rv is rv, f"{caught.value}, {rv.name} expected"


_PROTOTYPE = ctypes.CFUNCTYPE(ctypes.c_ulong)
_READ = ("HSMSIM_PKCS11_CONFIG", "XDG_CONFIG_HOME", "HOME")


@contextmanager
def environment_of(environment: Mapping[str, str]) -> Iterator[None]:
    """What the module reads of its environment, set for a moment."""
    before = {name: os.environ.get(name) for name in _READ}
    wanted = {name: environment.get(name) for name in _READ}
    try:
        _set_environment(wanted)
        yield
    finally:
        _set_environment(before)


def _set_environment(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


class Module:
    """start=False: C_Initialize is the test's to call."""

    def __init__(self, environment: Mapping[str, str], *, start: bool = True) -> None:
        self.environment = environment
        with tempfile.NamedTemporaryFile(suffix=".so") as copy:
            shutil.copyfile(environment["HSMSIM_MODULE"], copy.name)
            self.library = ctypes.CDLL(copy.name)
        listed = ctypes.POINTER(FunctionList)()
        assert self.library.C_GetFunctionList(ctypes.byref(listed)) == CKR.OK
        self.slot = ctypes.c_ulong()
        self.functions = {name: _PROTOTYPE(getattr(listed.contents, name)) for name in FUNCTIONS}
        if start:
            self.call("C_Initialize", None)
            self.call("C_GetSlotList", ctypes.c_ubyte(1), ctypes.byref(self.slot), ctypes.byref(ctypes.c_ulong(1)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.call("C_Finalize", None)

    def __del__(self) -> None:
        self.functions["C_Finalize"](None)  # a test that failed leaves no client behind

    def use_3_0(self) -> Self:
        """Call through the function list of 3.0 from here on."""
        found = ctypes.POINTER(Interface)()
        assert self.library.C_GetInterface(None, None, ctypes.byref(found), ctypes.c_ulong(0)) == CKR.OK
        listed = found.contents.functions.contents
        self.functions = {name: _PROTOTYPE(getattr(listed, name)) for name in FUNCTIONS_3_0}
        return self

    def rv(self, name: str, *arguments: Any) -> CKR:
        if name == "C_Initialize":  # the one that reads the environment
            with environment_of(self.environment):
                return self._rv(name, *arguments)
        return self._rv(name, *arguments)

    def _rv(self, name: str, *arguments: Any) -> CKR:
        return CKR(self.functions[name](*(ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments)))

    def call(self, name: str, *arguments: Any) -> None:
        rv = self.rv(name, *arguments)
        if rv is not CKR.OK:
            raise RefusedError(name, rv)

    def session(self, pin: str | None = None, *, flags: int = CKF.SERIAL_SESSION | CKF.RW_SESSION) -> Session:
        handle = ctypes.c_ulong()
        self.call("C_OpenSession", self.slot, flags, None, None, ctypes.byref(handle))
        session = Session(self, handle.value)
        if pin is not None:
            session.login(pin)
        return session


class Session:
    def __init__(self, module: Module, handle: int) -> None:
        self.module, self.handle = module, handle

    def rv(self, name: str, *arguments: Any) -> CKR:
        return self.module.rv(name, self.handle, *arguments)

    def call(self, name: str, *arguments: Any) -> None:
        self.module.call(name, self.handle, *arguments)

    def login(self, pin: str, kind: CKU = CKU.USER) -> None:
        raw = pin.encode()
        self.call("C_Login", kind, raw, len(raw))

    # ---- objects

    def template(self, values: Mapping[CKA, Value]) -> tuple[ctypes.Array[Attribute], list[Any]]:
        kept = [ctypes.create_string_buffer(encoded(v), max(1, len(encoded(v)))) for v in values.values()]
        rows = [
            Attribute(name, ctypes.addressof(buffer), len(encoded(value)))
            for (name, value), buffer in zip(values.items(), kept, strict=True)
        ]
        return (Attribute * len(rows))(*rows), kept

    def create(self, values: Mapping[CKA, Value]) -> int:
        return self._make("C_CreateObject", values)

    def _make(self, name: str, values: Mapping[CKA, Value], *before: Any) -> int:
        """A function that ends with a template and the handle of a new object."""
        template, _kept = self.template(values)
        handle = ctypes.c_ulong()
        self.call(name, *before, template, len(values), ctypes.byref(handle))
        return handle.value

    def copy(self, handle: int, values: Mapping[CKA, Value]) -> int:
        return self._make("C_CopyObject", values, handle)

    def generate(self, kind: CKM, values: Mapping[CKA, Value]) -> int:
        mechanism, _ = self.mechanism(kind, None)
        return self._make("C_GenerateKey", values, ctypes.byref(mechanism))

    def derive(self, kind: CKM, base: int, values: Mapping[CKA, Value], parameter: bytes | None = None) -> int:
        mechanism, _kept = self.mechanism(kind, parameter)
        return self._make("C_DeriveKey", values, ctypes.byref(mechanism), base)

    def wrap(self, kind: CKM, wrapping: int, key: int, parameter: bytes | None = None) -> bytes:
        mechanism, _kept = self.mechanism(kind, parameter)
        return self.produce("C_WrapKey", ctypes.byref(mechanism), wrapping, key, room=65536)

    def unwrap(
        self, kind: CKM, unwrapping: int, wrapped: bytes, values: Mapping[CKA, Value], parameter: bytes | None = None
    ) -> int:
        mechanism, _kept = self.mechanism(kind, parameter)
        return self._make("C_UnwrapKey", values, ctypes.byref(mechanism), unwrapping, wrapped, len(wrapped))

    def destroy(self, *handles: int) -> None:
        for handle in handles:
            self.call("C_DestroyObject", handle)

    def change(self, handle: int, values: Mapping[CKA, Value]) -> None:
        template, _kept = self.template(values)
        self.call("C_SetAttributeValue", handle, template, len(values))

    def find(self, values: Mapping[CKA, Value], *, chunk: int = 100) -> list[int]:
        template, _kept = self.template(values)
        self.call("C_FindObjectsInit", template, len(values))
        found: list[int] = []
        handles, count = (ctypes.c_ulong * chunk)(), ctypes.c_ulong(chunk)
        while count.value:
            self.call("C_FindObjects", handles, chunk, ctypes.byref(count))
            found += handles[: count.value]
        self.call("C_FindObjectsFinal")
        return found

    def pair(self, kind: CKM, public: Mapping[CKA, Value], private: Mapping[CKA, Value]) -> tuple[int, int]:
        first, _kept = self.template(public)
        second, _kept2 = self.template(private)
        handles = (ctypes.c_ulong(), ctypes.c_ulong())
        mechanism, _ = self.mechanism(kind, None)
        self.call(
            "C_GenerateKeyPair",
            ctypes.byref(mechanism),
            first,
            len(public),
            second,
            len(private),
            *map(ctypes.byref, handles),
        )
        return handles[0].value, handles[1].value

    def attribute(self, handle: int, name: CKA) -> bytes:
        row = Attribute(name, None, 0)
        self.call("C_GetAttributeValue", handle, ctypes.byref(row), 1)
        buffer = ctypes.create_string_buffer(max(1, row.length))
        row.value = ctypes.addressof(buffer)
        self.call("C_GetAttributeValue", handle, ctypes.byref(row), 1)
        return buffer.raw[: row.length]

    # ---- operations

    def random(self, length: int) -> bytes:
        buffer = ctypes.create_string_buffer(length)
        self.call("C_GenerateRandom", buffer, length)
        return buffer.raw

    @staticmethod
    def mechanism(kind: int, parameter: bytes | None) -> tuple[Mechanism, Any]:
        buffer = None if parameter is None else ctypes.create_string_buffer(parameter, len(parameter))
        address = None if buffer is None else ctypes.addressof(buffer)
        return Mechanism(kind, address, 0 if parameter is None else len(parameter)), buffer

    def init(self, name: str, kind: int, key: int | None, parameter: bytes | None = None) -> None:
        mechanism, _kept = self.mechanism(kind, parameter)
        self.call(name, ctypes.byref(mechanism), *(() if key is None else (key,)))

    def produce(self, name: str, *arguments: Any, room: int = 1 << 20) -> bytes:
        """A function whose last arguments are a buffer and its length."""
        out, length = ctypes.create_string_buffer(room), ctypes.c_ulong(room)
        self.call(name, *arguments, out, ctypes.byref(length))
        return out.raw[: length.value]

    def size(self, name: str, *arguments: Any) -> int:
        length = ctypes.c_ulong()
        self.call(name, *arguments, None, ctypes.byref(length))
        return length.value

    def whole(self, what: str, kind: int, key: int | None, data: bytes, parameter: bytes | None = None) -> bytes:
        self.init(f"C_{what}Init", kind, key, parameter)
        return self.produce(f"C_{what}", data, len(data), room=len(data) + 4096)

    def parts(self, what: str, kind: int, key: int | None, parts: list[bytes], parameter: bytes | None = None) -> bytes:
        """Update for each part and Final; the parts of Sign and Digest give nothing before the end."""
        self.init(f"C_{what}Init", kind, key, parameter)
        made = b""
        for part in parts:
            if what in {"Encrypt", "Decrypt"}:
                made += self.produce(f"C_{what}Update", part, len(part), room=len(part) + 4096)
            else:
                self.call(f"C_{what}Update", part, len(part))
        return made + self.produce(f"C_{what}Final", room=sum(map(len, parts)) + 4096)

    def verify(self, kind: int, key: int, data: bytes, signature: bytes, parameter: bytes | None = None) -> None:
        self.init("C_VerifyInit", kind, key, parameter)
        self.call("C_Verify", data, len(data), signature, len(signature))

    def verify_parts(
        self, kind: int, key: int, parts: list[bytes], signature: bytes, parameter: bytes | None = None
    ) -> None:
        self.init("C_VerifyInit", kind, key, parameter)
        for part in parts:
            self.call("C_VerifyUpdate", part, len(part))
        self.call("C_VerifyFinal", signature, len(signature))


# ---- what the module says -------------------------------------------------------------------------------------------


def complaints(capfd: pytest.CaptureFixture[str]) -> list[str]:
    lines = capfd.readouterr().err.splitlines()
    return [line.partition("hsmsim_pkcs11: ")[2] for line in lines if " ERROR " in line]


def absence(environment: Mapping[str, str], capfd: pytest.CaptureFixture[str]) -> str:
    """The first thing that it says of a token that it does not reach."""
    capfd.readouterr()
    with Module(environment) as module:
        module.slot.value = 0x2000000000000001
        with refused(CKR.TOKEN_NOT_PRESENT):
            module.session()
    return complaints(capfd)[0]
