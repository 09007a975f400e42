"""Keys, as a crypto user manages them from the command line: list, generate, import, delete, share, trust.

Each function takes a client whose session SESSION is logged in. The attributes that a key gets are in `USES`, one line
per kind; everything else is the firmware's default. An imported key is parsed here, in the person's own process, and
goes to the HSM as any C_CreateObject does.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hsmsim.errors import CkrError, HsmsimError
from hsmsim.fleet.access import SESSION, explain
from hsmsim.fleet.keyfile import CURVES, ED25519
from hsmsim.hsm.cryptoki import CKA, CKK, CKM, CKO, CKR
from hsmsim.hsm.messages import (
    CreateObjectRequest,
    DestroyObjectRequest,
    FindRequest,
    GenerateKeyPairRequest,
    GenerateKeyRequest,
    GetAttributesRequest,
    KeyFactsRequest,
    KeyShareRequest,
    KeyUnshareRequest,
    KeyUsersRequest,
    Mechanism,
    SetAttributesRequest,
)
from hsmsim.hsm.wire import Attr

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hsmsim.fleet.keyfile import KeyFile
    from hsmsim.hsm.client import HsmClient

Attributes = dict[CKA, bool | int | bytes | str]

ID_BYTES: Final = 8
CLASSES: Final = {CKO.PUBLIC_KEY: "public", CKO.PRIVATE_KEY: "private", CKO.SECRET_KEY: "secret"}

# What the halves of a key pair, or a secret key, may be used for.
USES: Final[Mapping[CKK, tuple[frozenset[CKA], frozenset[CKA]]]] = {
    CKK.RSA: (
        frozenset({CKA.VERIFY, CKA.ENCRYPT, CKA.WRAP}),
        frozenset({CKA.SIGN, CKA.DECRYPT, CKA.UNWRAP}),
    ),
    CKK.EC: (frozenset({CKA.VERIFY}), frozenset({CKA.SIGN, CKA.DERIVE})),
    CKK.EC_EDWARDS: (frozenset({CKA.VERIFY}), frozenset({CKA.SIGN})),
    CKK.AES: (frozenset(), frozenset({CKA.ENCRYPT, CKA.DECRYPT, CKA.SIGN, CKA.VERIFY, CKA.WRAP, CKA.UNWRAP})),
    CKK.GENERIC_SECRET: (frozenset(), frozenset({CKA.SIGN, CKA.VERIFY, CKA.DERIVE})),
}

_REASONS: Final = {
    CKR.FUNCTION_FAILED: "a new key must be kept by at least 2 HSMs (key availability check) and only one serves; "
    "start another: hsmsim hsm list, hsmsim hsm start ID",
    CKR.DEVICE_ERROR: "it could not be kept by at least 2 HSMs (key availability check), or an HSM reported a problem; "
    "see hsmsim hsm list and the HSM's hsm.log",
    CKR.USER_NOT_LOGGED_IN: "only a crypto user may do this",
    CKR.OBJECT_HANDLE_INVALID: "there is no such key, or it is not yours to see",
    CKR.KEY_HANDLE_INVALID: "there is no such key, or it is not yours to see",
    CKR.ACTION_PROHIBITED: "only the key's owner may do this",
    CKR.ARGUMENTS_BAD: "there is no such crypto user in this partition",
}


@dataclass(frozen=True, slots=True)
class Key:
    """One key as `key list` shows it. owner and shared are empty for public keys."""

    handle: int
    label: str
    id: bytes
    object_class: CKO
    key_type: CKK
    bits: int
    extractable: bool
    owner: str
    shared: tuple[str, ...]


def encoded(attributes: Attributes) -> tuple[Attr, ...]:
    """Return the template as on the wire."""
    return tuple(Attr(kind, _value(value)) for kind, value in attributes.items())


def _value(value: bool | int | bytes | str) -> bytes:  # noqa: FBT001 - a CK_BBOOL
    match value:
        case bool():
            return b"\x01" if value else b"\x00"
        case int():
            return value.to_bytes(8, "little")
        case str():
            return value.encode()
        case bytes():
            return value


# ---- looking -----------------------------------------------------------------------------------------------------


def find(client: HsmClient, label: str | None = None) -> list[int]:
    """Return the handles of the keys that the user may see, all or those of a label."""
    wanted: Attributes = {} if label is None else {CKA.LABEL: label}
    handles: list[int] = []
    for kind in CLASSES:
        template = encoded({CKA.CLASS: int(kind), **wanted})
        handles += client.call(FindRequest(template=template), session=SESSION).objects
    return sorted(handles)


def look(client: HsmClient, handle: int) -> Key:
    """Return what there is to say about a key."""
    types = (CKA.CLASS, CKA.KEY_TYPE, CKA.LABEL, CKA.ID)
    read = client.call(GetAttributesRequest(object=handle, types=types), session=SESSION).template
    values = {one.type: one.value or b"" for one in read}
    facts = client.call(KeyFactsRequest(object=handle), session=SESSION)
    object_class = CKO(facts.class_)
    owner, shared, extractable = "", tuple[str, ...](), True
    if object_class is not CKO.PUBLIC_KEY:
        people = client.call(KeyUsersRequest(key=handle), session=SESSION)
        owner, shared = people.owner.decode(), tuple(name.decode() for name in people.shared)
        (read_one,) = client.call(
            GetAttributesRequest(object=handle, types=(CKA.EXTRACTABLE,)), session=SESSION
        ).template
        extractable = read_one.value == b"\x01"
    label = values[CKA.LABEL].decode(errors="replace")
    key_type = CKK(facts.key_type)
    return Key(handle, label, values[CKA.ID], object_class, key_type, facts.bits, extractable, owner, shared)


def list_keys(client: HsmClient, label: str | None = None) -> list[Key]:
    """Return the keys that the user may see, in order of handle; one deleted meanwhile is left out."""
    keys = []
    for handle in find(client, label):
        try:
            keys.append(look(client, handle))
        except CkrError as error:
            if error.rv not in {CKR.OBJECT_HANDLE_INVALID, CKR.KEY_HANDLE_INVALID}:
                raise
    return keys


# ---- making ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person may choose about a new key. id empty: random for key pairs, so that the halves find each other."""

    label: str
    id: bytes = b""
    extractable: bool = False


