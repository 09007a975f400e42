"""Every function of the list: uninitialised, with sessions that are not, with pointers that are not, out of turn.

The codes are those that PKCS #11 2.40 section 5 lists for the function; where it lists several, the one that says most.
"""

from __future__ import annotations

import ctypes
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.p11 import FUNCTIONS, FUNCTIONS_3_0, Attribute, Mechanism, Module, Session

from hsmsim.hsm.cryptoki import CKA, CKF, CKK, CKM, CKO, CKR, CKU

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from conftest import Simulator

TABLE = tomllib.loads((Path(__file__).resolve().parents[2] / "native/tables/functions.toml").read_text())
ARGUMENTS = {name: tuple(one["args"].split(", ")) for part in TABLE.values() for name, one in part.items()}
HUGE = (1 << 31, 1 << 32, (1 << 63) + 1, (1 << 64) - 1)
LEGACY = {"C_GetFunctionStatus", "C_CancelFunction"}
MESSAGES = {name for name in FUNCTIONS_3_0 if "Message" in name}
ON_SESSIONS = [name for name in FUNCTIONS if ARGUMENTS[name][0].startswith("CK_SESSION_HANDLE")]
ON_SLOTS = [name for name in FUNCTIONS if ARGUMENTS[name][0].startswith("CK_SLOT_ID ")]


def zeros(name: str) -> list[int | None]:
    """Arguments that are all NULL or 0."""
    return [None if "PTR" in one or "NOTIFY" in one else 0 for one in ARGUMENTS[name]]


def test_the_list_has_every_function() -> None:
    assert len(FUNCTIONS) == 68
    assert len(FUNCTIONS_3_0) == 92
    assert len(ON_SESSIONS) == 55
    assert len(ON_SLOTS) == 7


@pytest.mark.parametrize("name", FUNCTIONS_3_0)
def test_before_c_initialize(simulator: Simulator, name: str) -> None:
    module = Module(simulator.environment, start=False).use_3_0()
    if name == "C_Initialize":
        assert module.rv(name, None) is CKR.OK
        assert module.rv(name, None) is CKR.CRYPTOKI_ALREADY_INITIALIZED
    elif name in {"C_GetFunctionList", "C_GetInterfaceList", "C_GetInterface"}:
        assert module.rv(name, *zeros(name)) is CKR.ARGUMENTS_BAD
    else:
        assert module.rv(name, *zeros(name)) is CKR.CRYPTOKI_NOT_INITIALIZED


@pytest.mark.parametrize("name", ON_SESSIONS)
def test_a_session_that_is_not_open(module: Module, name: str) -> None:
    closed = module.session()
    closed.call("C_CloseSession")
    expected = CKR.FUNCTION_NOT_PARALLEL if name in LEGACY else CKR.SESSION_HANDLE_INVALID
    for handle in (0, closed.handle, closed.handle + 1, 1 << 63, (1 << 64) - 1):
        assert module.rv(name, handle, *zeros(name)[1:]) is expected


@pytest.mark.parametrize("name", ON_SLOTS)
def test_a_slot_that_is_not_there(module: Module, name: str) -> None:
    for slot in (0, module.slot.value - 1, module.slot.value + 1, (1 << 64) - 1):
        assert module.rv(name, slot, *zeros(name)[1:]) is CKR.SLOT_ID_INVALID


@pytest.mark.parametrize("name", sorted(MESSAGES))
def test_message_functions_are_not_supported(simulator: Simulator, name: str) -> None:
    with Module(simulator.environment) as module:
        session = module.use_3_0().session()
        assert module.rv(name, session.handle, *zeros(name)[1:]) is CKR.FUNCTION_NOT_SUPPORTED


# ---- bad arguments -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Keys:
    aes: int
    hmac: int
    rsa: tuple[int, int]


@pytest.fixture(scope="module")
def keys(session: Session) -> Keys:
    aes = {CKA.VALUE_LEN: 16, CKA.ENCRYPT: True, CKA.DECRYPT: True, CKA.WRAP: True, CKA.UNWRAP: True}
    public = {CKA.MODULUS_BITS: 2048, CKA.VERIFY: True, CKA.VERIFY_RECOVER: True}
    return Keys(
        session.generate(CKM.AES_KEY_GEN, aes | {CKA.EXTRACTABLE: True}),
        session.generate(CKM.GENERIC_SECRET_KEY_GEN, {CKA.VALUE_LEN: 32, CKA.SIGN: True, CKA.VERIFY: True}),
        session.pair(CKM.RSA_PKCS_KEY_PAIR_GEN, public, {CKA.SIGN: True, CKA.SIGN_RECOVER: True}),
    )


