"""Objects as a client sees them: the bridge from handles and rows to the pure rules of rights.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hsmsim.errors import CkrError
from hsmsim.hsm.cryptoki import CKA, CKF, CKK, CKM, CKR, MECHANISMS
from hsmsim.hsm.engine import Material
from hsmsim.hsm.firmware import rights, values

if TYPE_CHECKING:
    from hsmsim.cluster.model import ObjectRow
    from hsmsim.hsm.firmware.state import Client, State
    from hsmsim.hsm.firmware.values import Attributes

_FUNCTIONS: Final = {CKA.SIGN: CKF.SIGN, CKA.VERIFY: CKF.VERIFY, CKA.ENCRYPT: CKF.ENCRYPT, CKA.DECRYPT: CKF.DECRYPT}


def who(client: Client) -> rights.Who:
    """The client as rights.py sees it."""
    return rights.Who(client.id, client.partition, client.user, client.role)


def what(state: State, handle: int) -> rights.What | None:
    """The object as rights.py sees it."""
    found = state.index.get(handle)
    return None if found is None else rights.What(found[0], found[1], state.replica.shares(handle))


def see(state: State, client: Client, handle: int, missing: CKR = CKR.OBJECT_HANDLE_INVALID) -> rights.What:
    """An object that exists for this client."""
    found = what(state, handle)
    if found is None or not rights.visible(who(client), found):
        raise CkrError(missing, "there is no such object for this user")
    return found


def attributes_of(row: ObjectRow) -> Attributes:
    """The stored attributes."""
    return values.unpack(row.attributes)


def material_of(row: ObjectRow) -> Material:
    """The key for the engine."""
    return Material(row.object_class, row.key_type, row.material)


def own(state: State, client: Client, handle: int, missing: CKR = CKR.OBJECT_HANDLE_INVALID) -> rights.What:
    """An object that this client's user owns."""
    found = see(state, client, handle, missing)
    if not client.crypto_user:
        raise CkrError(CKR.USER_NOT_LOGGED_IN, "log in as the crypto user who owns the object")
    if not rights.owns(who(client), found):
        raise CkrError(CKR.ACTION_PROHIBITED, "only the owner may do this; a sharee uses the key")
    return found


def require_writable(client: Client, session: int, found: rights.What) -> None:
    """A token object is changed in a read/write session."""
    if found.client == 0 and not client.session(session):
        raise CkrError(CKR.SESSION_READ_ONLY, "a token object is changed in a read/write session")


def type_of(row: ObjectRow) -> CKK | None:
    """CKA_KEY_TYPE of a key."""
    return CKK(row.key_type) if row.object_class in rights.KEY_CLASSES else None


def usable(state: State, client: Client, session: int, handle: int, usage: CKA, mechanism: int) -> ObjectRow:
    """The row of a key that this client may use so, as the engine decides it for keys that it holds."""
    client.session(session)
    found = what(state, handle)
    refused = rights.why_not(who(client), found, usage, mechanism)
    if refused is not None or found is None:
        raise CkrError(refused or CKR.KEY_HANDLE_INVALID, "this key is not for this user, or not for this use")
    info = MECHANISMS.get(CKM(mechanism))
    if state.fips and info is not None and info.fips_forbids & _FUNCTIONS[usage]:
        raise CkrError(CKR.MECHANISM_INVALID, "the mechanism does not do this in FIPS mode")
    return found.row
