"""The root user's access key as a file in the state folder; who reads it needs no database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from hsmsim.errors import HsmsimError
from hsmsim.fleet import state

if TYPE_CHECKING:
    from hsmsim.config import Places


class RootKey(msgspec.Struct, frozen=True):
    """The access key of an account's root user."""

    account: str
    access_key_id: str
    secret_access_key: str

    def __repr__(self) -> str:
        return f"RootKey({self.account}, {self.access_key_id})"

    def environment(self) -> dict[str, str]:
        """What AWS's tools read."""
        return {"AWS_ACCESS_KEY_ID": self.access_key_id, "AWS_SECRET_ACCESS_KEY": self.secret_access_key}


def kept(places: Places) -> RootKey | None:
    """Return the root key that was made here; None before the first start."""
    data = state.read_private(places.root_key_file)
    if data is None:
        return None
    try:
        return msgspec.json.decode(data, type=RootKey)
    except msgspec.DecodeError as error:
        raise HsmsimError(f"{places.root_key_file} is damaged ({error}). Mend it or restore it.") from error