def _begin(session: Session, keys: Keys) -> Mapping[str, Callable[[], None]]:
    """What makes each kind of operation active."""
    iv = bytes(16)
    return {
        "Digest": lambda: session.init("C_DigestInit", CKM.SHA256, None),
        "Encrypt": lambda: session.init("C_EncryptInit", CKM.AES_CBC_PAD, keys.aes, iv),
        "Decrypt": lambda: session.init("C_DecryptInit", CKM.AES_CBC_PAD, keys.aes, iv),
        "Sign": lambda: session.init("C_SignInit", CKM.SHA256_HMAC, keys.hmac),
        "Verify": lambda: session.init("C_VerifyInit", CKM.SHA256_HMAC, keys.hmac),
        "SignRecover": lambda: session.init("C_SignRecoverInit", CKM.RSA_PKCS, keys.rsa[1]),
        "VerifyRecover": lambda: session.init("C_VerifyRecoverInit", CKM.RSA_PKCS, keys.rsa[0]),
        "FindObjects": lambda: session.call("C_FindObjectsInit", None, 0),
    }


@pytest.fixture
def begin(session: Session, keys: Keys) -> Iterator[Mapping[str, Callable[[], None]]]:
    """Ends what a test began."""
    yield _begin(session, keys)
    for family in ("Digest", "Encrypt", "Decrypt", "Sign", "Verify", "SignRecover", "VerifyRecover"):
        session.rv(f"C_{family}Init", None, *(() if family == "Digest" else (0,)))
    session.rv("C_FindObjectsFinal")


@pytest.fixture(scope="module")
def data() -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(4096)