def generate_pair(client: HsmClient, key_type: CKK, size: int | str, wish: Wish) -> tuple[int, int]:
    """Make a key pair: size = modulus bits for RSA, a curve of `CURVES` for EC. -> public and private handle."""
    number, special = _PAIRS[key_type]
    of_size: Attributes = {CKA.EC_PARAMS: ED25519}
    if isinstance(size, int):
        of_size = {CKA.MODULUS_BITS: size, CKA.PUBLIC_EXPONENT: b"\x01\x00\x01"}
    elif key_type is CKK.EC:
        of_size = {CKA.EC_PARAMS: CURVES[size]}
    key_id = wish.id or secrets.token_bytes(ID_BYTES)
    public, private = _halves(key_type, wish, key_id)
    request = GenerateKeyPairRequest(
        mechanism=Mechanism(number),
        public_template=encoded(public | of_size),
        private_template=encoded(private),
    )
    try:
        made = client.call(request, session=SESSION)
    except CkrError as error:
        raise explain(error, f"Making the {special} key {wish.label}", _REASONS) from error
    return made.public_key, made.private_key


_PAIRS: Final = {
    CKK.RSA: (CKM.RSA_PKCS_KEY_PAIR_GEN, "RSA"),
    CKK.EC: (CKM.EC_KEY_PAIR_GEN, "EC"),
    CKK.EC_EDWARDS: (CKM.EC_EDWARDS_KEY_PAIR_GEN, "Ed25519"),
}
_SECRETS: Final = {CKK.AES: CKM.AES_KEY_GEN, CKK.GENERIC_SECRET: CKM.GENERIC_SECRET_KEY_GEN}


