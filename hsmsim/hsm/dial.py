"""Where an HSM is, and a connection to its TCP port, with TLS 1.3.

Where it is: the path of its unix socket, and in front of that, with a space between, the IP address and port at which
HSMs of other hosts reach it, if they do. HSMs of one address are on one host and use the socket. No names: looking one
up may take longer than a lease lasts.

The certificate says who answers at a port: all HSMs of a cluster have the same one, and no one else has its key. It is
compared as a whole, since both ends know it: no authority and no date have a say.
"""

from __future__ import annotations

import socket
import ssl
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


def at_port(address: str, seconds: float, certificate: bytes | None = None) -> ssl.SSLSocket:
    """Connect; each step, and each call on the socket, takes no longer than `seconds`. OSError, HsmsimError.

    certificate: the one (DER) that must be shown; None: whoever answers, who is told no secret and believed nothing.
    """
    plain = socket.create_connection(parse(address), seconds)
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        secure = _context().wrap_socket(plain)
    except BaseException:
        plain.close()
        raise
    if certificate is not None and (not certificate or secure.getpeercert(binary_form=True) != certificate):
        secure.close()
        raise HsmsimError(f"Who answers at {address} does not show this cluster's certificate.")
    return secure


def _context() -> ssl.SSLContext:
    """TLS 1.3 and nothing older; the handshake proves that the other end has the key of what it shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # at_port compares the certificate itself
    return context
