"""Objects: read their attributes, find them, and what a client may cache about a key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hsmsim.errors import CkrError
from hsmsim.hsm.cryptoki import ATTRIBUTES, CKA, CKO, CKR, Operation
from hsmsim.hsm.engine import Splice
from hsmsim.hsm.firmware import access, publics, rights, templates, values
from hsmsim.hsm.firmware.index import ANSWERED
from hsmsim.hsm.messages import (
    MAX_TEMPLATE,
    FindRequest,
    FindResponse,
    GetAttributesRequest,
    KeyFactsRequest,
    KeyFactsResponse,
    ObjectSizeRequest,
    ObjectSizeResponse,
)

if TYPE_CHECKING:
    from hsmsim.cluster.model import ObjectRow
    from hsmsim.hsm.engine import Request
    from hsmsim.hsm.firmware.state import Client, State
    from hsmsim.hsm.firmware.values import Attributes
    from hsmsim.hsm.wire import Template

_FACT_PRIVATE, _FACT_TOKEN, _FACT_FIPS = 1, 2, 8
_SECRET_CLASSES: Final = frozenset({CKO.SECRET_KEY, CKO.PRIVATE_KEY})


def _readable(found: rights.What, client: Client, attributes: Attributes, name: CKA) -> CKR | None:
    """None, or why the attribute is not given out."""
    if not rights.may_read(access.who(client), found, name):
        return CKR.ATTRIBUTE_SENSITIVE
    if not ATTRIBUTES[name].secret or found.row.object_class not in _SECRET_CLASSES:
        return None if name in attributes else CKR.ATTRIBUTE_TYPE_INVALID
    return None if rights.may_read_secret(access.who(client), found, attributes) else CKR.ATTRIBUTE_SENSITIVE


def get_attributes(state: State, client: Client, request: Request) -> tuple[int, bytes, list[Splice]]:
    """C_GetAttributeValue: the answer, with places for values that only the engine sees."""
    message = GetAttributesRequest.decode(request.payload)
    if len(message.types) > MAX_TEMPLATE:
        raise CkrError(CKR.ARGUMENTS_BAD, f"a template has at most {MAX_TEMPLATE} attributes")
    client.session(request.session)
    found = access.see(state, client, message.object)
    attributes = access.attributes_of(found.row)
    has = templates.rules(CKO(found.row.object_class), access.type_of(found.row), Operation.SET, client.profile)
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
            splices.append(Splice(len(payload), name, access.material_of(found.row)))
        else:
            rv = refused or CKR.ATTRIBUTE_TYPE_INVALID
            payload += b"\xff\xff\xff\xff"
    return rv, bytes(payload), splices


def object_size(state: State, client: Client, request: Request) -> ObjectSizeResponse:
    """C_GetObjectSize: bytes of the stored row."""
    client.session(request.session)
    row = access.see(state, client, ObjectSizeRequest.decode(request.payload).object).row
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
    me = access.who(client)
    hits = []
    for handle in state.index.candidates(client.partition, wanted):
        found = access.what(state, handle)
        known = found is not None and rights.visible(me, found)
        if found is not None and known and _matches(found.row, wanted) and _may_ask(me, found, wanted):
            hits.append(handle)
    return FindResponse(tuple(hits))


def _matches(row: ObjectRow, wanted: Attributes) -> bool:
    """Compare what the index has not."""
    if CKA.KEY_TYPE in wanted and wanted[CKA.KEY_TYPE] != access.type_of(row):
        return False
    secret_key = row.object_class in _SECRET_CLASSES
    for name in wanted.keys() - ANSWERED - {CKA.KEY_TYPE}:
        if name not in (attributes := access.attributes_of(row)) or attributes[name] != wanted[name]:
            return False
        if secret_key and ATTRIBUTES[name].secret:
            return False
    return True


def _may_ask(me: rights.Who, found: rights.What, wanted: Attributes) -> bool:
    """A search tells no more than a read would."""
    return all(rights.may_read(me, found, name) for name in wanted)


def key_facts(state: State, client: Client, request: Request) -> KeyFactsResponse:
    """What a client may cache about a key."""
    handle = KeyFactsRequest.decode(request.payload).object
    client.session(request.session)
    found = access.see(state, client, handle, CKR.KEY_HANDLE_INVALID)
    row = found.row
    if row.object_class not in rights.KEY_CLASSES:
        raise CkrError(CKR.KEY_HANDLE_INVALID, "this object is no key")
    attributes = access.attributes_of(row)
    usage = 0 if client.admin else rights.usage_bits(attributes)
    flags = (_FACT_PRIVATE if row.private else 0) | (_FACT_TOKEN if found.client == 0 else 0)
    flags |= _FACT_FIPS if state.fips else 0
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
