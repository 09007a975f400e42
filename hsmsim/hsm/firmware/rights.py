"""Who may see, use and change an object: pure decisions on values, no I/O.

An object belongs to the crypto user who made it. Others of the partition see it if it is not CKA_PRIVATE, or if it was
shared with them; sharees use it, nothing else. An admin sees what keys there are and may mark them trusted; never uses,
reads or exports one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hsmsim.cluster.model import ROLE_ADMIN, ROLE_CRYPTO_USER
from hsmsim.hsm.cryptoki import CKA, CKO, CKR
from hsmsim.hsm.firmware import values

if TYPE_CHECKING:
    from hsmsim.cluster.model import ObjectRow
    from hsmsim.hsm.firmware.values import Attributes

KEY_CLASSES: Final = frozenset({CKO.SECRET_KEY, CKO.PRIVATE_KEY, CKO.PUBLIC_KEY})
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

ADMIN_SEES: Final = frozenset(
    {CKA.CLASS, CKA.KEY_TYPE, CKA.LABEL, CKA.ID, CKA.TOKEN, CKA.PRIVATE, CKA.TRUSTED, CKA.UNIQUE_ID}
)
"""Of private objects."""


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


def why_not(who: Who, what: What | None, usage: CKA, mechanism: int) -> CKR | None:
    """None if the client may use the key so, else what it is told; as the engine decides for keys that it holds."""
    if what is None or not visible(who, what) or what.row.object_class not in KEY_CLASSES:
        return CKR.KEY_HANDLE_INVALID
    attributes = values.unpack(what.row.attributes)
    if who.role == ROLE_ADMIN or attributes.get(usage) is not True:
        return CKR.KEY_FUNCTION_NOT_PERMITTED
    allowed = values.numbers(attributes.get(CKA.ALLOWED_MECHANISMS, b""))
    return CKR.MECHANISM_INVALID if allowed and mechanism not in allowed else None


def may_read(who: Who, what: What, name: CKA) -> bool:
    """Whether the client may know an attribute that is no secret."""
    return who.role != ROLE_ADMIN or not what.row.private or name in ADMIN_SEES


def may_read_secret(who: Who, what: What, attributes: Attributes) -> bool:
    """Whether the owner may have the key in clear (PKCS#11 4.9)."""
    open_ = attributes.get(CKA.SENSITIVE) is False and attributes.get(CKA.EXTRACTABLE) is True
    return open_ and owns(who, what)
