"""Where an HSM is: for HSMs of its own host, and for those of others.

A place is the path of the HSM's unix socket, and in front of that, with a space between, the IP address and port at
which HSMs of other hosts reach it, if they do. HSMs of one IP address are on one host and use the socket. No names:
looking one up may take longer than a lease lasts.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final

from hsmsim.errors import HsmsimError

_PORT_MAX: Final = 65535


def parse(address: str) -> tuple[str, int]:
    """Return address and port of "0.0.0.0:2223" or "[::]:2223"; HsmsimError."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        ip_address(host)
        if not port.isascii() or not port.isdigit() or not 0 < int(port) <= _PORT_MAX:
            raise ValueError(port)  # noqa: TRY301 - one sentence for both
    except ValueError as error:
        raise HsmsimError(
            f"An HSM has an IP address and a port, such as 10.0.0.2:2223 or [::]:2223; not {address!r}."
        ) from error
    return host, int(port)


def joined(host: str, port: int) -> str:
    """Return an address as `parse` reads it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def place(path: str, address: str) -> str:
    """Return where an HSM is. address: for HSMs of other hosts, empty for none; HsmsimError."""
    if address:
        parse(address)
    return f"{address} {path}".lstrip()


def way(theirs: str, ours: str) -> str:
    """Return how an HSM reaches another from where both are: by a path, or at an address."""
    if theirs.startswith("/"):
        return theirs
    address, _, path = theirs.partition(" ")
    return path if _host(ours) in {"", _host(theirs)} else address


def _host(place: str) -> str:
    return "" if place.startswith("/") else place.partition(" ")[0].rpartition(":")[0]
