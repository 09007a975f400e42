"""Objects: create, copy, destroy, read, change, find, share."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from hsmsim.cluster.model import ROLE_CRYPTO_USER, ObjectRow, ShareRow, new_key
from hsmsim.errors import CkrError
from hsmsim.hsm.cryptoki import ATTRIBUTES, CKA, CKK, CKO, CKR, Operation, Profile
from hsmsim.hsm.engine import Material, Splice
from hsmsim.hsm.firmware import publics, rights, templates, values
from hsmsim.hsm.firmware.index import SessionObject
from hsmsim.hsm.messages import (
    CopyObjectRequest,
    CopyObjectResponse,
    CreateObjectRequest,
    CreateObjectResponse,
    DestroyObjectRequest,
    DestroyObjectResponse,
    FindRequest,
    FindResponse,
    GetAttributesRequest,
    KeyFactsRequest,
    KeyFactsResponse,
    KeyShareRequest,
    KeyShareResponse,
    KeyUnshareRequest,
    KeyUnshareResponse,
    KeyUsersRequest,
    KeyUsersResponse,
    ObjectSizeRequest,
    ObjectSizeResponse,
    SetAttributesRequest,
    SetAttributesResponse,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hsmsim.cluster.model import Row
    from hsmsim.hsm.engine import Request
    from hsmsim.hsm.firmware.state import Client, State
    from hsmsim.hsm.firmware.values import Attributes
    from hsmsim.hsm.wire import Template

KEY_CLASSES: Final = (CKO.SECRET_KEY, CKO.PRIVATE_KEY, CKO.PUBLIC_KEY)
ADMIN_SEES: Final = frozenset(
    {CKA.CLASS, CKA.KEY_TYPE, CKA.LABEL, CKA.ID, CKA.TOKEN, CKA.PRIVATE, CKA.TRUSTED, CKA.UNIQUE_ID}
)
COUNT_MAX: Final = 16_666
_FACT_PRIVATE, _FACT_TOKEN = 1, 2


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


# ---- birth -------------------------------------------------------------------------------------------------------


def may_create(state: State, client: Client, session: int, given: Attributes) -> None:
    """Objects are made by crypto users; token objects in read/write sessions; keys on a cluster that can keep them."""
    writable = client.session(session)
    if not client.crypto_user:
        raise CkrError(CKR.USER_NOT_LOGGED_IN, "objects are made by a crypto user: log in with user:password")
    if (
        client.profile is Profile.CLOUDHSM
        and given.get(CKA.PRIVATE) is False
        and given.get(CKA.CLASS) != CKO.CERTIFICATE
    ):
        raise CkrError(CKR.ATTRIBUTE_VALUE_INVALID, "CKA_PRIVATE can only be true")
    if given.get(CKA.TOKEN) is True:
        if not writable:
            raise CkrError(CKR.SESSION_READ_ONLY, "a token object needs a read/write session")
        state.require_serving()
        require_two(state, client)
        if state.index.count() >= COUNT_MAX:
            raise CkrError(CKR.DEVICE_MEMORY, f"a cluster holds at most {COUNT_MAX} objects")


def require_two(state: State, client: Client) -> None:
    """CloudHSM's key availability check, before anything is written."""
    if _checked(state, client) and state.links.live() < 2:  # noqa: PLR2004 - two HSMs
        raise CkrError(
            CKR.FUNCTION_FAILED,
            "The key must be available on at least 2 HSMs before being used: start another HSM, "
            "or switch the key availability check off",
        )


def _checked(state: State, client: Client) -> bool:
    return state.settings.availability_check and client.availability_check


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

    def row(self, client: Client, handle: int) -> ObjectRow:
        """The row under this handle."""
        attributes = dict(self.attributes)
        if CKA.UNIQUE_ID in attributes:
            attributes[CKA.UNIQUE_ID] = f"{handle:016x}".encode()
        return ObjectRow(
            handle=handle,
            partition_id=client.partition,
            owner_id=client.user,
            object_class=self.object_class,
            key_type=0 if self.key_type is None else self.key_type,
            private=attributes.get(CKA.PRIVATE) is True,
            attributes=values.pack(attributes),
            material=self.material,
        )


