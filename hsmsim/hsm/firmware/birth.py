"""How objects come to be and go: handles, rows, session objects, and how many HSMs must know a new key."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from hsmsim.cluster.model import ObjectRow, new_key
from hsmsim.errors import CkrError, StorageError
from hsmsim.hsm.cryptoki import CKA, CKK, CKO, CKR
from hsmsim.hsm.firmware import connections, publics, values
from hsmsim.hsm.firmware.index import SessionObject

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hsmsim.cluster.model import Row
    from hsmsim.hsm.engine import Material
    from hsmsim.hsm.firmware.state import Client, State
    from hsmsim.hsm.firmware.values import Attributes

COUNT_MAX: Final = 16_666


def may_create(state: State, client: Client, session: int, given: Attributes, *, key: bool = True) -> int:
    """Objects are made by crypto users; token objects in read/write sessions; keys on a cluster that can keep them.

    Return the user: the owner, whoever is logged in when the object is there.
    """
    writable = client.session(session)
    if state.fips and given.get(CKA.KEY_TYPE) == CKK.EC_EDWARDS:
        raise CkrError(CKR.ATTRIBUTE_VALUE_INVALID, "there are no Ed25519 keys in FIPS mode")
    with client.lock:
        if not client.crypto_user:
            raise CkrError(CKR.USER_NOT_LOGGED_IN, "objects are made by a crypto user: log in with user:password")
        owner = client.user
    if given.get(CKA.TOKEN) is not True:
        return owner
    if not writable:
        raise CkrError(CKR.SESSION_READ_ONLY, "a token object needs a read/write session")
    state.require_serving()
    state.require_unlimited()
    if key and state.wants_two(client) and not state.links.enough(2):
        raise CkrError(
            CKR.FUNCTION_FAILED,
            "The key must be available on at least 2 HSMs before being used: start another HSM, "
            "or switch the key availability check off",
        )
    if state.index.count() >= COUNT_MAX:
        raise CkrError(CKR.DEVICE_MEMORY, f"a cluster holds at most {COUNT_MAX} objects")
    return owner


class Birth:
    """One object about to be: its attributes and material, and where it will live."""

    def __init__(self, object_class: CKO, key_type: CKK | None, attributes: Attributes, material: bytes) -> None:
        self.object_class = object_class
        self.key_type = key_type
        self.attributes = attributes
        self.material = material

    @property
    def token(self) -> bool:
        """Whether it is a token object."""
        return self.attributes.get(CKA.TOKEN) is True

    def row(self, partition: int, owner: int, handle: int) -> ObjectRow:
        """The row under this handle."""
        attributes = dict(self.attributes)
        if CKA.UNIQUE_ID in attributes:
            attributes[CKA.UNIQUE_ID] = f"{handle:016x}".encode()
        return ObjectRow(
            handle=handle,
            partition_id=partition,
            owner_id=owner,
            object_class=self.object_class,
            key_type=0 if self.key_type is None else self.key_type,
            private=attributes.get(CKA.PRIVATE) is True,
            attributes=values.pack(attributes),
            material=self.material,
        )


def bear(
    state: State, client: Client, session: int, owner: int, opcode: str, births: Sequence[Birth]
) -> tuple[int, ...]:
    """Make objects that belong to may_create()'s owner, all or none; return the handles.

    Two HSMs know a new token key by then. Session objects come first: their session may be closed by now, and they go
    without a trace where the write fails.
    """
    tokens = {at: birth for at, birth in enumerate(births) if birth.token}
    handles: dict[int, int] = {}
    try:
        for at, birth in enumerate(births):
            if at not in tokens:
                handles[at] = _bear_session_object(state, client, session, owner, birth)
        handles |= _bear_token_objects(state, client, owner, opcode, tokens)
    except (CkrError, StorageError):
        with client.lock:
            connections.drop_objects(state, client, list(handles.values()))
        raise
    return tuple(handles[at] for at in range(len(births)))


def _require_still(client: Client, owner: int) -> None:
    """Making a key takes a while: the client may have logged out by now, or be gone."""
    if client.user != owner:
        raise CkrError(CKR.USER_NOT_LOGGED_IN, "the user logged out while the object was made")


def _bear_token_objects(
    state: State, client: Client, owner: int, opcode: str, births: Mapping[int, Birth]
) -> dict[int, int]:
    """Handles by the births' numbers; one transaction."""
    if not births:
        return {}

    def build(version: int) -> list[Row]:
        _require_still(client, owner)
        if owner not in state.replica.users:
            raise CkrError(CKR.USER_NOT_LOGGED_IN, "the user is gone")
        return [birth.row(client.partition, owner, new_key(version, at)) for at, birth in births.items()]

    labels = b", ".join(bytes(birth.attributes.get(CKA.LABEL, b"")) for birth in births.values())
    version = state.replica.write(
        state.unlimited(build), state.entry(client, opcode, 0, labels.decode("utf-8", "replace")[:200])
    )
    handles = {at: new_key(version, at) for at in births}
    _replicate(state, client, version, list(handles.values()))
    return handles


def _bear_session_object(state: State, client: Client, session: int, owner: int, birth: Birth) -> int:
    handle = state.index.new_session_handle()
    with client.lock:
        client.session(session)
        _require_still(client, owner)
        client.objects[handle] = session
        state.index.add_session_object(SessionObject(birth.row(client.partition, owner, handle), client.id, session))
    return handle


def _replicate(state: State, client: Client, version: int, handles: list[int]) -> None:
    if not state.wants_two(client):
        state.links.announce(version)
    elif not state.links.announce(version, "one"):
        bury(state, client, handles, "lost its second HSM", always=True)
        raise CkrError(CKR.DEVICE_ERROR, "the second HSM was lost while the key was made; nothing is left of it")


def bury(state: State, client: Client, handles: list[int], detail: str, *, always: bool = False) -> None:
    """Tombstones for token objects and their shares; when this returns no HSM uses them.

    always: in limited-write mode too, for keys that were never acknowledged.
    """

    def build(_version: int) -> list[Row]:
        rows: list[Row] = []
        for handle in handles:
            row = state.replica.objects.get(handle)
            if row is not None:
                rows.append(replace(row, attributes=b"", material=b"", deleted=True))
                shares = (state.replica.share(handle, user) for user in state.replica.shares(handle))
                rows += [replace(share, deleted=True) for share in shares if share is not None]
        if not rows:
            raise CkrError(CKR.OBJECT_HANDLE_INVALID, "the object is gone")
        return rows

    revoke = state.revoke_always if always else state.revoke
    revoke(build, state.entry(client, "DESTROY_OBJECT", handles[0], detail))


def key_attributes(state: State, material: Material) -> Attributes:
    """What a key's material tells: sizes, public parts, check value. Names that the object lacks are dropped later."""
    found: Attributes = {}
    if material.object_class == CKO.SECRET_KEY:
        bits, check = state.engine.inspect(material)
        found[CKA.VALUE_LEN] = bits // 8
        if check:
            found[CKA.CHECK_VALUE] = check
        return found
    spki = material.data if material.object_class == CKO.PUBLIC_KEY else state.engine.public(material)
    found = publics.describe(spki)[2]
    if material.object_class == CKO.PRIVATE_KEY:
        found.pop(CKA.EC_POINT, None)
        found.pop(CKA.MODULUS_BITS, None)
    found[CKA.PUBLIC_KEY_INFO] = spki
    return found
