"""Many signatures from one Python process, over the PKCS#11 module's own transport.

A PKCS#11 call signs one thing, so a process with one thread has one request under way and the HSM's batches stay
empty. Here one call takes many, keeps up to sixteen under way (ADR 10), and holds no interpreter lock meanwhile.

    with Signer(pin="user:password") as signer:
        signatures = signer.sign_many(signer.key(label="web"), digests)

The configuration is the module's: the file given, else what libhsmsim_pkcs11.so finds ($HSMSIM_PKCS11_CONFIG ...).
A lost HSM is replaced by the next one in mid call, as in the module.
"""

from __future__ import annotations

import os
import sys
import threading
from array import array
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from hsmsim.errors import CkrError, HsmsimError
from hsmsim.hsm.cryptoki import CKG, CKK, CKM, CKR, ERROR_TEXT
from hsmsim.native import _signer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["Key", "SignRequest", "Signer", "SigningError"]

_ffi: Any = _signer.ffi
_lib: Any = _signer.lib
_Raw = Any  # what cffi hands out has no types
_ERROR_BYTES: Final = 512
_TOLD: Final = 3

_DEFAULTS: Final = {
    CKK.RSA: CKM.SHA256_RSA_PKCS,
    CKK.EC: CKM.ECDSA,
    CKK.EC_EDWARDS: CKM.EDDSA,
    CKK.GENERIC_SECRET: CKM.SHA256_HMAC,
    CKK.AES: CKM.AES_CMAC,
}
# Mechanism: hash, mask generation function, bytes of the hash, which are those of the salt (RFC 8017 9.1).
_PSS: Final = {
    CKM.SHA1_RSA_PKCS_PSS: (CKM.SHA_1, CKG.MGF1_SHA1, 20),
    CKM.SHA224_RSA_PKCS_PSS: (CKM.SHA224, CKG.MGF1_SHA224, 28),
    CKM.SHA256_RSA_PKCS_PSS: (CKM.SHA256, CKG.MGF1_SHA256, 32),
    CKM.SHA384_RSA_PKCS_PSS: (CKM.SHA384, CKG.MGF1_SHA384, 48),
    CKM.SHA512_RSA_PKCS_PSS: (CKM.SHA512, CKG.MGF1_SHA512, 64),
}


@dataclass(frozen=True, slots=True)
class Key:
    """A key that may sign: Signer.key finds it."""

    handle: int
    type: CKK


_Kind = tuple[Key, CKM | None, bytes | None]


@dataclass(frozen=True, slots=True)
class SignRequest:
    """One signature of Signer.sign_each; the members are as sign_many's."""

    key: Key
    data: bytes
    mechanism: CKM | None = None
    parameter: bytes | None = None


class SigningError(HsmsimError):
    """Some signatures were not made.

    `errors` has the CK_RV of each by its place in the list, `signatures` what was made, None elsewhere.
    """

    def __init__(self, errors: Mapping[int, CKR], signatures: Sequence[bytes | None]) -> None:
        told = [f"item {place}: CKR_{rv.name}" for place, rv in list(errors.items())[:_TOLD]]
        more = f" and {len(errors) - _TOLD} more" if len(errors) > _TOLD else ""
        super().__init__(
            f"{len(errors)} of {len(signatures)} signatures were refused ({', '.join(told)}{more}): "
            f"{ERROR_TEXT.get(next(iter(errors.values())), 'see the CK_RV')}"
        )
        self.errors = dict(errors)
        self.signatures = list(signatures)


def _check(rv: int, doing: str) -> None:
    if rv != CKR.OK:
        raise CkrError(rv, f"{doing}: CKR_{CKR(rv).name}: {ERROR_TEXT.get(CKR(rv), 'see the CK_RV')}")


def _mechanism(key: Key, named: CKM | None) -> CKM:
    chosen = _DEFAULTS.get(key.type) if named is None else CKM(named)
    if chosen is None:
        raise CkrError(CKR.MECHANISM_INVALID, f"A key of type {key.type.name} has no mechanism of its own: name one.")
    return chosen


def _parameter(key: Key, named: CKM | None, given: bytes | None) -> bytes:
    """CK_RSA_PKCS_PSS_PARAMS where the mechanism wants them and none are given."""
    mechanism = _mechanism(key, named)
    if given is not None or mechanism not in _PSS:
        return given or b""
    return b"".join(int(value).to_bytes(8, sys.byteorder) for value in _PSS[mechanism])


