"""Users as CloudHSM has them: names, passwords, logins, lockout.

Names are case-insensitive, up to 31 characters of letters, digits and '_', shown in lower case. Passwords have 8 to 32
bytes without ':'; they are only ever seen by the engine, which hashes them (scrypt). Five bad logins in a row on an HSM
lock the user there until an admin sets a new password. A login gives a ticket that every HSM of the cluster takes
after a failover, for the same process and as long as the password stays.
"""

from __future__ import annotations

import hmac
import re
import secrets
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from hsmsim.cluster.model import (
    ACTIVE,
    FIRST_PARTITION,
    INITIALIZED,
    ROLE_ADMIN,
    ROLE_APPLIANCE_USER,
    ROLE_CRYPTO_USER,
    ROLE_UNACTIVATED_ADMIN,
    AuditEntry,
    PartitionRow,
    UserRow,
    new_key,
)
from hsmsim.errors import CkrError
from hsmsim.hsm.alone import started
from hsmsim.hsm.cryptoki import CKF, CKR, CKU
from hsmsim.hsm.firmware import connections
from hsmsim.hsm.messages import (
    ActivateRequest,
    ActivateResponse,
    LoginRequest,
    LoginResponse,
    LoginTicketRequest,
    LoginTicketResponse,
    LogoutResponse,
    PartitionCreateRequest,
    PartitionCreateResponse,
    PartitionListResponse,
    SetPasswordRequest,
    SetPasswordResponse,
    TokenInfoResponse,
    UserCreateRequest,
    UserCreateResponse,
    UserDeleteRequest,
    UserDeleteResponse,
    UserListResponse,
    UserPasswordRequest,
    UserPasswordResponse,
)
from hsmsim.hsm.wire import Secret, located

if TYPE_CHECKING:
    from hsmsim.cluster.model import Row
    from hsmsim.hsm.engine import Request
    from hsmsim.hsm.firmware.state import Client, State

NAME: Final = re.compile(r"[A-Za-z0-9_]{1,31}")
PASSWORD_MIN: Final = 8
PASSWORD_MAX: Final = 32
ATTEMPTS: Final = 5
USERS_MAX: Final = 1024
SALT_BYTES: Final = 16
TICKET_SECONDS: Final = 30 * 24 * 3600
_TICKET: Final = struct.Struct("<QQQQQ")
_COUNT_BITS: Final = 8
_COUNT_MASK: Final = 255  # which replica.failures gives for a row that does not verify
_UNKNOWN_COUNT: Final = 0xFFFFFFFFFFFFFFFF
_PIN_FLAGS: Final = {
    ROLE_CRYPTO_USER: (CKF.USER_PIN_COUNT_LOW, CKF.USER_PIN_FINAL_TRY, CKF.USER_PIN_LOCKED),
    ROLE_ADMIN: (CKF.SO_PIN_COUNT_LOW, CKF.SO_PIN_FINAL_TRY, CKF.SO_PIN_LOCKED),
}
_ROLE_OF: Final = {CKU.USER: ROLE_CRYPTO_USER, CKU.SO: ROLE_ADMIN}


# ---- passwords ---------------------------------------------------------------------------------------------------


def _hash(state: State, request: Request, secret: Secret, salt: bytes) -> bytes:
    return state.engine.password_hash(request.id, secret.offset, secret.length, salt)


def _new_password(state: State, request: Request, secret: Secret) -> tuple[bytes, bytes]:
    """Salt and hash of a password that keeps the rules."""
    if not PASSWORD_MIN <= secret.length <= PASSWORD_MAX:
        raise CkrError(CKR.PIN_LEN_RANGE, f"a password has {PASSWORD_MIN} to {PASSWORD_MAX} characters")
    if state.engine.secret_contains(request.id, secret.offset, secret.length, ord(":")):
        raise CkrError(CKR.PIN_INVALID, "a password has no ':'")
    salt = secrets.token_bytes(SALT_BYTES)
    return salt, _hash(state, request, secret, salt)


def _matches(state: State, request: Request, secret: Secret, user: UserRow) -> bool:
    return hmac.compare_digest(_hash(state, request, secret, user.salt), user.password_hash)


# ---- login -------------------------------------------------------------------------------------------------------


def _ticket(state: State, client: Client, user: UserRow) -> bytes:
    expires = int(state.clock.real()) + TICKET_SECONDS
    body = _TICKET.pack(user.id, user.password_version, client.pid, started(client.pid), expires)
    return body + state.engine.mac("ticket", body)


def _require_free(client: Client, role: int) -> None:
    if client.user:
        other = CKR.USER_ALREADY_LOGGED_IN if client.role == role else CKR.USER_ANOTHER_ALREADY_LOGGED_IN
        raise CkrError(other, "somebody is logged in already")
    if not client.sessions:
        raise CkrError(CKR.SESSION_HANDLE_INVALID, "open a session first")
    if role == ROLE_ADMIN and not all(client.sessions.values()):
        raise CkrError(CKR.SESSION_READ_ONLY_EXISTS, "an admin needs read/write sessions only")