BAD = CKR.ARGUMENTS_BAD
SLOT, DATA, LENGTH, MECHANISM = "SLOT", "DATA", "LENGTH", "MECHANISM"
BAD_ARGUMENTS: list[tuple[str, tuple[Any, ...], CKR]] = [
    # general, slots
    ("C_GetInfo", (None,), BAD),
    ("C_GetFunctionList", (None,), BAD),
    ("C_Finalize", (DATA,), BAD),
    ("C_GetSlotList", (0, None, None), BAD),
    ("C_GetSlotInfo", (SLOT, None), BAD),
    ("C_GetTokenInfo", (SLOT, None), BAD),
    ("C_GetMechanismList", (SLOT, None, None), BAD),
    ("C_GetMechanismInfo", (SLOT, CKM.AES_CBC, None), BAD),
    ("C_GetMechanismInfo", (SLOT, CKM.DES3_CBC, DATA), CKR.MECHANISM_INVALID),
    ("C_InitToken", (SLOT, None, 8, DATA), BAD),
    ("C_InitToken", (SLOT, DATA, 8, None), BAD),
    ("C_InitToken", (SLOT, DATA, 8, DATA), CKR.FUNCTION_NOT_SUPPORTED),
    ("C_OpenSession", (SLOT, CKF.SERIAL_SESSION, None, None, None), BAD),
    ("C_OpenSession", (SLOT, CKF.RW_SESSION, None, None, DATA), CKR.SESSION_PARALLEL_NOT_SUPPORTED),
    ("C_WaitForSlotEvent", (CKF.DONT_BLOCK, None, None), BAD),
    ("C_WaitForSlotEvent", (CKF.DONT_BLOCK, DATA, DATA), BAD),
    # sessions and login; the session is put in front
    ("C_GetSessionInfo", (None,), BAD),
    ("C_GetOperationState", (None, None), BAD),
    ("C_SetOperationState", (None, 16, 0, 0), BAD),
    ("C_SetOperationState", (DATA, 16, 0, 0), CKR.SAVED_STATE_INVALID),
    ("C_Login", (CKU.USER, None, 8), BAD),
    ("C_InitPIN", (None, 8), BAD),
    ("C_InitPIN", (DATA, 8), CKR.FUNCTION_NOT_SUPPORTED),
    ("C_SetPIN", (None, 8, DATA, 8), BAD),
    ("C_SetPIN", (DATA, 8, None, 8), BAD),
    *[("C_SetPIN", (DATA, huge, DATA, 8), CKR.PIN_LEN_RANGE) for huge in HUGE],
    *[("C_SetPIN", (DATA, 8, DATA, huge), CKR.PIN_LEN_RANGE) for huge in HUGE],
    # objects
    ("C_CreateObject", (None, 1, LENGTH), BAD),
    ("C_CreateObject", (None, 0, None), BAD),
    ("C_CreateObject", (None, 0, LENGTH), CKR.TEMPLATE_INCOMPLETE),
    *[("C_CreateObject", (DATA, huge, LENGTH), CKR.TEMPLATE_INCONSISTENT) for huge in HUGE],
    ("C_CopyObject", (0, None, 1, LENGTH), BAD),
    ("C_CopyObject", (0, None, 0, None), BAD),
    ("C_CopyObject", (0, None, 0, LENGTH), CKR.OBJECT_HANDLE_INVALID),
    ("C_DestroyObject", (0,), CKR.OBJECT_HANDLE_INVALID),
    ("C_DestroyObject", ((1 << 64) - 1,), CKR.OBJECT_HANDLE_INVALID),
    ("C_GetObjectSize", (0, None), BAD),
    ("C_GetObjectSize", (0, LENGTH), CKR.OBJECT_HANDLE_INVALID),
    ("C_GetAttributeValue", (0, None, 1), BAD),
    *[("C_GetAttributeValue", (0, DATA, huge), BAD) for huge in HUGE],
    ("C_GetAttributeValue", (0, DATA, 1), CKR.OBJECT_HANDLE_INVALID),
    ("C_SetAttributeValue", (0, None, 1), BAD),
    *[("C_SetAttributeValue", (0, DATA, huge), CKR.TEMPLATE_INCONSISTENT) for huge in HUGE],
    ("C_FindObjectsInit", (None, 1), BAD),
    *[("C_FindObjectsInit", (DATA, huge), CKR.TEMPLATE_INCONSISTENT) for huge in HUGE],
    # no mechanism, and no operation that it could end (3.0 5.2)
    ("C_DigestInit", (None,), BAD),
    *[(f"C_{one}Init", (None, 0), BAD) for one in ("Encrypt", "Decrypt", "Sign", "Verify")],
    *[(f"C_{one}Init", (None, 0), BAD) for one in ("SignRecover", "VerifyRecover")],
    *[(f"C_{one}Init", (MECHANISM, 0), CKR.KEY_HANDLE_INVALID) for one in ("Encrypt", "Decrypt")],
    *[(f"C_{one}Init", (MECHANISM, 0), CKR.MECHANISM_INVALID) for one in ("Sign", "Verify", "SignRecover")],
    # keys
    ("C_GenerateKey", (None, None, 0, LENGTH), BAD),
    ("C_GenerateKey", (MECHANISM, None, 0, None), BAD),
    ("C_GenerateKey", (MECHANISM, None, 0, LENGTH), CKR.MECHANISM_INVALID),
    ("C_GenerateKeyPair", (None, None, 0, None, 0, LENGTH, LENGTH), BAD),
    ("C_GenerateKeyPair", (MECHANISM, None, 0, None, 0, None, LENGTH), BAD),
    ("C_GenerateKeyPair", (MECHANISM, None, 0, None, 0, LENGTH, None), BAD),
    ("C_WrapKey", (None, 0, 0, DATA, LENGTH), BAD),
    ("C_WrapKey", (MECHANISM, 0, 0, DATA, None), BAD),
    ("C_UnwrapKey", (None, 0, DATA, 16, None, 0, LENGTH), BAD),
    ("C_UnwrapKey", (MECHANISM, 0, None, 16, None, 0, LENGTH), BAD),
    ("C_UnwrapKey", (MECHANISM, 0, DATA, 16, None, 0, None), BAD),
    *[("C_UnwrapKey", (MECHANISM, 0, DATA, huge, None, 0, LENGTH), CKR.WRAPPED_KEY_LEN_RANGE) for huge in HUGE],
    ("C_DeriveKey", (None, 0, None, 0, LENGTH), BAD),
    ("C_DeriveKey", (MECHANISM, 0, None, 0, None), BAD),
    # random
    ("C_SeedRandom", (None, 8), BAD),
    *[("C_SeedRandom", (DATA, huge), BAD) for huge in HUGE],
    ("C_GenerateRandom", (None, 8), BAD),
    *[("C_GenerateRandom", (DATA, huge), BAD) for huge in HUGE],
]


