"""Connections to the cluster's HSMs for commands: to the first that answers, as a user of a partition.

A CK_RV becomes a sentence here, with what the person asked for in it.
"""

from __future__ import annotations

from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING

from hsmsim.errors import CkrError, HsmsimError
from hsmsim.fleet import state
from hsmsim.hsm.client import HsmClient
from hsmsim.hsm.cryptoki import CKF, CKR, CKU
from hsmsim.hsm.messages import OpenSessionsRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hsmsim.config import Places
    from hsmsim.fleet.credentials import Credential
    from hsmsim.fleet.state import Fleet

SESSION = 1


class Role(StrEnum):
    """Roles as CloudHSM's tools name them."""

    ADMIN = "admin"
    UNACTIVATED_ADMIN = "unactivated-admin"
    CRYPTO_USER = "crypto-user"
    APPLIANCE_USER = "internal(APPLIANCE_USER)"

    @property
    def number(self) -> int:
        """Return the role's number on the wire and in the rows."""
        return _NUMBERS[self]

    @property
    def user_type(self) -> int:
        """Return the CKU_ number that logs it in."""
        return CKU.SO if self is Role.ADMIN else CKU.USER


_NUMBERS = {Role.ADMIN: 1, Role.CRYPTO_USER: 2, Role.APPLIANCE_USER: 3, Role.UNACTIVATED_ADMIN: 4}


def role_of(number: int) -> Role:
    """Return the role of this number."""
    return next(role for role, value in _NUMBERS.items() if value == number)


@contextmanager
def connect(places: Places, partition: str = "", credential: Credential | None = None) -> Iterator[HsmClient]:
    """Connect to the first HSM that answers, open the session SESSION, and log in; HsmsimError says why not."""
    fleet = state.load(places)
    with _first(places, fleet, partition) as client:
        client.call(OpenSessionsRequest(ids=(SESSION,), flags=(CKF.SERIAL_SESSION | CKF.RW_SESSION,)))
        if credential is not None:
            login(client, credential)
        yield client


def _first(places: Places, fleet: Fleet, partition: str) -> HsmClient:
    cluster, uid = fleet.only_cluster(), state.uid_of(fleet.account)
    for hsm in cluster.hsms:
        try:
            return HsmClient.connect(places.socket(hsm.hsm_id), partition, uid=uid)
        except OSError:
            continue
        except CkrError as error:
            if error.rv == CKR.TOKEN_NOT_PRESENT:
                raise HsmsimError(f"There is no partition {partition!r}. See: hsmsim partition list") from error
            raise
    raise HsmsimError(f"No HSM of {cluster.cluster_id} answers. Start them: hsmsim up --detach, or hsmsim hsm start ID")


_LOGIN_REASONS = {
    CKR.PIN_INCORRECT: "the name or the password is wrong; after five wrong ones the user is locked",
    CKR.PIN_LOCKED: "the user is locked after too many wrong passwords; an admin unlocks it: "
    "hsmsim user change-password NAME",
    CKR.USER_PIN_NOT_INITIALIZED: "the cluster is not active yet; hsmsim up makes it so",
}


def login(client: HsmClient, credential: Credential) -> None:
    """Log the connection in."""
    try:
        client.login(credential.name, credential.password, Role(credential.role).user_type)
    except CkrError as error:
        reason = _LOGIN_REASONS.get(CKR(error.rv), str(error))
        raise HsmsimError(f"{credential.name} ({credential.role}) cannot log in: {reason}.") from error


def explain(error: CkrError, doing: str, reasons: dict[CKR, str]) -> HsmsimError:
    """Return the error to raise instead: what was being done, and why it failed in the words of this command."""
    return HsmsimError(f"{doing} failed: {reasons.get(CKR(error.rv), str(error))}.")