def _enter(state: State, client: Client, user: UserRow) -> None:
    """The client is this user from here on."""
    with client.lock:
        _require_free(client, user.role)
        client.user, client.role = user.id, user.role
        state.engine.client_user(client.id, user.id, user.role)
        current = state.replica.users.get(user.id)
        if current is None or current.password_version != user.password_version:
            connections.log_out(state, client)  # the password changed while it was checked
            raise CkrError(CKR.PIN_INCORRECT, "user or password is wrong")
        state.engine.epoch_bump()


def login(state: State, client: Client, request: Request) -> LoginResponse:
    """C_Login."""
    message = LoginRequest.decode(request.payload)
    state.require_active()
    role = _ROLE_OF.get(CKU(message.user_type)) if message.user_type in (CKU.USER, CKU.SO) else None
    if role is None:
        raise CkrError(CKR.USER_TYPE_INVALID, "log in as CKU_USER, or as an admin with CKU_SO")
    _require_free(client, role)
    user = _authenticate(state, client, request, message, role)
    _enter(state, client, user)
    return LoginResponse(_ticket(state, client, user), user.id, user.role)


def _counted(user: UserRow, failures: int) -> int:
    """A count as it is stored, of logins with this password: a new one starts again, on an HSM that was off too."""
    return user.password_version << _COUNT_BITS | failures


def failures_of(state: State, user: UserRow) -> int:
    """Bad logins in a row on this HSM; a count that somebody tampered with locks."""
    stored = state.replica.failures(user.id)
    version, failures = stored >> _COUNT_BITS, stored & _COUNT_MASK
    return failures if version == user.password_version or failures == _COUNT_MASK else 0


def token_info(state: State, client: Client, _request: Request) -> TokenInfoResponse:
    """CK_TOKEN_INFO. A token has one user, a partition many: the flags of bad logins are of whom this client tried."""
    flags = 0
    for role, (low, final, locked) in _PIN_FLAGS.items():
        user = state.replica.users.get(client.tried.get(role, 0))
        failures = failures_of(state, user) if user else 0
        flags |= low if failures else 0
        flags |= final if failures == ATTEMPTS - 1 else 0
        flags |= locked if failures >= ATTEMPTS else 0
    return connections.token_info(state, client, flags)


def _authenticate(state: State, client: Client, request: Request, message: LoginRequest, role: int) -> UserRow:
    name = message.user.decode("utf-8", "replace").lower()
    secret = located(message.password)
    user = state.replica.user_named(client.partition, name)
    if user is None or user.role != role or not user.password_hash:
        _hash(state, request, secret, bytes(SALT_BYTES))  # an unknown name takes as long as a wrong password
        state.replica.audit(AuditEntry("LOGIN", name[:31], role, CKR.PIN_INCORRECT, 0, "no such user"))
        raise CkrError(CKR.PIN_INCORRECT, "user or password is wrong")
    client.tried[role] = user.id
    _count(state, user, "LOGIN", right=_may_guess(state, user) and _matches(state, request, secret, user))
    return user


def _may_guess(state: State, user: UserRow) -> bool:
    return failures_of(state, user) < ATTEMPTS


def _count(state: State, user: UserRow, opcode: str, *, right: bool) -> None:
    """Count a password that was shown and leave the record; CkrError if it was wrong or the user is locked."""
    with state.counting:  # looked at again: others may have guessed meanwhile
        failures = failures_of(state, user)
        if failures >= ATTEMPTS:
            state.replica.audit(AuditEntry(opcode, user.name, user.role, CKR.PIN_LOCKED, user.id, "locked"))
            raise CkrError(CKR.PIN_LOCKED, "locked after five bad logins; an admin sets a new password")
        if not right:
            bad = AuditEntry(opcode, user.name, user.role, CKR.PIN_INCORRECT, user.id, "wrong password")
            state.replica.set_failures(user.id, _counted(user, failures + 1), bad)
            raise CkrError(CKR.PIN_INCORRECT, "user or password is wrong")
        good = AuditEntry(opcode, user.name, user.role, 0, user.id, "")
        if failures:
            state.replica.set_failures(user.id, _counted(user, 0), good)
        else:
            state.replica.audit(good)


