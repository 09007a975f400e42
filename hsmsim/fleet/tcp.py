"""TCP ports of HSMs, beside their sockets: off unless `hsmsim up --hsm-host ADDRESS` was said once.

Rules: an HSM keeps its port; a new one gets the first from 2223 up that no other HSM of the state folder has and nobody
listens on. The port opens when the cluster has its certificate (hsmsim.hsm.tcp).
"""

from __future__ import annotations

import errno
import socket
from dataclasses import replace
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Final

from msgspec import structs

from hsmsim.errors import HsmsimError
from hsmsim.fleet import launch, state
from hsmsim.fleet.modulecfg import PORT

if TYPE_CHECKING:
    from hsmsim.config import Places
    from hsmsim.fleet.locate import Where

_PORT_MAX: Final = 65535


def choose(places: Places, host: str) -> None:
    """Have the HSMs listen at an address, 0.0.0.0 and :: for all; HsmsimError. The caller holds the fleet's lock."""
    try:
        ip_address(host)
    except ValueError as error:
        raise HsmsimError(
            f"{host!r} is no IP address. Of this machine: 127.0.0.1; all that it has: 0.0.0.0."
        ) from error
    fleet = state.load(places)
    if fleet.host == host:
        return
    running = [hsm.hsm_id for hsm in fleet.hsms() if launch.is_running(places, hsm.hsm_id)]
    if running:
        raise HsmsimError(f"{', '.join(running)} would go on without a TCP port at {host}. First: hsmsim down")
    state.save(places, structs.replace(fleet, host=host))


def assign(places: Places, hsm_id: str) -> None:
    """Give an HSM that is about to start its port, where HSMs have one. The caller holds the fleet's lock."""
    fleet = state.load(places)
    hsm = fleet.hsm(hsm_id)
    if not fleet.host or hsm.port:
        return
    taken = {other.port for other in fleet.hsms()}
    port = next((one for one in range(PORT, _PORT_MAX) if one not in taken and _is_free(fleet.host, one)), 0)
    if not port:
        raise HsmsimError(f"No port of {fleet.host} is free for {hsm_id}.")
    cluster = fleet.cluster_of(hsm_id)
    hsms = tuple(structs.replace(one, port=port) if one == hsm else one for one in cluster.hsms)
    state.save(places, fleet.with_cluster(structs.replace(cluster, hsms=hsms)))


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if isinstance(ip_address(host), IPv6Address) else socket.AF_INET


def _is_free(host: str, port: int) -> bool:
    with socket.socket(_family(host), socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise HsmsimError(f"{host} is no address of this machine: {error.strerror}.") from error
        return True


def reach(places: Places, where: Where) -> Where:
    """Return the same HSMs as clients reach them by TCP; HsmsimError where one has no port."""
    fleet = state.load(places)
    ports = {places.socket(hsm.hsm_id): hsm.port for hsm in fleet.hsms()}
    if not fleet.host or not all(ports.get(server.socket) for server in where.servers):
        raise HsmsimError(
            "The HSMs have no TCP ports. Give them some: hsmsim down, hsmsim up --detach --hsm-host ADDRESS"
        )
    address = fleet.host
    if ip_address(address).is_unspecified:
        address = "::1" if _family(address) == socket.AF_INET6 else "127.0.0.1"
    servers = tuple(replace(one, hostname=address, port=ports[one.socket]) for one in where.servers)
    return replace(where, servers=servers + where.elsewhere)
