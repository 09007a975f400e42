"""Client certificates at HSMs' TCP ports: who is let in, who may decide it, what lasts."""

from __future__ import annotations

import os
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from support.fleet import CLUSTER as FLEET_CLUSTER
from support.fleet import fleet, hsm_id
from support.hsm import ADMIN, CLUSTER, USERS, Client, Cluster, cluster, eventually, refused
from support.mtls import EXPIRED, REQUIRED, SERVED, UNKNOWN, Authority, Shown, admin, answer, asks, clear, dial
from support.p11 import Module, absence
from support.p11 import refused as module_refused

from hsmsim import clock
from hsmsim.config import module_path
from hsmsim.fleet import modulecfg, state, tcp
from hsmsim.fleet import protocol as p
from hsmsim.fleet.locate import Server, Where
from hsmsim.hsm import messages as m
from hsmsim.hsm.client import HsmClient
from hsmsim.hsm.cryptoki import CKA, CKM, CKR
from hsmsim.storage.database import Database

if TYPE_CHECKING:
    from collections.abc import Iterator

P256 = {CKA.EC_PARAMS: bytes.fromhex("06082a8648ce3d030107")}
PIN = f"alice:{USERS['alice']}"
DAY = 24 * 3600


def port_of(made: Cluster, number: int = 0) -> int:
    return int(made.hsms[number].config["listen"].rpartition(":")[2])


@dataclass(frozen=True, slots=True)
class Certified:
    """A cluster of two HSMs, authorities, and certificates that they issued."""

    cluster: Cluster
    first: Authority
    second: Authority
    good: Shown
    other: Shown

    @property
    def ports(self) -> list[int]:
        return [port_of(self.cluster, number) for number in range(len(self.cluster.hsms))]

    def register(self, *authorities: Authority) -> None:
        with admin(self.cluster.hsms[0].socket) as client:
            for one in authorities:
                client.call(m.MtlsRegisterRequest(one.chain))

    def enforce(self, shown: Shown | None = None, number: int = 0) -> None:
        with admin(dial(self.ports[number], shown or self.good)) as client:
            client.call(m.MtlsEnforceRequest(1))
            assert client.call(m.MtlsLevelRequest()).level == 1

    def clear(self) -> None:
        with admin(self.cluster.hsms[0].socket) as client:
            clear(client)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Certified]:
    folder = tmp_path_factory.mktemp("clients")
    first, second = Authority("first authority"), Authority("second authority")
    clock.set_offset(folder / "clock", 0)
    with cluster(hsms=2, tcp=True, clock=str(folder / "clock")) as made:
        yield Certified(made, first, second, first.issue(folder, "good"), second.issue(folder, "other"))


@pytest.fixture
def certified(shared: Certified) -> Iterator[Certified]:
    """Without a trust anchor, before and after."""
    yield shared
    clock.set_offset(_clock(shared), 0)
    shared.clear()


def _clock(certified: Certified) -> Path:
    return Path(certified.cluster.hsms[0].config["clock"])


# ---- who is let in -------------------------------------------------------------------------------------------------


def test_who_is_let_in_at_each_level(certified: Certified, tmp_path: Path) -> None:
    first = certified.first
    shown = {
        "none": None,
        "good": certified.good,
        "other": certified.other,
        "expired": first.issue(tmp_path, "expired", (-100, -1)),
        "early": first.issue(tmp_path, "early", (10, 20)),
        "namesake": Authority(first.name).issue(tmp_path, "namesake"),
        "below a client": Authority("c", first, authority=False).issue(tmp_path, "below"),
        "itself": Authority("alone", authority=False).issue(tmp_path, "itself"),
    }
    bad = {
        "other": {UNKNOWN},
        "expired": {EXPIRED},
        "early": {"BAD_CERTIFICATE"},
        "namesake": {UNKNOWN, "DECRYPT_ERROR"},
        "below a client": {UNKNOWN},
        "itself": {UNKNOWN},
    }

    def found(port: int) -> dict[str, str]:
        return {name: asks(port, one) for name, one in shown.items()}

    assert set(found(certified.ports[0]).values()) == {SERVED}, "without a trust anchor nobody is asked"
    certified.register(first)
    for port in certified.ports:
        now = found(port)
        assert (now.pop("none"), now.pop("good")) == (SERVED, SERVED)
        assert {name: alert for name, alert in now.items() if alert not in bad[name]} == {}
    certified.enforce()
    for port in certified.ports:
        now = found(port)
        assert (now.pop("none"), now.pop("good")) == (REQUIRED, SERVED)
        assert {name: alert for name, alert in now.items() if alert not in bad[name]} == {}