def _resolved(module: Module, data: ctypes.Array[ctypes.c_char], arguments: tuple[Any, ...]) -> list[Any]:
    iv = ctypes.create_string_buffer(16)
    named = {
        SLOT: module.slot,
        DATA: data,
        LENGTH: ctypes.byref(ctypes.c_ulong()),
        MECHANISM: ctypes.byref(Mechanism(CKM.AES_CBC, ctypes.addressof(iv), 16)),
    }
    return [named[one] if isinstance(one, str) else one for one in arguments]


@pytest.mark.parametrize(("name", "arguments", "expected"), BAD_ARGUMENTS)
@pytest.mark.usefixtures("begin")
def test_bad_arguments(
    module: Module,
    session: Session,
    data: ctypes.Array[ctypes.c_char],
    name: str,
    arguments: tuple[Any, ...],
    expected: CKR,
) -> None:
    resolved = _resolved(module, data, arguments)
    if name in ON_SESSIONS:
        resolved.insert(0, session.handle)
    assert module.rv(name, *resolved).name == expected.name


def test_the_tables_here_leave_no_function_out() -> None:
    asked = {name for name, _, _ in BAD_ARGUMENTS} | {name for name, *_ in BAD_CALLS} | set(NOT_BEGUN)
    asked |= {"C_Initialize", "C_CloseSession", "C_CloseAllSessions", "C_Logout"} | LEGACY
    assert asked == set(FUNCTIONS)


TOO_LONG, ENCRYPTED_TOO_LONG = CKR.DATA_LEN_RANGE, CKR.ENCRYPTED_DATA_LEN_RANGE
BAD_CALLS: list[tuple[str, str, tuple[Any, ...], CKR]] = [
    # function, operation that is active, arguments
    *[(f"C_{one}", one, (None, 8, DATA, "ROOM"), BAD) for one in ("Digest", "Encrypt", "Decrypt", "Sign")],
    *[(f"C_{one}", one, (DATA, 8, DATA, None), BAD) for one in ("Digest", "Encrypt", "Decrypt", "Sign")],
    *[(f"C_{one}Update", one, (None, 8), BAD) for one in ("Digest", "Sign", "Verify")],
    *[(f"C_{one}Update", one, (None, 8, DATA, LENGTH), BAD) for one in ("Encrypt", "Decrypt")],
    *[(f"C_{one}Update", one, (DATA, 8, DATA, None), BAD) for one in ("Encrypt", "Decrypt")],
    *[(f"C_{one}Final", one, (DATA, None), BAD) for one in ("Digest", "Encrypt", "Decrypt", "Sign")],
    ("C_Verify", "Verify", (None, 8, DATA, 32), BAD),
    ("C_Verify", "Verify", (DATA, 8, None, 32), BAD),
    ("C_VerifyFinal", "Verify", (None, 32), BAD),
    ("C_SignRecover", "SignRecover", (None, 8, DATA, LENGTH), CKR.BUFFER_TOO_SMALL),
    ("C_SignRecover", "SignRecover", (DATA, 8, DATA, None), BAD),
    ("C_VerifyRecover", "VerifyRecover", (None, 256, DATA, LENGTH), BAD),
    ("C_VerifyRecover", "VerifyRecover", (DATA, 256, DATA, None), BAD),
    ("C_FindObjects", "FindObjects", (None, 1, LENGTH), BAD),
    ("C_FindObjects", "FindObjects", (DATA, 1, None), BAD),
    ("C_DigestKey", "Digest", (0,), CKR.KEY_HANDLE_INVALID),
    ("C_Sign", "Sign", (DATA, 8, DATA, LENGTH), CKR.BUFFER_TOO_SMALL),
    ("C_Digest", "Digest", (DATA, 8, DATA, LENGTH), CKR.BUFFER_TOO_SMALL),
    ("C_Encrypt", "Encrypt", (DATA, 8, DATA, LENGTH), CKR.BUFFER_TOO_SMALL),
    ("C_EncryptFinal", "Encrypt", (DATA, LENGTH), CKR.BUFFER_TOO_SMALL),
    ("C_DecryptFinal", "Decrypt", (DATA, LENGTH), ENCRYPTED_TOO_LONG),
]
for _huge in HUGE[1:]:
    BAD_CALLS += [
        ("C_Digest", "Digest", (DATA, _huge, DATA, "ROOM"), TOO_LONG),
        ("C_DigestUpdate", "Digest", (DATA, _huge), TOO_LONG),
        ("C_Encrypt", "Encrypt", (DATA, _huge, DATA, "ROOM"), TOO_LONG),
        ("C_EncryptUpdate", "Encrypt", (DATA, _huge, DATA, "ROOM"), TOO_LONG),
        ("C_Decrypt", "Decrypt", (DATA, _huge, DATA, "ROOM"), ENCRYPTED_TOO_LONG),
        ("C_DecryptUpdate", "Decrypt", (DATA, _huge, DATA, "ROOM"), ENCRYPTED_TOO_LONG),
        ("C_Sign", "Sign", (DATA, _huge, DATA, "ROOM"), TOO_LONG),
        ("C_SignUpdate", "Sign", (DATA, _huge), TOO_LONG),
        ("C_Verify", "Verify", (DATA, _huge, DATA, 32), TOO_LONG),
        ("C_Verify", "Verify", (DATA, 8, DATA, _huge), CKR.SIGNATURE_LEN_RANGE),
        ("C_VerifyUpdate", "Verify", (DATA, _huge), TOO_LONG),
        ("C_VerifyFinal", "Verify", (DATA, _huge), CKR.SIGNATURE_LEN_RANGE),
        ("C_SignRecover", "SignRecover", (DATA, _huge, DATA, "ROOM"), TOO_LONG),
        ("C_VerifyRecover", "VerifyRecover", (DATA, _huge, DATA, "ROOM"), CKR.SIGNATURE_LEN_RANGE),
    ]


