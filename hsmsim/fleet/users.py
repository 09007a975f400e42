"""Users and partitions, as an admin manages them. Each function takes a logged-in client; errors are sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hsmsim.errors import CkrError
from hsmsim.fleet.access import Role, explain, role_of
from hsmsim.hsm.cryptoki import CKR
from hsmsim.hsm.messages import (
    PartitionCreateRequest,
    PartitionListRequest,
    UserCreateRequest,
    UserDeleteRequest,
    UserListRequest,
    UserPasswordRequest,
)

if TYPE_CHECKING:
    from hsmsim.hsm.client import HsmClient

LOCKED_AFTER = 5
UNKNOWN_COUNT = 2**64 - 1

_ADMIN_ONLY = "only an admin may do this"
_NO_SUCH_USER = "there is no such user with this role; see `user list`"
PASSWORD_REASONS = {
    CKR.PIN_LEN_RANGE: "a password has 8 to 32 characters",
    CKR.PIN_INVALID: "a password has no ':' in it",
}


@dataclass(frozen=True, slots=True)
class User:
    """A user of the partition; failures: bad logins in a row on the HSM that was asked."""

    id: int
    name: str
    role: Role
    failures: int

    @property
    def locked(self) -> bool:
        """Return whether that HSM refuses the user until an admin sets a new password."""
        return self.failures >= LOCKED_AFTER

    def document(self) -> dict[str, object]:
        """Return what --json prints."""
        return {
            "id": self.id,
            "name": self.name,
            "role": self.role,
            "failures": self.failures,
            "locked": self.locked,
        }


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition; counts are None where we may not know them."""

    id: int
    name: str
    users: int | None
    keys: int | None


def users(client: HsmClient) -> list[User]:
    """Return the partition's users."""
    found = client.call(UserListRequest())
    rows = zip(found.ids, found.names, found.roles, found.failures, strict=True)
    return [User(number, name.decode(), role_of(role), failures) for number, name, role, failures in rows]


def create(client: HsmClient, name: str, role: Role, password: str) -> int:
    """Make a user; return its id."""
    reasons = PASSWORD_REASONS | {
        CKR.ARGUMENTS_BAD: "a user name has 1 to 31 letters, digits or '_'",
        CKR.USER_TOO_MANY_TYPES: "the name is taken (names are the same in upper and lower case)",
        CKR.DEVICE_MEMORY: "the cluster is full: it has 1,024 users",
        CKR.USER_NOT_LOGGED_IN: _ADMIN_ONLY,
    }
    try:
        request = UserCreateRequest(name=name.encode(), role=role.number, password=password.encode())
        return client.call(request).user_id
    except CkrError as error:
        raise explain(error, f"Making user {name}", reasons) from error


def delete(client: HsmClient, name: str, role: Role) -> None:
    """Delete a user."""
    reasons = {
        CKR.FUNCTION_REJECTED: "the user owns keys or is logged in; delete the keys or end the program first",
        CKR.ARGUMENTS_BAD: _NO_SUCH_USER,
        CKR.USER_NOT_LOGGED_IN: _ADMIN_ONLY,
    }
    try:
        client.call(UserDeleteRequest(name=name.encode(), role=role.number))
    except CkrError as error:
        raise explain(error, f"Deleting {role} {name}", reasons) from error


def change_password(client: HsmClient, name: str, role: Role, password: str) -> None:
    """Set a password; an admin's doing so unlocks the user."""
    reasons = PASSWORD_REASONS | {
        CKR.ARGUMENTS_BAD: _NO_SUCH_USER,
        CKR.USER_NOT_LOGGED_IN: "only an admin may set another user's password",
        CKR.FUNCTION_REJECTED: "the user is logged in; end the program first",
    }
    try:
        client.call(UserPasswordRequest(name=name.encode(), role=role.number, password=password.encode()))
    except CkrError as error:
        raise explain(error, f"Changing the password of {role} {name}", reasons) from error


def partitions(client: HsmClient) -> list[Partition]:
    """Return the cluster's partitions."""
    found = client.call(PartitionListRequest())
    rows = zip(found.ids, found.names, found.users, found.keys, strict=True)
    return [Partition(number, name.decode(), _count(many), _count(keys)) for number, name, many, keys in rows]


def _count(number: int) -> int | None:
    return None if number == UNKNOWN_COUNT else number


def create_partition(client: HsmClient, name: str, password: str) -> int:
    """Make a partition whose user `admin` has this password; return its id."""
    reasons = PASSWORD_REASONS | {
        CKR.ARGUMENTS_BAD: "a partition name has 1 to 31 letters, digits, '_' or '-', and is not taken yet",
        CKR.FUNCTION_REJECTED: "there is one of this name",
    }
    try:
        return client.call(PartitionCreateRequest(name=name.encode(), password=password.encode())).partition_id
    except CkrError as error:
        raise explain(error, f"Making partition {name}", reasons) from error