def test_an_intermediate_authority_as_trust_anchor(certified: Certified, tmp_path: Path) -> None:
    between = Authority("between", certified.first)
    certified.register(between)
    assert asks(certified.ports[1], between.issue(tmp_path, "below")) == SERVED
    assert asks(certified.ports[1], certified.good) == UNKNOWN, "the root stands above it, and is none itself"
    with HsmClient.connect(certified.cluster.hsms[1].socket) as client:
        assert client.call(m.MtlsAnchorsRequest()) == m.MtlsAnchorsResponse((1,), (between.chain,))


def test_the_simulated_clock_decides(certified: Certified, tmp_path: Path) -> None:
    soon = certified.first.issue(tmp_path, "soon", (50, 60))
    certified.register(certified.first)
    for days, result in ((0, "BAD_CERTIFICATE"), (55, SERVED), (61, EXPIRED)):
        clock.set_offset(_clock(certified), days * DAY)
        assert asks(certified.ports[0], soon) == result


def test_openssl_as_a_client(certified: Certified) -> None:
    certified.register(certified.first, certified.second)
    certified.enforce()
    command = ["openssl", "s_client", "-ign_eof", "-connect", f"127.0.0.1:{certified.ports[1]}"]

    def said(*more: object) -> str:
        done = subprocess.run(
            [*command, *map(str, more)], input=b"x" * 32, capture_output=True, timeout=60, check=False
        )
        return (done.stdout + done.stderr).decode(errors="replace")

    text = said()
    assert "first authority" in text.partition("Acceptable client certificate CA names")[2]
    assert "second authority" in text.partition("Acceptable client certificate CA names")[2]
    assert "alert certificate required" in text
    for good in (certified.good, certified.other):
        assert "alert" not in said("-cert", good.certificate, "-key", good.key, "-cert_chain", good.certificate)


def test_other_hsms_need_none(certified: Certified) -> None:
    """They say by ALPN that they are HSMs, are asked for the masking key instead, and get nothing else."""
    certified.register(certified.first)
    certified.enforce()
    hello = m.PeerHelloRequest(b"hsm-zzzzzzzzzzz", bytes(32))
    with (
        HsmClient.connect(dial(certified.ports[0], protocol="hsmsim-peer"), profile=4) as peer,
        refused(CKR.ARGUMENTS_BAD),
    ):
        peer.call(hello)
    with (
        HsmClient.connect(dial(certified.ports[0], protocol="hsmsim-peer")) as peer,
        pytest.raises(OSError, match=r"closed|EOF|reset"),
    ):
        peer.call(m.UserListRequest())
    assert asks(certified.ports[0]) == REQUIRED
    with dial(certified.ports[0], protocol="h2") as connection:
        assert answer(connection) == REQUIRED


# ---- open connections ----------------------------------------------------------------------------------------------


def is_open(connection: Any) -> bool:
    return answer(connection) == SERVED


def test_turning_it_on_ends_open_connections_without_a_certificate(certified: Certified) -> None:
    certified.register(certified.first)
    without = [dial(port) for port in certified.ports]
    shaking = socket.create_connection(("127.0.0.1", certified.ports[0]), 30)
    with_one = [dial(port, certified.good) for port in certified.ports]
    assert all(map(is_open, [*without, *with_one]))
    with Client(certified.cluster.hsms[0].socket) as local:
        certified.enforce(number=1)
        assert not any(map(is_open, without)), "once the request is answered, on every HSM"
        assert all(map(is_open, with_one))
        local.login("alice")  # this machine's own sockets are no network
    for connection in [*without, *with_one, shaking]:
        connection.close()
    with admin(certified.cluster.hsms[0].socket) as client:
        client.call(m.MtlsEnforceRequest(0))
    assert [asks(port) for port in certified.ports] == [SERVED, SERVED]


