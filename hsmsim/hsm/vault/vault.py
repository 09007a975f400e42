"""SoftHSM2 tokens that make and keep the keys (DESIGN D2).

Rules, each for a weakness of SoftHSM2 2.6.1 that was measured:
- This process is the only owner of its token folder. The engine logs in once per start and partition, with PINs that
  Python never sees, and puts the masking key there as a trusted session object.
- A key is made as a session object, wrapped under the masking key, and goes; the row that it is committed in is the
  truth. Its token object is written in the background, from the row.
- Token objects carry our handle in CKA_ID. One lock is around everything that changes a token. Nothing is searched for
  on the caller's way.
- `token.object` is rewritten in place at every login: a copy is kept by atomic rename, and put back where the file is
  empty. A token that does not open is set aside and filled again from the rows.
"""

from __future__ import annotations

import logging
import os
import queue
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pkcs11
from pkcs11 import Attribute, KeyType, ObjectClass
from pkcs11.attributes import AttributeMapper
from pkcs11.exceptions import PKCS11Error
from pkcs11.util.ec import encode_ec_public_key
from pkcs11.util.rsa import encode_rsa_public_key

from hsmsim.cluster.model import ObjectRow, PartitionRow
from hsmsim.errors import CkrError, HsmsimError
from hsmsim.hsm.cryptoki import CKK, CKO, CKR
from hsmsim.hsm.engine import Material

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hsmsim.cluster.replica import Replica
    from hsmsim.hsm.engine import Engine

_LOG = logging.getLogger(__name__)

WRAP: Final = pkcs11.Mechanism.AES_KEY_WRAP_PAD
HANDLE_BYTES: Final = 8
BLOCK: Final = 8
_TYPES: Final = {CKK.RSA: KeyType.RSA, CKK.EC: KeyType.EC, CKK.AES: KeyType.AES, CKK.GENERIC_SECRET: KeyType.GENERIC_SECRET}
"""What SoftHSM2 makes, wraps and unwraps; other kinds are made by the engine and are rows only."""
_INSIDE: Final = {
    Attribute.TOKEN: False,
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: True,
    Attribute.WRAP_WITH_TRUSTED: True,
}


@dataclass(frozen=True, slots=True)
class Made:
    """A new key pair: masked private key, SubjectPublicKeyInfo."""

    material: bytes
    spki: bytes


@dataclass(slots=True)
class Token:
    """One partition's token: an open session, the masking key, our handles that have an object."""

    partition: int
    session: Any
    masking: Any
    stored: set[int]


class _Mapper(AttributeMapper):  # type: ignore[misc]
    """Templates without the attributes that SoftHSM2 refuses for unwrapped private keys."""

    def private_key_template(self, *, capabilities: object, **rest: object) -> dict[Attribute, object]:
        """Only what is asked for."""
        del capabilities
        return {Attribute.CLASS: ObjectClass.PRIVATE_KEY, **_given(rest)}

    def secret_key_template(self, *, capabilities: object, **rest: object) -> dict[Attribute, object]:
        """Only what is asked for."""
        del capabilities
        return {Attribute.CLASS: ObjectClass.SECRET_KEY, **_given(rest)}


def _given(rest: dict[str, object]) -> dict[Attribute, object]:
    names = {"id_": Attribute.ID, "label": Attribute.LABEL, "store": Attribute.TOKEN}
    return {names[name]: value for name, value in rest.items() if name in names and value is not None}


