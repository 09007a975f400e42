"""HSMs over TCP: the module against real ones and against servers that are none, strangers against the port."""

from __future__ import annotations

import os
import random
import signal
import socket
import ssl
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from support.hsm import CLUSTER, ROOT, USERS, Cluster, cluster, eventually
from support.p11 import Module, absence, complaints, refused
from support.tls import issue, server, speaks

from hsmsim.config import module_path
from hsmsim.errors import HsmsimError
from hsmsim.fleet import modulecfg
from hsmsim.fleet.locate import Server, Where
from hsmsim.hsm import tcp
from hsmsim.hsm.cryptoki import CKA, CKM, CKR
from hsmsim.hsm.messages import Op
from hsmsim.native import Signer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

P256 = {CKA.EC_PARAMS: bytes.fromhex("06082a8648ce3d030107")}
PIN = f"alice:{USERS['alice']}"
HSM_INFO = struct.pack("<IHHQQQ", 0, Op.HSM_INFO, 0, 1, 0, 0)


@pytest.fixture(scope="module")
def served() -> Iterator[Cluster]:
    with cluster(hsms=2, tcp=True) as made:
        yield made


def port_of(served: Cluster, number: int = 0) -> int:
    return tcp.parse(served.hsms[number].config["listen"])[1]


def authority(served: Cluster) -> Path:
    return served.home / "customer/customerCA.crt"


def configured(folder: Path, ports: list[int], ca: Path, cluster_id: str = CLUSTER, **options: Any) -> dict[str, str]:
    servers = tuple(Server("127.0.0.1", Path("/nowhere"), port) for port in ports)
    chosen = modulecfg.Options(key_availability_check=False, hsm_ca_file=str(ca), **options)
    path = folder / "pkcs11.cfg"
    path.write_bytes(modulecfg.encoded(modulecfg.document(Where(cluster_id, "hsm2m.medium", 0, servers), chosen)))
    return {**os.environ, "HSMSIM_MODULE": str(module_path()), "HSMSIM_PKCS11_CONFIG": str(path)}


def both(served: Cluster, folder: Path, **options: Any) -> dict[str, str]:
    return configured(folder, [port_of(served, 0), port_of(served, 1)], authority(served), **options)


# ---- the module against HSMs ---------------------------------------------------------------------------------------


def test_an_application(served: Cluster, tmp_path: Path) -> None:
    with Module(both(served, tmp_path)) as module:
        session = module.session()
        with refused(CKR.PIN_INCORRECT):
            session.login("alice:not-the-password")
        session.login(PIN)
        public, private = session.pair(CKM.EC_KEY_PAIR_GEN, P256, {CKA.SIGN: True, CKA.LABEL: b"tcp", CKA.TOKEN: True})
        assert session.find({CKA.LABEL: b"tcp"}) == [private]
        signature = session.whole("Sign", CKM.ECDSA_SHA256, private, b"by TCP")
        session.verify(CKM.ECDSA_SHA256, public, b"by TCP", signature)
        large = random.Random(5).randbytes(120_000)  # more than a record, and than a frame before the login
        signature = session.whole("Sign", CKM.ECDSA_SHA256, private, large)
        session.verify(CKM.ECDSA_SHA256, public, large, signature)
        session.destroy(private)


def test_the_next_hsm_when_one_is_killed(served: Cluster, tmp_path: Path) -> None:
    with Module(both(served, tmp_path)) as module:
        session = module.session(PIN)
        pair = session.pair(CKM.EC_KEY_PAIR_GEN, {**P256, CKA.TOKEN: True}, {CKA.SIGN: True, CKA.TOKEN: True})
        session.whole("Sign", CKM.ECDSA, pair[1], bytes(32))
        first, second = served.hsms
        eventually(lambda: first.info().version == second.info().version, 30)
        first.end(signal.SIGKILL)
        try:
            for _ in range(20):  # with the login and the session that the first one had
                session.verify(CKM.ECDSA, pair[0], bytes(32), session.whole("Sign", CKM.ECDSA, pair[1], bytes(32)))
        finally:
            first.start()  # its port opens at the start, for there is a certificate now
        with Module(configured(tmp_path, [port_of(served)], authority(served))) as other:
            assert len(other.session(PIN).whole("Sign", CKM.ECDSA, pair[1], bytes(32))) == 64
        for handle in pair:
            session.destroy(handle)


def test_both_hsms_do_the_work(served: Cluster, tmp_path: Path) -> None:
    """Where the second one answers after it was killed, too."""
    with Module(both(served, tmp_path)) as module:
        session = module.session(PIN)
        pair = session.pair(CKM.EC_KEY_PAIR_GEN, {**P256, CKA.TOKEN: True}, {CKA.SIGN: True, CKA.TOKEN: True})

        def work_at_both() -> None:
            before = [hsm.info().operations for hsm in served.hsms]

            def done() -> bool:
                for _ in range(20):
                    session.verify(CKM.ECDSA, pair[0], bytes(32), session.whole("Sign", CKM.ECDSA, pair[1], bytes(32)))
                return all(hsm.info().operations > was + 20 for hsm, was in zip(served.hsms, before, strict=True))

            eventually(done, 30)

        work_at_both()
        served.hsms[1].end(signal.SIGKILL)
        try:
            session.verify(CKM.ECDSA, pair[0], bytes(32), session.whole("Sign", CKM.ECDSA, pair[1], bytes(32)))
        finally:
            served.hsms[1].start()
        work_at_both()
        for handle in pair:
            session.destroy(handle)