@pytest.mark.parametrize(("name", "family", "arguments", "expected"), BAD_CALLS)
def test_bad_arguments_of_an_operation(
    module: Module,
    session: Session,
    begin: Mapping[str, Callable[[], None]],
    data: ctypes.Array[ctypes.c_char],
    name: str,
    family: str,
    arguments: tuple[Any, ...],
    expected: CKR,
) -> None:
    begin[family]()
    room = ctypes.byref(ctypes.c_ulong(len(data)))
    resolved = [room if one == "ROOM" else _resolved(module, data, (one,))[0] for one in arguments]
    assert session.rv(name, *resolved).name == expected.name
    if family == "FindObjects":
        return
    # any answer but CKR_BUFFER_TOO_SMALL has ended it (2.40 5.1.1)
    if expected is CKR.BUFFER_TOO_SMALL:
        session.call(f"C_{family}Init", None, *(() if family == "Digest" else (0,)))
    begin[family]()


# ---- out of turn ---------------------------------------------------------------------------------------------------

NOT_BEGUN = [
    name
    for name in FUNCTIONS
    if any(name.startswith(f"C_{one}") for one in ("Encrypt", "Decrypt", "Digest", "Sign", "Verify"))
    and not name.endswith("Init")
] + ["C_FindObjects", "C_FindObjectsFinal", "C_GetOperationState"]


@pytest.mark.parametrize("name", NOT_BEGUN)
@pytest.mark.usefixtures("begin")
def test_what_was_not_begun(session: Session, data: ctypes.Array[ctypes.c_char], name: str) -> None:
    room = ctypes.c_ulong(len(data))
    values: dict[str, Any] = {"PTR": data, "LEN_PTR": ctypes.byref(room)}
    arguments = [
        values["LEN_PTR"] if "ULONG_PTR" in one else values["PTR"] if "PTR" in one else 16
        for one in ARGUMENTS[name][1:]
    ]
    assert session.rv(name, *arguments) is CKR.OPERATION_NOT_INITIALIZED


