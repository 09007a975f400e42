"""The reference engine: hot operations in SoftHSM2, where the mechanism table says that it can (engine = "softhsm").

What the fast path is tested and measured against. A key is unwrapped into a session object at its first use. SoftHSM2
crashes on malformed parameters, so what reaches it is checked here; what it refuses the engine is asked again, which
names the error as PKCS#11 wants it. A disagreement over valid input is seen in the log.

Rights: an operation takes a seat (a session of its own), then asks whether the client may use the key. forget() and
barrier() go through every seat: when they return, no operation starts that was allowed before.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

import pkcs11
from pkcs11 import Attribute, KeyType, ObjectClass
from pkcs11.exceptions import PKCS11Error

from hsmsim.errors import CkrError
from hsmsim.hsm.cryptoki import CKA, CKF, CKG, CKK, CKM, CKO, CKR, CKZ, MECHANISMS
from hsmsim.hsm.firmware import publics
from hsmsim.hsm.messages import (
    CtrParams,
    DecryptRequest,
    DecryptResponse,
    EncryptRequest,
    EncryptResponse,
    GcmParams,
    IvParams,
    OaepParams,
    PssParams,
    SignRequest,
    SignResponse,
    VerifyRequest,
    VerifyResponse,
)
from hsmsim.hsm.vault.vault import TYPES, put, storable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hsmsim.cluster.model import ObjectRow
    from hsmsim.hsm.cryptoki import MechanismInfo
    from hsmsim.hsm.engine import Request
    from hsmsim.hsm.messages import Mechanism
    from hsmsim.hsm.vault.tokens import Token
    from hsmsim.hsm.vault.vault import Vault

    Usable = Callable[[int, CKA, int], ObjectRow]
    Asked = SignRequest | VerifyRequest | EncryptRequest | DecryptRequest

_LOG = logging.getLogger(__name__)

SEATS: Final = 4
KEPT_KEYS: Final = 64
BLOCK: Final = 16
GCM_IV: Final = 12
GCM_IV_MAX: Final = 256
GCM_TAGS: Final = (96, 104, 112, 120, 128)
_REQUESTS: Final[dict[int, tuple[type[Any], CKA, int, frozenset[int]]]] = {
    0x100: (SignRequest, CKA.SIGN, CKF.SIGN, frozenset({CKO.PRIVATE_KEY, CKO.SECRET_KEY})),
    0x101: (VerifyRequest, CKA.VERIFY, CKF.VERIFY, frozenset({CKO.PUBLIC_KEY, CKO.SECRET_KEY})),
    0x102: (EncryptRequest, CKA.ENCRYPT, CKF.ENCRYPT, frozenset({CKO.PUBLIC_KEY, CKO.SECRET_KEY})),
    0x103: (DecryptRequest, CKA.DECRYPT, CKF.DECRYPT, frozenset({CKO.PRIVATE_KEY, CKO.SECRET_KEY})),
}
_MGF_OF: Final = {
    CKM.SHA_1: CKG.MGF1_SHA1,
    CKM.SHA224: CKG.MGF1_SHA224,
    CKM.SHA256: CKG.MGF1_SHA256,
    CKM.SHA384: CKG.MGF1_SHA384,
    CKM.SHA512: CKG.MGF1_SHA512,
}
_DIGEST_INFO: Final = {  # RFC 8017, 9.2 note 1
    CKM.SHA_1: bytes.fromhex("3021300906052b0e03021a05000414"),
    CKM.SHA224: bytes.fromhex("302d300d06096086480165030402040500041c"),
    CKM.SHA256: bytes.fromhex("3031300d060960864801650304020105000420"),
    CKM.SHA384: bytes.fromhex("3041300d060960864801650304020205000430"),
    CKM.SHA512: bytes.fromhex("3051300d060960864801650304020305000440"),
}


class _Gcm(pkcs11.GCMParams):
    """python-pkcs11's own takes nonces up to 12 bytes only."""

    def __init__(self, nonce: bytes, aad: bytes, tag_bits: int) -> None:
        self.nonce, self.aad, self.tag_bits = nonce, aad or None, tag_bits


@dataclass(frozen=True, slots=True)
class _Call:
    """What SoftHSM2 is asked: python-pkcs11's mechanism and parameter, and the data. iv: one that was made here."""

    mechanism: pkcs11.Mechanism
    param: object
    data: bytes
    iv: bytes = b""


@dataclass(slots=True)
class _Seat:
    """A session, and the keys that are in it."""

    token: Token
    era: int
    lock: threading.Lock = field(default_factory=threading.Lock)
    keys: OrderedDict[int, Any] = field(default_factory=OrderedDict)


