"""Keys: generate, wrap, unwrap, derive, and loading them into the engine for the hot path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hsmsim.errors import CkrError
from hsmsim.hsm.cryptoki import CKA, CKF, CKK, CKM, CKO, CKR, MECHANISMS, Operation, Profile
from hsmsim.hsm.engine import KEY_PRIVATE, KEY_TOKEN, Key, Material
from hsmsim.hsm.firmware import access, birth, publics, rights, templates, values
from hsmsim.hsm.firmware.birth import Birth
from hsmsim.hsm.messages import (
    DeriveKeyRequest,
    DeriveKeyResponse,
    GenerateKeyPairRequest,
    GenerateKeyPairResponse,
    GenerateKeyRequest,
    GenerateKeyResponse,
    HkdfParams,
    Mechanism,
    UnwrapKeyRequest,
    UnwrapKeyResponse,
    WrapKeyRequest,
    WrapKeyResponse,
)
from hsmsim.hsm.wire import Reader, decode_template

if TYPE_CHECKING:
    from hsmsim.hsm.cryptoki import MechanismInfo
    from hsmsim.hsm.engine import Request
    from hsmsim.hsm.firmware.state import Client, State
    from hsmsim.hsm.firmware.values import Attributes
    from hsmsim.hsm.vault.vault import Made

SECRET_TYPES: Final = {CKM.AES_KEY_GEN: CKK.AES, CKM.GENERIC_SECRET_KEY_GEN: CKK.GENERIC_SECRET}
PAIR_TYPES: Final = {
    CKM.RSA_PKCS_KEY_PAIR_GEN: CKK.RSA,
    CKM.RSA_X9_31_KEY_PAIR_GEN: CKK.RSA,
    CKM.EC_KEY_PAIR_GEN: CKK.EC,
    CKM.EC_EDWARDS_KEY_PAIR_GEN: CKK.EC_EDWARDS,
}
AES_SIZES: Final = (16, 24, 32)
GENERIC_MAX: Final = 800
RSA_SIZES: Final = range(2048, 4097, 256)
HKDF_SALT_KEY: Final = 4
VALUE_LEN_FREE: Final = 0


def mechanism_info(state: State, client: Client, mechanism: Mechanism, function: int) -> MechanismInfo:
    """The table's entry; CKR_MECHANISM_INVALID where this client, or the cluster's mode, does not have it for this."""
    info = MECHANISMS.get(CKM(mechanism.type)) if mechanism.type in set(CKM) else None
    if info is None or not info.available(client.profile, fips=state.fips) & function:
        raise CkrError(CKR.MECHANISM_INVALID, f"mechanism 0x{mechanism.type:X} does not do this")
    return info


# ---- generate ----------------------------------------------------------------------------------------------------


def _fresh(mechanism: Mechanism) -> Attributes:
    """What is true of every key made here."""
    return {CKA.LOCAL: True, CKA.KEY_GEN_MECHANISM: mechanism.type}


def _history(settled: Attributes) -> Attributes:
    """ALWAYS_SENSITIVE and NEVER_EXTRACTABLE of a key that was made with these attributes."""
    return settled | {
        CKA.ALWAYS_SENSITIVE: settled.get(CKA.SENSITIVE) is True,
        CKA.NEVER_EXTRACTABLE: settled.get(CKA.EXTRACTABLE) is not True,
    }


def generate_key(state: State, client: Client, request: Request) -> GenerateKeyResponse:
    """C_GenerateKey."""
    message = GenerateKeyRequest.decode(request.payload)
    mechanism_info(state, client, message.mechanism, CKF.GENERATE)
    key_type = SECRET_TYPES[CKM(message.mechanism.type)]
    given = values.parse(message.template)
    object_class, key_type_ = templates.class_and_type(given, default_class=CKO.SECRET_KEY, default_type=key_type)
    row = templates.rules(object_class, key_type_, Operation.GENERATE, client.profile)
    templates.check_given(row, given)
    owner = birth.may_create(state, client, request.session, given)
    length = int(given.get(CKA.VALUE_LEN, 0))
    if (key_type is CKK.AES and length not in AES_SIZES) or not 0 < length <= GENERIC_MAX:
        raise CkrError(CKR.KEY_SIZE_RANGE, f"{length} bytes is no size of such a key")
    material = state.vault.generate_secret(client.partition, key_type, length)
    computed = _fresh(message.mechanism) | {CKA.CLASS: object_class, CKA.KEY_TYPE: key_type}
    computed |= birth.key_attributes(state, Material(object_class, key_type, material))
    settled = templates.settle(row, given, {name: value for name, value in computed.items() if name in row})
    new = Birth(object_class, key_type, _history(settled), material)
    return GenerateKeyResponse(birth.bear(state, client, request.session, owner, "GENERATE_KEY", [new])[0])


def _make_pair(state: State, client: Client, key_type: CKK, given: Attributes) -> Made:
    if key_type is CKK.RSA:
        bits = int(given.get(CKA.MODULUS_BITS, 0))
        if bits not in RSA_SIZES:
            raise CkrError(CKR.KEY_SIZE_RANGE, "RSA keys have 2048 to 4096 bits in steps of 256")
        exponent = bytes(given.get(CKA.PUBLIC_EXPONENT, b"")) or b"\1\0\1"
        number = int.from_bytes(exponent, "big")
        if number < 65537 or number % 2 == 0 or number.bit_length() > 64:  # noqa: PLR2004 - FIPS 186-5 5.1
            raise CkrError(CKR.ATTRIBUTE_VALUE_INVALID, "the public exponent is odd and at least 65537")
        return state.vault.generate_rsa(client.partition, bits, exponent.lstrip(b"\0"))
    params = bytes(given[CKA.EC_PARAMS])
    if key_type is CKK.EC:
        publics.curve_of(params)
    elif params not in (publics.ED25519_OID, publics.ED25519_NAME):
        raise CkrError(CKR.CURVE_NOT_SUPPORTED, "of the Edwards curves Ed25519 is supported")
    return state.vault.generate_ec(client.partition, key_type, params)


def generate_key_pair(state: State, client: Client, request: Request) -> GenerateKeyPairResponse:
    """C_GenerateKeyPair."""
    message = GenerateKeyPairRequest.decode(request.payload)
    mechanism_info(state, client, message.mechanism, CKF.GENERATE_KEY_PAIR)
    key_type = PAIR_TYPES[CKM(message.mechanism.type)]
    halves = []
    for object_class, template in (
        (CKO.PUBLIC_KEY, message.public_template),
        (CKO.PRIVATE_KEY, message.private_template),
    ):
        given = values.parse(template)
        templates.class_and_type(given, default_class=object_class, default_type=key_type)
        row = templates.rules(object_class, key_type, Operation.GENERATE, client.profile)
        templates.check_given(row, given)
        owner = birth.may_create(state, client, request.session, given)
        halves.append((object_class, row, given))
    made = _make_pair(state, client, key_type, halves[0][2])
    births = []
    for (object_class, row, given), data in zip(halves, (made.spki, made.material), strict=True):
        computed = _fresh(message.mechanism) | {CKA.CLASS: object_class, CKA.KEY_TYPE: key_type}
        computed |= birth.key_attributes(state, Material(object_class, key_type, data))
        if CKA.EC_PARAMS in given and key_type is CKK.EC_EDWARDS:
            computed[CKA.EC_PARAMS] = given[CKA.EC_PARAMS]
        settled = templates.settle(row, given, {name: value for name, value in computed.items() if name in row})
        births.append(
            Birth(object_class, key_type, _history(settled) if object_class is CKO.PRIVATE_KEY else settled, data)
        )
    public, private = birth.bear(state, client, request.session, owner, "GENERATE_KEY_PAIR", births)
    return GenerateKeyPairResponse(public, private)


# ---- wrap, unwrap, derive ----------------------------------------------------------------------------------------


def _key_for(
    state: State, client: Client, handle: int, usage: CKA, invalid: CKR, *, mechanism: int, owner: bool
) -> rights.What:
    """A key of this user that may be used so."""
    if client.admin:
        raise CkrError(CKR.USER_NOT_LOGGED_IN, "an admin uses no keys")
    found = access.own(state, client, handle, invalid) if owner else access.see(state, client, handle, invalid)
    attributes = access.attributes_of(found.row)
    if found.row.object_class not in rights.KEY_CLASSES:
        raise CkrError(invalid, "this object is no key")
    if attributes.get(usage) is not True:
        raise CkrError(CKR.KEY_FUNCTION_NOT_PERMITTED, f"the key does not have {usage.name}")
    allowed = values.numbers(attributes.get(CKA.ALLOWED_MECHANISMS, b""))
    if allowed and mechanism not in allowed:
        raise CkrError(CKR.MECHANISM_INVALID, "CKA_ALLOWED_MECHANISMS of the key does not have this mechanism")
    return found


def _check_key_type(info: MechanismInfo, row_type: int, code: CKR) -> None:
    if info.key_types and CKK(row_type) not in info.key_types:
        raise CkrError(code, "the mechanism wants a key of another type")


def wrap_key(state: State, client: Client, request: Request) -> WrapKeyResponse:
    """C_WrapKey."""
    message = WrapKeyRequest.decode(request.payload)
    client.session(request.session)
    info = mechanism_info(state, client, message.mechanism, CKF.WRAP)
    wrapping = _key_for(
        state, client, message.wrapping_key, CKA.WRAP, CKR.WRAPPING_KEY_HANDLE_INVALID, mechanism=info.type, owner=False
    )
    _check_key_type(info, wrapping.row.key_type, CKR.WRAPPING_KEY_TYPE_INCONSISTENT)
    target = access.own(state, client, message.key, CKR.KEY_HANDLE_INVALID)
    if target.row.object_class not in (CKO.SECRET_KEY, CKO.PRIVATE_KEY):
        raise CkrError(CKR.KEY_NOT_WRAPPABLE, "secret and private keys are wrapped")
    attributes, how = access.attributes_of(target.row), access.attributes_of(wrapping.row)
    if attributes.get(CKA.EXTRACTABLE) is not True:
        raise CkrError(CKR.KEY_UNEXTRACTABLE, "the key does not have CKA_EXTRACTABLE")
    if attributes.get(CKA.WRAP_WITH_TRUSTED) is True and how.get(CKA.TRUSTED) is not True:
        raise CkrError(CKR.KEY_NOT_WRAPPABLE, "the key leaves only under a trusted wrapping key")
    for attr in decode_template(bytes(how.get(CKA.WRAP_TEMPLATE, b"")) or bytes(4)):
        if attributes.get(CKA(attr.type)) != values.decode(CKA(attr.type), attr.value or b""):
            raise CkrError(CKR.KEY_HANDLE_INVALID, "the key does not match the wrapping key's CKA_WRAP_TEMPLATE")
    material = access.material_of(wrapping.row), access.material_of(target.row)
    wrapped, iv = state.engine.wrap(material[0], message.mechanism, material[1])
    state.replica.audit(state.entry(client, "WRAP_KEY", message.key, f"under {message.wrapping_key:#x}"))
    return WrapKeyResponse(wrapped, iv)


def unwrap_key(state: State, client: Client, request: Request) -> UnwrapKeyResponse:
    """C_UnwrapKey."""
    message = UnwrapKeyRequest.decode(request.payload)
    info = mechanism_info(state, client, message.mechanism, CKF.UNWRAP)
    unwrapping = _key_for(
        state,
        client,
        message.unwrapping_key,
        CKA.UNWRAP,
        CKR.UNWRAPPING_KEY_HANDLE_INVALID,
        mechanism=info.type,
        owner=False,
    )
    _check_key_type(info, unwrapping.row.key_type, CKR.UNWRAPPING_KEY_TYPE_INCONSISTENT)
    how = access.attributes_of(unwrapping.row)
    given = templates.merge(how, CKA.UNWRAP_TEMPLATE, values.parse(message.template))
    object_class, key_type = templates.class_and_type(given)
    if key_type is None or object_class is CKO.PUBLIC_KEY:
        raise CkrError(CKR.TEMPLATE_INCONSISTENT, "secret and private keys are unwrapped")
    row = templates.rules(object_class, key_type, Operation.UNWRAP, client.profile)
    templates.check_given(row, given)
    owner = birth.may_create(state, client, request.session, given)
    material = state.engine.unwrap(
        access.material_of(unwrapping.row), message.mechanism, message.wrapped, object_class, key_type
    )
    computed: Attributes = {
        CKA.CLASS: object_class,
        CKA.KEY_TYPE: key_type,
        CKA.LOCAL: False,
        CKA.KEY_GEN_MECHANISM: values.UNAVAILABLE,
        CKA.ALWAYS_SENSITIVE: False,
        CKA.NEVER_EXTRACTABLE: False,
    }
    computed |= birth.key_attributes(state, Material(object_class, key_type, material))
    settled = templates.settle(row, given, {name: value for name, value in computed.items() if name in row})
    new = Birth(object_class, key_type, settled, material)
    return UnwrapKeyResponse(birth.bear(state, client, request.session, owner, "UNWRAP_KEY", [new])[0])


def derive_key(state: State, client: Client, request: Request) -> DeriveKeyResponse:
    """C_DeriveKey: the owner of the base key makes another secret key of it."""
    message = DeriveKeyRequest.decode(request.payload)
    info = mechanism_info(state, client, message.mechanism, CKF.DERIVE)
    base = _key_for(
        state, client, message.base_key, CKA.DERIVE, CKR.KEY_HANDLE_INVALID, mechanism=info.type, owner=True
    )
    _check_key_type(info, base.row.key_type, CKR.KEY_TYPE_INCONSISTENT)
    old = access.attributes_of(base.row)
    given = templates.merge(old, CKA.DERIVE_TEMPLATE, values.parse(message.template))
    if client.profile is Profile.GENERAL:  # a generic secret where the template is silent
        given = {CKA.CLASS: CKO.SECRET_KEY, CKA.KEY_TYPE: CKK.GENERIC_SECRET} | given
    object_class, key_type = templates.class_and_type(given, default_class=CKO.SECRET_KEY)
    row = templates.rules(object_class, key_type, Operation.DERIVE, client.profile)
    templates.check_given(row, given)
    owner = birth.may_create(state, client, request.session, given)
    if key_type is None:
        raise CkrError(CKR.TEMPLATE_INCOMPLETE, "the template has no CKA_KEY_TYPE")
    salt = _salt(state, client, message.mechanism)
    length = int(given.get(CKA.VALUE_LEN, VALUE_LEN_FREE))
    material = state.engine.derive(access.material_of(base.row), message.mechanism, salt, key_type, length)
    computed: Attributes = {CKA.CLASS: object_class, CKA.KEY_TYPE: key_type, CKA.KEY_GEN_MECHANISM: values.UNAVAILABLE}
    computed |= birth.key_attributes(state, Material(object_class, key_type, material))
    settled = templates.settle(row, given, {name: value for name, value in computed.items() if name in row})
    history = _history(settled)
    for name in (CKA.ALWAYS_SENSITIVE, CKA.NEVER_EXTRACTABLE):
        history[name] = history[name] is True and old.get(name) is True
    new = Birth(object_class, key_type, history, material)
    return DeriveKeyResponse(birth.bear(state, client, request.session, owner, "DERIVE_KEY", [new])[0])


def _salt(state: State, client: Client, mechanism: Mechanism) -> Material | None:
    params = mechanism.params
    if not isinstance(params, HkdfParams) or params.salt_type != HKDF_SALT_KEY:
        return None
    found = access.own(state, client, params.salt_key, CKR.KEY_HANDLE_INVALID)
    if found.row.object_class != CKO.SECRET_KEY:
        raise CkrError(CKR.KEY_TYPE_INCONSISTENT, "HKDF's salt is a secret key")
    return access.material_of(found.row)


# ---- the hot path's misses ---------------------------------------------------------------------------------------


def load_for(state: State, client: Client, request: Request) -> None:
    """A hot operation on a key that the engine does not hold: load it if it exists for this client."""
    handle = Reader(request.payload).u64()
    client.session(request.session)
    with state.loading:
        found = access.see(state, client, handle, CKR.KEY_HANDLE_INVALID)
        if found.row.object_class not in rights.KEY_CLASSES:
            raise CkrError(CKR.KEY_HANDLE_INVALID, "this object is no key")
        if client.admin:
            raise CkrError(CKR.KEY_FUNCTION_NOT_PERMITTED, "an admin uses no keys")
        state.engine.key_load(engine_key(found))


def engine_key(found: rights.What) -> Key:
    """The key with its rights."""
    row = found.row
    attributes = access.attributes_of(row)
    return Key(
        handle=row.handle,
        partition=row.partition_id,
        client=found.client,
        usage=rights.usage_bits(attributes),
        flags=(KEY_PRIVATE if row.private else 0) | (KEY_TOKEN if found.client == 0 else 0),
        users=rights.users(found),
        allowed=values.numbers(attributes.get(CKA.ALLOWED_MECHANISMS, b"")),
        material=access.material_of(row),
    )
