"""Accounts, which AWS's APIs do not make without an organization: calls of the management socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hsmsim.authz.principal import access_key_id, new_secret
from hsmsim.errors import HsmsimError
from hsmsim.services.iam import store
from hsmsim.services.iam.bootstrap import add_root
from hsmsim.services.iam.rootkey import RootKey

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy.engine import Connection

    from hsmsim.clock import Clock
    from hsmsim.services.iam.directory import Directory
    from hsmsim.services.kernel import Ids, Writer

PATH: Final = "/_hsmsim/accounts"
_DIGITS: Final = 12


class Accounts:
    """The calls."""

    def __init__(self, writer: Writer, directory: Directory, ids: Ids, clock: Clock) -> None:
        self._writer = writer
        self._directory = directory
        self._ids = ids
        self._clock = clock

    def routes(self) -> dict[tuple[str, str], Callable[[Mapping[str, Any]], Mapping[str, Any]]]:
        """What the gateway answers by them."""
        return {("GET", PATH): self.list, ("POST", PATH): self.create}

    def list(self, _members: Mapping[str, Any]) -> Mapping[str, Any]:
        """All accounts, the oldest first; created: simulated seconds since the epoch."""
        found = sorted(self._writer.write(store.accounts).items(), key=lambda one: one[1])
        return {"accounts": [{"account": account, "created": created} for account, created in found]}

    def create(self, members: Mapping[str, Any]) -> Mapping[str, Any]:
        """A new account and its root user's access key, which is shown this once and kept sealed."""
        wanted = members.get("account")
        if wanted is not None and not (isinstance(wanted, str) and len(wanted) == _DIGITS and _decimal(wanted)):
            raise HsmsimError(f"An account id has twelve digits, not {wanted!r}.")

        def make(tx: Connection) -> tuple[RootKey, Callable[[], None]]:
            taken = store.accounts(tx)
            if wanted in taken:
                raise HsmsimError(f"There is an account {wanted} already. Its root key was shown when it was made.")
            account = wanted or self._free(taken)
            root = RootKey(account, access_key_id("AKIA", account, self._ids.token), new_secret(self._ids.token))
            return root, add_root(tx, self._directory, root, self._clock.time())

        root, take = self._writer.write(make)
        take()
        return {
            "account": root.account,
            "access_key_id": root.access_key_id,
            "secret_access_key": root.secret_access_key,
        }

    def _free(self, taken: Mapping[str, float]) -> str:
        while (account := f"{self._ids.below(9 * 10 ** (_DIGITS - 1)) + 10 ** (_DIGITS - 1)}") in taken:
            pass
        return account


def _decimal(text: str) -> bool:
    return text.isascii() and text.isdigit()
