"""A connection to an HSM's TCP port, with TLS 1.3.

The certificate says who answers: all HSMs of a cluster have the same one, and no one else has its key. It is compared
as a whole, since both ends know it: no authority and no date have a say.
"""

from __future__ import annotations

import socket
import ssl

from hsmsim.errors import HsmsimError
from hsmsim.hsm.address import parse


def at_port(
    address: str, seconds: float, certificate: bytes | None = None, protocols: tuple[str, ...] = ()
) -> ssl.SSLSocket:
    """Connect; each step, and each call on the socket, takes no longer than `seconds`. OSError, HsmsimError.

    certificate: the one (DER) that must be shown; None: whoever answers, who is told no secret and believed nothing.
    protocols: what is going to be spoken (ALPN, RFC 7301); an HSM's clients name none.
    """
    plain = socket.create_connection(parse(address), seconds)
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        secure = _context(protocols).wrap_socket(plain)
    except BaseException:
        plain.close()
        raise
    if certificate is not None and (not certificate or secure.getpeercert(binary_form=True) != certificate):
        secure.close()
        raise HsmsimError(f"Who answers at {address} does not show this cluster's certificate.")
    return secure


def _context(protocols: tuple[str, ...]) -> ssl.SSLContext:
    """TLS 1.3 and nothing older; the handshake proves that the other end has the key of what it shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(protocols)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # at_port compares the certificate itself
    return context