def bear(state: State, client: Client, session: int, opcode: str, births: Sequence[Birth]) -> tuple[int, ...]:
    """Make the objects, token ones in one transaction, and return the handles: two HSMs know a new key by then."""
    handles: dict[int, int] = {}
    tokens = [(at, birth) for at, birth in enumerate(births) if birth.token]
    if tokens:
        user = client.user

        def build(version: int) -> list[Row]:
            if user not in state.replica.users:
                raise CkrError(CKR.USER_NOT_LOGGED_IN, "the user is gone")
            return [birth.row(client, new_key(version, at)) for at, birth in tokens]

        labels = b", ".join(bytes(birth.attributes.get(CKA.LABEL, b"")) for _, birth in tokens)
        version = state.replica.write(build, state.entry(client, opcode, 0, labels.decode("utf-8", "replace")[:200]))
        handles = {at: new_key(version, at) for at, _ in tokens}
        _replicate(state, client, version, list(handles.values()))
    for at, birth in enumerate(births):
        if at not in handles:
            handles[at] = _bear_session_object(state, client, session, birth)
    return tuple(handles[at] for at in range(len(births)))


def _bear_session_object(state: State, client: Client, session: int, birth: Birth) -> int:
    handle = state.index.new_session_handle()
    with client.lock:
        client.session(session)
        client.objects[handle] = session
        state.index.add_session_object(SessionObject(birth.row(client, handle), client.id, session))
    return handle


def _replicate(state: State, client: Client, version: int, handles: list[int]) -> None:
    if not _checked(state, client):
        state.links.announce(version)
    elif not state.links.announce(version, "one"):
        bury(state, client, handles, "lost its second HSM")
        raise CkrError(CKR.DEVICE_ERROR, "the second HSM was lost while the key was made; nothing is left of it")


def bury(state: State, client: Client, handles: list[int], detail: str) -> None:
    """Tombstones for token objects and their shares; when this returns no HSM uses them."""

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

    state.revoke(build, state.entry(client, "DESTROY_OBJECT", handles[0], detail))


def create_object(state: State, client: Client, request: Request) -> CreateObjectResponse:
    """C_CreateObject: keys that people bring, certificates, data."""
    given = values.parse(CreateObjectRequest.decode(request.payload).template)
    may_create(state, client, request.session, given)
    object_class, key_type = templates.class_and_type(given)
    row = templates.rules(object_class, key_type, Operation.CREATE, client.profile)
    templates.check_given(row, given)
    computed: Attributes = {CKA.CLASS: object_class}
    material = b""
    if key_type is not None:
        computed |= {CKA.KEY_TYPE: key_type, CKA.LOCAL: False, CKA.KEY_GEN_MECHANISM: values.UNAVAILABLE}
        if object_class is CKO.PUBLIC_KEY:
            material = publics.build(key_type, given)
        else:
            material = state.engine.import_key(request.id, 0, object_class, key_type)
            computed |= {CKA.ALWAYS_SENSITIVE: False, CKA.NEVER_EXTRACTABLE: False}
        computed |= key_attributes(state, Material(object_class, key_type, material))
    elif CKA.VALUE in given:
        computed[CKA.VALUE] = given[CKA.VALUE]
    computed = {name: value for name, value in computed.items() if name in row}
    birth = Birth(object_class, key_type, templates.settle(row, given, computed), material)
    return CreateObjectResponse(bear(state, client, request.session, "CREATE_OBJECT", [birth])[0])


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


# ---- reading -----------------------------------------------------------------------------------------------------


