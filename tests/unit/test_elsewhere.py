"""How an HSM of another host is made and certified, and what is refused; docs/how-to/several-hosts.md runs it."""

from __future__ import annotations

import base64
import stat
from typing import TYPE_CHECKING

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import structs

from hsmsim.config import Places
from hsmsim.errors import HsmsimError
from hsmsim.fleet import elsewhere, hsmconfig, locate, state
from hsmsim.hsm.roots import devices
from hsmsim.hsm.roots.process import Roots

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DATABASE = "postgresql://hsmsim@10.0.0.9/hsmsim"
CLUSTER = state.Cluster("cluster-aaaaaaaaaaa", (state.Hsm("hsm-aaaaaaaaaaa", port=2223),), timing="hsm1.medium")
ASKED = elsewhere.Request("hsm-bbbbbbbbbbb", "10.0.0.2:2223", bytes(31) + b"\x09", b"")


def places_at(folder: Path, fleet: state.Fleet) -> Places:
    made = Places(folder / "home", folder / "run")
    folder.mkdir(mode=0o700)
    state.make_home(made)
    state.save(made, fleet)
    return made


@pytest.fixture
def first(tmp_path: Path) -> Places:
    return places_at(tmp_path / "first", state.Fleet(clusters=(CLUSTER,), database=DATABASE, host="10.0.0.1"))


@pytest.fixture
def second(tmp_path: Path) -> Places:
    return places_at(tmp_path / "second", state.Fleet())


@pytest.fixture
def roots(first: Places) -> Iterator[Roots]:
    with Roots(first.home) as made:
        yield made


def test_what_is_certified_is_the_seed_that_stays(first: Places, second: Places, roots: Roots) -> None:
    asked = elsewhere.request(second, "10.0.0.2:2300")
    seed = second.hsm_folder(asked.hsm_id) / devices.SEED
    assert stat.S_IMODE(seed.stat().st_mode) == 0o600
    sent = msgspec.json.encode(asked)
    back = msgspec.json.encode(elsewhere.certify(first, roots, elsewhere.read_request(sent)))
    answer = elsewhere.read_certified(back)
    root = x509.load_pem_x509_certificate(answer.certificates[devices.MANUFACTURER_CERTIFICATE])
    device = x509.load_pem_x509_certificate(answer.certificates[devices.DEVICE_CERTIFICATE])
    der = device.public_bytes(Encoding.DER)
    assert devices.certified_key(der, asked.hsm_id, root) == devices.device_public(seed.read_bytes())
    hardware = x509.load_pem_x509_certificate(answer.certificates[devices.AWS_HARDWARE]).public_key()
    assert hardware == devices.hardware_public(seed.read_bytes())
    assert base64.b64encode(seed.read_bytes()) not in sent + back
    assert (answer.cluster_id, answer.timing, answer.address) == (CLUSTER.cluster_id, "hsm1.medium", "10.0.0.2:2300")
    fleet = state.load(first)
    assert elsewhere.elsewhere_of(fleet) == [state.Elsewhere(asked.hsm_id, "10.0.0.2", 2300)]
    where = locate.of_fleet(first, fleet, fleet.only_cluster())
    assert [(one.hostname, one.port) for one in where.elsewhere] == [("10.0.0.2", 2300)]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"database": ""}, "must reach the rows"),
        ({"database": "local"}, "must reach the rows"),
        ({"host": ""}, "must reach the rows"),
        ({"host": "0.0.0.0"}, "must reach the rows"),
        ({"clusters": (structs.replace(CLUSTER, hsms=()),)}, "must reach the rows"),
        ({"clusters": (structs.replace(CLUSTER, guest=True),)}, "another host's cluster"),
    ],
)
def test_a_cluster_that_other_hosts_do_not_reach_has_no_hsms_there(
    first: Places, roots: Roots, changes: dict[str, object], why: str
) -> None:
    state.save(first, structs.replace(state.load(first), **changes))
    with pytest.raises(HsmsimError, match=why):
        elsewhere.certify(first, roots, ASKED)
    assert elsewhere.elsewhere_of(state.load(first)) == []


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"hsm_id": "hsm-aaaaaaaaaaa"}, "already"),
        ({"address": "10.0.0.1:2223"}, "already"),
        ({"address": "second:2223"}, "an IP address and a port"),
        ({"hsm_id": "../hsm"}, "is no HSM's id"),
        ({"hardware": b"nonsense"}, "cannot be read"),
        ({"device": bytes(31)}, "cannot be read"),
    ],
)
def test_a_request_that_is_none(first: Places, roots: Roots, changes: dict[str, object], why: str) -> None:
    hardware = devices.hardware_public(bytes(32)).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(HsmsimError, match=why):
        elsewhere.certify(first, roots, structs.replace(structs.replace(ASKED, hardware=hardware), **changes))
    assert elsewhere.elsewhere_of(state.load(first)) == []


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"null", b'{"hsm_id": "hsm-aaaaaaaaaaa"}'])
def test_what_other_commands_print_is_refused(text: bytes) -> None:
    with pytest.raises(HsmsimError, match="not what hsmsim hsm request prints"):
        elsewhere.read_request(text)
    with pytest.raises(HsmsimError, match="not what hsmsim hsm certify prints"):
        elsewhere.read_certified(text)


def certified(certificates: dict[str, bytes]) -> elsewhere.Certified:
    place = ("hsm-bbbbbbbbbbb", "10.0.0.2:2223", CLUSTER.cluster_id, "hsm2m.medium", "NON_FIPS")
    return elsewhere.Certified(*place, availability_check=True, timing="", certificates=certificates)


def test_certificates_under_other_names_go_nowhere() -> None:
    with pytest.raises(HsmsimError, match="not whole"):
        elsewhere.read_certified(msgspec.json.encode(certified({"../x": b""})))


def test_nothing_is_installed_that_was_not_made_here(second: Places) -> None:
    with pytest.raises(HsmsimError, match="was not made here"):
        elsewhere.install(second, certified({}), DATABASE)
    assert state.load(second) == state.Fleet()


def test_a_guest_host_makes_no_hsm_by_itself(second: Places) -> None:
    state.save(second, state.Fleet(clusters=(structs.replace(CLUSTER, guest=True),)))
    with Roots(second.home) as roots, pytest.raises(HsmsimError, match="hsmsim hsm request"):
        state.create_hsm(second, CLUSTER.cluster_id, roots)


def test_an_hsm_tells_others_its_address_where_there_may_be_others(first: Places) -> None:
    first.hsm_folder("hsm-aaaaaaaaaaa").mkdir(parents=True)

    def told(fleet: state.Fleet) -> str:
        hsmconfig.write(first, fleet, fleet.hsm("hsm-aaaaaaaaaaa"))
        config = msgspec.json.decode((first.hsm_folder("hsm-aaaaaaaaaaa") / "config.json").read_bytes())
        found: str = config.get("advertise", "")
        return found

    fleet = state.load(first)
    assert told(fleet) == "10.0.0.1:2223"
    for changes in ({"database": ""}, {"host": "::"}, {"host": ""}):
        assert told(structs.replace(fleet, **changes)) == ""
