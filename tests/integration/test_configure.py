"""configure-cli and configure-pkcs11: which cluster is meant, where its HSMs are, what is written."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from support.gateway import running
from support.gateway_parts import SECRET, USER

from hsmsim.cli.cloudhsm import config
from hsmsim.cli.main import main
from hsmsim.config import Places
from hsmsim.fleet import state
from hsmsim.hsm.roots.authority import Authority

if TYPE_CHECKING:
    from collections.abc import Iterator

SECOND = "cluster-bbbbbbbbbbb"
KEYS = {"AWS_ACCESS_KEY_ID": USER.access_key_id, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_EC2_METADATA_DISABLED": "true"}


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with a home and a run folder."""

    places: Places

    def run(self, *arguments: str, status: int = 0, **environment: str) -> str:
        """What the command prints; its complaint if it fails as it should."""
        gone = {name: None for name in os.environ if name.startswith(("AWS_", "HSMSIM_", "XDG_"))}
        home = self.places.home.parent
        folders = {"HOME": str(home), "HSMSIM_HOME": str(self.places.home), "HSMSIM_RUN": str(self.places.run)}
        done = CliRunner().invoke(main, arguments, env=gone | folders | environment)
        assert done.exit_code == status, done.output
        return done.output

    def written(self, *arguments: str, name: str = "cli.cfg", **environment: str) -> dict[str, Any]:
        """The file that configure-cli writes."""
        path = self.places.home.parent / name
        self.run("configure-cli", "--output", str(path), *arguments, **environment)
        found = json.loads(path.read_text())
        assert config.load({"HSMSIM_CLOUDHSM_CLI_CONFIG": str(path)}).clusters
        return dict(found)

    def servers(self, ids: dict[str, str]) -> list[dict[str, object]]:
        """What `servers` is to be. ids: hostnames and the HSMs' ids."""
        return [
            {"hostname": name, "port": 2223, "enable": True, "socket": f"{self.places.run}/{hsm_id}.sock"}
            for name, hsm_id in ids.items()
        ]


@pytest.fixture
def person(tmp_path: Path) -> Person:
    places = Places(tmp_path / "home", tmp_path / "run")
    places.run.mkdir(mode=0o755)
    return Person(places)