def _readable(found: rights.What, client: Client, attributes: Attributes, name: CKA) -> CKR | None:
    """None, or why the attribute is not given out."""
    if client.admin and found.row.private and name not in ADMIN_SEES:
        return CKR.ATTRIBUTE_SENSITIVE
    if not ATTRIBUTES[name].secret or found.row.object_class not in (CKO.SECRET_KEY, CKO.PRIVATE_KEY):
        return None if name in attributes else CKR.ATTRIBUTE_TYPE_INVALID
    closed = attributes.get(CKA.SENSITIVE) is not False or attributes.get(CKA.EXTRACTABLE) is not True
    return CKR.ATTRIBUTE_SENSITIVE if closed or not rights.owns(who(client), found) else None


def get_attributes(state: State, client: Client, request: Request) -> tuple[int, bytes, list[Splice]]:
    """C_GetAttributeValue: the answer, with places for values that only the engine sees."""
    message = GetAttributesRequest.decode(request.payload)
    client.session(request.session)
    found = see(state, client, message.object)
    attributes = attributes_of(found.row)
    has = templates.rules(CKO(found.row.object_class), _type(found.row), Operation.SET, client.profile)
    rv = CKR.OK
    payload = bytearray(len(message.types).to_bytes(4, "little"))
    splices: list[Splice] = []
    for number in message.types:
        name = CKA(number) if number in ATTRIBUTES else None
        refused = CKR.ATTRIBUTE_TYPE_INVALID if name is None else _readable(found, client, attributes, name)
        payload += number.to_bytes(8, "little")
        if name is not None and refused is None and name in attributes:
            value = values.encode(attributes[name])
            payload += len(value).to_bytes(4, "little") + value
        elif name is not None and refused is None and name in has:
            splices.append(Splice(len(payload), name, material_of(found.row)))
        else:
            rv = refused or CKR.ATTRIBUTE_TYPE_INVALID
            payload += b"\xff\xff\xff\xff"
    return rv, bytes(payload), splices


def _type(row: ObjectRow) -> CKK | None:
    return CKK(row.key_type) if row.object_class in KEY_CLASSES else None


def object_size(state: State, client: Client, request: Request) -> ObjectSizeResponse:
    """C_GetObjectSize: bytes of the stored row."""
    client.session(request.session)
    row = see(state, client, ObjectSizeRequest.decode(request.payload).object).row
    return ObjectSizeResponse(len(row.attributes) + len(row.material))


def find(state: State, client: Client, request: Request) -> FindResponse:
    """C_FindObjects: all that match."""
    template: Template = FindRequest.decode(request.payload).template
    client.session(request.session)
    wanted: Attributes = {}
    for attr in template:
        if attr.type not in ATTRIBUTES or attr.value is None:
            return FindResponse(())
        wanted[CKA(attr.type)] = values.decode(CKA(attr.type), attr.value)
    me = who(client)
    hits = []
    for handle in state.index.candidates(client.partition, wanted):
        found = what(state, handle)
        if found is not None and rights.visible(me, found) and _matches(found.row, wanted):
            hits.append(handle)
    return FindResponse(tuple(hits))


def _matches(row: ObjectRow, wanted: Attributes) -> bool:
    if CKA.CLASS in wanted and wanted[CKA.CLASS] != row.object_class:
        return False
    if not wanted.keys() - {CKA.CLASS}:
        return True
    attributes = attributes_of(row)
    secret_key = row.object_class in (CKO.SECRET_KEY, CKO.PRIVATE_KEY)
    return all(
        name in attributes and attributes[name] == value and not (secret_key and ATTRIBUTES[name].secret)
        for name, value in wanted.items()
    )


