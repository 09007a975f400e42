"""Where HSMs are, and what must be shown at a port before a word is said there."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from support.tls import issue, server, speaks

from hsmsim.errors import HsmsimError
from hsmsim.fleet import customer
from hsmsim.hsm import address, dial
from hsmsim.hsm.link import Link, LinkError

if TYPE_CHECKING:
    import socket
    from pathlib import Path

A = "/run/a.sock"
B = "/run/with a space/b.sock"


@pytest.mark.parametrize(
    ("theirs", "ours", "way"),
    [
        (A, "", A),
        (A, B, A),
        (f"10.0.0.1:2223 {A}", B, A),
        (f"10.0.0.1:2223 {B}", f"10.0.0.1:2224 {A}", B),
        (f"10.0.0.2:2223 {A}", f"10.0.0.1:2223 {B}", "10.0.0.2:2223"),
        (f"[fd00::2]:2223 {A}", f"[fd00::1]:2223 {B}", "[fd00::2]:2223"),
        (f"[fd00::2]:2223 {B}", f"[fd00::2]:2224 {A}", B),
    ],
)
def test_hsms_of_one_host_use_the_socket_and_others_the_port(theirs: str, ours: str, way: str) -> None:
    assert address.way(theirs, ours) == way


def test_a_place_is_a_path_and_perhaps_an_address() -> None:
    assert address.place(A, "") == A
    assert address.place(B, "[fd00::2]:2223") == f"[fd00::2]:2223 {B}"
    assert address.parse(address.joined("fd00::2", 2223)) == ("fd00::2", 2223)
    assert address.parse(address.joined("10.0.0.2", 2223)) == ("10.0.0.2", 2223)
    with pytest.raises(HsmsimError, match="has an IP address and a port"):
        address.place(A, "hsm.example:2223")


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """The folder of a customer's CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder(x509.Name([])).sign(key, hashes.SHA256())
    customer.sign(tmp_path / "customer", request.public_bytes(serialization.Encoding.PEM))
    return tmp_path / "customer"


def shown_by(authority: Path, folder: Path) -> tuple[ssl.SSLContext, bytes]:
    """A server of an HSM's name, and its certificate."""
    context = issue(authority, folder)
    pem = (folder / "server.pem").read_text()
    return context, ssl.PEM_cert_to_DER_cert(pem[pem.index("-----BEGIN CERTIFICATE") :])


def test_the_clusters_certificate_and_no_other_of_the_same_authority(authority: Path, tmp_path: Path) -> None:
    context, shown = shown_by(authority, tmp_path)
    _, another = shown_by(authority, tmp_path)
    with server(speaks(context)) as port:
        at = f"127.0.0.1:{port}"
        for certificate in (shown, None):
            with dial.at_port(at, 5, certificate) as connection:
                assert connection.version() == "TLSv1.3"
        for other in (b"", shown[:-1], shown + b"\0", another):
            with pytest.raises(HsmsimError, match="does not show this cluster's certificate"):
                dial.at_port(at, 5, other)
            with pytest.raises(LinkError, match="does not show this cluster's certificate"):
                Link(f"{at} {A}", 5, here=f"10.0.0.1:2223 {B}", certificate=other)


def test_nothing_older_than_tls_1_3_and_nothing_without_tls(authority: Path, tmp_path: Path) -> None:
    old = issue(authority, tmp_path)
    old.maximum_version = ssl.TLSVersion.TLSv1_2

    def plain(one: socket.socket) -> None:
        one.recv(1024)
        one.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")

    for answer in (speaks(old), plain):
        with server(answer) as port, pytest.raises(ssl.SSLError):
            dial.at_port(f"127.0.0.1:{port}", 5)


@pytest.mark.parametrize("there", [7, b"/run/a.sock", None, "", "nonsense", "1.2.3.4:x /a", "10.0.0.1:0 /a", "\0"])
def test_whatever_the_table_says_is_a_link_error_at_worst(there: Any) -> None:
    with pytest.raises(LinkError):
        Link(there, 1, here=f"10.9.9.9:2223 {A}")
