"""credentials.json: the passwords that the quickstart made, so that the commands below `hsmsim` need none from people.

Only for the users made by `hsmsim up` and, at the user's wish, others. 0600, in the state folder. A password is written
here before the HSM hears it, so that a crash between the two loses no access.
"""

from __future__ import annotations

import secrets
import string
from typing import TYPE_CHECKING

import msgspec

from hsmsim.errors import HsmsimError
from hsmsim.fleet import state

if TYPE_CHECKING:
    from hsmsim.config import Places

# No sign that a shell, a URI or a command line could misread: PINs are typed into all of these.
_ALPHABET = string.ascii_letters + string.digits
_LENGTH = 24


class Credential(msgspec.Struct, frozen=True):
    """A user of one partition and the password. role: "admin" or "crypto-user"."""

    cluster_id: str
    partition: str
    name: str
    role: str
    password: str

    @property
    def pin(self) -> str:
        """The PIN of the PKCS#11 module."""
        return f"{self.name}:{self.password}"


class _File(msgspec.Struct, frozen=True):
    users: tuple[Credential, ...] = ()


def new_password() -> str:
    """Return 24 random letters and digits (142 bits)."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))


def load(places: Places) -> tuple[Credential, ...]:
    """Read the file; empty if there is none."""
    data = state.read_private(places.credentials_file)
    if data is None:
        return ()
    try:
        return msgspec.json.decode(data, type=_File).users
    except msgspec.DecodeError as error:
        raise HsmsimError(f"{places.credentials_file} is damaged ({error}). Mend it or restore it.") from error


def find(places: Places, cluster_id: str, partition: str, role: str, name: str = "") -> Credential | None:
    """Return the first user kept for the partition with this role (and name)."""
    for one in load(places):
        if (one.cluster_id, one.partition, one.role) == (cluster_id, partition, role) and name.lower() in {
            "",
            one.name,
        }:
            return one
    return None


def keep(places: Places, credential: Credential) -> None:
    """Add a user, or replace the password of one."""
    others = [one for one in load(places) if _key(one) != _key(credential)]
    _save(places, (*others, credential))


def change(places: Places, credential: Credential) -> None:
    """Follow a changed password if the user is kept here."""
    if any(_key(one) == _key(credential) for one in load(places)):
        keep(places, credential)


def forget(places: Places, partition: str, name: str) -> None:
    """Remove a deleted user of the first cluster."""
    users = load(places)
    gone = (state.load(places).only_cluster().cluster_id, partition, name.lower())
    left = tuple(one for one in users if (one.cluster_id, one.partition, one.name) != gone)
    if left != users:
        _save(places, left)


def _key(one: Credential) -> tuple[str, str, str, str]:
    return one.cluster_id, one.partition, one.name, one.role


def _save(places: Places, users: tuple[Credential, ...]) -> None:
    data = msgspec.json.format(msgspec.json.encode(_File(users)), indent=2)
    state.write_private(places.credentials_file, data)