def test_deregistering_ends_the_connections_of_that_anchor(certified: Certified) -> None:
    certified.register(certified.first, certified.second)
    of_first, of_second, without = (dial(certified.ports[1], one) for one in (certified.good, certified.other, None))
    assert all(map(is_open, (of_first, of_second, without)))
    with admin(dial(certified.ports[0], certified.good)) as client:
        client.call(m.MtlsDeregisterRequest(1))  # its own one: it gets the answer, and no other
        with pytest.raises(OSError, match=r"closed|EOF|reset|Broken"):
            client.call(m.PingRequest())
    assert (is_open(of_first), is_open(of_second), is_open(without)) == (False, True, True)
    assert asks(certified.ports[1], certified.good) == UNKNOWN
    for connection in (of_first, of_second, without):
        connection.close()


# ---- who decides ---------------------------------------------------------------------------------------------------


def test_two_trust_anchors_and_no_more(certified: Certified) -> None:
    certified.register(certified.first, certified.second)
    with admin(certified.cluster.hsms[1].socket) as client:
        with refused(CKR.FUNCTION_REJECTED):
            client.call(m.MtlsRegisterRequest(certified.first.chain))
        with refused(CKR.DEVICE_MEMORY):
            client.call(m.MtlsRegisterRequest(Authority("third").chain))
        with refused(CKR.OBJECT_HANDLE_INVALID):
            client.call(m.MtlsDeregisterRequest(3))
        client.call(m.MtlsDeregisterRequest(1))
        assert client.call(m.MtlsRegisterRequest(Authority("third").chain)).reference == 1


def test_what_is_no_trust_anchor(certified: Certified) -> None:
    first = certified.first
    leaf = Authority("leaf", first, authority=False)
    between = Authority("between", first)
    wrong = {
        b"": CKR.ARGUMENTS_BAD,
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n": CKR.ARGUMENTS_BAD,
        first.certificate.tbs_certificate_bytes: CKR.ARGUMENTS_BAD,
        b"#" * 6981: CKR.DATA_LEN_RANGE,
        leaf.chain: CKR.SIGNATURE_INVALID,
        between.chain.partition(b"-----END CERTIFICATE-----\n")[0]
        + b"-----END CERTIFICATE-----\n": CKR.SIGNATURE_INVALID,
        first.chain + between.chain: CKR.SIGNATURE_INVALID,
        Authority("weak", key=_weak()).chain: CKR.PUBLIC_KEY_INVALID,
    }
    with admin(certified.cluster.hsms[0].socket) as client:
        for given, rv in wrong.items():
            with refused(rv):
                client.call(m.MtlsRegisterRequest(given))
        assert client.call(m.MtlsAnchorsRequest()).references == ()


def _weak() -> Any:
    return ec.generate_private_key(ec.SECP256K1())


