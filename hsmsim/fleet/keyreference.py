"""A key's name in a PEM file, for programs that want a file: no secret in it, the key stays in the HSM.

The form is the one that OpenSSL providers for PKCS#11 share (label PKCS#11 PROVIDER URI; a sequence of a description
and an RFC 7512 URI), so that a file made here serves with another provider and another HSM. hsmsim-provider.so
reads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from asn1crypto import pem
from asn1crypto.core import Sequence, UTF8String, VisibleString

from hsmsim.errors import HsmsimError
from hsmsim.fleet.keys import chosen, list_keys, look
from hsmsim.hsm.cryptoki import CKO

if TYPE_CHECKING:
    from hsmsim.fleet.keys import Key
    from hsmsim.hsm.client import HsmClient

LABEL: Final = "PKCS#11 PROVIDER URI"
DESCRIPTION: Final = "PKCS#11 Provider URI v1.0"


def private_key(client: HsmClient, *, handle: int | None, label: str | None, key_id: bytes) -> Key:
    """Return the one private key that is meant by handle, label or id; HsmsimError if it is none or several."""
    if handle is None and label is None and key_id:
        seen = list_keys(client)
    else:
        seen = [look(client, one) for one in chosen(client, handle, label)]
    found = [key for key in seen if key.object_class is CKO.PRIVATE_KEY and key_id in (b"", key.id)]
    if not found:
        raise HsmsimError("That is no private key that you may use. hsmsim key list shows them")
    if len(found) > 1:
        listed = ", ".join(f"0x{key.handle:016x} (id {key.id.hex() or 'none'})" for key in found)
        raise HsmsimError(f"{len(found)} private keys are meant: {listed}. Name one by its handle or --id")
    return found[0]


def uri(key: Key, token: str) -> str:
    """Return its PKCS#11 URI (RFC 7512): by id where it has one, since labels may be shared."""
    name = f"id={''.join(f'%{byte:02X}' for byte in key.id)}" if key.id else f"object={quote(key.label, safe='')}"
    return f"pkcs11:token={quote(token, safe='')};{name};type=private"


def document(name: str) -> bytes:
    """Return the PEM file that names the key of this URI."""
    content = VisibleString(DESCRIPTION).dump() + UTF8String(name).dump()
    encoded: bytes = pem.armor(LABEL, Sequence(contents=content).dump())
    return encoded