class Reference:
    """Runs hot operations in SoftHSM2."""

    def __init__(self, vault: Vault) -> None:
        self._tokens = vault.tokens
        self._lock = threading.Lock()
        self._seats: dict[int, list[_Seat]] = {}
        self._turn = 0

    def run(self, partition: int, request: Request, usable: Usable) -> bytes | None:
        """The response's payload; None: this is the engine's. CkrError as the engine would."""
        kind = _REQUESTS.get(request.op)
        if kind is None:
            return None
        request_type, usage, function, classes = kind
        asked: Asked = request_type.decode(request.payload)
        info = MECHANISMS.get(asked.mechanism.type)
        if info is None or not info.softhsm & function:
            return None
        with self._seat(partition) as seat:
            row = usable(asked.key, usage, asked.mechanism.type)
            call = _call(asked, info) if row.object_class in classes and _fits(row, info) else None
            if call is None:
                return None
            try:
                return _execute(self._key(seat, row), asked, call, row)
            except PKCS11Error as error:
                _LOG.info("SoftHSM2 says %r to %s; the engine answers.", error, info.type.name)
                return None

    # ---- seats ---------------------------------------------------------------------------------------------------

    @contextmanager
    def _seat(self, partition: int) -> Iterator[_Seat]:
        seat = self._free_seat(partition)
        try:
            if seat.era != self._tokens.era:
                with self._tokens.lock:
                    seat.token, seat.era = self._tokens.get(partition).another(), self._tokens.era
                seat.keys.clear()
            yield seat
        finally:
            seat.lock.release()

    def _free_seat(self, partition: int) -> _Seat:
        """One that nobody has, a new one, or the one whose turn it is; locked."""
        with self._lock:
            seats = self._seats.setdefault(partition, [])
            for seat in seats:
                if seat.lock.acquire(blocking=False):
                    return seat
            if len(seats) < SEATS:
                with self._tokens.lock:
                    seat = _Seat(self._tokens.get(partition).another(), self._tokens.era)
                seat.lock.acquire()
                seats.append(seat)
                return seat
            self._turn += 1
            seat = seats[self._turn % SEATS]
        seat.lock.acquire()
        return seat

    def _all(self) -> list[_Seat]:
        with self._lock:
            return [seat for seats in self._seats.values() for seat in seats]

    def barrier(self) -> None:
        """Wait for every operation that runs."""
        for seat in self._all():
            with seat.lock:
                pass

    def forget(self, handle: int) -> None:
        """Drop a key; when this returns no operation starts that was allowed before."""
        for seat in self._all():
            with seat.lock:
                self._drop(seat, handle)

    def _drop(self, seat: _Seat, handle: int) -> None:
        key = seat.keys.pop(handle, None)
        if key is None:
            return
        try:
            with self._tokens.lock:
                key.destroy()
        except PKCS11Error as error:
            _LOG.info("A session object of %#x went by itself: %r", handle, error)

    def _key(self, seat: _Seat, row: ObjectRow) -> Any:  # noqa: ANN401 - python-pkcs11's
        key = seat.keys.get(row.handle)
        if key is not None:
            seat.keys.move_to_end(row.handle)
            return key
        if len(seat.keys) >= KEPT_KEYS:
            self._drop(seat, next(iter(seat.keys)))
        with self._tokens.lock:
            if storable(row):
                key = put(seat.token, row, {Attribute.TOKEN: False})
            else:
                key = seat.token.session.create_object(_public(row))
        seat.keys[row.handle] = key
        return key


def _public(row: ObjectRow) -> dict[Attribute, object]:
    """The template of a public key."""
    parts = publics.describe(row.material)[2]
    names = (CKA.MODULUS, CKA.PUBLIC_EXPONENT) if row.key_type == CKK.RSA else (CKA.EC_PARAMS, CKA.EC_POINT)
    return {
        Attribute.CLASS: ObjectClass.PUBLIC_KEY,
        Attribute.KEY_TYPE: KeyType.RSA if row.key_type == CKK.RSA else KeyType.EC,
        Attribute.TOKEN: False,
        Attribute.PRIVATE: False,
        Attribute.VERIFY: True,
        Attribute.ENCRYPT: True,
        **{Attribute(int(name)): parts[name] for name in names},
    }


# ---- requests as SoftHSM2 takes them -----------------------------------------------------------------------------


def _fits(row: ObjectRow, info: MechanismInfo) -> bool:
    """Whether the key is of the mechanism's type and one that SoftHSM2 takes. AES keys make no HMACs there."""
    known = storable(row) or (row.object_class == CKO.PUBLIC_KEY and row.key_type in TYPES)
    return known and CKK(row.key_type) in info.key_types


def _call(asked: Asked, info: MechanismInfo) -> _Call | None:
    """The call, or None for what SoftHSM2 does not do, and for malformed requests, which it may crash on."""
    if isinstance(asked, SignRequest | VerifyRequest) and asked.digested:
        return _digested(asked, info)
    params = asked.mechanism.params
    convert = _CONVERT.get(params.NAME) if params.NAME in info.params else None
    return None if convert is None else convert(pkcs11.Mechanism(int(info.type)), asked, info)