def test_who_may_decide(certified: Certified) -> None:
    certified.register(certified.first)
    path = certified.cluster.hsms[0].socket
    with Client(path) as client:
        client.login("alice")
        for request in (
            m.MtlsRegisterRequest(certified.second.chain),
            m.MtlsDeregisterRequest(1),
            m.MtlsEnforceRequest(0),
        ):
            with refused(CKR.USER_NOT_LOGGED_IN):
                client.call(request)
        assert client.call(m.MtlsLevelRequest()).level == 0
        assert client.call(m.MtlsAnchorsRequest()).references == (1,)
    with admin(path) as client:
        client.call(m.UserCreateRequest(b"boss", 1, ADMIN.encode()))
    with admin(dial(certified.ports[0], certified.good), "boss") as boss, refused(CKR.USER_NOT_LOGGED_IN):
        boss.call(m.MtlsEnforceRequest(1))
    for where in (path, dial(certified.ports[0])):  # nobody saws off the branch that he sits on
        with admin(where) as client, refused(CKR.ACTION_PROHIBITED):
            client.call(m.MtlsEnforceRequest(1))
    with admin(dial(certified.ports[0], certified.good)) as client:
        with refused(CKR.ARGUMENTS_BAD):
            client.call(m.MtlsEnforceRequest(2))
        client.call(m.MtlsEnforceRequest(1))
        with refused(CKR.FUNCTION_REJECTED):
            client.call(m.MtlsDeregisterRequest(1))
    with HsmClient.connect(path) as client, refused(CKR.USER_NOT_LOGGED_IN):
        client.call(m.MtlsLevelRequest())
    with admin(path) as client:
        client.call(m.UserDeleteRequest(b"boss", 1))


def test_not_while_hsms_are_replaced(certified: Certified) -> None:
    with admin(certified.cluster.hsms[0].socket) as client:
        client.call(m.LimitedWriteRequest(1))
        with refused(CKR.TOKEN_WRITE_PROTECTED):
            client.call(m.MtlsRegisterRequest(certified.first.chain))
        client.call(m.LimitedWriteRequest(0))


# ---- what lasts ----------------------------------------------------------------------------------------------------


def test_it_outlasts_a_restart_and_a_new_hsm_has_it(certified: Certified) -> None:
    certified.register(certified.first)
    certified.enforce()
    made = certified.cluster
    made.hsms[0].end()
    made.hsms[0].start()
    assert (asks(certified.ports[0]), asks(certified.ports[0], certified.good)) == (REQUIRED, SERVED)
    joined = made.add()
    try:
        eventually(lambda: joined.info().state == b"ACTIVE", 30)
        assert (asks(certified.ports[2]), asks(certified.ports[2], certified.good)) == (REQUIRED, SERVED)
    finally:
        with HsmClient(made.hsms[0].socket) as client:
            client.call(m.RemoveMemberRequest(joined.hsm_id.encode()))
        joined.end()
        made.hsms.remove(joined)


def test_a_row_that_was_taken_away_opens_no_port(tmp_path: Path) -> None:
    with cluster(tcp=True) as made:
        (hsm,) = made.hsms
        authority = Authority("authority")
        with admin(hsm.socket) as client:
            client.call(m.MtlsRegisterRequest(authority.chain))
        with admin(dial(port_of(made), authority.issue(tmp_path))) as client:
            client.call(m.MtlsEnforceRequest(1))
        hsm.end()
        database = Database(made.database_url)
        with database.write() as connection:
            connection.exec_driver_sql("DELETE FROM mtls")
        database.close()
        hsm.start()
        with pytest.raises(ConnectionRefusedError):
            dial(port_of(made))
        assert "No TCP port: rows were changed, and whom it is to let in may have been in them." in hsm.log


def test_a_backup_has_it(tmp_path: Path) -> None:
    """One that restores a cluster gets the one whose certificates were wanted, not one that lets everybody in."""
    authority = Authority("authority")
    good = authority.issue(tmp_path)
    with fleet() as made:
        with state.lock(made.places):
            tcp.choose(made.places, "127.0.0.1")
        made.create("a", mode="NON_FIPS")
        made.initialize()
        made.activate("a")

        def port(letter: str) -> int:
            return state.load(made.places).hsm(hsm_id(letter)).port

        with admin(made.places.socket(hsm_id("a"))) as client:
            client.call(m.MtlsRegisterRequest(authority.chain))
        with admin(dial(port("a"), good)) as client:
            client.call(m.MtlsEnforceRequest(1))
        made.backup("a")
        with admin(made.places.socket(hsm_id("a"))) as client:
            clear(client)
        made.do(p.DeleteHsm(hsm_id("a")))
        made.do(p.CreateHsm(FLEET_CLUSTER, hsm_id("b"), mode="NON_FIPS", image_id="backup-aaaaaaaaaaa"))
        assert (asks(port("b")), asks(port("b"), good)) == (REQUIRED, SERVED)