FORK = """
import os
from hsmsim.hsm.cryptoki import CKA, CKM, CKR
from support.p11 import Module
def sockets():
    return sorted(link for one in os.listdir("/proc/self/fd")
                  if os.path.islink(path := f"/proc/self/fd/{one}") and "socket:" in (link := os.readlink(path)))
module = Module(os.environ)
session = module.session(os.environ["PIN"])
P256 = {CKA.EC_PARAMS: bytes.fromhex("06082a8648ce3d030107")}
private = session.pair(CKM.EC_KEY_PAIR_GEN, P256, {CKA.SIGN: True})[1]
before = sockets()
for number in range(4):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            assert sockets() == [], "the parent's connection is shared"
            if number:
                module.call("C_Initialize", None)
                own = module.session(os.environ["PIN"])
                key = own.pair(CKM.EC_KEY_PAIR_GEN, P256, {CKA.SIGN: True})[1]
                assert len(own.whole("Sign", CKM.ECDSA, key, bytes(32))) == 64
            if number > 1:
                module.call("C_Finalize", None)
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert len(session.whole("Sign", CKM.ECDSA, private, bytes(32))) == 64
assert sockets() == before, "the parent has had to connect again"
print(len(before))
"""


def test_a_fork_leaves_the_parents_connection_alone(served: Cluster, tmp_path: Path) -> None:
    environment = both(served, tmp_path) | {"PIN": PIN, "PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", FORK], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr


def test_many_signatures_from_one_thread(served: Cluster, tmp_path: Path) -> None:
    environment = both(served, tmp_path)
    with Module(environment) as module:
        session = module.session(PIN)
        pair = session.pair(
            CKM.EC_KEY_PAIR_GEN, {**P256, CKA.TOKEN: True}, {CKA.SIGN: True, CKA.TOKEN: True, CKA.LABEL: b"many"}
        )
        digests = [number.to_bytes(32) for number in range(300)]
        with Signer(environment["HSMSIM_PKCS11_CONFIG"], pin=PIN) as signer:
            signatures = signer.sign_many(signer.key(label="many"), digests)
        for digest, signature in zip(digests, signatures, strict=True):
            session.verify(CKM.ECDSA, pair[0], digest, signature)
        session.destroy(*pair)


def test_pkcs11_tool_signs(served: Cluster, tmp_path: Path) -> None:
    with Module(both(served, tmp_path)) as module:
        session = module.session(PIN)
        public, private = session.pair(
            CKM.RSA_PKCS_KEY_PAIR_GEN,
            {CKA.MODULUS_BITS: 2048, CKA.TOKEN: True, CKA.ID: b"\x07"},
            {CKA.SIGN: True, CKA.TOKEN: True, CKA.ID: b"\x07"},
        )
        (tmp_path / "text").write_bytes(b"by TCP")
        command = ["pkcs11-tool", "--module", str(module_path()), "--login", "--pin", PIN, "--sign", "--id", "07"]
        done = subprocess.run(
            [*command, "--mechanism", "SHA256-RSA-PKCS", "--input-file", "text", "--output-file", "signature"],
            env=both(served, tmp_path), cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        session.verify(CKM.SHA256_RSA_PKCS, public, b"by TCP", (tmp_path / "signature").read_bytes())
        session.destroy(private)


# ---- the module against others: no PIN goes there ------------------------------------------------------------------


def _plain(one: socket.socket) -> None:
    one.recv(1024)
    one.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def _older(served: Cluster, folder: Path) -> Callable[[socket.socket], None]:
    context = issue(served.home / "customer", folder)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return speaks(context)


def _silent(one: socket.socket) -> None:
    while one.recv(1024):
        pass


def _never(_served: Cluster, _folder: Path) -> Callable[[socket.socket], None]:
    return _silent


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda _s, _f: _plain, "does not speak TLS"),
        (_older, "does not speak TLS 1.3"),
        (_never, "did not answer the TLS handshake in time"),
        (lambda _s, _f: lambda _one: None, "ended the connection in the TLS handshake"),
        (lambda s, f: speaks(issue(s.home / "customer", f, days=-1)), "has expired"),
        (lambda s, f: speaks(issue(s.home / "customer", f, "www.example.org")), "common name does not begin with HSM:"),
    ],
    ids=["plain", "older", "silent", "closed", "expired", "not an HSM"],
)
def test_no_pin_goes_to(
    made: Any, says: str, served: Cluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with server(made(served, tmp_path)) as port:
        patience = 500 if made is _never else 20_000
        environment = configured(tmp_path, [port], authority(served), timeout_ms=patience)
        line = absence(environment, capfd)
    assert line.startswith(f"no PIN goes to 127.0.0.1:{port}: ")
    assert says in line


def test_another_ca(served: Cluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with cluster(tcp=True) as other:
        ports = [port_of(other)]
        line = absence(configured(tmp_path, ports, authority(served)), capfd)
        assert "its certificate was not issued by the CA in hsm_ca_file" in line
    line = absence(configured(tmp_path, [port_of(served)], authority(served), "cluster-bbbbbbbbbbb"), capfd)
    assert line.endswith("it is an HSM of another cluster than cluster-bbbbbbbbbbb")
    empty = tmp_path / "empty.crt"
    empty.write_text("no certificate")
    assert f"{empty} has no certificate in PEM" in absence(configured(tmp_path, [port_of(served)], empty), capfd)
    module = Module(configured(tmp_path, [1], tmp_path / "missing.crt"), start=False)
    assert module.rv("C_Initialize", None) is CKR.GENERAL_ERROR
    assert "missing.crt, which cannot be read: No such file" in complaints(capfd)[0]


# ---- strangers against the port ------------------------------------------------------------------------------------


def client(served: Cluster) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority(served))
    context.check_hostname = False
    return context


def connect(served: Cluster) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port_of(served)), 20)


