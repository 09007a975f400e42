"""SoftHSM2's tokens, one per partition: open them, make them, make them again.

The engine logs in, once per start and token, with PINs that Python never sees, and puts the masking key there as a
trusted session object; that session stays open, and the login holds for every other session. `lock` is around
everything that changes a token: SoftHSM2 2.6.1 loses objects when threads create, destroy and find at a time. Besides,
python-pkcs11 initialises libraries with NULL, for which SoftHSM2 switches its own locks off (two signatures at a time
crash it): it is initialised again with CKF_OS_LOCKING_OK.
"""

from __future__ import annotations

import ctypes
import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pkcs11
from pkcs11 import Attribute, ObjectClass, TokenFlag
from pkcs11.attributes import AttributeMapper
from pkcs11.exceptions import PKCS11Error

from hsmsim.errors import CkrError, HsmsimError
from hsmsim.hsm.cryptoki import CKF, CKR
from hsmsim.hsm.vault import files

if TYPE_CHECKING:
    from pathlib import Path

    from hsmsim.hsm.engine import Engine

_LOG = logging.getLogger(__name__)

WRAP: Final = pkcs11.Mechanism.AES_KEY_WRAP_PAD
MASKING: Final = {Attribute.LABEL: "masking", Attribute.CLASS: ObjectClass.SECRET_KEY}


class _InitializeArgs(ctypes.Structure):
    """CK_C_INITIALIZE_ARGS."""

    _fields_ = (("mutex_functions", ctypes.c_void_p * 4), ("flags", ctypes.c_ulong), ("reserved", ctypes.c_void_p))


class Mapper(AttributeMapper):
    """Templates that say what they are told and nothing else: SoftHSM2 refuses what python-pkcs11 adds for unwraps."""

    def generic_key_template(self, base_template: dict[Attribute, object], **_: object) -> dict[Attribute, object]:
        """The template of an unwrapped key."""
        return dict(base_template)

    def private_key_template(self, **_: object) -> dict[Attribute, object]:
        """The template of a private key."""
        return {Attribute.CLASS: ObjectClass.PRIVATE_KEY}

    def public_key_template(self, **_: object) -> dict[Attribute, object]:
        """The template of a public key."""
        return {Attribute.CLASS: ObjectClass.PUBLIC_KEY}

    def secret_key_template(self, **_: object) -> dict[Attribute, object]:
        """The template of a secret key."""
        return {Attribute.CLASS: ObjectClass.SECRET_KEY}


@dataclass(frozen=True, slots=True)
class Token:
    """An open token: a session of python-pkcs11, and the masking key as that session sees it."""

    partition: int
    slot: Any
    session: Any
    masking: Any

    def another(self) -> Token:
        """One more session of the same token."""
        return _token(self.partition, self.slot)

    def close(self) -> None:
        """End the session and its objects."""
        self.session.close()


def _token(partition: int, slot: Any) -> Token:  # noqa: ANN401 - python-pkcs11's, which has types at run time only
    session = slot.get_token().open(rw=True, attribute_mapper=Mapper())
    return Token(partition, slot, session, next(iter(session.get_objects(MASKING))))


class Tokens:
    """All tokens of this HSM. `era` counts how often all sessions were lost."""

    def __init__(self, engine: Engine, folder: Path, library: str) -> None:
        self.lock = threading.RLock()
        self.era = 0
        self._engine = engine
        self._folder = folder / "tokens"
        self._shadow = folder / "shadow"
        self._path = library
        self._library: Any = None
        self._tokens: dict[int, Token] = {}

    def start(self) -> None:
        """Mend the files and load SoftHSM2."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        files.mend(self._folder, self._shadow)
        try:
            self._library = pkcs11.lib(self._path)
            self._initialize()
        except PKCS11Error as error:
            raise HsmsimError(f"SoftHSM2 ({self._path}) does not start: {error!r}. Is softhsm2 installed?") from error
        self._engine.vault_bind(self._path)

    def _initialize(self) -> None:
        """Again, and with locks; all sessions end."""
        library = ctypes.CDLL(self._path)
        arguments = _InitializeArgs(flags=CKF.OS_LOCKING_OK)
        library.C_Finalize(None)
        rv = library.C_Initialize(ctypes.byref(arguments))
        if rv != CKR.OK:
            raise HsmsimError(f"SoftHSM2 ({self._path}) does not start: CK_RV 0x{rv:X}. Who may write {self._folder}?")

    def get(self, partition: int) -> Token:
        """The partition's token, opened or made if it is not open. The caller holds the lock."""
        token = self._tokens.get(partition)
        return token if token is not None else self._open(partition)

    def opened(self) -> list[Token]:
        """The tokens that are open."""
        return list(self._tokens.values())

    def make_again(self, partition: int) -> Token:
        """Throw a token away that does not work. The caller holds the lock."""
        token = self._tokens.pop(partition)
        self._abandon(token.slot)
        return self.get(partition)

    def _open(self, partition: int) -> Token:
        label = f"partition-{partition:x}"
        slot = self._slot(label)
        if slot is not None:
            try:
                return self._unlock(partition, slot)
            except (CkrError, PKCS11Error, StopIteration) as error:
                _LOG.warning("The token %s does not open (%r): it is made again from the rows.", label, error)
                self._abandon(slot)
        free = self._slot(None)
        if free is None:
            raise HsmsimError(f"SoftHSM2 offers no free slot: {self._folder} cannot be written.")
        self._engine.vault_init_token(free.slot_id, partition, label)
        return self._unlock(partition, self._slot(label))

    def _slot(self, label: str | None) -> Any:  # noqa: ANN401 - as above
        """The slot of the token with this label; None: one without a token."""
        for slot in self._library.get_slots(token_present=True):
            token = slot.get_token()
            initialised = bool(token.flags & TokenFlag.TOKEN_INITIALIZED)
            if (initialised and token.label == label) or (label is None and not initialised):
                return slot
        return None

    def _unlock(self, partition: int, slot: Any) -> Token:  # noqa: ANN401 - as above
        self._engine.vault_unlock(slot.slot_id, partition)
        token = _token(partition, slot)
        self._tokens[partition] = token
        files.keep(self._folder, self._shadow)
        return token

    def _abandon(self, slot: Any) -> None:  # noqa: ANN401 - as above
        """Remove a token's files and have the library see it, which ends all sessions: open the other tokens again."""
        files.remove(self._folder, slot.get_token().serial.decode("ascii").strip())
        self._initialize()
        self.era += 1
        others = list(self._tokens)
        self._tokens.clear()
        for partition in others:
            self._open(partition)