# ---- the module ----------------------------------------------------------------------------------------------------


def configured(certified: Certified, folder: Path, shown: Shown | None, cluster_id: str = CLUSTER) -> dict[str, str]:
    servers = tuple(Server("127.0.0.1", folder / "none", port) for port in certified.ports)
    files = {} if shown is None else {"client_cert_file": str(shown.certificate), "client_key_file": str(shown.key)}
    options = modulecfg.Options(
        key_availability_check=False, hsm_ca_file=str(certified.cluster.home / "customer/customerCA.crt"), **files
    )
    path = folder / "pkcs11.cfg"
    path.write_bytes(modulecfg.encoded(modulecfg.document(Where(cluster_id, "hsm2m.medium", 0, servers), options)))
    return {**os.environ, "HSMSIM_MODULE": str(module_path()), "HSMSIM_PKCS11_CONFIG": str(path)}


def test_an_application_shows_its_certificate(certified: Certified, tmp_path: Path) -> None:
    certified.register(certified.first, certified.second)
    with (
        Module(configured(certified, tmp_path, certified.good)) as module,
        Module(configured(certified, tmp_path, None)) as without,
    ):
        session = module.session(PIN)
        private = session.pair(CKM.EC_KEY_PAIR_GEN, P256, {CKA.SIGN: True, CKA.TOKEN: True})[1]
        bare = without.session(PIN)
        assert len(bare.whole("Sign", CKM.ECDSA, private, bytes(32))) == 64
        certified.enforce(number=1)
        assert len(session.whole("Sign", CKM.ECDSA, private, bytes(32))) == 64
        with module_refused(CKR.DEVICE_REMOVED):
            bare.whole("Sign", CKM.ECDSA, private, bytes(32))
        session.destroy(private)


def test_an_application_is_told_why_not(
    certified: Certified, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    certified.register(certified.first)
    certified.enforce()
    old = certified.first.issue(tmp_path, "old", (-100, 10))
    clock.set_offset(_clock(certified), 11 * DAY)
    for shown, reason in (
        (None, "lets nobody in without a client certificate: `hsmsim configure-pkcs11` has --client-cert-hsm-tls-file"),
        (certified.other, "comes from none of the cluster's trust anchors"),
        (old, "has expired by the simulated clock"),
    ):
        line = absence(configured(certified, tmp_path, shown), capfd)
        assert any(f"127.0.0.1:{port} does not take us in: " in line for port in certified.ports)
        assert reason in line
    line = absence(configured(certified, tmp_path, Shown(certified.good.certificate, certified.other.key)), capfd)
    assert "client_key_hsm_tls_path is not the key of the certificate" in line
    swapped = absence(configured(certified, tmp_path, Shown(certified.good.key, certified.good.key)), capfd)
    assert "client_cert_hsm_tls_path has no certificate in PEM" in swapped


def test_a_key_that_everybody_can_read_is_not_used(
    certified: Certified, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shown = certified.first.issue(tmp_path, "open")
    shown.key.chmod(0o604)
    module = Module(configured(certified, tmp_path, shown), start=False)
    assert module.rv("C_Initialize", None) is CKR.GENERAL_ERROR
    assert "open.key, which is not read: every user of this machine can: chmod 600" in capfd.readouterr().err
    shown.key.unlink()
    module = Module(configured(certified, tmp_path, shown), start=False)
    assert module.rv("C_Initialize", None) is CKR.GENERAL_ERROR
    assert "open.key, which cannot be read: No such file" in capfd.readouterr().err
    command = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-aes256"]
    subprocess.run([*command, "-pass", "pass:x", "-out", str(shown.key)], check=True, capture_output=True)
    shown.key.chmod(0o600)
    line = absence(configured(certified, tmp_path, shown), capfd)
    assert "client_key_hsm_tls_path has no key in PEM, or one with a passphrase" in line