@pytest.mark.parametrize("family", ["Digest", "Encrypt", "Decrypt", "Sign", "Verify", "SignRecover", "VerifyRecover"])
def test_an_operation_is_begun_once(session: Session, begin: Mapping[str, Callable[[], None]], family: str) -> None:
    begin[family]()
    mechanism = ctypes.byref(Mechanism(CKM.SHA256_HMAC, None, 0))
    key = () if family == "Digest" else (0,)
    assert session.rv(f"C_{family}Init", mechanism, *key) is CKR.OPERATION_ACTIVE
    session.call(f"C_{family}Init", None, *key)  # 3.0 5.2: no mechanism ends it
    assert session.rv(f"C_{family}Init", None, *key) is CKR.ARGUMENTS_BAD
    begin[family]()


def test_a_find_is_begun_once(session: Session, begin: Mapping[str, Callable[[], None]]) -> None:
    begin["FindObjects"]()
    assert session.rv("C_FindObjectsInit", None, 0) is CKR.OPERATION_ACTIVE
    session.call("C_FindObjectsFinal")
    assert session.rv("C_FindObjectsFinal") is CKR.OPERATION_NOT_INITIALIZED


@pytest.mark.parametrize(("family", "size"), [("Digest", 32), ("Sign", 32), ("Encrypt", 32), ("Decrypt", 32)])
def test_a_whole_message_after_a_part(
    session: Session,
    begin: Mapping[str, Callable[[], None]],
    data: ctypes.Array[ctypes.c_char],
    family: str,
    size: int,
) -> None:
    begin[family]()
    room = ctypes.c_ulong(len(data))
    crypt = (data, ctypes.byref(room)) if family in {"Encrypt", "Decrypt"} else ()
    session.call(f"C_{family}Update", data, 16, *crypt)
    assert session.rv(f"C_{family}", data, size, data, ctypes.byref(room)) is CKR.OPERATION_ACTIVE
    begin[family]()  # and it has ended


def test_a_size_query_changes_nothing(session: Session, begin: Mapping[str, Callable[[], None]]) -> None:
    begin["Sign"]()
    assert session.size("C_Sign", b"data", 4) == 32
    short = ctypes.c_ulong(31)
    out = ctypes.create_string_buffer(32)
    assert session.rv("C_Sign", b"data", 4, out, ctypes.byref(short)) is CKR.BUFFER_TOO_SMALL
    assert short.value == 32
    first = session.produce("C_Sign", b"data", 4)
    begin["Sign"]()
    assert session.produce("C_Sign", b"data", 4) == first


# ---- hostile templates and parameters ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        *[(Attribute(CKA.LABEL, 1, huge), CKR.ATTRIBUTE_VALUE_INVALID) for huge in HUGE],
        (Attribute(CKA.LABEL, None, 5), CKR.ATTRIBUTE_VALUE_INVALID),
        (Attribute(CKA.TOKEN, None, 0), CKR.ATTRIBUTE_VALUE_INVALID),
        (Attribute(CKA.TOKEN, None, 1), CKR.ATTRIBUTE_VALUE_INVALID),
        (Attribute(CKA.CLASS, None, 8), CKR.ATTRIBUTE_VALUE_INVALID),
        (Attribute(CKA.ALLOWED_MECHANISMS, None, 7), CKR.ATTRIBUTE_VALUE_INVALID),
        (Attribute(CKA.WRAP_TEMPLATE, None, 24), CKR.ATTRIBUTE_VALUE_INVALID),
        (Attribute(CKA.WRAP_TEMPLATE, None, 23), CKR.ATTRIBUTE_VALUE_INVALID),
    ],
)
def test_a_template_that_points_nowhere(session: Session, row: Attribute, expected: CKR) -> None:
    handle = ctypes.c_ulong()
    assert session.rv("C_CreateObject", ctypes.byref(row), 1, ctypes.byref(handle)) is expected
    assert session.rv("C_FindObjectsInit", ctypes.byref(row), 1) is expected


def test_a_template_that_holds_itself(session: Session) -> None:
    row = Attribute(CKA.UNWRAP_TEMPLATE, None, ctypes.sizeof(Attribute))
    row.value = ctypes.addressof(row)
    handle = ctypes.c_ulong()
    rv = session.rv("C_CreateObject", ctypes.byref(row), 1, ctypes.byref(handle))
    assert rv is CKR.ATTRIBUTE_VALUE_INVALID


