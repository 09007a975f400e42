"""HELLO, sessions, token and HSM information, and what happens when a client is gone."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from hsmsim import __version__
from hsmsim.cluster.model import ACTIVE
from hsmsim.errors import CkrError
from hsmsim.hsm.cryptoki import CKF, CKR, Profile
from hsmsim.hsm.firmware.state import SESSION_LIMIT, Client
from hsmsim.hsm.link import PROFILE_PEER
from hsmsim.hsm.messages import (
    CloseSessionsRequest,
    CloseSessionsResponse,
    HelloRequest,
    HelloResponse,
    HsmInfoResponse,
    OpenSessionsRequest,
    OpenSessionsResponse,
    TokenInfoResponse,
)

if TYPE_CHECKING:
    from hsmsim.hsm.engine import Request
    from hsmsim.hsm.firmware.state import State

WIRE_VERSION = 1
PROFILE_CLOUDHSM, PROFILE_CHECK_OFF = 1, 2
UNAVAILABLE = 0xFFFFFFFFFFFFFFFF
PASSWORD_MIN, PASSWORD_MAX, NAME_MAX = 8, 32, 31


def hello(state: State, request: Request) -> HelloResponse:
    """A new client, or one more connection of a client that is there."""
    message = HelloRequest.decode(request.payload)
    if message.version != WIRE_VERSION:
        raise CkrError(CKR.CRYPTOKI_NOT_INITIALIZED, f"this HSM speaks version {WIRE_VERSION} of the wire")
    if message.profile & ~(PROFILE_CLOUDHSM | PROFILE_CHECK_OFF | PROFILE_PEER):
        raise CkrError(CKR.ARGUMENTS_BAD, "unknown profile")
    client = state.client(request.client) if message.cookie else _new_client(state, request, message)
    cookie = state.engine.client_cookie(client.id)
    ids = (state.settings.hsm_id.encode(), state.settings.cluster_id.encode())
    return HelloResponse(client.id, cookie, *ids, client.partition, int(state.fips))


def _new_client(state: State, request: Request, message: HelloRequest) -> Client:
    name = message.partition.decode("utf-8", "replace").lower()
    partition = next((row for row in list(state.replica.partitions.values()) if row.name == name), None)
    if partition is None:
        raise CkrError(CKR.TOKEN_NOT_PRESENT, f"there is no partition {name!r}")
    profile = Profile.CLOUDHSM if message.profile & PROFILE_CLOUDHSM else Profile.GENERAL
    check = not message.profile & PROFILE_CHECK_OFF
    client = Client(request.client, partition.id, profile, request.pid, availability_check=check)
    with state.lock:
        state.clients[client.id] = client
    try:
        state.engine.client_bind(client.id, partition.id)
    except CkrError:
        with state.lock:
            state.clients.pop(client.id, None)
        raise
    return client


def gone(state: State, client_id: int) -> None:
    """The client's last connection closed: nothing of it stays."""
    with state.lock:
        client = state.clients.pop(client_id, None)
    state.links.forget(client_id)
    if client is not None:
        with client.lock:  # a request that still runs finds no session
            client.sessions.clear()
            client.user = client.role = 0
            drop_objects(state, client, list(client.objects))


def drop_objects(state: State, client: Client, handles: list[int]) -> None:
    """Destroy session objects. The caller holds the client's lock."""
    for handle in handles:
        state.index.drop_session_object(handle)
        client.objects.pop(handle, None)
        forget_key(state, handle)


def forget_key(state: State, handle: int) -> None:
    """When this returns, no operation under a former state of the key starts."""
    with state.loading:  # whoever has seen that state has loaded the key under it, or sees the new one
        state.engine.key_drop(handle)
    if state.reference is not None:
        state.reference.forget(handle)


def log_out(state: State, client: Client) -> None:
    """Forget the login and the private session objects. The caller holds the client's lock."""
    client.user = client.role = 0
    state.engine.client_user(client.id, 0, 0)
    if state.reference is not None:
        state.reference.barrier()
    private = [handle for handle in client.objects if state.index.session_objects[handle].row.private]
    drop_objects(state, client, private)
    state.engine.epoch_bump()


