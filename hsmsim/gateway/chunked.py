"""aws-chunked bodies, read (https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html, with trailers).

A chunk is handed on when its signature has been checked, so nothing that was tampered with is ever used. Chunks, lines
and trailers are bounded; a body is fed in any pieces.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from hsmsim.errors import AwsError
from hsmsim.gateway import sigv4

SIGNED: Final = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
SIGNED_TRAILER: Final = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
UNSIGNED_TRAILER: Final = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
KINDS: Final = (SIGNED, SIGNED_TRAILER, UNSIGNED_TRAILER)

MAX_CHUNK: Final = 16 << 20
MAX_LINE: Final = 1024
MAX_TRAILERS: Final = 16
_HEAD: Final = re.compile(rb"([0-9a-fA-F]{1,8})(?:;chunk-signature=([0-9a-f]{64}))?", re.ASCII)
_TRAILER_SIGNATURE: Final = "x-amz-trailer-signature"


@dataclass(slots=True)
class Seal:
    """What the chunks' signatures are checked with. previous: the signature before the next one."""

    key: bytes | bytearray
    stamp: str
    scope: str
    previous: str

    def check(self, kind: str, digests: str, given: str) -> None:
        """AwsError unless `given` is the next signature of the chain."""
        text = f"{sigv4.ALGORITHM}-{kind}\n{self.stamp}\n{self.scope}\n{self.previous}\n{digests}"
        expected = sigv4.sign(self.key, text)
        if not sigv4.matches(expected, given):
            raise AwsError(
                sigv4.MISMATCH,
                "The request signature we calculated does not match the signature you provided. "
                "A chunk of the body was changed or signed with another key.",
                403,
            )
        self.previous = expected


class _State(Enum):
    HEAD = auto()
    DATA = auto()
    TRAILER = auto()
    DONE = auto()


def _broken(text: str) -> AwsError:
    return AwsError("IncompleteBody", f"The aws-chunked body is malformed: {text}.")


@dataclass(slots=True)
class ChunkedBody:
    """A body that is being read. seal: None where nothing is signed. trailers: what came after the last chunk."""

    kind: str
    seal: Seal | None = None
    trailers: dict[str, str] = field(default_factory=dict)
    _state: _State = _State.HEAD
    _buffer: bytearray = field(default_factory=bytearray)
    _size: int = 0
    _signature: str = ""

    def feed(self, data: bytes) -> bytes:
        """Take more of the body; return the payload that is checked now."""
        self._buffer += data
        out = bytearray()
        while self._step(out):
            pass
        return bytes(out)

    def finish(self, decoded_length: str | None, total: int) -> None:
        """AwsError unless the body came whole, and as long as x-amz-decoded-content-length announced."""
        if self._state is not _State.DONE or self._buffer:
            raise _broken("it ends early" if self._state is not _State.DONE else "bytes follow its end")
        if decoded_length is not None and decoded_length != str(total):
            raise _broken(f"it has {total} bytes, x-amz-decoded-content-length announced {decoded_length[:20]}")

    def _step(self, out: bytearray) -> bool:
        match self._state:
            case _State.HEAD:
                return self._head()
            case _State.DATA:
                return self._data(out)
            case _State.TRAILER:
                return self._trailer()
            case _State.DONE:
                return False

    def _line(self) -> bytes | None:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            if len(self._buffer) > MAX_LINE:
                raise _broken("a line is too long")
            return None
        if end > MAX_LINE:
            raise _broken("a line is too long")
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _head(self) -> bool:
        line = self._line()
        if line is None:
            return False
        found = _HEAD.fullmatch(line)
        if found is None:
            raise _broken("a chunk has no size")
        self._size = int(found.group(1), 16)
        self._signature = (found.group(2) or b"").decode()
        if self._size > MAX_CHUNK:
            raise _broken(f"a chunk is larger than {MAX_CHUNK} bytes")
        if self._size:
            self._state = _State.DATA
        else:
            self._check(b"")
            self._state = _State.TRAILER
        return True

    def _data(self, out: bytearray) -> bool:
        if len(self._buffer) < self._size + 2:
            return False
        data = bytes(self._buffer[: self._size])
        if self._buffer[self._size : self._size + 2] != b"\r\n":
            raise _broken("a chunk is longer than its size")
        self._check(data)
        del self._buffer[: self._size + 2]
        out += data
        self._state = _State.HEAD
        return True

    def _check(self, data: bytes) -> None:
        if self.seal is not None and self.kind != UNSIGNED_TRAILER:
            digests = f"{sigv4.EMPTY_SHA256}\n{hashlib.sha256(data).hexdigest()}"
            self.seal.check("PAYLOAD", digests, self._signature)

    def _trailer(self) -> bool:
        line = self._line()
        if line is None:
            return False
        text = line.strip()
        if text:
            name, colon, value = text.decode("latin-1").partition(":")
            if not colon or len(self.trailers) >= MAX_TRAILERS:
                raise _broken("a trailer has no name, or there are too many")
            self.trailers[name.strip().lower()] = value.strip()
            return True
        self._end()
        return True

    def _end(self) -> None:
        signature = self.trailers.pop(_TRAILER_SIGNATURE, "")
        if self.kind == SIGNED and self.trailers:
            raise _broken("it has trailers that x-amz-content-sha256 does not announce")
        if self.seal is not None and self.kind == SIGNED_TRAILER:
            text = "".join(f"{name}:{value}\n" for name, value in sorted(self.trailers.items()))
            self.seal.check("TRAILER", hashlib.sha256(text.encode("latin-1")).hexdigest(), signature)
        self._state = _State.DONE