@pytest.mark.parametrize("length", [1, 15, 17, 4096, *HUGE])
@pytest.mark.parametrize("kind", [CKM.AES_CBC, CKM.AES_CTR, CKM.AES_GCM, CKM.RSA_PKCS_PSS, CKM.RSA_PKCS_OAEP])
def test_a_parameter_of_the_wrong_length(session: Session, keys: Keys, kind: CKM, length: int) -> None:
    buffer = ctypes.create_string_buffer(4096)
    mechanism = Mechanism(kind, ctypes.addressof(buffer), length)
    name = "C_SignInit" if kind is CKM.RSA_PKCS_PSS else "C_EncryptInit"
    assert session.rv(name, ctypes.byref(mechanism), keys.aes) is CKR.MECHANISM_PARAM_INVALID
    mechanism.parameter = None
    assert session.rv(name, ctypes.byref(mechanism), keys.aes) is CKR.ARGUMENTS_BAD


def test_a_certificate_is_no_key(session: Session) -> None:
    """CKR_KEY_HANDLE_INVALID, not CKR_OBJECT_HANDLE_INVALID, from an Init (2.40 5.8.1)."""
    made = session.create({CKA.CLASS: CKO.DATA, CKA.TOKEN: False, CKA.VALUE: b"no key"})
    for name in ("C_EncryptInit", "C_DecryptInit"):
        mechanism, _kept = session.mechanism(CKM.AES_CBC, bytes(16))
        assert session.rv(name, ctypes.byref(mechanism), made) is CKR.KEY_HANDLE_INVALID
    public = session.create({CKA.CLASS: CKO.SECRET_KEY, CKA.KEY_TYPE: CKK.AES, CKA.VALUE: bytes(16)})
    mechanism, _ = session.mechanism(CKM.AES_CMAC, None)
    assert session.rv("C_SignInit", ctypes.byref(mechanism), made) is CKR.KEY_HANDLE_INVALID
    session.destroy(made, public)


# ---- C_SessionCancel, 3.0 5.6.9 ------------------------------------------------------------------------------------


@pytest.fixture
def fresh(simulator: Simulator) -> Iterator[Session]:
    with Module(simulator.environment) as module:
        yield module.use_3_0().session(simulator.ready.pin)


CANCELS = {
    "Digest": CKF.DIGEST,
    "Encrypt": CKF.ENCRYPT,
    "Decrypt": CKF.DECRYPT,
    "Sign": CKF.SIGN,
    "Verify": CKF.VERIFY,
    "FindObjects": CKF.FIND_OBJECTS,
}


def test_operations_are_cancelled_one_by_one_or_all(fresh: Session) -> None:
    uses = {CKA.ENCRYPT: True, CKA.DECRYPT: True}
    key = fresh.generate(CKM.AES_KEY_GEN, {CKA.VALUE_LEN: 16} | uses)
    begins = _begin(fresh, Keys(key, fresh.generate(CKM.GENERIC_SECRET_KEY_GEN, {CKA.VALUE_LEN: 32}), (0, 0)))
    for name in CANCELS:
        begins[name]()
    for name, flag in CANCELS.items():
        for other in set(CANCELS) - {name}:
            fresh.call("C_SessionCancel", 0)
            assert fresh.rv(f"C_{other}Init", *_again(other, key)) is CKR.OPERATION_ACTIVE
        fresh.call("C_SessionCancel", flag)
        fresh.call("C_SessionCancel", flag)  # what is not active is no error
        assert fresh.rv(f"C_{name}Final", None, None) is CKR.OPERATION_NOT_INITIALIZED
        begins[name]()
    fresh.call("C_SessionCancel", (1 << 64) - 1)
    for name in CANCELS:
        begins[name]()


def _again(name: str, key: int) -> tuple[Any, ...]:
    if name == "FindObjects":
        return None, 0
    mechanism = ctypes.byref(Mechanism(CKM.SHA256, None, 0))
    return (mechanism,) if name == "Digest" else (mechanism, key)


@pytest.mark.parametrize("name", ["C_SessionCancel", "C_LoginUser"])
def test_functions_of_3_0_want_a_session(fresh: Session, name: str) -> None:
    for handle in (0, fresh.handle + 1, (1 << 64) - 1):
        assert fresh.module.rv(name, handle, *zeros(name)[1:]) is CKR.SESSION_HANDLE_INVALID
