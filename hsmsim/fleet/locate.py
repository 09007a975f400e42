"""Where a cluster's HSMs are, as a client's configuration has it.

An HsmId of CloudHSM's API is the id of the HSM in the fleet, and its socket is RUN/<HsmId>.sock: there is no list of
sockets that could be out of date (docs/explanation/adr/0007-an-hsm-id-is-its-address.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hsmsim.fleet import state

if TYPE_CHECKING:
    from hsmsim.config import Places


@dataclass(frozen=True, slots=True)
class Server:
    """One HSM: what it is called, an address or its id, and its socket; port: TCP instead of that, if not 0."""

    hostname: str
    socket: Path
    port: int = 0


@dataclass(frozen=True, slots=True)
class Where:
    """A cluster as a client's configuration has it. uid: whom the HSM processes run as.

    elsewhere: HSMs that only TCP reaches.
    """

    cluster_id: str
    hsm_type: str
    uid: int
    servers: tuple[Server, ...]
    elsewhere: tuple[Server, ...] = ()


def of_fleet(places: Places, fleet: state.Fleet, cluster: state.Cluster) -> Where:
    """Return where the HSMs of a cluster of this state folder are."""
    servers = tuple(Server(hsm.hsm_id, places.socket(hsm.hsm_id)) for hsm in cluster.hsms)
    model = cluster.hsms[0].model if cluster.hsms else state.MODEL
    elsewhere = tuple(Server(one.hostname, Path(), one.port) for one in cluster.elsewhere)
    return Where(cluster.cluster_id, model, state.uid_of(fleet.account), servers, elsewhere)
