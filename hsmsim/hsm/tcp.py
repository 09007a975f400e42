"""This HSM's TCP port: TLS 1.3 under the cluster's certificate, so there is none before the customer has signed that.

The key of the certificate is the cluster's masked one: the engine opens it, no Python object does.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from hsmsim.cluster.model import IdentityRow, MtlsRow
from hsmsim.crypto import certificates
from hsmsim.errors import HsmsimError
from hsmsim.hsm import certify
from hsmsim.hsm.address import parse
from hsmsim.hsm.engine import TlsClients

if TYPE_CHECKING:
    from hsmsim.cluster.model import Change
    from hsmsim.hsm.engine import Material

_LOG = logging.getLogger(__name__)


class Engine(Protocol):
    """What is asked of the engine."""

    def listen_tls(self, address: str, port: int, chain: bytes, key: Material, clients: TlsClients) -> None:
        """Open the port."""

    def tls_clients(self, clients: TlsClients) -> None:
        """Ask this of the port's clients from now on."""


class Port:
    """Opened once, at the start or when the cluster gets its certificate."""

    def __init__(self, engine: Engine, listen: str) -> None:
        self._engine = engine
        self._address, self._port = parse(listen)
        self._open = False
        self._clients = TlsClients()

    def open(self, identity: IdentityRow, mtls: MtlsRow) -> None:
        """Listen, if there is a certificate; HsmsimError says why that does not work."""
        self._clients = _wanted(mtls)
        self._open_for(identity)

    def _open_for(self, identity: IdentityRow) -> None:
        if self._open or not identity.certificate:
            return
        chain = certificates.as_pem(identity.certificate) + certificates.issuers(identity.trust_anchor)
        self._engine.listen_tls(self._address, self._port, chain, certify.material(identity), self._clients)
        self._open = True
        _LOG.info("Listening at %s, port %d, with TLS.", self._address, self._port)

    def on_change(self, change: Change) -> None:
        """Follow the rows. The cluster has its certificate whether this HSM gets its port or not."""
        for row in change.rows:
            try:
                if isinstance(row, IdentityRow):
                    self._open_for(row)
                elif isinstance(row, MtlsRow):
                    self._clients = _wanted(row)
                    self._engine.tls_clients(self._clients)
            except HsmsimError as error:
                _LOG.error("%s Start this HSM again when that is mended.", error)


def _wanted(mtls: MtlsRow) -> TlsClients:
    if mtls.deleted:
        return TlsClients()
    return TlsClients(b"".join(certificates.first(anchor) for anchor in mtls.anchors.values()), mtls.enforced)