def login_ticket(state: State, client: Client, request: Request) -> LoginTicketResponse:
    """After a failover: the same process, the same password, no hash."""
    ticket = LoginTicketRequest.decode(request.payload).ticket
    body, seal = ticket[: _TICKET.size], ticket[_TICKET.size :]
    expired = CkrError(CKR.PIN_EXPIRED, "the ticket is not good any more; log in with the password")
    if len(body) != _TICKET.size or not hmac.compare_digest(state.engine.mac("ticket", body), seal):
        raise expired
    user_id, password_version, pid, born, expires = _TICKET.unpack(body)
    user = state.replica.users.get(user_id)
    same_process = pid == client.pid and born == started(client.pid)
    if user is None or user.password_version != password_version or not same_process or expires < state.clock.real():
        raise expired
    if user.partition_id != client.partition:
        raise expired
    _require_free(client, user.role)
    state.replica.audit(AuditEntry("LOGIN", user.name, user.role, 0, user.id, "by ticket"))
    _enter(state, client, user)
    return LoginTicketResponse(_ticket(state, client, user), user.id, user.role)


def logout(state: State, client: Client, _request: Request) -> LogoutResponse:
    """C_Logout."""
    with client.lock:
        entry = state.entry(client, "LOGOUT", client.user)
        connections.log_out(state, client)
    state.replica.audit(entry)
    return LogoutResponse()


# ---- management --------------------------------------------------------------------------------------------------


def activate(state: State, client: Client, request: Request) -> ActivateResponse:
    """The first admin's password, once."""
    salt, digest = _new_password(state, request, located(ActivateRequest.decode(request.payload).password))

    def build(_version: int) -> list[Row]:
        admin = state.replica.user_named(FIRST_PARTITION, "admin")
        if state.replica.cluster.state != INITIALIZED or admin is None or admin.password_hash:
            raise CkrError(CKR.FUNCTION_REJECTED, "the cluster is active already")
        return [
            replace(admin, salt=salt, password_hash=digest, password_version=admin.password_version + 1),
            replace(state.replica.cluster, state=ACTIVE),
        ]

    if client.partition != FIRST_PARTITION:
        raise CkrError(CKR.FUNCTION_REJECTED, "the first partition's admin is activated")
    state.revoke(build, AuditEntry("ACTIVATE", "admin", ROLE_ADMIN, 0, 0, ""))
    return ActivateResponse()


def _require_admin(client: Client) -> None:
    if not client.admin:
        raise CkrError(CKR.USER_NOT_LOGGED_IN, "this is an admin's to do")


def _name(raw: bytes) -> str:
    name = raw.decode("utf-8", "replace")
    if not NAME.fullmatch(name):
        raise CkrError(CKR.ARGUMENTS_BAD, "a name has 1 to 31 letters, digits and '_'")
    return name.lower()


def user_create(state: State, client: Client, request: Request) -> UserCreateResponse:
    """An admin makes a user."""
    message = UserCreateRequest.decode(request.payload)
    _require_admin(client)
    name = _name(message.name)
    if message.role not in (ROLE_ADMIN, ROLE_CRYPTO_USER):
        raise CkrError(CKR.USER_TYPE_INVALID, "a new user is an admin or a crypto user")
    salt, digest = _new_password(state, request, located(message.password))

    def build(version: int) -> list[Row]:
        if state.replica.user_named(client.partition, name) is not None:
            raise CkrError(CKR.USER_TOO_MANY_TYPES, f"there is a user {name} already")
        if sum(user.partition_id == client.partition for user in list(state.replica.users.values())) >= USERS_MAX:
            raise CkrError(CKR.DEVICE_MEMORY, f"a partition has at most {USERS_MAX} users")
        return [UserRow(new_key(version, 0), client.partition, name, message.role, salt, digest, 1)]

    version = state.grant(build, state.entry(client, "USER_CREATE", 0, name))
    state.links.announce(version, "one")  # so that a login right after this one finds the user anywhere
    return UserCreateResponse(new_key(version, 0))


def _shown_role(user: UserRow) -> int:
    return ROLE_UNACTIVATED_ADMIN if user.role == ROLE_ADMIN and not user.password_hash else user.role


def user_list(state: State, client: Client, _request: Request) -> UserListResponse:
    """Who is there."""
    rows = sorted(
        (user for user in list(state.replica.users.values()) if user.partition_id == client.partition),
        key=lambda u: u.name,
    )
    return UserListResponse(
        tuple(user.name.encode() for user in rows),
        tuple(_shown_role(user) for user in rows),
        tuple(failures_of(state, user) for user in rows),
        tuple(user.id for user in rows),
    )


def _target(state: State, client: Client, raw: bytes, role: int) -> UserRow:
    user = state.replica.user_named(client.partition, _name(raw))
    if user is None or user.role != role:
        raise CkrError(CKR.ARGUMENTS_BAD, "there is no such user in this role")
    return user


