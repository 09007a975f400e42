"""Who may see, use and change an object: pure decisions on values, no I/O.

An object belongs to the crypto user who made it. Others of the partition see it if it is not CKA_PRIVATE, or if it was
shared with them; sharees use it, nothing else. An admin sees what keys there are and may mark them trusted; never uses,
reads or exports one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hsmsim.cluster.model import ROLE_ADMIN, ROLE_CRYPTO_USER
from hsmsim.hsm.cryptoki import CKA

if TYPE_CHECKING:
    from hsmsim.cluster.model import ObjectRow
    from hsmsim.hsm.firmware.values import Attributes

USAGE: Final = (
    CKA.ENCRYPT,
    CKA.DECRYPT,
    CKA.SIGN,
    CKA.VERIFY,
    CKA.SIGN_RECOVER,
    CKA.VERIFY_RECOVER,
    CKA.WRAP,
    CKA.UNWRAP,
    CKA.DERIVE,
)
"""In the order of KEY_FACTS' usage bits."""


@dataclass(frozen=True, slots=True)
class Who:
    """A client: its id, partition, user (0: nobody) and role."""

    client: int
    partition: int
    user: int
    role: int


@dataclass(frozen=True, slots=True)
class What:
    """An object, the client it belongs to (0: token object), and the users it is shared with."""

    row: ObjectRow
    client: int
    shares: frozenset[int]


def visible(who: Who, what: What) -> bool:
    """Whether the object exists for this client."""
    row = what.row
    if row.partition_id != who.partition or what.client not in (0, who.client):
        return False
    if not row.private or who.role == ROLE_ADMIN:
        return True
    return who.role == ROLE_CRYPTO_USER and (row.owner_id == who.user or who.user in what.shares)


def owns(who: Who, what: What) -> bool:
    """Whether the client may change, delete, export, derive from and share the object."""
    return who.role == ROLE_CRYPTO_USER and what.row.owner_id == who.user


def users(what: What) -> tuple[int, ...]:
    """Who may use the object."""
    return (what.row.owner_id, *sorted(what.shares))


def usage_bits(attributes: Attributes) -> int:
    """KEY_FACTS' usage bits."""
    return sum(1 << bit for bit, name in enumerate(USAGE) if attributes.get(name) is True)
