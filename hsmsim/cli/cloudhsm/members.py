"""The HSMs of one cluster as this process is connected to them, and who is logged in.

A login is on every HSM that answers: the first one checks the password, the others take its ticket. What changes the
cluster is asked of the first; the HSMs tell each other. Connections are looked at before each command, so that an HSM
that comes back is used again and one that is gone is not.
"""

from __future__ import annotations

import logging
import ssl
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hsmsim.cli.cloudhsm import tls
from hsmsim.crypto import certificates
from hsmsim.errors import CkrError, HsmsimError
from hsmsim.fleet.access import SESSION
from hsmsim.hsm.client import HsmClient
from hsmsim.hsm.cryptoki import CKF
from hsmsim.hsm.messages import (
    CertificatesRequest,
    HsmInfoRequest,
    LoginTicketRequest,
    LogoutRequest,
    OpenSessionsRequest,
    PingRequest,
)

if TYPE_CHECKING:
    from hsmsim.cli.cloudhsm.config import Cluster, Server
    from hsmsim.fleet.access import Role
    from hsmsim.hsm.messages import HsmInfoResponse

_LOG: Final = logging.getLogger("cloudhsm_cli")
SECONDS: Final = 30.0


class Members:
    """Connections to the HSMs of a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._clients: dict[Server, HsmClient] = {}
        self._ticket = b""
        self.user: tuple[str, Role] | None = None

    def connect(self) -> dict[Server, HsmClient | None]:
        """Return a connection to each configured HSM, None for one that does not answer; HsmsimError if none does."""
        for server in self._cluster.servers:
            client = self._clients.get(server)
            if client is not None and not _lives(client):
                client.close()
                del self._clients[server]
            if server not in self._clients:
                self._open(server)
        if not self._clients:
            names = ", ".join(server.name for server in self._cluster.servers)
            raise HsmsimError(f"No HSM of the cluster answers: {names}. Does the simulator run? See: hsmsim status")
        return {server: self._clients.get(server) for server in self._cluster.servers}

    def first(self) -> HsmClient:
        """Return the connection that changes are made on."""
        return next(client for client in self.connect().values() if client is not None)

    def info(self) -> HsmInfoResponse:
        """What the first HSM says of itself and the cluster."""
        return self.first().call(HsmInfoRequest())

    def login(self, name: str, role: Role, password: str) -> None:
        """Log in on all HSMs; CkrError of the one that checked the password."""
        first = self.first()
        self._ticket = first.login(name, password, role.user_type).ticket
        self.user = name.lower(), role
        for server, client in self._clients.items():
            if client is not first:
                self._enter(server, client)

    def logout(self) -> None:
        """Log out everywhere."""
        for server, client in self._clients.items():
            try:
                client.call(LogoutRequest())
            except CkrError as error:
                _LOG.warning("%s: nobody was logged in: %s", server.name, error)
        self.user, self._ticket = None, b""

    def close(self) -> None:
        """Log out, so that nobody is taken for logged in while an HSM notices, and end all connections."""
        for client in self._clients.values():
            if self.user is not None:
                with suppress(CkrError, OSError):
                    client.call(LogoutRequest())
            client.close()
        self._clients.clear()

    def _open(self, server: Server) -> None:
        try:
            client = self._connection(server)
        except ssl.SSLError as error:
            raise tls.refused(server, error) from error
        except OSError as error:
            _LOG.warning("%s does not answer: %s", server.name, error)
            return
        try:
            self._check(server, client)
            client.call(OpenSessionsRequest(ids=(SESSION,), flags=(CKF.SERIAL_SESSION | CKF.RW_SESSION,)))
            if self._ticket:
                self._enter(server, client)
        except (HsmsimError, OSError):
            client.close()
            raise
        self._clients[server] = client

    def _connection(self, server: Server) -> HsmClient:
        partition = self._cluster.hsmsim.partition
        if server.socket:
            return HsmClient.connect(server.socket, partition, seconds=SECONDS, uid=self._cluster.uid)
        shaken = tls.connect(server, self._cluster.cluster, SECONDS)
        try:
            return HsmClient.connect(shaken, partition)
        except BaseException:
            shaken.close()
            raise

    def _check(self, server: Server, client: HsmClient) -> None:
        """Whether this is an HSM of the configured cluster, and one whose certificate the customer's root issued."""
        info = client.call(HsmInfoRequest())
        cluster = self._cluster.cluster
        found, wanted = info.cluster_id.decode(), cluster.cluster_id
        if wanted and found != wanted:
            raise HsmsimError(f"{server.name} is an HSM of {found}; the configuration says {wanted}.")
        if cluster.hsm_ca_file and server.socket:
            require_certified(server.name, client.call(CertificatesRequest()).cluster, Path(cluster.hsm_ca_file))

    def _enter(self, server: Server, client: HsmClient) -> None:
        try:
            client.call(LoginTicketRequest(self._ticket))
        except CkrError as error:
            _LOG.warning("%s: not logged in there: %s", server.name, error)


def _lives(client: HsmClient) -> bool:
    try:
        client.call(PingRequest())
    except OSError:
        return False
    return True


def require_certified(name: str, certificate: bytes, path: Path) -> None:
    """HsmsimError unless the root or chain in the file issued the cluster's certificate (PEM).

    An HSM without a certificate is UNINITIALIZED; it has no user who could log in.
    """
    try:
        anchor = path.read_bytes()
    except OSError as error:
        raise HsmsimError(f"hsm_ca_file {path}: {error.strerror}. Copy the root that signed the CSR there.") from error
    if not certificate:
        return
    try:
        certificates.require_issued(certificate, anchor)
    except (certificates.ParseError, certificates.IssuerError, certificates.ForeignKeyError) as error:
        raise HsmsimError(
            f"{name} shows a certificate that does not come from {path}: {error} Is it another cluster's HSM, or "
            "another cluster's root?"
        ) from error
