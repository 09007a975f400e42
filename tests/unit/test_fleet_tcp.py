"""Which ports HSMs get, and how clients are told of them."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

import pytest
from msgspec import structs

from hsmsim.config import Places
from hsmsim.errors import HsmsimError
from hsmsim.fleet import hsmconfig, locate, modulecfg, state, tcp
from hsmsim.hsm import tcp as hsm_port

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def places(tmp_path: Path) -> Places:
    made = Places(tmp_path / "home", tmp_path / "run")
    state.make_home(made)
    hsms = tuple(state.Hsm(f"hsm-{letter * 11}") for letter in "abc")
    state.save(made, state.Fleet(clusters=(state.Cluster("cluster-aaaaaaaaaaa", hsms),)))
    return made


def ports(places: Places) -> list[int]:
    return [hsm.port for hsm in state.load(places).hsms()]


def assign(places: Places) -> None:
    for hsm in state.load(places).hsms():
        tcp.assign(places, hsm.hsm_id)


def where(places: Places) -> locate.Where:
    fleet = state.load(places)
    return locate.of_fleet(places, fleet, fleet.only_cluster())


def test_none_unless_asked_for(places: Places) -> None:
    assign(places)
    assert ports(places) == [0, 0, 0]
    with pytest.raises(HsmsimError, match="--hsm-host"):
        tcp.reach(places, where(places))


def test_each_has_its_own_and_keeps_it(places: Places) -> None:
    tcp.choose(places, "127.0.0.1")
    tcp.assign(places, "hsm-bbbbbbbbbbb")
    second = ports(places)[1]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assign(places)
        found = ports(places)
        assert found[1] == second
        assert len(set(found)) == 3
        assert min(found) >= modulecfg.PORT
        assert listening.getsockname()[1] not in found
    assign(places)
    assert ports(places) == found


@pytest.mark.parametrize("taken", [0, 1])
def test_one_that_is_taken_is_passed_over(taken: int, places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setattr(tcp, "PORT", listening.getsockname()[1] - taken)
        tcp.choose(places, "127.0.0.1")
        assign(places)
        assert listening.getsockname()[1] not in ports(places)


@pytest.mark.parametrize(
    ("host", "hostname"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "::1"), ("::", "::1")]
)
def test_what_clients_are_told(host: str, hostname: str, places: Places) -> None:
    tcp.choose(places, host)
    hsms = tuple(structs.replace(hsm, port=4000 + number) for number, hsm in enumerate(state.load(places).hsms()))
    state.save(places, state.load(places).with_cluster(state.Cluster("cluster-aaaaaaaaaaa", hsms)))
    servers = tcp.reach(places, where(places)).servers
    assert [(one.hostname, one.port) for one in servers] == [(hostname, 4000), (hostname, 4001), (hostname, 4002)]
    fleet = state.load(places)
    cluster = fleet.only_cluster()
    places.hsm_folder(cluster.hsms[0].hsm_id).mkdir(parents=True)
    hsmconfig.write(places, fleet, cluster.hsms[0])
    listen = json.loads((places.hsm_folder(cluster.hsms[0].hsm_id) / "config.json").read_text())["listen"]
    assert hsm_port.parse(listen) == (host, 4000)


def test_an_address_that_is_none_or_not_ours(places: Places) -> None:
    with pytest.raises(HsmsimError, match="'localhost' is no IP address"):
        tcp.choose(places, "localhost")
    tcp.choose(places, "192.0.2.1")  # RFC 5737: nobody's
    with pytest.raises(HsmsimError, match=r"192\.0\.2\.1 is no address of this machine"):
        assign(places)