def user_delete(state: State, client: Client, request: Request) -> UserDeleteResponse:
    """An admin deletes a user who owns no keys and is not logged in."""
    message = UserDeleteRequest.decode(request.payload)
    _require_admin(client)
    user = _target(state, client, message.name, message.role)
    if user.role == ROLE_APPLIANCE_USER or any(one.user == user.id for one in list(state.clients.values())):
        raise CkrError(CKR.FUNCTION_REJECTED, f"{user.name} is logged in, or is the HSM's own")

    def build(_version: int) -> list[Row]:
        current = state.replica.users.get(user.id)
        if current is None:
            raise CkrError(CKR.ARGUMENTS_BAD, "the user is gone")
        if state.replica.owned(user.id):
            raise CkrError(CKR.FUNCTION_REJECTED, f"{user.name} owns keys: delete them first")
        admins = [
            one
            for one in list(state.replica.users.values())
            if one.partition_id == client.partition and one.role == ROLE_ADMIN
        ]
        if user.role == ROLE_ADMIN and len(admins) == 1:
            raise CkrError(CKR.FUNCTION_REJECTED, "the last admin stays")
        return [replace(current, deleted=True)]

    state.revoke(build, state.entry(client, "USER_DELETE", user.id, user.name))
    return UserDeleteResponse()


def _change_password(state: State, client: Client, user: UserRow, salt: bytes, digest: bytes) -> None:
    def build(_version: int) -> list[Row]:
        current = state.replica.users.get(user.id)
        if current is None:
            raise CkrError(CKR.ARGUMENTS_BAD, "the user is gone")
        return [replace(current, salt=salt, password_hash=digest, password_version=current.password_version + 1)]

    state.revoke(build, state.entry(client, "USER_PASSWORD", user.id, user.name))


def user_password(state: State, client: Client, request: Request) -> UserPasswordResponse:
    """An admin sets anybody's password, which unlocks; a user the own."""
    message = UserPasswordRequest.decode(request.payload)
    user = _target(state, client, message.name, message.role)
    own = user.id == client.user
    if not own:
        _require_admin(client)
        if any(one.user == user.id for one in list(state.clients.values())):
            raise CkrError(CKR.FUNCTION_REJECTED, f"{user.name} is logged in")
    salt, digest = _new_password(state, request, located(message.password))
    _change_password(state, client, user, salt, digest)
    return UserPasswordResponse()


def set_password(state: State, client: Client, request: Request) -> SetPasswordResponse:
    """C_SetPIN."""
    message = SetPasswordRequest.decode(request.payload)
    user = state.user_of(client)
    if not client.session(request.session):
        raise CkrError(CKR.SESSION_READ_ONLY, "a read/write session is needed")
    right = _may_guess(state, user) and _matches(state, request, located(message.old), user)
    _count(state, user, "CHECK_PASSWORD", right=right)
    salt, digest = _new_password(state, request, located(message.new))
    _change_password(state, client, user, salt, digest)
    return SetPasswordResponse()


# ---- partitions --------------------------------------------------------------------------------------------------


def partition_create(state: State, client: Client, request: Request) -> PartitionCreateResponse:
    """An admin of the first partition makes another, with an admin of its own."""
    message = PartitionCreateRequest.decode(request.payload)
    _require_admin(client)
    if client.partition != FIRST_PARTITION:
        raise CkrError(CKR.FUNCTION_REJECTED, "partitions are made by an admin of the first one")
    name = _name(message.name)
    salt, digest = _new_password(state, request, located(message.password))

    def build(version: int) -> list[Row]:
        if any(row.name == name for row in list(state.replica.partitions.values())):
            raise CkrError(CKR.USER_TOO_MANY_TYPES, f"there is a partition {name} already")
        partition = new_key(version, 0)
        return [
            PartitionRow(partition, name),
            UserRow(new_key(version, 1), partition, "admin", ROLE_ADMIN, salt, digest, 1),
            UserRow(new_key(version, 2), partition, "app_user", ROLE_APPLIANCE_USER, b"", b"", 0),
        ]

    version = state.grant(build, state.entry(client, "PARTITION_CREATE", 0, name))
    state.links.announce(version, "one")
    return PartitionCreateResponse(new_key(version, 0))


def partition_list(state: State, client: Client, _request: Request) -> PartitionListResponse:
    """Every partition; counts for those who may know."""
    rows = sorted(state.replica.partitions.values(), key=lambda row: row.id)
    all_counts = client.admin and client.partition == FIRST_PARTITION

    def count(rows_of: object, partition: int) -> int:
        if not all_counts and partition != client.partition:
            return _UNKNOWN_COUNT
        return sum(row.partition_id == partition for row in list(rows_of.values()))  # type: ignore[attr-defined]

    return PartitionListResponse(
        tuple(row.name.encode() for row in rows),
        tuple(row.id for row in rows),
        tuple(count(state.replica.users, row.id) for row in rows),
        tuple(count(state.replica.objects, row.id) for row in rows),
    )