@pytest.fixture
def clusters(person: Person) -> tuple[state.Cluster, ...]:
    """Two clusters of the state folder, of two HSMs and of one."""
    with state.lock(person.places):
        for hsms in (2, 1):
            cluster_id = state.create_cluster(person.places).cluster_id
            for _ in range(hsms):
                state.create_hsm(person.places, cluster_id, Authority(person.places.home))
    return state.load(person.places).clusters


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway whose DescribeClusters is that of gateway_parts."""
    with running(tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway.url()


def test_any_cluster_of_the_fleet_can_be_meant(person: Person, clusters: tuple[state.Cluster, ...]) -> None:
    for cluster in clusters:
        (found,) = person.written("--cluster-id", cluster.cluster_id)["clusters"]
        assert found["cluster"]["cluster_id"] == cluster.cluster_id
        assert found["cluster"]["servers"] == person.servers({hsm.hsm_id: hsm.hsm_id for hsm in cluster.hsms})
    assert person.written()["clusters"][0]["cluster"]["cluster_id"] == clusters[0].cluster_id
    both = person.written("--cluster-id", clusters[1].cluster_id, "--add-cluster")["clusters"]
    assert [one["cluster"]["cluster_id"] for one in both] == [one.cluster_id for one in clusters]
    said = person.run("configure-cli", "--cluster-id", SECOND, status=1)
    assert clusters[0].cluster_id in said


def test_the_module_is_configured_for_any_cluster_too(person: Person, clusters: tuple[state.Cluster, ...]) -> None:
    path = person.places.home.parent / "pkcs11.cfg"
    person.run("configure-pkcs11", "--output", str(path), "--cluster-id", clusters[1].cluster_id)
    (found,) = json.loads(path.read_text())["clusters"]
    assert found["cluster"]["servers"] == person.servers({hsm.hsm_id: hsm.hsm_id for hsm in clusters[1].hsms})
    assert found["hsmsim"]["uid"] == state.uid_of(state.load(person.places).account)


def test_a_cluster_is_found_by_describe_clusters(person: Person, endpoint: str) -> None:
    (found,) = person.written("--cluster-id", SECOND, "--endpoint", endpoint, "--region", "eu-central-1", **KEYS)[
        "clusters"
    ]
    assert found == {
        "type": "hsm1",
        "cluster": {
            "cluster_id": SECOND,
            "servers": person.servers({"10.0.0.4": "hsm-aaaaaaaaaaa", "10.0.1.4": "hsm-bbbbbbbbbbb"}),
            "options": {"disable_key_availability_check": False},
        },
        "hsmsim": {"partition": "", "vantage": "", "uid": os.geteuid(), "label": "hsmsim"},
    }
    named = person.written("--cluster-id", SECOND, AWS_ENDPOINT_URL=endpoint, AWS_DEFAULT_REGION="eu-west-1", **KEYS)
    assert named["clusters"] == [found]


def test_an_address_is_found_in_all_clusters(person: Person, endpoint: str) -> None:
    (found,) = person.written("-a", "10.0.1.4", "--endpoint", endpoint, **KEYS)["clusters"]
    assert found["cluster"]["cluster_id"] == SECOND
    assert found["cluster"]["servers"] == person.servers({"10.0.1.4": "hsm-bbbbbbbbbbb"})
    several = ("configure-cli", "-a", "10.0.0.4", "--endpoint", endpoint)
    assert f"cluster-aaaaaaaaaaa, {SECOND}" in person.run(*several, status=1, **KEYS)
    none = ("configure-cli", "-a", "10.9.9.9", "--endpoint", endpoint)
    assert "found: none" in person.run(*none, status=1, **KEYS)


def test_an_hsms_id_is_its_address(person: Person) -> None:
    ids = ("hsm-aaaaaaaaaaa", "hsm-bbbbbbbbbbb")
    (found,) = person.written("-a", ids[0], "-a", ids[1])["clusters"]
    assert found["cluster"]["cluster_id"] == ""
    assert found["cluster"]["servers"] == person.servers({one: one for one in ids})


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        (("-a", "10.0.0.4"), 1, "--endpoint"),
        (("-a", "../../etc/hsm-aaaaaaaaaaa"), 1, "--endpoint"),
        (("-a", "10.0.0.4", "--cluster-id", SECOND), 2, "exclude"),
        (("--region", "eu-central-1"), 2, "--endpoint"),
        (("--cluster-id", SECOND, "--endpoint", "http://127.0.0.1:1"), 1, "http://127.0.0.1:1"),
        (("--cluster-id", SECOND, "--endpoint", "nonsense"), 1, "nonsense"),
        (("--hsm-ca-cert", "/nonexistent.crt"), 2, "/nonexistent.crt"),
    ],
)
def test_what_cannot_be_found_is_said(person: Person, arguments: tuple[str, ...], status: int, reason: str) -> None:
    environment = KEYS | {"AWS_MAX_ATTEMPTS": "1"}
    assert reason in person.run("configure-cli", *arguments, status=status, **environment)


@pytest.mark.parametrize(
    ("cluster_id", "keys", "reason"),
    [
        ("cluster-zzzzzzzzzzz", KEYS, "knows no cluster cluster-zzzzzzzzzzz"),
        ("cluster-aaaaaaaaaaa", KEYS, "no HSM that is ACTIVE"),
        (SECOND, KEYS | {"AWS_SECRET_ACCESS_KEY": "wrong"}, "InvalidSignatureException"),
        (SECOND, {"AWS_EC2_METADATA_DISABLED": "true"}, "credentials"),
    ],
)
def test_what_the_api_refuses_is_said(
    person: Person, endpoint: str, cluster_id: str, keys: dict[str, str], reason: str
) -> None:
    said = person.run("configure-cli", "--cluster-id", cluster_id, "--endpoint", endpoint, status=1, **keys)
    assert reason in said


def test_the_run_folder_of_a_stranger_is_refused(person: Person) -> None:
    if os.geteuid() == 0:
        os.chown(person.places.run, 65534, 65534)
    else:
        person = Person(Places(person.places.home, Path("/nonexistent")))
    assert "HSMSIM_RUN" in person.run("configure-cli", "-a", "hsm-aaaaaaaaaaa", status=1)


def test_the_certificate_is_put_into_a_file_that_is_there(person: Person, clusters: tuple[state.Cluster, ...]) -> None:
    root = person.places.home.parent / "customerCA.crt"
    root.write_text("here\n")
    before = person.written("--cluster-id", clusters[1].cluster_id)
    after = person.written("--hsm-ca-cert", str(root))
    assert after["clusters"][0]["cluster"].pop("hsm_ca_file") == str(root)
    assert after == before
    person.written("--cluster-id", clusters[0].cluster_id, "--add-cluster")
    path = person.places.home.parent / "cli.cfg"
    said = person.run("configure-cli", "--output", str(path), "--hsm-ca-cert", str(root), status=1)
    assert "--cluster-id" in said
    path.write_text("[]")
    said = person.run("configure-cli", "--output", str(path), "--hsm-ca-cert", str(root), status=1)
    assert "no" in said


def test_the_users_file_comes_before_the_systems_and_the_named_one_first(tmp_path: Path) -> None:
    mine = tmp_path / ".config" / "hsmsim"
    mine.mkdir(parents=True)
    environ = {"XDG_CONFIG_HOME": str(tmp_path / ".config")}
    (mine / "pkcs11.cfg").write_text("{}")
    assert config.find(environ) == mine / "pkcs11.cfg"
    (mine / "cloudhsm-cli.cfg").write_text("{}")
    assert config.find(environ) == mine / "cloudhsm-cli.cfg"
    assert config.find(environ | {"HSMSIM_PKCS11_CONFIG": "/m"}) == Path("/m")
    assert config.find(environ | {"HSMSIM_PKCS11_CONFIG": "/m", "HSMSIM_CLOUDHSM_CLI_CONFIG": "/c"}) == Path("/c")