def test_tls_1_3_or_nothing(served: Cluster) -> None:
    with client(served).wrap_socket(connect(served)) as one:
        assert one.version() == "TLSv1.3"
        der = one.getpeercert(binary_form=True)
        assert der is not None
        (name,) = x509.load_der_x509_certificate(der).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        assert str(name.value).startswith("HSM:")
    older = client(served)
    older.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"), connect(served) as raw:
        older.wrap_socket(raw)
    with connect(served) as plain:  # a frame of ours without TLS: HSM_INFO
        plain.sendall(HSM_INFO)
        answer = plain.recv(1024)
        assert answer[:1] in {b"", b"\x15"}  # closed, or an alert first
        assert answer == b"" or plain.recv(1024) == b""


def test_slow_handshakes_hold_up_nobody(served: Cluster, tmp_path: Path) -> None:
    """How long they may take: tests/native/test_engine_tls.c."""
    slow = [connect(served) for _ in range(150)]
    try:
        for one in slow:
            one.sendall(b"\x16\x03\x01\x02\x00\x01")
        with Module(configured(tmp_path, [port_of(served)], authority(served))) as module:
            session = module.session(PIN)
            private = session.pair(CKM.EC_KEY_PAIR_GEN, P256, {CKA.SIGN: True})[1]
            for _ in range(50):
                assert len(session.whole("Sign", CKM.ECDSA, private, bytes(32))) == 64
    finally:
        for one in slow:
            one.close()


def _hello(served: Cluster) -> bytes:
    """What a client of ours says first."""
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        client(served).wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    return outgoing.read()


def _damaged(choice: random.Random, whole: bytes) -> bytes:
    bytes_ = bytearray(whole)
    for _ in range(choice.randrange(1, 6)):
        bytes_[choice.randrange(len(bytes_))] = choice.randrange(256)
    return bytes(bytes_[: choice.randrange(1, len(bytes_) + 1)])


def test_what_is_no_tls_harms_nobody(served: Cluster) -> None:
    choice, hello = random.Random(20261125), _hello(served)
    for number in range(400):
        with connect(served) as raw:
            if number % 2:
                raw.sendall(_damaged(choice, hello))
            else:
                raw.sendall(choice.randbytes(choice.randrange(1, 600)))
    for _ in range(60):  # records that are damaged, cut off, or no frames, after the handshake
        with connect(served) as raw:
            shaken = client(served).wrap_socket(raw)
            kind = choice.randrange(3)
            if kind == 0:
                os.write(shaken.fileno(), b"\x17\x03\x03\x00\x40" + choice.randbytes(choice.randrange(64)))
            elif kind == 1:
                os.write(shaken.fileno(), choice.randbytes(100))
            else:
                shaken.sendall(choice.randbytes(100))
            shaken.close()
    with client(served).wrap_socket(connect(served)) as one:
        one.sendall(HSM_INFO)
        assert CLUSTER.encode() in one.recv(4096)
    assert "Traceback" not in served.hsms[0].log
    assert served.hsms[0].running.poll() is None


# ---- where it listens ----------------------------------------------------------------------------------------------


def test_a_taken_port_is_named(served: Cluster) -> None:
    hsm = served.hsms[1]
    hsm.end()
    usual = hsm.config["listen"]
    try:
        hsm.config["listen"] = served.hsms[0].config["listen"]
        hsm.start(wait=False)
        assert hsm.running.wait(60) == 1
        port = port_of(served)
        assert f"This HSM cannot listen at 127.0.0.1, port {port}: 127.0.0.1: Address already in use." in hsm.log
        hsm.process = None
    finally:
        hsm.config["listen"] = usual
        hsm.start()


@pytest.mark.parametrize("listen", ["2223", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "h:²"])
def test_what_is_no_place_to_listen(listen: str) -> None:
    with pytest.raises(HsmsimError, match=r"such as 10\.0\.0\.2:2223"):
        tcp.parse(listen)
    assert tcp.parse("[::]:2223") == ("::", 2223)
