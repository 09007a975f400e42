"""Backup images: a cluster's rows at one version in a sealed file (DESIGN D7).

    magic | u32 length, header (JSON) | u32 length, envelope (JSON) | chunks | SHA-256 of all before

The rows are sealed under the backup key: 32 bytes that the engine derives from the masking key and the image's own
nonce, so that a key seals one image. The envelope holds the masking key, and with it the backup key, sealed to the
backup root of a region; the process of the roots seals it anew to a certified device of the cluster that is restored.
So neither the file nor SQL nor the gateway ever gives the masking key. The header is bound to every chunk; the
envelope is not, because a copy to another region changes it. Members, lockouts and audit records are not in it.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import secrets
import struct
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import msgspec

from hsmsim.cluster.model import ClusterRow, IdentityRow, MemberRow
from hsmsim.cluster.rows import CLUSTER, REPLICATED, kind_of
from hsmsim.crypto import chunked
from hsmsim.errors import HsmsimError
from hsmsim.ids import is_id
from hsmsim.storage import files

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from typing import BinaryIO

    from hsmsim.cluster.model import Row

MAGIC: Final = b"hsmsim image 1\r\n"
HEAD_MAX: Final = 64 * 1024
IMAGE_MAX: Final = 1 << 30
ROW_MAX: Final = 32 << 20
NONCE_BYTES: Final = 32
_U32: Final = struct.Struct("<I")
_DIGEST_BYTES: Final = hashlib.sha256().digest_size
_KINDS: Final = {str(kind.name): kind for kind in (CLUSTER, *REPLICATED)}
_Head = TypeVar("_Head", bound=msgspec.Struct)


class ImageError(HsmsimError):
    """A file that is not the image that was written; the text says what is wrong with it."""


class Engine(Protocol):
    """What images ask of the engine."""

    def mac(self, purpose: str, data: bytes) -> bytes:
        """MAC under the masking key."""

    def masking_seal(self, peer: bytes, context: bytes) -> bytes:
        """Return the masking key sealed to a device."""


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the image is of; time: simulated seconds since the epoch."""

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


class Snapshot(msgspec.Struct, frozen=True):
    """A cluster's rows at one version."""

    cluster: ClusterRow
    rows: tuple[Any, ...]

    @property
    def identity(self) -> IdentityRow | None:
        """Mode and certificates; None in an older cluster."""
        return next((row for row in self.rows if isinstance(row, IdentityRow)), None)


def context(image_id: str) -> bytes:
    """Return what the sealed masking key of an image is good for."""
    return f"backup/{image_id}".encode()


def path_of(folder: Path, image_id: str) -> Path:
    """Return the file of an image; HsmsimError where this is no image's id."""
    if not is_id(image_id, "backup"):
        raise HsmsimError(f"{image_id!r} is no id of a backup.")
    return folder / f"{image_id}.image"


# ---- writing ---------------------------------------------------------------------------------------------------------


def header_of(snapshot: Snapshot, image_id: str, mode: str, model: str, time: float) -> Header:
    """Return a new image's header."""
    cluster = snapshot.cluster
    nonce = secrets.token_bytes(NONCE_BYTES)
    ids = (image_id, cluster.cluster_id, cluster.incarnation)
    return Header(*ids, cluster.version, mode, model, int(time), nonce, len(_kept(snapshot.rows)))


def _kept(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if not isinstance(row, MemberRow)]


def write(path: Path, header: Header, snapshot: Snapshot, envelope: Envelope, engine: Engine) -> Written:
    """Write an image: whole, on the disk, or not at all."""
    head = _head(header)
    digest = hashlib.sha256()
    with files.replacing(path) as file:
        for part in itertools.chain(
            (MAGIC, head, _head(envelope)),
            chunked.seal(_key(engine, header), hashlib.sha256(head).digest(), _encoded(snapshot)),
        ):
            digest.update(part)
            file.write(part)
        file.write(digest.digest())
        size = file.tell()
    return Written(header.version, size, digest.digest())


def _key(engine: Engine, header: Header) -> bytes:
    return engine.mac("backup", header.nonce + header.image_id.encode())


def _head(value: msgspec.Struct) -> bytes:
    data = msgspec.json.encode(value)
    return _U32.pack(len(data)) + data


def _encoded(snapshot: Snapshot) -> Iterator[bytes]:
    for row in (snapshot.cluster, *_kept(snapshot.rows)):
        values = [getattr(row, field.name) for field in fields(row)]
        data = msgspec.msgpack.encode([str(kind_of(row).name), values])
        yield _U32.pack(len(data)) + data


# ---- reading ---------------------------------------------------------------------------------------------------------


def written(path: Path) -> Written:
    """Return what is on the disk; ImageError where the file is damaged."""
    with _opened(path) as (file, body):
        header = _read_head(file, Header)
        file.seek(body)
        return Written(header.version, body + _DIGEST_BYTES, file.read(_DIGEST_BYTES))


def heads(path: Path) -> tuple[Header, Envelope]:
    """Return header and envelope of an image whose digest is right; ImageError says what is wrong."""
    with _opened(path) as (file, _):
        return _read_head(file, Header), _read_head(file, Envelope)


def read(path: Path, engine: Engine) -> Snapshot:
    """Return an image's rows; the engine has the masking key that its envelope holds. ImageError."""
    with _opened(path) as (file, body):
        header = _read_head(file, Header)
        head = _head(header)
        _read_head(file, Envelope)
        texts = chunked.unseal(_key(engine, header), hashlib.sha256(head).digest(), file, body - file.tell())
        try:
            cluster, *rows = _decoded(texts)
        except (chunked.ChunkError, msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
            raise ImageError(f"{path.name} does not open: {error}") from error
    if not isinstance(cluster, ClusterRow) or cluster.version != header.version or len(rows) != header.rows:
        raise ImageError(f"{path.name} has other rows than its header says.")
    return Snapshot(cluster, tuple(rows))


class _opened:  # noqa: N801 - a context manager, used like a function
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
            part = self._file.read(min(left, 1 << 20))
            if not part:
                raise ImageError(f"{self._name} became shorter while it was read.")
            digest.update(part)
            left -= len(part)
        if self._file.read() != digest.digest():
            raise ImageError(f"{self._name} was changed or cut off: its digest is another one.")
        self._file.seek(len(MAGIC))
        return body


def _read_head(file: BinaryIO, kind: type[_Head]) -> _Head:
    head = file.read(_U32.size)
    length = _U32.unpack(head)[0] if len(head) == _U32.size else 0
    if not 0 < length <= HEAD_MAX:
        raise ImageError("The image's header has a length that none has.")
    data = file.read(length)
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ImageError(f"The image's {kind.__name__.lower()} is not one: {error}.") from error


def _decoded(texts: Iterable[bytes]) -> Iterator[Any]:
    """The rows in a text that comes in pieces of any size."""
    waiting = bytearray()
    for text in texts:
        waiting += text
        while len(waiting) >= _U32.size:
            (length,) = _U32.unpack_from(waiting)
            if length > ROW_MAX:
                raise ValueError("a row is longer than any is")
            if len(waiting) < _U32.size + length:
                break
            name, values = msgspec.msgpack.decode(waiting[_U32.size : _U32.size + length], type=tuple[str, list[Any]])
            yield _KINDS[name].row(*values)
            del waiting[: _U32.size + length]
    if waiting:
        raise ValueError("it ends in the middle of a row")