def generate_secret(client: HsmClient, key_type: CKK, bits: int, wish: Wish) -> int:
    """Make an AES or generic secret key; return its handle."""
    template = _secret(key_type, wish) | {CKA.VALUE_LEN: bits // 8}
    request = GenerateKeyRequest(mechanism=Mechanism(_SECRETS[key_type]), template=encoded(template))
    try:
        return client.call(request, session=SESSION).key
    except CkrError as error:
        raise explain(error, f"Making the {key_type.name} key {wish.label}", _REASONS) from error


def import_key(client: HsmClient, file: KeyFile, wish: Wish) -> tuple[int, int]:
    """Create a private key and its public half from a file; return the public and the private handle."""
    key_id = wish.id or secrets.token_bytes(ID_BYTES)
    public, private = _halves(file.key_type, wish, key_id)
    kind: Attributes = {CKA.KEY_TYPE: int(file.key_type)}
    try:
        secret = _create(client, {CKA.CLASS: int(CKO.PRIVATE_KEY)} | kind | private | dict(file.private))
        try:
            return _create(client, {CKA.CLASS: int(CKO.PUBLIC_KEY)} | kind | public | dict(file.public)), secret
        except CkrError:
            client.call(DestroyObjectRequest(object=secret), session=SESSION)
            raise
    except CkrError as error:
        raise explain(error, f"Importing {wish.label}", _REASONS) from error


def _create(client: HsmClient, attributes: Attributes) -> int:
    return client.call(CreateObjectRequest(template=encoded(attributes)), session=SESSION).object


def _halves(key_type: CKK, wish: Wish, key_id: bytes) -> tuple[Attributes, Attributes]:
    public_uses, private_uses = USES[key_type]
    common: Attributes = {CKA.TOKEN: True, CKA.LABEL: wish.label, CKA.ID: key_id}
    public: Attributes = common | dict.fromkeys(sorted(public_uses), True)
    private: Attributes = common | _guarded(wish) | dict.fromkeys(sorted(private_uses), True)
    return public, private


def _secret(key_type: CKK, wish: Wish) -> Attributes:
    common: Attributes = {CKA.TOKEN: True, CKA.LABEL: wish.label, CKA.ID: wish.id}
    return common | _guarded(wish) | dict.fromkeys(sorted(USES[key_type][1]), True)


def _guarded(wish: Wish) -> Attributes:
    return {CKA.PRIVATE: True, CKA.SENSITIVE: True, CKA.EXTRACTABLE: wish.extractable}


# ---- changing ----------------------------------------------------------------------------------------------------


def chosen(client: HsmClient, handle: int | None, label: str | None) -> list[int]:
    """Return the keys that a person means, by handle or by label; HsmsimError if there is none or nothing was said."""
    if handle is not None:
        return [handle]
    if label is None:
        raise HsmsimError("Say which key: its handle, or --label LABEL (see hsmsim key list)")
    found = find(client, label)
    if not found:
        raise HsmsimError(f"There is no key labelled {label!r} that you may see. See: hsmsim key list")
    return found


def shareable(client: HsmClient, handles: Iterable[int]) -> list[int]:
    """Return those that have an owner: not public keys, which everyone sees."""
    return [handle for handle in handles if look(client, handle).object_class is not CKO.PUBLIC_KEY]


def delete(client: HsmClient, handle: int) -> None:
    """Destroy a key in every HSM."""
    try:
        client.call(DestroyObjectRequest(object=handle), session=SESSION)
    except CkrError as error:
        raise explain(error, f"Deleting 0x{handle:016x}", _REASONS) from error


def share(client: HsmClient, handle: int, user: str) -> None:
    """Let another crypto user use a key of ours."""
    try:
        client.call(KeyShareRequest(key=handle, user=user.encode()), session=SESSION)
    except CkrError as error:
        raise explain(error, f"Sharing 0x{handle:016x} with {user}", _REASONS) from error


def unshare(client: HsmClient, handle: int, user: str) -> None:
    """Take that back."""
    try:
        client.call(KeyUnshareRequest(key=handle, user=user.encode()), session=SESSION)
    except CkrError as error:
        raise explain(error, f"Unsharing 0x{handle:016x} from {user}", _REASONS) from error


def trust(client: HsmClient, handle: int, *, trusted: bool) -> None:
    """Set CKA_TRUSTED, as an admin."""
    reasons = _REASONS | {CKR.USER_NOT_LOGGED_IN: "only an admin may do this"}
    try:
        template = encoded({CKA.TRUSTED: trusted})
        client.call(SetAttributesRequest(object=handle, template=template), session=SESSION)
    except CkrError as error:
        raise explain(error, f"Setting CKA_TRUSTED of 0x{handle:016x}", reasons) from error
