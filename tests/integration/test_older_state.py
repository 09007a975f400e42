"""State that an older version wrote opens in this one: folders that were stored when their revision was the newest.

tests/data/state-0001.tar.gz: two HSMs, `hsmsim up`, then `hsmsim key generate ec --label first`; vaults left out, as
they are made again from the rows.
"""

from __future__ import annotations

import shutil
import sqlite3
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from msgspec import structs
from support.hsm import Client, mechanism, refused
from support.whole import Whole

from hsmsim.config import Places
from hsmsim.fleet import quickstart, state
from hsmsim.gateway import simulator
from hsmsim.hsm import messages as m
from hsmsim.hsm.client import HsmClient
from hsmsim.hsm.cryptoki import CKM, CKR

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = Path(__file__).resolve().parents[1] / "data"
DIGEST = b"d" * 32


@pytest.fixture
def places() -> Iterator[Places]:
    folder = Path(tempfile.mkdtemp(prefix="hsmsim-older-"))
    folder.chmod(0o711)
    made = Places(folder / "home", folder / "run")
    try:
        with tarfile.open(DATA / "state-0001.tar.gz") as archive:
            archive.extractall(folder, filter="data")
        settle(made)
        yield made
    finally:
        simulator.take_down(made)
        shutil.rmtree(folder)


def settle(places: Places) -> None:
    """Give the folder to whom the HSMs run as here."""
    places.home.chmod(0o700)
    for path in places.home.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    account = state.choose_account(places)
    fleet = structs.replace(state.load(places), account=account)
    with state.lock(places):
        state.make_home(places, account)
        for folder in ("clusters", "hsms"):
            (places.home / folder).chmod(0o711)
            for path in (places.home / folder).rglob("*"):
                state.give(path, account)
        state.save(places, fleet)


def test_up_goes_on_with_it_and_names_it(places: Places) -> None:
    one = Whole(places)
    said = one.run("up", "--detach")
    assert "AWS's API does not show cluster-" in said
    assert "first" in one.run("key", "list")
    assert one.client("cloudhsmv2").describe_clusters()["Clusters"] == []


def test_a_cluster_of_revision_0001_goes_on_with_its_users_and_keys(places: Places) -> None:
    ready = quickstart.bring_up(places, lambda _: None)
    assert len(ready.hsm_ids) == 2
    user, password = ready.pin.split(":")
    for hsm_id in ready.hsm_ids:
        with Client(places.socket(hsm_id)) as client:
            client.login(user, password)
            public, private = sorted(client.find(label="first"))
            client.verify(public, DIGEST, client.sign(private, DIGEST))
    with HsmClient(places.socket(ready.hsm_ids[0])) as wire:
        info = wire.call(m.HsmInfoRequest())
        assert (info.state, info.mode, info.limited_write) == (b"ACTIVE", b"NON_FIPS", 0)
        assert wire.call(m.CertificatesRequest()) == m.CertificatesResponse(b"", b"", b"", b"", b"", b"")
        wire.call(m.LimitedWriteRequest(1))
    with Client(places.socket(ready.hsm_ids[1])) as client:
        client.login(user, password)
        with refused(CKR.TOKEN_WRITE_PROTECTED):
            client.aes(token=True)
        assert len(client.call(m.EncryptRequest(client.aes(), mechanism(CKM.AES_ECB), bytes(16))).data) == 16
    added = quickstart.add_hsm(places)
    with Client(places.socket(added)) as client:
        client.login(user, password)
        client.verify(public, DIGEST, client.sign(private, DIGEST))
    database = places.cluster_folder(ready.cluster_id) / "cluster.db"
    with sqlite3.connect(database) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == ("0002",)