def key_facts(state: State, client: Client, request: Request) -> KeyFactsResponse:
    """What a client may cache about a key."""
    handle = KeyFactsRequest.decode(request.payload).object
    client.session(request.session)
    found = see(state, client, handle, CKR.KEY_HANDLE_INVALID)
    row = found.row
    if row.object_class not in KEY_CLASSES:
        raise CkrError(CKR.KEY_HANDLE_INVALID, "this object is no key")
    attributes = attributes_of(row)
    usage = 0 if client.admin else rights.usage_bits(attributes)
    flags = (_FACT_PRIVATE if row.private else 0) | (_FACT_TOKEN if found.client == 0 else 0)
    allowed = values.numbers(attributes.get(CKA.ALLOWED_MECHANISMS, b""))
    return KeyFactsResponse(row.object_class, row.key_type, bits_of(attributes, row), usage, flags, allowed)


def bits_of(attributes: Attributes, row: ObjectRow) -> int:
    """Modulus bits, field bits of the curve, or 8 times the value's length."""
    if row.object_class == CKO.SECRET_KEY:
        return int(attributes.get(CKA.VALUE_LEN, 0)) * 8
    modulus = attributes.get(CKA.MODULUS)
    if isinstance(modulus, bytes):
        return int.from_bytes(modulus, "big").bit_length()
    params = bytes(attributes.get(CKA.EC_PARAMS, b""))
    return publics.CURVES[params].key_size if params in publics.CURVES else 255


# ---- changing ----------------------------------------------------------------------------------------------------


def own(state: State, client: Client, handle: int, missing: CKR = CKR.OBJECT_HANDLE_INVALID) -> rights.What:
    """An object that this client's user owns."""
    found = see(state, client, handle, missing)
    if not client.crypto_user:
        raise CkrError(CKR.USER_NOT_LOGGED_IN, "log in as the crypto user who owns the object")
    if not rights.owns(who(client), found):
        raise CkrError(CKR.ACTION_PROHIBITED, "only the owner may do this; a sharee uses the key")
    return found


def _writable(client: Client, session: int, found: rights.What) -> None:
    if found.client == 0 and not client.session(session):
        raise CkrError(CKR.SESSION_READ_ONLY, "a token object is changed in a read/write session")


def set_attributes(state: State, client: Client, request: Request) -> SetAttributesResponse:
    """C_SetAttributeValue: all or nothing."""
    message = SetAttributesRequest.decode(request.payload)
    changes = values.parse(message.template)
    client.session(request.session)
    found = see(state, client, message.object) if client.admin else own(state, client, message.object)
    _writable(client, request.session, found)
    table = templates.rules(CKO(found.row.object_class), _type(found.row), Operation.SET, client.profile)

    def changed(row: ObjectRow) -> ObjectRow:
        old = attributes_of(row)
        if old.get(CKA.MODIFIABLE) is False and not client.admin:
            raise CkrError(CKR.ACTION_PROHIBITED, "the object is not modifiable")
        templates.check_change(table, old, changes, admin=client.admin)
        return replace(row, attributes=values.pack(old | changes))

    if found.client:
        held = state.index.session_objects[message.object]
        state.index.add_session_object(replace(held, row=changed(held.row)))
        state.engine.key_drop(message.object)
        state.engine.epoch_bump()
        return SetAttributesResponse()

    def build(_version: int) -> list[Row]:
        row = state.replica.objects.get(message.object)
        if row is None:
            raise CkrError(CKR.OBJECT_HANDLE_INVALID, "the object is gone")
        return [changed(row)]

    state.revoke(build, state.entry(client, "SET_ATTRIBUTES", message.object, ", ".join(name.name for name in changes)))
    return SetAttributesResponse()