def open_sessions(state: State, client: Client, request: Request) -> OpenSessionsResponse:
    """C_OpenSession, and after a failover all of a client's sessions at once."""
    message = OpenSessionsRequest.decode(request.payload)
    if len(message.ids) != len(message.flags):
        raise CkrError(CKR.ARGUMENTS_BAD, "a flag for each session is needed")
    with client.lock:
        if len(client.sessions) + len(message.ids) > SESSION_LIMIT:
            raise CkrError(CKR.SESSION_COUNT, f"a client has at most {SESSION_LIMIT} sessions")
        for session, flags in zip(message.ids, message.flags, strict=True):
            if not 0 < session < 1 << 32 or session in client.sessions:
                raise CkrError(CKR.ARGUMENTS_BAD, "a session id is in use or out of range")
            if not flags & CKF.SERIAL_SESSION:
                raise CkrError(CKR.SESSION_PARALLEL_NOT_SUPPORTED, "sessions are serial")
            if not flags & CKF.RW_SESSION and client.admin:
                raise CkrError(CKR.SESSION_READ_WRITE_SO_EXISTS, "an admin has no read-only sessions")
        state.engine.client_open_sessions(client.id, message.ids)
        for session, flags in zip(message.ids, message.flags, strict=True):
            client.sessions[session] = bool(flags & CKF.RW_SESSION)
    return OpenSessionsResponse()


def close_sessions(state: State, client: Client, request: Request) -> CloseSessionsResponse:
    """C_CloseSession, C_CloseAllSessions."""
    ids = CloseSessionsRequest.decode(request.payload).ids
    with client.lock:
        closing = list(ids) or list(client.sessions)
        for session in ids:
            client.session(session)
        state.engine.client_close_sessions(client.id, ids)
        for session in closing:
            del client.sessions[session]
        drop_objects(state, client, [handle for handle, where in client.objects.items() if where in closing])
        if not client.sessions and client.user:
            log_out(state, client)
    return CloseSessionsResponse()


def token_info(state: State, client: Client, pin_flags: int) -> TokenInfoResponse:
    """CK_TOKEN_INFO; `pin_flags` are those that tell of bad logins."""
    row = state.replica.partitions[client.partition]
    flags = CKF.RNG | CKF.LOGIN_REQUIRED | CKF.TOKEN_INITIALIZED | CKF.CLOCK_ON_TOKEN | pin_flags
    if client.profile is Profile.GENERAL:
        flags |= CKF.DUAL_CRYPTO_OPERATIONS
    if state.replica.cluster.state == ACTIVE:
        flags |= CKF.USER_PIN_INITIALIZED
    sessions, writing = len(client.sessions), sum(client.sessions.values())
    return TokenInfoResponse(
        label=(row.name or "hsmsim").encode(),
        manufacturer=b"hsmsim",
        model=state.settings.model.encode()[:16],
        serial=f"{state.settings.cluster_id[-11:]}-{row.id:x}".encode()[:16],
        flags=flags,
        max_sessions=SESSION_LIMIT,
        sessions=sessions,
        max_rw_sessions=SESSION_LIMIT,
        rw_sessions=writing,
        max_pin=NAME_MAX + 1 + PASSWORD_MAX,
        min_pin=1 + 1 + PASSWORD_MIN,
        total_public=UNAVAILABLE,
        free_public=UNAVAILABLE,
        total_private=UNAVAILABLE,
        free_private=UNAVAILABLE,
        hardware_major=1,
        hardware_minor=0,
        firmware_major=int(__version__.split(".")[0]),
        firmware_minor=int(__version__.split(".")[1]),
        utc_time=time.strftime("%Y%m%d%H%M%S00", time.gmtime(state.clock.time())).encode(),
    )


def hsm_info(state: State, _request: Request) -> HsmInfoResponse:
    """What an unauthenticated peer may know."""
    counts = state.engine.counts()
    return HsmInfoResponse(
        hsm_id=state.settings.hsm_id.encode(),
        cluster_id=state.settings.cluster_id.encode(),
        state=state.replica.cluster.state.encode(),
        engine=b"softhsm" if state.settings.reference else b"fast",
        firmware=__version__.encode(),
        version=state.replica.version,
        keys=state.index.count(),
        users=len(state.replica.users),
        clients=counts.clients,
        sessions=sum(len(client.sessions) for client in list(state.clients.values())),
        vault_objects=state.vault.stored,
        vault_pending=state.vault.pending,
        pid=os.getpid(),
        mode=state.replica.identity.mode.encode(),
        model=state.settings.model.encode(),
        limited_write=int(state.replica.identity.limited_write),
        live=state.links.live(),
        operations=counts.hot_operations,
    )
