"""The vault: SoftHSM2 makes the keys and keeps them (DESIGN D2).

A key is made as a session object, wrapped under the masking key, and goes; the row that it is committed in is the
truth. Its token object follows in the background from the row, with our handle in CKA_ID: writing one takes SoftHSM2
10 ms, and nobody waits for it. Objects without a row are removed. Nothing is searched for on a caller's way.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pkcs11
from pkcs11 import Attribute, KeyType, ObjectClass
from pkcs11.exceptions import PKCS11Error

from hsmsim.cluster.model import ObjectRow, PartitionRow
from hsmsim.errors import CkrError, HsmsimError
from hsmsim.hsm.cryptoki import CKK, CKO, CKR
from hsmsim.hsm.engine import Material
from hsmsim.hsm.vault.tokens import WRAP, Token, Tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from hsmsim.cluster.replica import Replica
    from hsmsim.hsm.engine import Engine

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")

HANDLE_BYTES: Final = 8
BLOCK: Final = 8
SCAN: Final = 64
IDLE_SECONDS: Final = 0.03
PATIENCE_SECONDS: Final = 1.0
SHARE: Final = 0.2
"""Of one processor, for objects that are written behind the work: a new HSM's vault is not filled at the cost of those
who sign on the others."""
TRIES: Final = 3
AGAIN_SECONDS: Final = 2.0
"""When what SoftHSM2 did not take (a full disk) is tried again."""
TYPES: Final = {
    CKK.RSA: KeyType.RSA,
    CKK.EC: KeyType.EC,
    CKK.AES: KeyType.AES,
    CKK.GENERIC_SECRET: KeyType.GENERIC_SECRET,
}
"""What SoftHSM2 makes, wraps and unwraps; other kinds are made by the engine and are rows only."""
KEPT: Final[dict[Attribute, object]] = {
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: True,
    Attribute.WRAP_WITH_TRUSTED: True,
}
"""Only the masking key, which is trusted, takes a key out of SoftHSM2."""
USE: Final[dict[int, dict[Attribute, object]]] = {
    CKO.PRIVATE_KEY: {Attribute.SIGN: True, Attribute.DECRYPT: True},
    CKO.SECRET_KEY: {Attribute.SIGN: True, Attribute.VERIFY: True, Attribute.ENCRYPT: True, Attribute.DECRYPT: True},
}
CLASSES: Final = {CKO.PRIVATE_KEY: ObjectClass.PRIVATE_KEY, CKO.SECRET_KEY: ObjectClass.SECRET_KEY}
_START: Final = object()


@dataclass(frozen=True, slots=True)
class Made:
    """A new key pair: masked private key, SubjectPublicKeyInfo."""

    material: bytes
    spki: bytes


def storable(row: ObjectRow) -> bool:
    """Whether SoftHSM2 can hold the key."""
    return row.object_class in CLASSES and row.key_type in TYPES


def put(token: Token, row: ObjectRow, extra: dict[Attribute, object]) -> Any:  # noqa: ANN401 - python-pkcs11's
    """Unwrap a row's key into a token: the object. The caller holds the tokens' lock."""
    template = {**KEPT, **USE[row.object_class], **extra}
    key_type = TYPES[CKK(row.key_type)]
    return token.masking.unwrap_key(
        CLASSES[CKO(row.object_class)], key_type, row.material, mechanism=WRAP, template=template
    )


def store(token: Token, row: ObjectRow) -> None:
    """Have a token keep a row's key under its handle. The caller holds the tokens' lock.

    SoftHSM2 rewrites the file of what it unwraps for each attribute; that of a copy once, for a quarter of the time.
    """
    held = put(token, row, {Attribute.TOKEN: False, Attribute.ID: row.handle.to_bytes(HANDLE_BYTES, "big")})
    try:
        held.copy({Attribute.TOKEN: True})
    finally:
        held.destroy()


class Vault:
    """All keys that SoftHSM2 makes and keeps for this HSM."""

    def __init__(self, engine: Engine, replica: Replica, folder: Path, library: str) -> None:
        self.tokens = Tokens(engine, folder, library)
        self._engine = engine
        self._replica = replica
        self._stored: dict[int, int] = {}  # handle -> partition
        self._todo: queue.Queue[object] = queue.Queue()
        self._owed: dict[int, None] = {}  # handles that SoftHSM2 did not take, in turn; the thread's own
        self._again = 0.0
        self._asked = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._write_behind, name="vault", daemon=True)

    def open(self) -> None:
        """Open or make every partition's token; start filling in what is missing."""
        self.tokens.start()
        with self.tokens.lock:
            for partition in list(self._replica.partitions):
                self.tokens.get(partition)
        self._thread.start()
        self._todo.put(_START)

    # ---- keys are born -------------------------------------------------------------------------------------------

    def generate_secret(self, partition: int, key_type: CKK, length: int) -> bytes:
        """Masked material of a new secret key of so many bytes.

        SoftHSM2 2.6.1 pads what it wraps to a multiple of 8 bytes and loses the length: the engine makes the others.
        """
        if length % BLOCK:
            return self._engine.generate(key_type, length.to_bytes(4, "little"))
        mechanism = None if key_type is CKK.AES else pkcs11.Mechanism.GENERIC_SECRET_KEY_GEN
        template = {Attribute.TOKEN: False, **KEPT}

        def make(token: Token) -> bytes:
            key = token.session.generate_key(TYPES[key_type], length * 8, mechanism=mechanism, template=template)
            try:
                return bytes(token.masking.wrap_key(key, mechanism=WRAP))
            finally:
                key.destroy()

        return self._make(partition, make)

    def generate_rsa(self, partition: int, bits: int, exponent: bytes) -> Made:
        """A new RSA key pair."""
        public: dict[Attribute, object] = {Attribute.TOKEN: False, Attribute.PUBLIC_EXPONENT: exponent}
        private = {Attribute.TOKEN: False, **KEPT}

        def make(token: Token) -> Made:
            pair = token.session.generate_keypair(KeyType.RSA, bits, public_template=public, private_template=private)
            return self._made(token, CKK.RSA, *pair)

        return self._make(partition, make)

    def generate_ec(self, partition: int, key_type: CKK, params: bytes) -> Made:
        """A new EC key pair; Ed25519 by the engine, because SoftHSM2 does not wrap such keys."""
        if key_type not in TYPES:
            material = self._engine.generate(key_type, params)
            return Made(material, self._engine.public(Material(CKO.PRIVATE_KEY, key_type, material)))
        private = {Attribute.TOKEN: False, **KEPT}

        def make(token: Token) -> Made:
            domain = token.session.create_domain_parameters(KeyType.EC, {Attribute.EC_PARAMS: params}, local=True)
            pair = domain.generate_keypair(public_template={Attribute.TOKEN: False}, private_template=private)
            return self._made(token, CKK.EC, *pair)

        return self._make(partition, make)

    def _make(self, partition: int, make: Callable[[Token], _T]) -> _T:
        self._asked = time.monotonic()
        with self.tokens.lock:
            try:
                return make(self.tokens.get(partition))
            except PKCS11Error as error:
                raise CkrError(CKR.DEVICE_ERROR, f"SoftHSM2 did not make the key: {error!r}") from error
            finally:
                self._asked = time.monotonic()

    def _made(self, token: Token, key_type: CKK, public: Any, private: Any) -> Made:  # noqa: ANN401 - as above
        try:
            material = bytes(token.masking.wrap_key(private, mechanism=WRAP))
            return Made(material, self._engine.public(Material(CKO.PRIVATE_KEY, key_type, material)))
        finally:
            private.destroy()
            public.destroy()

    # ---- token objects follow ------------------------------------------------------------------------------------

    @property
    def stored(self) -> int:
        """Token objects in SoftHSM2."""
        return len(self._stored)

    @property
    def pending(self) -> int:
        """Rows that wait for their token object, and objects that wait to be removed."""
        return self._todo.unfinished_tasks + len(self._owed)

    def follow(self, rows: Iterable[object]) -> None:
        """Rows changed: write or remove their objects in the background."""
        for row in rows:
            if isinstance(row, ObjectRow) and (row.deleted or storable(row)):
                self._todo.put(row.handle)
            elif isinstance(row, PartitionRow):
                self._todo.put(row)

    def stop(self) -> None:
        """End the background thread after the object it is at."""
        self._stopping.set()
        self._todo.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _write_behind(self) -> None:
        while not self._stopping.is_set():
            with suppress(queue.Empty):
                self._do(self._todo.get(timeout=AGAIN_SECONDS if self._owed else None))
                self._todo.task_done()
            if self._owed and time.monotonic() > self._again:
                self._try_again()

    def _try_again(self) -> None:
        """One that is not taken again goes behind the others; after a few of them there is no use in asking on."""
        refused = 0
        for handle in list(self._owed):
            taken = self._settle(handle)
            del self._owed[handle]
            if not taken:
                self._owed[handle] = None
                refused += 1
            if refused == TRIES or self._stopping.is_set():
                break
        self._again = time.monotonic() + AGAIN_SECONDS

    def _do(self, todo: object) -> None:
        if isinstance(todo, int):
            self._give_way()
            began, used = time.monotonic(), time.thread_time()
            if not self._settle(todo):
                self._again = self._again if self._owed else time.monotonic() + AGAIN_SECONDS
                self._owed[todo] = None
            self._rest(began, time.thread_time() - used)
        elif isinstance(todo, PartitionRow):
            self._guarded(todo.id, partial(self.tokens.get, todo.id))
        elif todo is _START:
            self._reconcile()

    def _give_way(self) -> None:
        """Let those who make keys go first: they would wait 10 ms for each object that is written here."""
        began = time.monotonic()
        while not self._stopping.is_set() and time.monotonic() - began < PATIENCE_SECONDS:
            if time.monotonic() - self._asked > IDLE_SECONDS:
                return
            time.sleep(IDLE_SECONDS / 4)

    def _rest(self, began: float, used: float) -> None:
        """Wait until so many seconds of a processor are no more than the share of the time since `began`."""
        left = began + used / SHARE - time.monotonic()
        if left > 0:
            self._stopping.wait(left)

    def _guarded(self, what: int, action: Callable[[], object]) -> bool:
        try:
            with self.tokens.lock:
                action()
        except (PKCS11Error, CkrError, HsmsimError) as error:
            _LOG.warning("SoftHSM2 does not follow at %#x: %r", what, error)
            return False
        return True

    def _reconcile(self) -> None:
        """At the start: objects without a row go, rows without an object are filled in."""
        for partition in [token.partition for token in self.tokens.opened()]:
            try:
                self._scan(partition)
            except PKCS11Error as error:
                _LOG.warning("The token of partition %d is damaged (%r): made again from the rows.", partition, error)
                self._guarded(partition, partial(self.tokens.make_again, partition))
                self._forget(partition)
        rows = dict(self._replica.objects)
        for handle in self._stored.keys() - rows.keys():
            self._todo.put(handle)
        for handle, row in rows.items():
            if handle not in self._stored and storable(row):
                self._todo.put(handle)

    def _forget(self, partition: int) -> None:
        for handle in [handle for handle, where in self._stored.items() if where == partition]:
            del self._stored[handle]

    def _scan(self, partition: int) -> None:
        """Learn which handles have an object; doubles, which a kill can leave, go."""
        with self.tokens.lock:
            session = self.tokens.get(partition).session
            found = iter(list(session.get_objects({Attribute.TOKEN: True}, batch_size=SCAN)))
        while batch := list(itertools.islice(found, SCAN)):
            with self.tokens.lock:
                for one in batch:
                    handle = int.from_bytes(one[Attribute.ID], "big")
                    if handle in self._stored:
                        one.destroy()
                    self._stored[handle] = partition

    def _settle(self, handle: int) -> bool:
        """Bring SoftHSM2's object in step with the row; False where it did not take it."""
        for _ in range(TRIES):
            if self._guarded(handle, partial(self._step, handle)):
                return True
            self._guarded(handle, partial(self._remove, handle))  # a failed unwrap leaves an object behind
        return False

    def _step(self, handle: int) -> None:
        row = self._replica.objects.get(handle)
        if row is None:
            if handle in self._stored:
                self._remove(handle)
        elif handle not in self._stored and storable(row):
            token = self.tokens.get(row.partition_id)
            store(token, row)
            self._stored[handle] = row.partition_id

    def _remove(self, handle: int) -> None:
        row = self._replica.objects.get(handle)
        partition = self._stored.pop(handle, row.partition_id if row is not None else 0)
        if partition:
            wanted = {Attribute.TOKEN: True, Attribute.ID: handle.to_bytes(HANDLE_BYTES, "big")}
            for found in list(self.tokens.get(partition).session.get_objects(wanted)):
                found.destroy()