def copy_object(state: State, client: Client, request: Request) -> CopyObjectResponse:
    """C_CopyObject: a new object of the same key, never with laxer attributes."""
    message = CopyObjectRequest.decode(request.payload)
    changes = values.parse(message.template)
    client.session(request.session)
    found = own(state, client, message.object)
    old = attributes_of(found.row)
    if old.get(CKA.COPYABLE) is False:
        raise CkrError(CKR.ACTION_PROHIBITED, "the object is not copyable")
    table = templates.rules(CKO(found.row.object_class), _type(found.row), Operation.COPY, client.profile)
    templates.check_change(table, old, changes, admin=False)
    made = old | changes
    if made.get(CKA.TRUSTED) is True:
        made[CKA.TRUSTED] = False  # trust is the admin's to give, to this object anew
    may_create(state, client, request.session, made)
    birth = Birth(CKO(found.row.object_class), _type(found.row), made, found.row.material)
    return CopyObjectResponse(bear(state, client, request.session, "COPY_OBJECT", [birth])[0])


def destroy_object(state: State, client: Client, request: Request) -> DestroyObjectResponse:
    """C_DestroyObject."""
    handle = DestroyObjectRequest.decode(request.payload).object
    client.session(request.session)
    found = own(state, client, handle)
    _writable(client, request.session, found)
    if attributes_of(found.row).get(CKA.DESTROYABLE) is False:
        raise CkrError(CKR.ACTION_PROHIBITED, "the object is not destroyable")
    if found.client:
        with client.lock:
            state.engine.key_drop(handle)
            state.index.drop_session_object(handle)
            client.objects.pop(handle, None)
        state.engine.epoch_bump()
    else:
        bury(state, client, [handle], "")
    return DestroyObjectResponse()


# ---- sharing -----------------------------------------------------------------------------------------------------


def _sharee(state: State, client: Client, name: bytes) -> int:
    user = state.replica.user_named(client.partition, name.decode("utf-8", "replace"))
    if user is None or user.role != ROLE_CRYPTO_USER:
        raise CkrError(CKR.ARGUMENTS_BAD, "there is no such crypto user in this partition")
    return user.id


def key_share(state: State, client: Client, request: Request) -> KeyShareResponse:
    """The owner lets another crypto user use a token key."""
    message = KeyShareRequest.decode(request.payload)
    found = own(state, client, message.key, CKR.KEY_HANDLE_INVALID)
    user = _sharee(state, client, message.user)
    if found.client or found.row.object_class not in KEY_CLASSES or user == client.user:
        raise CkrError(CKR.ARGUMENTS_BAD, "a token key is shared, and with somebody else")

    def build(_version: int) -> list[Row]:
        if message.key not in state.replica.objects:
            raise CkrError(CKR.KEY_HANDLE_INVALID, "the key is gone")
        return [ShareRow(message.key, user)]

    # the other HSMs hold the key with its old users until they have applied the row
    state.revoke(build, state.entry(client, "KEY_SHARE", message.key, message.user.decode("utf-8", "replace")))
    return KeyShareResponse()


def key_unshare(state: State, client: Client, request: Request) -> KeyUnshareResponse:
    """The owner takes it back; when this is answered nobody uses it under the old right."""
    message = KeyUnshareRequest.decode(request.payload)
    own(state, client, message.key, CKR.KEY_HANDLE_INVALID)
    user = _sharee(state, client, message.user)

    def build(_version: int) -> list[Row]:
        share = state.replica.share(message.key, user)
        if share is None:
            raise CkrError(CKR.ARGUMENTS_BAD, "the key is not shared with this user")
        return [replace(share, deleted=True)]

    state.revoke(build, state.entry(client, "KEY_UNSHARE", message.key, message.user.decode("utf-8", "replace")))
    return KeyUnshareResponse()


def key_users(state: State, client: Client, request: Request) -> KeyUsersResponse:
    """Owner and sharees."""
    found = see(state, client, KeyUsersRequest.decode(request.payload).key, CKR.KEY_HANDLE_INVALID)
    users = state.replica.users
    owner = users.get(found.row.owner_id)
    shared = sorted(users[one].name for one in found.shares if one in users)
    return KeyUsersResponse(owner.name.encode() if owner else b"", tuple(name.encode() for name in shared))
