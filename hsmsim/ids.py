"""Identifiers in AWS's shape: a prefix and 11 characters of base 32 (55 random bits)."""

from __future__ import annotations

import os
import re
import secrets
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz234567"
LENGTH: Final = 11
_SHAPE: Final = re.compile(rf"(cluster|hsm|backup)-[{ALPHABET}]{{{LENGTH}}}")


def new_id(prefix: str, random_below: Callable[[int], int] = secrets.randbelow) -> str:
    """`prefix`-xxxxxxxxxxx; random_below(n) gives an integer in [0, n)."""
    return f"{prefix}-" + "".join(ALPHABET[random_below(len(ALPHABET))] for _ in range(LENGTH))


def new_cluster_id(random_below: Callable[[int], int] = secrets.randbelow) -> str:
    """An id for a new cluster."""
    return new_id("cluster", random_below)


def new_hsm_id(random_below: Callable[[int], int] = secrets.randbelow) -> str:
    """An id for a new HSM."""
    return new_id("hsm", random_below)


def is_id(text: str, prefix: str) -> bool:
    """Whether `text` is an id of this kind; safe to use as a file name then."""
    return _SHAPE.fullmatch(text) is not None and text.startswith(f"{prefix}-")


class SystemIds:
    """Identifiers from the machine's random source (DESIGN D12)."""

    def below(self, limit: int) -> int:
        """A random integer in [0, limit)."""
        return secrets.randbelow(limit)

    def token(self, size: int) -> bytes:
        """Random bytes."""
        return os.urandom(size)
