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
FUNCTIONS = tuple(tomllib.loads((ROOT / "native/tables/functions.toml").read_text())["2.40"])
Value = bool | int | bytes | str


class Mechanism(ctypes.Structure):
    _fields_ = (("mechanism", ctypes.c_ulong), ("parameter", ctypes.c_void_p), ("length", ctypes.c_ulong))


class Attribute(ctypes.Structure):
    _fields_ = (("type", ctypes.c_ulong), ("value", ctypes.c_void_p), ("length", ctypes.c_ulong))


class FunctionList(ctypes.Structure):
    _fields_ = (("version", ctypes.c_ubyte * 2), *((name, ctypes.c_void_p) for name in FUNCTIONS))


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


class Module:
    def __init__(self, environment: Mapping[str, str]) -> None:
        with tempfile.NamedTemporaryFile(suffix=".so") as copy:
            shutil.copyfile(environment["HSMSIM_MODULE"], copy.name)
            library = ctypes.CDLL(copy.name)
        listed = ctypes.POINTER(FunctionList)()
        assert library.C_GetFunctionList(ctypes.byref(listed)) == CKR.OK
        prototype = ctypes.CFUNCTYPE(ctypes.c_ulong)
        self.functions = {name: prototype(getattr(listed.contents, name)) for name in FUNCTIONS}
        before = os.environ.get("HSMSIM_PKCS11_CONFIG")
        os.environ["HSMSIM_PKCS11_CONFIG"] = environment["HSMSIM_PKCS11_CONFIG"]
        try:
            self.call("C_Initialize", None)
        finally:
            del os.environ["HSMSIM_PKCS11_CONFIG"]
            if before is not None:
                os.environ["HSMSIM_PKCS11_CONFIG"] = before
        self.slot = ctypes.c_ulong()
        self.call("C_GetSlotList", ctypes.c_ubyte(1), ctypes.byref(self.slot), ctypes.byref(ctypes.c_ulong(1)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.call("C_Finalize", None)

    def rv(self, name: str, *arguments: Any) -> CKR:
        return CKR(self.functions[name](*(ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments)))

    def call(self, name: str, *arguments: Any) -> None:
        rv = self.rv(name, *arguments)
        if rv is not CKR.OK:
            raise RefusedError(name, rv)

    def session(self, pin: str | None = None) -> Session:
        handle = ctypes.c_ulong()
        self.call("C_OpenSession", self.slot, CKF.SERIAL_SESSION | CKF.RW_SESSION, None, None, ctypes.byref(handle))
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

    def login(self, pin: str) -> None:
        raw = pin.encode()
        self.call("C_Login", CKU.USER, raw, len(raw))

    # ---- objects

    def _template(self, values: Mapping[CKA, Value]) -> tuple[ctypes.Array[Attribute], list[Any]]:
        kept = [ctypes.create_string_buffer(encoded(v), max(1, len(encoded(v)))) for v in values.values()]
        rows = [
            Attribute(name, ctypes.addressof(buffer), len(encoded(value)))
            for (name, value), buffer in zip(values.items(), kept, strict=True)
        ]
        return (Attribute * len(rows))(*rows), kept

    def create(self, values: Mapping[CKA, Value]) -> int:
        template, _kept = self._template(values)
        handle = ctypes.c_ulong()
        self.call("C_CreateObject", template, len(values), ctypes.byref(handle))
        return handle.value

    def pair(self, kind: CKM, public: Mapping[CKA, Value], private: Mapping[CKA, Value]) -> tuple[int, int]:
        first, _kept = self._template(public)
        second, _kept2 = self._template(private)
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
