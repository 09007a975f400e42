"""Folders and files of the simulator: who may read them, what happens when they are wrong."""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING

import pytest

from hsmsim.config import Places, softhsm_library
from hsmsim.errors import HsmsimError
from hsmsim.fleet import credentials, hsmconfig, locate, modulecfg, state
from hsmsim.fleet.credentials import Credential
from hsmsim.hsm.roots.authority import Authority
from hsmsim.ids import new_hsm_id

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "home", tmp_path / "run")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_folders_follow_the_environment(tmp_path: Path) -> None:
    chosen = Places.resolve({"HSMSIM_HOME": str(tmp_path), "HSMSIM_RUN": str(tmp_path / "r")})
    assert (chosen.home, chosen.run) == (tmp_path, tmp_path / "r")


def test_another_home_has_another_run_folder(tmp_path: Path) -> None:
    one = Places.resolve({"HSMSIM_HOME": str(tmp_path / "a")}).run
    other = Places.resolve({"HSMSIM_HOME": str(tmp_path / "b")}).run
    assert one != other
    assert one.name.startswith(f"hsmsim-{os.geteuid()}-")


def test_state_is_for_its_owner_alone(places: Places) -> None:
    with state.lock(places):
        cluster = state.create_cluster(places)
        hsm = state.create_hsm(places, cluster.cluster_id, Authority(places.home))
    hsmconfig.write(places, state.load(places), hsm)
    assert mode(places.home) & 0o707 == 0o700
    assert mode(places.fleet_file) == 0o600
    assert mode(places.hsm_folder(hsm.hsm_id)) == 0o700
    assert mode(places.cluster_folder(cluster.cluster_id)) == 0o700
    assert mode(places.hsm_folder(hsm.hsm_id) / "config.json") == 0o600


def test_an_hsm_is_told_where_everything_is(places: Places) -> None:
    with state.lock(places):
        cluster = state.create_cluster(places, availability_check=False)
        hsm = state.create_hsm(places, cluster.cluster_id, Authority(places.home), state.Hsm(new_hsm_id(), "softhsm"))
    hsmconfig.write(places, state.load(places), hsm)
    config = json.loads((places.hsm_folder(hsm.hsm_id) / "config.json").read_text())
    assert config == {
        "hsm_id": hsm.hsm_id,
        "cluster_id": cluster.cluster_id,
        "database_url": f"sqlite:///{places.home}/clusters/{cluster.cluster_id}/cluster.db",
        "socket": f"{places.run}/{hsm.hsm_id}.sock",
        "folder": f"{places.home}/hsms/{hsm.hsm_id}",
        "engine": "softhsm",
        "timing": "",
        "softhsm_library": str(softhsm_library()),
        "availability_check": False,
        "model": "hsm2m.medium",
        "workers": 0,
        "mode": "NON_FIPS",
        "clock": f"{places.run}/clock",
        "images": f"{places.home}/images",
    }
    assert state.load(places).cluster_of(hsm.hsm_id).cluster_id == cluster.cluster_id


def test_a_home_open_to_others_is_refused(places: Places) -> None:
    places.home.mkdir(mode=0o755)
    with pytest.raises(HsmsimError, match="chmod 700"), state.lock(places):
        pass


def test_a_damaged_fleet_file_is_named(places: Places) -> None:
    state.make_home(places)
    places.fleet_file.write_text("{")
    with pytest.raises(HsmsimError, match=r"fleet\.json is damaged"):
        state.load(places)


def test_an_unknown_hsm_is_named_with_those_that_exist(places: Places) -> None:
    with state.lock(places):
        cluster = state.create_cluster(places)
        hsm = state.create_hsm(places, cluster.cluster_id, Authority(places.home))
    hsmconfig.write(places, state.load(places), hsm)
    with pytest.raises(HsmsimError, match=f"no HSM hsm-nonsense.*{hsm.hsm_id}"):
        state.load(places).hsm("hsm-nonsense")


