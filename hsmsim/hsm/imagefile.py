"""The file of a backup image: its heads, its digest, its name. What is sealed in it is images.py's.

    magic | u32 length, header (JSON) | u32 length, envelope (JSON) | chunks | SHA-256 of all before

The fleet looks at images without an HSM: it needs no more than this, and not what reads rows.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import struct
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from hsmsim.errors import HsmsimError
from hsmsim.ids import is_id
from hsmsim.storage import files

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

MAGIC: Final = b"hsmsim image 1\r\n"
HEAD_MAX: Final = 64 * 1024
IMAGE_MAX: Final = 1 << 30
PIECE: Final = 1 << 20
_U32: Final = struct.Struct("<I")
_DIGEST_BYTES: Final = hashlib.sha256().digest_size
_Head = TypeVar("_Head", bound=msgspec.Struct)


class ImageError(HsmsimError):
    """A file that is not the image that was written; the text says what is wrong with it."""


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the image is of; time: simulated seconds since the epoch. image_id: its name, in every copy of it, too."""

    image_id: str
    cluster_id: str
    incarnation: str
    version: int
    mode: str
    model: str
    time: int
    nonce: bytes
    rows: int


class Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The masking key, sealed to the backup root of a region."""

    region: str
    sealed: bytes


class Written(msgspec.Struct, frozen=True):
    """An image on the disk."""

    version: int
    size: int
    digest: bytes


def context(backup_id: str, image_id: str) -> bytes:
    """Return what the sealed masking key in a backup's file is good for; image_id: the header's.

    They differ in a copy. Ids have no '/'.
    """
    return f"backup/{backup_id}".encode() if backup_id == image_id else f"backup/{backup_id}/{image_id}".encode()


def path_of(folder: Path, image_id: str) -> Path:
    """Return the file of an image; HsmsimError where this is no image's id."""
    if not is_id(image_id, "backup"):
        raise HsmsimError(f"{image_id!r} is no id of a backup.")
    return folder / f"{image_id}.image"


def head(value: msgspec.Struct) -> bytes:
    """Return header or envelope as it stands in the file."""
    data = msgspec.json.encode(value)
    return _U32.pack(len(data)) + data


def written(path: Path) -> Written:
    """Return what is on the disk; ImageError where the file is damaged."""
    with opened(path) as (file, body):
        header = read_head(file, Header)
        file.seek(body)
        return Written(header.version, body + _DIGEST_BYTES, file.read(_DIGEST_BYTES))


def heads(path: Path) -> tuple[Header, Envelope]:
    """Return header and envelope of an image whose digest is right; ImageError says what is wrong."""
    with opened(path) as (file, _):
        return read_head(file, Header), read_head(file, Envelope)


def copy(source: Path, target: Path, envelope: Envelope) -> None:
    """Write an image again, under another envelope: whole, on the disk, or not at all. ImageError."""
    with opened(source) as (file, body), files.replacing(target) as new:
        header = read_head(file, Header)
        read_head(file, Envelope)
        digest = hashlib.sha256()
        chunks = iter(lambda: file.read(max(0, min(PIECE, body - file.tell()))), b"")
        for part in itertools.chain((MAGIC, head(header), head(envelope)), chunks):
            digest.update(part)
            new.write(part)
        new.write(digest.digest())


class opened:  # noqa: N801 - a context manager, used like a function
    """The file behind its magic, and where its digest stands; ImageError where the digest is not the file's."""

    def __init__(self, path: Path) -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise ImageError(f"The image {path.name} cannot be read: {error.strerror}.") from error
        self._file: BinaryIO = os.fdopen(descriptor, "rb")
        self._name = path.name

    def __enter__(self) -> tuple[BinaryIO, int]:
        try:
            return self._file, self._checked()
        except BaseException:
            self._file.close()
            raise

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _checked(self) -> int:
        size = os.fstat(self._file.fileno()).st_size
        body = size - _DIGEST_BYTES
        if not len(MAGIC) < body <= IMAGE_MAX or self._file.read(len(MAGIC)) != MAGIC:
            raise ImageError(f"{self._name} is no image of hsmsim, or it was cut off.")
        digest = hashlib.sha256(MAGIC)
        left = body - len(MAGIC)
        while left > 0:
            part = self._file.read(min(left, PIECE))
            if not part:
                raise ImageError(f"{self._name} became shorter while it was read.")
            digest.update(part)
            left -= len(part)
        if self._file.read() != digest.digest():
            raise ImageError(f"{self._name} was changed or cut off: its digest is another one.")
        self._file.seek(len(MAGIC))
        return body


def read_head(file: BinaryIO, kind: type[_Head]) -> _Head:
    """Take header or envelope from the file; ImageError."""
    size = file.read(_U32.size)
    length = _U32.unpack(size)[0] if len(size) == _U32.size else 0
    if not 0 < length <= HEAD_MAX:
        raise ImageError("The image's header has a length that none has.")
    data = file.read(length)
    try:
        found = msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ImageError(f"The image's {kind.__name__.lower()} is not one: {error}.") from error
    if msgspec.json.encode(found) != data:  # base64 and JSON have several spellings of one value
        raise ImageError(f"The image's {kind.__name__.lower()} is not as hsmsim writes it: it was changed.")
    return found
