"""Objects: create, copy, change, destroy."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hsmsim.errors import CkrError
from hsmsim.hsm.cryptoki import ATTRIBUTES, CKA, CKO, CKR, Operation
from hsmsim.hsm.engine import Material
from hsmsim.hsm.firmware import access, birth, connections, publics, rights, templates, values
from hsmsim.hsm.firmware.birth import Birth
from hsmsim.hsm.messages import (
    CopyObjectRequest,
    CopyObjectResponse,
    CreateObjectRequest,
    CreateObjectResponse,
    DestroyObjectRequest,
    DestroyObjectResponse,
    SetAttributesRequest,
    SetAttributesResponse,
)

if TYPE_CHECKING:
    from hsmsim.cluster.model import ObjectRow, Row
    from hsmsim.hsm.engine import Request
    from hsmsim.hsm.firmware.state import Client, State
    from hsmsim.hsm.firmware.values import Attributes


def create_object(state: State, client: Client, request: Request) -> CreateObjectResponse:
    """C_CreateObject: keys that people bring, certificates, data."""
    given = values.parse(CreateObjectRequest.decode(request.payload).template)
    owner = birth.may_create(state, client, request.session, given, key=given.get(CKA.CLASS) in rights.KEY_CLASSES)
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
        computed |= birth.key_attributes(state, Material(object_class, key_type, material))
    elif CKA.VALUE in given:
        computed[CKA.VALUE] = given[CKA.VALUE]
    computed = {name: value for name, value in computed.items() if name in row}
    new = Birth(object_class, key_type, templates.settle(row, given, computed), material)
    return CreateObjectResponse(birth.bear(state, client, request.session, owner, "CREATE_OBJECT", [new])[0])


def set_attributes(state: State, client: Client, request: Request) -> SetAttributesResponse:
    """C_SetAttributeValue: all or nothing."""
    message = SetAttributesRequest.decode(request.payload)
    changes = values.parse(message.template)
    client.session(request.session)
    _refuse_redacted(changes)
    found = access.see(state, client, message.object) if client.admin else access.own(state, client, message.object)
    access.require_writable(client, request.session, found)
    table = templates.rules(CKO(found.row.object_class), access.type_of(found.row), Operation.SET, client.profile)

    def changed(row: ObjectRow) -> ObjectRow:
        old = access.attributes_of(row)
        if old.get(CKA.MODIFIABLE) is False and not client.admin:
            raise CkrError(CKR.ACTION_PROHIBITED, "the object is not modifiable")
        templates.check_change(table, old, changes, admin=client.admin)
        return replace(row, attributes=values.pack(old | changes))

    if found.client:
        with client.lock:
            held = state.index.session_objects.get(message.object)
            if held is None:
                raise CkrError(CKR.OBJECT_HANDLE_INVALID, "the object is gone")
            state.index.add_session_object(replace(held, row=changed(held.row)))
        connections.forget_key(state, message.object)
        state.engine.epoch_bump()
        return SetAttributesResponse()

    def build(_version: int) -> list[Row]:
        row = state.replica.objects.get(message.object)
        if row is None:
            raise CkrError(CKR.OBJECT_HANDLE_INVALID, "the object is gone")
        return [changed(row)]

    state.revoke(build, state.entry(client, "SET_ATTRIBUTES", message.object, ", ".join(name.name for name in changes)))
    return SetAttributesResponse()


def _refuse_redacted(changes: Attributes) -> None:
    """The engine zeroes key material in templates that do not say that they are of no key, as these never do."""
    for name in changes:
        if ATTRIBUTES[name].secret:
            raise CkrError(CKR.ATTRIBUTE_READ_ONLY, f"{name.name} cannot be changed: make a new object")


def copy_object(state: State, client: Client, request: Request) -> CopyObjectResponse:
    """C_CopyObject: a new object of the same key, never with laxer attributes."""
    message = CopyObjectRequest.decode(request.payload)
    changes = values.parse(message.template)
    client.session(request.session)
    found = access.own(state, client, message.object)
    old = access.attributes_of(found.row)
    if old.get(CKA.COPYABLE) is False:
        raise CkrError(CKR.ACTION_PROHIBITED, "the object is not copyable")
    table = templates.rules(CKO(found.row.object_class), access.type_of(found.row), Operation.COPY, client.profile)
    templates.check_change(table, old, changes, admin=False)
    made = old | changes
    if made.get(CKA.TRUSTED) is True:
        made[CKA.TRUSTED] = False  # trust is the admin's to give, to this object anew
    owner = birth.may_create(state, client, request.session, made, key=found.row.object_class in rights.KEY_CLASSES)
    new = Birth(CKO(found.row.object_class), access.type_of(found.row), made, found.row.material)
    return CopyObjectResponse(birth.bear(state, client, request.session, owner, "COPY_OBJECT", [new])[0])


def destroy_object(state: State, client: Client, request: Request) -> DestroyObjectResponse:
    """C_DestroyObject."""
    handle = DestroyObjectRequest.decode(request.payload).object
    client.session(request.session)
    found = access.own(state, client, handle)
    access.require_writable(client, request.session, found)
    if access.attributes_of(found.row).get(CKA.DESTROYABLE) is False:
        raise CkrError(CKR.ACTION_PROHIBITED, "the object is not destroyable")
    if found.client:
        with client.lock:
            connections.drop_objects(state, client, [handle])
        state.engine.epoch_bump()
    else:
        birth.bury(state, client, [handle], "")
    return DestroyObjectResponse()
