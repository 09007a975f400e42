"""Connections to the cluster's HSMs for commands: to the first that answers, as a user of a partition.

A CK_RV becomes a sentence here, with what the person asked for in it.
"""

from __future__ import annotations

from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from hsmsim.errors import CkrError, HsmsimError
from hsmsim.fleet import state
from hsmsim.hsm.client import SECONDS, HsmClient
from hsmsim.hsm.cryptoki import CKF, CKR, CKU
from hsmsim.hsm.messages import OpenSessionsRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hsmsim.config import Places
    from hsmsim.fleet.credentials import Credential
    from hsmsim.fleet.state import Cluster

SESSION: Final = 1
HELLO_SECONDS: Final = 2.0
"""How long an HSM may take to answer while another one may be quicker."""


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
    cluster = state.load(places).only_cluster()
    with _first(places, cluster, partition) as client:
        client.call(OpenSessionsRequest(ids=(SESSION,), flags=(CKF.SERIAL_SESSION | CKF.RW_SESSION,)))
        if credential is not None:
            login(client, credential)
        yield client


def answering(places: Places, cluster: Cluster, partition: str = "") -> Iterator[HsmClient]:
    """Connect to the cluster's HSMs one by one; the caller closes.

    First to those that answer within HELLO_SECONDS, as one that is cut off from clients does not, then to slower ones.
    """
    uid = state.uid_of(state.load(places).account)
    sockets = [places.socket(hsm.hsm_id) for hsm in cluster.hsms]
    for seconds in (HELLO_SECONDS, SECONDS):
        silent = []
        for path in sockets:
            try:
                client = HsmClient.connect(path, partition, hello_seconds=seconds, uid=uid)
            except TimeoutError:
                silent.append(path)
            except OSError:
                continue
            else:
                yield client
        sockets = silent


def silence(cluster: Cluster) -> HsmsimError:
    """Return the error for a cluster of which no HSM answers."""
    return HsmsimError(
        f"No HSM of {cluster.cluster_id} answers. Start them: hsmsim up --detach, or hsmsim hsm start ID; "
        "faults that were asked for: hsmsim fault list"
    )


def _first(places: Places, cluster: Cluster, partition: str) -> HsmClient:
    try:
        client = next(answering(places, cluster, partition), None)
    except CkrError as error:
        if error.rv == CKR.TOKEN_NOT_PRESENT:
            raise HsmsimError(f"There is no partition {partition!r}. See: hsmsim partition list") from error
        raise
    if client is None:
        raise silence(cluster)
    return client


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