def test_a_run_folder_that_others_may_write_is_refused(places: Places) -> None:
    places.run.mkdir()
    places.run.chmod(0o777)
    with pytest.raises(HsmsimError, match="can be changed by another user"):
        state.make_run(places, "")


def test_a_run_folder_behind_a_link_is_refused(places: Places, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    places.run.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HsmsimError, match="can be changed by another user"):
        state.make_run(places, "")


def test_a_run_folder_too_long_for_sockets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HsmsimError, match="107 bytes"):
        state.make_run(Places(tmp_path, tmp_path / ("x" * 100)), "")


def test_a_written_file_is_whole_or_not_there(places: Places) -> None:
    state.make_home(places)
    path = places.home / "file"
    state.write_private(path, b"one")
    state.write_private(path, b"two")
    assert path.read_bytes() == b"two"
    assert [one.name for one in places.home.iterdir()] == ["file"]


def test_a_link_in_place_of_a_secret_file_is_not_followed(places: Places, tmp_path: Path) -> None:
    state.make_home(places)
    (tmp_path / "bait").write_text("{}")
    places.credentials_file.symlink_to(tmp_path / "bait")
    with pytest.raises(HsmsimError, match="cannot be read"):
        credentials.load(places)


def test_credentials_are_kept_changed_and_forgotten(places: Places) -> None:
    with state.lock(places):
        cluster = state.create_cluster(places)
    one = Credential(cluster.cluster_id, "", "app", "crypto-user", credentials.new_password())
    credentials.keep(places, one)
    assert mode(places.credentials_file) == 0o600
    assert credentials.find(places, cluster.cluster_id, "", "crypto-user") == one
    assert credentials.find(places, cluster.cluster_id, "", "crypto-user", "APP") == one
    assert credentials.find(places, cluster.cluster_id, "", "crypto-user", "other") is None
    assert credentials.find(places, cluster.cluster_id, "payments", "crypto-user") is None
    changed = Credential(cluster.cluster_id, "", "app", "crypto-user", "another password")
    credentials.change(places, changed)
    assert credentials.load(places) == (changed,)
    credentials.forget(places, "", "App")
    assert credentials.load(places) == ()


def test_a_password_of_a_user_who_is_not_kept_is_not_written_down(places: Places) -> None:
    state.make_home(places)
    credentials.change(places, Credential("cluster-x", "", "alice", "crypto-user", "secret of alice"))
    assert credentials.load(places) == ()


def test_new_passwords_suit_pins_shells_and_uris() -> None:
    made = {credentials.new_password() for _ in range(50)}
    assert len(made) == 50
    assert all(len(one) == 24 and one.isascii() and one.isalnum() for one in made)


def test_the_module_is_told_every_server_and_no_secret(places: Places) -> None:
    with state.lock(places):
        cluster_id = state.create_cluster(places).cluster_id
        hsms = [state.create_hsm(places, cluster_id, Authority(places.home)) for _ in range(2)]
    fleet = state.load(places)
    where = locate.of_fleet(places, fleet, fleet.only_cluster())
    options = modulecfg.Options(partition="payments", label="pay", key_availability_check=False, profile="cloudhsm")
    content = json.loads(modulecfg.encoded(modulecfg.document(where, options)))
    assert content == {
        "clusters": [
            {
                "type": "hsm2m",
                "cluster": {
                    "cluster_id": cluster_id,
                    "servers": [
                        {
                            "hostname": one.hsm_id,
                            "port": 2223,
                            "enable": True,
                            "socket": f"{places.run}/{one.hsm_id}.sock",
                        }
                        for one in hsms
                    ],
                    "options": {"disable_key_availability_check": True},
                },
                "hsmsim": {"partition": "payments", "vantage": "", "uid": os.geteuid(), "label": "pay"},
            }
        ],
        "logging": {"log_type": "term", "log_level": "warn"},
        "hsmsim": {"profile": "cloudhsm", "timeout_ms": 5000, "transport": "auto", "retry_mode": "standard"},
    }