class Vault:
    """All tokens of this HSM."""

    def __init__(self, engine: Engine, replica: Replica, folder: Path, library: str) -> None:
        self._engine = engine
        self._replica = replica
        self._tokens_folder = folder / "tokens"
        self._shadow = folder / "shadow"
        self._library_path = library
        self._lock = threading.RLock()
        self._tokens: dict[int, Token] = {}
        self._todo: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._waiting: set[int] = set()
        self._stopping = False
        self._mapper = _Mapper()
        self._thread = threading.Thread(target=self._write_behind, name="vault", daemon=True)

    # ---- start ---------------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open or make every partition's token; start filling what is missing."""
        self._shadow.mkdir(mode=0o700, exist_ok=True)
        self._restore_emptied()
        self._library = self._load()
        self._engine.vault_bind(self._library_path)
        for partition in list(self._replica.partitions):
            self._open_token(partition)
        self._thread.start()
        self._todo.put(0)

    def _load(self) -> Any:
        try:
            return pkcs11.lib(self._library_path)
        except PKCS11Error as error:
            _LOG.warning("SoftHSM2 does not open its tokens (%s); they are set aside and filled again.", error)
            self._set_aside_all()
            try:
                return pkcs11.lib(self._library_path)
            except PKCS11Error as again:
                message = f"SoftHSM2 ({self._library_path}) does not start: {again!r}. Is softhsm2 installed?"
                raise HsmsimError(message) from again

    def _label(self, partition: int) -> str:
        return f"partition-{partition:x}"

    def _slot(self, label: str | None) -> Any:
        """The slot with this token; with None one that is free."""
        for slot in self._library.get_slots(token_present=True):
            token = slot.get_token()
            initialised = bool(token.flags & pkcs11.TokenFlag.TOKEN_INITIALIZED)
            if (label is None and not initialised) or (initialised and token.label == label):
                return slot
        return None

    def _open_token(self, partition: int) -> Token:
        label = self._label(partition)
        slot = self._slot(label)
        if slot is not None:
            try:
                return self._unlock(partition, slot)
            except (CkrError, PKCS11Error) as error:
                _LOG.warning("The token of partition %d does not open (%r): made again from the rows.", partition, error)
                self._abandon(slot)
        free = self._slot(None)
        if free is None:
            message = "SoftHSM2 offers no free slot: its token folder cannot be written"
            raise HsmsimError(message)
        self._engine.vault_init_token(free.slot_id, partition, label)
        return self._unlock(partition, self._slot(label))

    def _unlock(self, partition: int, slot: Any) -> Token:
        self._engine.vault_unlock(slot.slot_id, partition)
        session = slot.get_token().open(rw=True, attribute_mapper=self._mapper)
        masking = next(iter(session.get_objects({Attribute.LABEL: "masking", Attribute.CLASS: ObjectClass.SECRET_KEY})))
        stored = set()
        for found in session.get_objects({Attribute.TOKEN: True}):
            handle = int.from_bytes(found[Attribute.ID], "big")
            if handle in stored:
                found.destroy()
            stored.add(handle)
        token = Token(partition, session, masking, stored)
        self._tokens[partition] = token
        self._keep_shadow(slot)
        return token

    # ---- files --------------------------------------------------------------------------------------------------------------------

    def _token_files(self) -> list[Path]:
        return sorted(self._tokens_folder.glob("*/token.object"))

    def _keep_shadow(self, _slot: Any) -> None:
        """Copy each token.object beside the vault, atomically."""
        for path in self._token_files():
            data = path.read_bytes()
            if data:
                target = self._shadow / f"{path.parent.name}.token.object"
                temporary = target.with_suffix(".new")
                descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(target)

    def _restore_emptied(self) -> None:
        """A kill during a login may have emptied token.object; truncated ones are seen by their length."""
        for path in self._token_files():
            copy = self._shadow / f"{path.parent.name}.token.object"
            if copy.exists() and path.stat().st_size < copy.stat().st_size:
                _LOG.warning("%s was cut off; its copy is put back.", path)
                shutil.copyfile(copy, path)

    def _set_aside_all(self) -> None:
        for path in self._tokens_folder.iterdir():
            shutil.rmtree(path)

    def _abandon(self, slot: Any) -> None:
        """Take a token that does not open away, and have the library see it."""
        serial = slot.get_token().serial
        text = serial.decode() if isinstance(serial, bytes) else str(serial)
        for path in self._tokens_folder.iterdir():
            if path.name.replace("-", "").endswith(text.strip()):
                shutil.rmtree(path)
        self._library.reinitialize()
        for partition in list(self._tokens):
            del self._tokens[partition]
            self._open_token(partition)

    # ---- keys are born ----------------------------------------------------------------------------------------------------------------

    def _token(self, partition: int) -> Token:
        token = self._tokens.get(partition)
        return token if token is not None else self._open_token(partition)

    def generate_secret(self, partition: int, key_type: CKK, length: int) -> bytes:
        """Masked material of a new secret key of so many bytes.

        SoftHSM2 2.6.1 pads what it wraps to a multiple of 8 bytes and loses the length: the engine makes the others.
        """
        if length % BLOCK:
            return self._engine.generate(key_type, length.to_bytes(4, "little"))
        with self._lock:
            token = self._token(partition)
            mechanism = None if key_type is CKK.AES else pkcs11.Mechanism.GENERIC_SECRET_KEY_GEN
            key = token.session.generate_key(_TYPES[key_type], length * 8, mechanism=mechanism, template=dict(_INSIDE))
            try:
                return bytes(token.masking.wrap_key(key, mechanism=WRAP))
            finally:
                key.destroy()

    def generate_rsa(self, partition: int, bits: int, exponent: bytes) -> Made:
        """A new RSA key pair."""
        with self._lock:
            token = self._token(partition)
            public, private = token.session.generate_keypair(
                KeyType.RSA,
                bits,
                public_template={Attribute.TOKEN: False, Attribute.PUBLIC_EXPONENT: exponent},
                private_template=dict(_INSIDE),
            )
            return self._made(token, public, private, lambda key: _rsa_spki(key))

    def generate_ec(self, partition: int, key_type: CKK, params: bytes) -> Made:
        """A new EC key pair; Ed25519 by the engine, because SoftHSM2 does not wrap such keys."""
        if key_type not in _TYPES:
            material = self._engine.generate(key_type, params)
            return Made(material, self._engine.public(Material(CKO.PRIVATE_KEY, key_type, material)))
        with self._lock:
            token = self._token(partition)
            domain = token.session.create_domain_parameters(KeyType.EC, {Attribute.EC_PARAMS: params}, local=True)
            public, private = domain.generate_keypair(
                public_template={Attribute.TOKEN: False}, private_template=dict(_INSIDE)
            )
            return self._made(token, public, private, encode_ec_public_key)

    @staticmethod
    def _made(token: Token, public: Any, private: Any, encode: Any) -> Made:
        try:
            return Made(bytes(token.masking.wrap_key(private, mechanism=WRAP)), bytes(encode(public)))
        finally:
            private.destroy()
            public.destroy()

    # ---- token objects follow ------------------------------------------------------------------------------------------------------------

    @property
    def stored(self) -> int:
        """Token objects in SoftHSM2."""
        return sum(len(token.stored) for token in list(self._tokens.values()))

    @property
    def pending(self) -> int:
        """Rows that wait for their token object."""
        return len(self._waiting)

    def follow(self, rows: Iterable[ObjectRow | PartitionRow]) -> None:
        """Rows changed: write or remove their objects in the background."""
        for row in rows:
            if isinstance(row, ObjectRow):
                self._waiting.add(row.handle)
                self._todo.put(row.handle)

    def stop(self) -> None:
        """End the background thread after the object it is at."""
        self._stopping = True
        self._todo.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _write_behind(self) -> None:
        while not self._stopping:
            handle = self._todo.get()
            if handle is None:
                return
            if handle == 0:
                self._reconcile()
                continue
            try:
                self._settle(handle)
            except (PKCS11Error, CkrError) as error:
                _LOG.warning("The token object of %#x could not be written: %r", handle, error)
                time.sleep(0.05)
            self._waiting.discard(handle)

    def _reconcile(self) -> None:
        """At the start: objects without a row go, rows without an object are filled in."""
        rows = dict(self._replica.objects)
        for token in list(self._tokens.values()):
            for handle in token.stored - rows.keys():
                self._waiting.add(handle)
                self._todo.put(handle)
        have = {handle for token in list(self._tokens.values()) for handle in token.stored}
        for handle, row in rows.items():
            if handle not in have and _storable(row):
                self._waiting.add(handle)
                self._todo.put(handle)

    def _settle(self, handle: int) -> None:
        row = self._replica.objects.get(handle)
        with self._lock:
            if row is None:
                for token in self._tokens.values():
                    if handle in token.stored:
                        _destroy(token, handle)
            elif _storable(row):
                token = self._token(row.partition_id)
                if handle not in token.stored:
                    self._store(token, row)

    def _store(self, token: Token, row: ObjectRow) -> None:
        template = {
            Attribute.TOKEN: True,
            Attribute.PRIVATE: True,
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: True,
            Attribute.WRAP_WITH_TRUSTED: True,
            Attribute.ID: row.handle.to_bytes(HANDLE_BYTES, "big"),
            **_USE[CKO(row.object_class)],
        }
        object_class = ObjectClass.PRIVATE_KEY if row.object_class == CKO.PRIVATE_KEY else ObjectClass.SECRET_KEY
        token.masking.unwrap_key(
            object_class, _TYPES[CKK(row.key_type)], row.material, mechanism=WRAP, template=template
        )
        token.stored.add(row.handle)


_USE: Final[dict[CKO, dict[Attribute, bool]]] = {
    CKO.PRIVATE_KEY: {Attribute.SIGN: True, Attribute.DECRYPT: True},
    CKO.SECRET_KEY: {Attribute.SIGN: True, Attribute.VERIFY: True, Attribute.ENCRYPT: True, Attribute.DECRYPT: True},
}


def _storable(row: ObjectRow) -> bool:
    return row.object_class in (CKO.PRIVATE_KEY, CKO.SECRET_KEY) and row.key_type in _TYPES


def _destroy(token: Token, handle: int) -> None:
    for found in list(token.session.get_objects({Attribute.ID: handle.to_bytes(HANDLE_BYTES, "big")})):
        found.destroy()
    token.stored.discard(handle)


def _rsa_spki(key: Any) -> bytes:
    """SubjectPublicKeyInfo of an RSA public key object."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key  # noqa: PLC0415

    loaded = load_der_public_key(encode_rsa_public_key(key))
    return loaded.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