def _plain(mechanism: pkcs11.Mechanism, asked: Asked, _info: MechanismInfo) -> _Call | None:
    return _Call(mechanism, None, asked.data)


def _iv(mechanism: pkcs11.Mechanism, asked: Asked, _info: MechanismInfo) -> _Call | None:
    params = cast(IvParams, asked.mechanism.params)
    return _Call(mechanism, params.iv, asked.data) if len(params.iv) == BLOCK else None


def _ctr(mechanism: pkcs11.Mechanism, asked: Asked, _info: MechanismInfo) -> _Call | None:
    """As the bytes of CK_AES_CTR_PARAMS: python-pkcs11's own class cannot say every counter."""
    params = cast(CtrParams, asked.mechanism.params)
    if len(params.counter_block) != BLOCK or not 0 < params.counter_bits <= 8 * BLOCK:
        return None
    return _Call(mechanism, params.counter_bits.to_bytes(8, "little") + params.counter_block, asked.data)


def _pss(mechanism: pkcs11.Mechanism, asked: Asked, info: MechanismInfo) -> _Call | None:
    """SoftHSM2 wants one hash throughout, that of the mechanism if it has one."""
    params = cast(PssParams, asked.mechanism.params)
    if params.hash not in _MGF_OF or params.mgf != _MGF_OF[CKM(params.hash)] or info.hash not in (None, params.hash):
        return None
    return _Call(mechanism, (params.hash, params.mgf, params.salt_length), asked.data)


def _oaep(mechanism: pkcs11.Mechanism, asked: Asked, _info: MechanismInfo) -> _Call | None:
    sha1 = OaepParams(CKM.SHA_1, CKG.MGF1_SHA1, CKZ.DATA_SPECIFIED, b"")
    if asked.mechanism.params != sha1:
        return None
    return _Call(mechanism, (CKM.SHA_1, CKG.MGF1_SHA1, None), asked.data)


def _gcm(mechanism: pkcs11.Mechanism, asked: Asked, _info: MechanismInfo) -> _Call | None:
    params = cast(GcmParams, asked.mechanism.params)
    made = b""
    if not params.iv and isinstance(asked, EncryptRequest):
        made = os.urandom(GCM_IV)
    if not 0 < len(params.iv or made) <= GCM_IV_MAX or params.tag_bits not in GCM_TAGS:
        return None
    return _Call(mechanism, _Gcm(params.iv or made, params.aad, params.tag_bits), asked.data, made)


_CONVERT: Final = {"none": _plain, "iv": _iv, "ctr": _ctr, "pss": _pss, "oaep": _oaep, "gcm": _gcm}


def _digested(asked: SignRequest | VerifyRequest, info: MechanismInfo) -> _Call | None:
    """A digest that the client computed: the mechanism without its hash does the rest."""
    if info.hash not in _DIGEST_INFO or len(asked.data) != _DIGEST_INFO[info.hash][-1]:
        return None
    if isinstance(asked.mechanism.params, PssParams):
        return _pss(pkcs11.Mechanism.RSA_PKCS_PSS, asked, info)
    if CKK.RSA in info.key_types:
        return _Call(pkcs11.Mechanism.RSA_PKCS, None, _DIGEST_INFO[info.hash] + asked.data)
    return None


def _execute(key: Any, asked: Asked, call: _Call, row: ObjectRow) -> bytes:  # noqa: ANN401 - python-pkcs11's
    """Run it; the response's payload."""
    how = {"mechanism": call.mechanism, "mechanism_param": call.param}
    if isinstance(asked, SignRequest):
        return SignResponse(bytes(key.sign(call.data, **how))).encode()
    if isinstance(asked, VerifyRequest):
        if not key.verify(call.data, asked.signature, **how):
            fits = len(asked.signature) == _signature_size(row, asked.mechanism)
            raise CkrError(CKR.SIGNATURE_INVALID if fits else CKR.SIGNATURE_LEN_RANGE, "the signature is not right")
        return VerifyResponse().encode()
    if isinstance(asked, EncryptRequest):
        return EncryptResponse(bytes(key.encrypt(call.data, **how)), call.iv).encode()
    return DecryptResponse(bytes(key.decrypt(call.data, **how))).encode()


def _signature_size(row: ObjectRow, mechanism: Mechanism) -> int:
    info = MECHANISMS[mechanism.type]
    if row.object_class == CKO.SECRET_KEY:
        return info.mac
    _, bits, _ = publics.describe(row.material)
    return (bits + 7) // 8 * (2 if row.key_type == CKK.EC else 1)
