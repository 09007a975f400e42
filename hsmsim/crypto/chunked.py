"""A long text under AES-256-GCM in chunks: bounded memory, and no byte is believed before its chunk is checked.

Rules: a key seals one text only. A chunk's nonce is its number and whether it is the last one, so chunks that are
left out, added, repeated or in another order do not open, nor does a text that ends early. `context` is bound to
every chunk. On the wire a chunk is u32 length, ciphertext, tag.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hsmsim.errors import HsmsimError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO

CHUNK: Final = 64 * 1024
TAG: Final = 16
_LENGTH: Final = struct.Struct("<I")
_NONCE: Final = struct.Struct(">3xBQ")


class ChunkError(HsmsimError):
    """A chunk that is not the one that was sealed here; the text says which."""


def seal(key: bytes, context: bytes, parts: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the sealed form of the parts, joined."""
    cipher = AESGCM(key)
    number = 0
    waiting = bytearray()
    for part in parts:
        waiting += part
        while len(waiting) > CHUNK:
            yield _sealed(cipher, context, number, bytes(waiting[:CHUNK]), last=False)
            del waiting[:CHUNK]
            number += 1
    yield _sealed(cipher, context, number, bytes(waiting), last=True)


def _sealed(cipher: AESGCM, context: bytes, number: int, text: bytes, *, last: bool) -> bytes:
    sealed = cipher.encrypt(_NONCE.pack(last, number), text, context)
    return _LENGTH.pack(len(sealed)) + sealed


def unseal(key: bytes, context: bytes, file: BinaryIO, length: int) -> Iterator[bytes]:
    """Yield the text in the next `length` bytes of a file, chunk by chunk; ChunkError where one does not open."""
    cipher = AESGCM(key)
    number = 0
    while length > 0:
        head = file.read(_LENGTH.size)
        size = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else 0
        length -= _LENGTH.size + size
        if not TAG <= size <= CHUNK + TAG or length < 0:
            raise ChunkError(f"Chunk {number} has a length that no chunk has.")
        sealed = file.read(size)
        try:
            text = cipher.decrypt(_NONCE.pack(length == 0, number), sealed, context)
        except (InvalidTag, ValueError) as error:
            raise ChunkError(f"Chunk {number} was changed, or chunks are missing.") from error
        yield text
        number += 1
    if number == 0:
        raise ChunkError("There is no chunk.")
