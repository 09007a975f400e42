"""Small secrets sealed under one key: AES-256-GCM, a derived key for each purpose (HKDF-SHA256, RFC 5869).

A sealed secret opens only for the purpose and the binding (an id, say) that it was sealed for, so one cannot stand in
for another. Shape: 12 bytes of nonce, then the ciphertext with its tag.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from hsmsim.errors import HsmsimError

if TYPE_CHECKING:
    from collections.abc import Callable

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12


class SealBroken(HsmsimError):  # noqa: N818 - what happened to it
    """What should be opened was not sealed under this key, for this purpose and binding, or was changed."""


class Seal:
    """Seals and opens under one key of 32 random bytes."""

    def __init__(self, key: bytes, random: Callable[[int], bytes] = secrets.token_bytes) -> None:
        if len(key) != KEY_BYTES:
            raise HsmsimError(f"A sealing key has {KEY_BYTES} bytes, this one {len(key)}: the file is damaged.")
        self._key = key
        self._random = random
        self._ciphers: dict[str, AESGCM] = {}

    def seal(self, purpose: str, data: bytes, binding: bytes = b"") -> bytes:
        """Encrypt; each call gives other bytes."""
        nonce = self._random(_NONCE_BYTES)
        return nonce + self._cipher(purpose).encrypt(nonce, data, binding)

    def open(self, purpose: str, sealed: bytes, binding: bytes = b"") -> bytes:
        """Decrypt; SealBroken where purpose, binding or bytes are not those of `seal`."""
        try:
            return self._cipher(purpose).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], binding)
        except (InvalidTag, ValueError):
            raise SealBroken("A sealed secret does not open: it was made under another key, or changed.") from None

    def _cipher(self, purpose: str) -> AESGCM:
        if purpose not in self._ciphers:
            derived = HKDFExpand(SHA256(), KEY_BYTES, f"hsmsim seal {purpose}".encode()).derive(self._key)
            self._ciphers[purpose] = AESGCM(derived)
        return self._ciphers[purpose]
