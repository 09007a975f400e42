"""Backup images: a cluster's rows at one version in a sealed file (DESIGN D7).

The rows are sealed under the backup key: 32 bytes that the engine derives from the masking key and the image's own
nonce, so that a key seals one image. The envelope holds the masking key, and with it the backup key, sealed to the
backup root of a region; the process of the roots seals it anew to a certified device of the cluster that is restored.
So neither the file nor SQL nor the gateway ever gives the masking key. The header is bound to every chunk; the
envelope is not, because a copy to another region changes it: it is bound to the name of its file and to the header's
image instead (`context`). Members, lockouts and audit records are not in it.
"""

from __future__ import annotations

import hashlib
import itertools
import secrets
import struct
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from hsmsim.cluster.model import ClusterRow, IdentityRow, MemberRow
from hsmsim.cluster.rows import CLUSTER, REPLICATED, kind_of
from hsmsim.crypto import chunked
from hsmsim.hsm.imagefile import MAGIC, Envelope, Header, ImageError, Written, head, opened, read_head
from hsmsim.storage import files

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from hsmsim.cluster.model import Row

ROW_MAX: Final = 32 << 20
NONCE_BYTES: Final = 32
_U32: Final = struct.Struct("<I")
_KINDS: Final = {str(kind.name): kind for kind in (CLUSTER, *REPLICATED)}


class Engine(Protocol):
    """What images ask of the engine."""

    def mac(self, purpose: str, data: bytes) -> bytes:
        """MAC under the masking key."""

    def masking_seal(self, peer: bytes, context: bytes) -> bytes:
        """Return the masking key sealed to a device."""


class Snapshot(msgspec.Struct, frozen=True):
    """A cluster's rows at one version."""

    cluster: ClusterRow
    rows: tuple[Any, ...]

    @property
    def identity(self) -> IdentityRow | None:
        """Mode and certificates; None in an older cluster."""
        return next((row for row in self.rows if isinstance(row, IdentityRow)), None)


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
    start = head(header)
    digest = hashlib.sha256()
    with files.replacing(path) as file:
        for part in itertools.chain(
            (MAGIC, start, head(envelope)),
            chunked.seal(_key(engine, header), hashlib.sha256(start).digest(), _encoded(snapshot)),
        ):
            digest.update(part)
            file.write(part)
        file.write(digest.digest())
        size = file.tell()
    return Written(header.version, size, digest.digest())


def _key(engine: Engine, header: Header) -> bytes:
    return engine.mac("backup", header.nonce + header.image_id.encode())


def _encoded(snapshot: Snapshot) -> Iterator[bytes]:
    for row in (snapshot.cluster, *_kept(snapshot.rows)):
        values = [getattr(row, field.name) for field in fields(row)]
        data = msgspec.msgpack.encode([str(kind_of(row).name), values])
        yield _U32.pack(len(data)) + data


# ---- reading ---------------------------------------------------------------------------------------------------------


def read(path: Path, engine: Engine) -> Snapshot:
    """Return an image's rows; the engine has the masking key that its envelope holds. ImageError."""
    with opened(path) as (file, body):
        header = read_head(file, Header)
        start = head(header)
        read_head(file, Envelope)
        texts = chunked.unseal(_key(engine, header), hashlib.sha256(start).digest(), file, body - file.tell())
        try:
            cluster, *rows = _decoded(texts)
        except (chunked.ChunkError, msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
            raise ImageError(f"{path.name} does not open: {error}") from error
    if not isinstance(cluster, ClusterRow) or cluster.version != header.version or len(rows) != header.rows:
        raise ImageError(f"{path.name} has other rows than its header says.")
    return Snapshot(cluster, tuple(rows))


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
