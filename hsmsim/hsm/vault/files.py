"""The files of SoftHSM2's tokens: what is done about them before the library looks.

SoftHSM2 2.6.1 rewrites files in place without fsync, so a kill leaves empty or cut ones. `token.object`, which has the
PINs and the token's key, is rewritten at every login although nothing in it changes: a copy is kept by atomic rename,
and put back where the file differs. An object's file that is not whole goes; its key is in the rows.

A file is a u64 generation, then attributes: u64 type, u64 kind, value; all big-endian (SoftHSM2, ObjectFile.cpp).
"""

from __future__ import annotations

import logging
import os
import shutil
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_LOG = logging.getLogger(__name__)

TOKEN_FILE: Final = "token.object"  # noqa: S105 - a file name
_U64: Final = struct.Struct(">Q")
_HEAD: Final = struct.Struct(">QQ")
_GENERATION: Final = 8
_FIXED: Final = {1: 1, 2: 8}  # bool, ulong
_COUNTED: Final = {3: 1, 4: 1, 5: 8}  # bytes and template by length, mechanisms by count
_USER_PIN: Final = 0x8000534D
_LAST_OF_KEY: Final = 0x40000600  # CKA_ALLOWED_MECHANISMS: attributes are in order of type
_VALUES: Final = (0x11, 0x123)  # CKA_VALUE, CKA_PRIVATE_EXPONENT


def keep(tokens: Path, shadow: Path) -> None:
    """Copy each token.object beside the tokens."""
    shadow.mkdir(mode=0o700, exist_ok=True)
    for path in tokens.glob(f"*/{TOKEN_FILE}"):
        data, copy = path.read_bytes(), _copy_of(path, shadow)
        if is_token(data) and (not copy.exists() or copy.read_bytes() != data):
            _write(copy, data)
    for copy in shadow.iterdir():
        if not (tokens / copy.name).is_dir():
            copy.unlink()


def mend(tokens: Path, shadow: Path) -> None:
    """Put copies back, drop broken objects, and remove what is no token. Before the library starts."""
    for folder in tokens.iterdir():
        if not folder.is_dir():
            continue
        path = folder / TOKEN_FILE
        copy = _copy_of(path, shadow)
        if copy.exists() and (not path.exists() or path.read_bytes() != copy.read_bytes()):
            _LOG.warning("%s was damaged; its copy is put back.", path)
            _write(path, copy.read_bytes())
        if not path.exists() or not is_token(path.read_bytes()):
            _LOG.warning("%s is not readable: the token is made again from the rows.", path)
            shutil.rmtree(folder)
            continue
        keys = [file for file in folder.glob("*.object") if file.name != TOKEN_FILE]
        for broken in [file for file in keys if not is_key(file.read_bytes())]:
            _LOG.warning("%s is cut off: its object is made again from the rows.", broken)
            broken.unlink()
            broken.with_suffix(".lock").unlink(missing_ok=True)


def remove(tokens: Path, serial: str) -> None:
    """Remove the token of a serial number, which is the end of its folder's name."""
    for folder in tokens.iterdir():
        if folder.name.replace("-", "").endswith(serial):
            shutil.rmtree(folder)


def is_token(data: bytes) -> bool:
    """Whether a token.object is whole: its last attribute is the user's PIN blob."""
    return _sizes(data).get(_USER_PIN, 0) > 0


def is_key(data: bytes) -> bool:
    """Whether the file of a private or secret key is whole; a kill between two rewrites leaves one without value."""
    sizes = _sizes(data)
    return _LAST_OF_KEY in sizes and any(sizes.get(name, 0) > 0 for name in _VALUES)


def _sizes(data: bytes) -> dict[int, int]:
    """The sizes of a file's attributes by type; empty for a file that does not read to its end."""
    found: dict[int, int] = {}
    at = _GENERATION
    while at < len(data):
        if at + _HEAD.size > len(data):
            return {}
        name, kind, size = *_HEAD.unpack_from(data, at), 0
        at += _HEAD.size
        if kind in _FIXED:
            size = _FIXED[kind]
        elif kind in _COUNTED and at + _U64.size <= len(data):
            size = int(_U64.unpack_from(data, at)[0]) * _COUNTED[kind]
            at += _U64.size
        else:
            return {}
        at += size
        found[name] = size
    return found if at == len(data) else {}


def _copy_of(path: Path, shadow: Path) -> Path:
    return shadow / path.parent.name


def _write(path: Path, data: bytes) -> None:
    beside = path.with_name(f"{path.name}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    beside.replace(path)