def _room(session: int, kinds: _Raw) -> int:
    """Bytes of the longest signature; a kind that will be refused has none, and each of its requests says why."""
    size, room = _ffi.new("size_t *"), 0
    for number in range(len(kinds)):
        if _lib.signer_size(session, _ffi.addressof(kinds, number), size) == CKR.OK:
            room = max(room, int(size[0]))
    return room


class Signer:
    """A login to one token. Threads share it; a process has one at a time.

    A forked child starts anew, as with the module: it makes a Signer of its own, and its parent's answers
    CKR_CRYPTOKI_NOT_INITIALIZED there.
    """

    _open: ClassVar[Signer | None] = None
    _opening: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, config: Path | str | None = None, *, pin: str, token: str | None = None) -> None:
        """Log in.

        config: the module's configuration file, None for the environment's. pin: user:password. token: the label in the
        configuration, None for its first. CkrError says why not; HsmsimError if this process has a Signer already.
        """
        self._idle: list[int] = []
        self._calls = threading.Condition()
        self._running = 0
        self._closed = False
        self._pid = os.getpid()
        with Signer._opening:
            if Signer._open is not None:
                raise HsmsimError("This process has an open Signer: threads share one; close it to open another.")
            error = _ffi.new("char[]", _ERROR_BYTES)
            path = _ffi.NULL if config is None else os.fsencode(config)
            rv = _lib.signer_start(path, error, _ERROR_BYTES)
            why = _ffi.string(error).decode(errors="replace")
            if why:
                raise CkrError(rv, why)
            _check(rv, "No Signer")
            try:
                self._log_in(pin, token)
            except HsmsimError:
                _lib.signer_finish()
                raise
            Signer._open = self

    def _log_in(self, pin: str, token: str | None) -> None:
        slot = _ffi.new("unsigned long *")
        _check(_lib.signer_slot(_ffi.NULL if token is None else token.encode(), slot), f"Token {token!r}")
        self._slot = int(slot[0])
        session = self._new_session()
        raw = bytearray(pin.encode())
        try:
            _check(_lib.signer_login(session, _ffi.from_buffer("uint8_t[]", raw), len(raw)), "No login")
        finally:
            raw[:] = bytes(len(raw))
        self._idle.append(session)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Log out, when the calls of other threads have ended. Again: nothing."""
        if self._pid != os.getpid():  # the module has begun anew there, and its locks may be another thread's
            return
        with self._calls:
            if self._closed:
                return
            self._closed = True
            self._calls.wait_for(lambda: self._running == 0)
        with Signer._opening:
            _lib.signer_finish()
            Signer._open = None

    # ---- keys ------------------------------------------------------------------------------------------------------

    def key(self, *, label: str | None = None, id: bytes | None = None) -> Key:  # noqa: A002 - CKA_ID
        """Find the one private or secret key with this CKA_LABEL, CKA_ID or both that may sign (CKA_SIGN).

        CkrError CKR_KEY_HANDLE_INVALID: there is none, or more than one.
        """
        name = None if label is None else label.encode()
        found, count = _ffi.new("unsigned long[2]"), _ffi.new("size_t *", 2)
        kind = _ffi.new("unsigned long *")
        wanted = [(_ffi.NULL, 0) if one is None else (one, len(one)) for one in (name, id)]
        with self._session() as session:
            _check(_lib.signer_find(session, *wanted[0], *wanted[1], found, count), "The key was not found")
            if count[0] != 1:
                number = "no key that may sign has" if count[0] == 0 else "several keys that may sign have"
                raise CkrError(
                    CKR.KEY_HANDLE_INVALID, f"{number} label {label!r} and id {id!r}".replace(" and id None", "")
                )
            _check(_lib.signer_key_type(session, found[0], kind), "The key's type is not known")
        return Key(int(found[0]), CKK(kind[0]))

    # ---- signatures ------------------------------------------------------------------------------------------------

    def sign_many(
        self,
        key: Key,
        digests: Sequence[bytes],
        mechanism: CKM | None = None,
        *,
        parameter: bytes | None = None,
        messages: bool = False,
    ) -> list[bytes]:
        """Sign each digest; the signatures in the same order, as C_Sign has them (ECDSA: r and s, not DER).

        mechanism: None for the key type's own (RSA: SHA256_RSA_PKCS, EC: ECDSA, Ed25519: EDDSA, generic secrets:
        SHA256_HMAC, AES: AES_CMAC). One that hashes takes the digest that it would have made; messages=True: what it is
        to hash. Others (ECDSA, EDDSA, MACs) take the data as it is. parameter: CK_MECHANISM's; None is right for all,
        PSS included. SigningError: not all were made.
        """
        only = (key, mechanism, parameter)
        return self._sign([only], array("I", bytes(4 * len(digests))), digests, messages=messages)

    def sign_each(self, requests: Sequence[SignRequest], *, messages: bool = False) -> list[bytes]:
        """Sign with keys and mechanisms that differ; else as sign_many."""
        places: dict[_Kind, int] = {}
        which = array(
            "I", (places.setdefault((one.key, one.mechanism, one.parameter), len(places)) for one in requests)
        )
        return self._sign(list(places), which, [one.data for one in requests], messages=messages)

    def _sign(self, kinds: list[_Kind], which: array[int], data: Sequence[bytes], *, messages: bool) -> list[bytes]:
        parameters = [_ffi.from_buffer("uint8_t[]", _parameter(key, name, given)) for key, name, given in kinds]
        rows = [
            (key.handle, _mechanism(key, name), raw, len(raw), not messages)
            for (key, name, _), raw in zip(kinds, parameters, strict=True)
        ]
        rvs, lengths = array("Q", bytes(8 * len(data))), array("I", bytes(4 * len(data)))
        batch = _ffi.new("signer_batch *")
        batch.count = len(data)
        batch.kinds = kept = _ffi.new("signer_kind[]", rows)
        with self._session() as session:
            batch.room = _room(session, kept)
            signatures = bytearray(len(data) * batch.room)
            views = {
                "kind": _ffi.from_buffer("uint32_t[]", which),
                "data": _ffi.from_buffer("uint8_t[]", b"".join(data)),
                "end": _ffi.from_buffer("uint64_t[]", array("Q", accumulate(map(len, data)))),
                "signatures": _ffi.from_buffer("uint8_t[]", signatures),
                "lengths": _ffi.from_buffer("uint32_t[]", lengths),
                "rvs": _ffi.from_buffer("uint64_t[]", rvs),
            }
            for name, view in views.items():
                setattr(batch, name, view)
            _check(_lib.signer_sign(session, batch), "Nothing was signed")
        return _answers(signatures, batch.room, lengths, rvs)

    # ---- sessions --------------------------------------------------------------------------------------------------

    def _new_session(self) -> int:
        session = _ffi.new("unsigned long *")
        _check(_lib.signer_open(self._slot, session), "No session")
        return int(session[0])

    def _session(self) -> _Session:
        return _Session(self)

    def _take(self) -> int:
        if self._pid != os.getpid():
            raise CkrError(CKR.CRYPTOKI_NOT_INITIALIZED, "This Signer is the parent process's: open one here.")
        with self._calls:
            if self._closed:
                raise CkrError(CKR.CRYPTOKI_NOT_INITIALIZED, "This Signer is closed.")
            self._running += 1
            if self._idle:
                return self._idle.pop()
        try:
            return self._new_session()
        except BaseException:
            self._give(None)
            raise

    def _give(self, session: int | None) -> None:
        with self._calls:
            self._running -= 1
            if session is not None:
                self._idle.append(session)
            self._calls.notify_all()


class _Session:
    """A session that no other thread has meanwhile."""

    __slots__ = ("handle", "signer")

    def __init__(self, signer: Signer) -> None:
        self.signer = signer
        self.handle: int | None = None

    def __enter__(self) -> int:
        self.handle = self.signer._take()  # noqa: SLF001 - the two are one
        return self.handle

    def __exit__(self, *_: object) -> None:
        self.signer._give(self.handle)  # noqa: SLF001


def _answers(signatures: bytearray, room: int, lengths: array[int], rvs: array[int]) -> list[bytes]:
    whole = bytes(signatures)
    made = [whole[place * room : place * room + length] for place, length in enumerate(lengths)]
    errors = {place: CKR(rv) for place, rv in enumerate(rvs) if rv != CKR.OK}
    if errors:
        raise SigningError(errors, [None if place in errors else one for place, one in enumerate(made)])
    return made


def _forget() -> None:
    """In a forked child, where the module has begun anew."""
    Signer._open = None  # noqa: SLF001
    Signer._opening = threading.Lock()  # noqa: SLF001


os.register_at_fork(after_in_child=_forget)
