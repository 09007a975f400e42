"""State that an older version wrote opens in this one: folders that were stored when their revision was the newest.

Vaults are left out, as they are made again from the rows, and what a start writes anyway.
tests/data/state-0001.tar.gz: two HSMs, `hsmsim up`, then `hsmsim key generate ec --label first`; no gateway yet.
tests/data/state-0005.tar.gz: the same, with a gateway whose database is at 0005; in us-east-1 a VPC, the IAM user alice
with an access key and a managed policy (ec2:DescribeVpcs, cloudhsm:Describe*, sts:AssumeRole), the role auditor, whom
she may be (cloudtrail:LookupEvents); then one HSM was deleted, which left a backup. told.json: what they are called.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import tarfile
import tempfile
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError
from msgspec import structs
from support.hsm import Client, mechanism, refused
from support.whole import Whole

from hsmsim.config import Places
from hsmsim.fleet import quickstart, state
from hsmsim.gateway import simulator
from hsmsim.hsm import messages as m
from hsmsim.hsm.client import HsmClient
from hsmsim.hsm.cryptoki import CKM, CKR
from hsmsim.storage.database import Database
from hsmsim.storage.migrate import CLUSTER, GATEWAY, upgrade

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = Path(__file__).resolve().parents[1] / "data"
DIGEST = b"d" * 32
PATIENCE_S = 60
ACCOUNT = "123456789012"


@pytest.fixture
def places() -> Iterator[Places]:
    with stored("state-0001") as found:
        yield found


@contextmanager
def stored(name: str) -> Iterator[Places]:
    """A stored folder, where it is used."""
    folder = Path(tempfile.mkdtemp(prefix="hsmsim-older-"))
    folder.chmod(0o711)
    made = Places(folder / "home", folder / "run")
    try:
        with tarfile.open(DATA / f"{name}.tar.gz") as archive:
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
        for folder in ("clusters", "hsms", "images"):
            if not (places.home / folder).exists():
                continue
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
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == (CLUSTER.head,)


# ---- with a gateway --------------------------------------------------------------------------------------------------


@pytest.fixture
def older() -> Iterator[Older]:
    """What was stored with a gateway; simulated time is when it was: history and backups are kept for 90 days."""
    with stored("state-0005") as places:
        told = json.loads((places.home / "told.json").read_text())
        (places.home / "clock").write_text(f"{int(told['stored'] - time.time())}\n")
        yield Older(places, told)


class Older:
    """The simulator of the stored folder, and what it was told to have."""

    def __init__(self, places: Places, told: dict[str, Any]) -> None:
        self.told = told
        self.whole = Whole(places)
        self.places = places

    @property
    def database(self) -> Path:
        return self.places.gateway_home / "gateway.db"

    def client(self, service: str, keys: dict[str, str] | None = None) -> Any:
        """With these keys, or root's."""
        return self.whole.client(service, keys, "us-east-1")

    def alice_is_who_she_was(self) -> None:
        sts = self.client("sts", self.told["alice"])
        assert sts.get_caller_identity()["Arn"] == f"arn:aws:iam::{ACCOUNT}:user/alice"
        with pytest.raises(ClientError, match="not authorized to perform: cloudtrail:LookupEvents"):
            self.client("cloudtrail", self.told["alice"]).lookup_events()
        auditor = sts.assume_role(RoleArn=self.told["role"], RoleSessionName="audit")["Credentials"]
        wanted = [{"AttributeKey": "EventName", "AttributeValue": "CreateVpc"}]
        events = self.client("cloudtrail", auditor).lookup_events(LookupAttributes=wanted)["Events"]
        assert [json.loads(one["CloudTrailEvent"])["responseElements"]["vpc"]["vpcId"] for one in events] == [
            self.told["vpc"]
        ]


def signs(places: Places, hsm_id: str, pin: str) -> None:
    """The HSM signs with the key `first`."""
    user, password = pin.split(":")
    with Client(places.socket(hsm_id)) as client:
        client.login(user, password)
        public, private = sorted(client.find(label="first"))
        client.verify(public, DIGEST, client.sign(private, DIGEST))


def wait_for_hsm(hsm_api: Any, cluster_id: str) -> str:
    """The id of the newest HSM, once all are ACTIVE."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        (cluster,) = hsm_api.describe_clusters(Filters={"clusterIds": [cluster_id]})["Clusters"]
        if all(one["State"] == "ACTIVE" for one in cluster["Hsms"]):
            return str(cluster["Hsms"][-1]["HsmId"])
        assert time.monotonic() < deadline, cluster
        time.sleep(0.05)


def test_all_that_a_gateway_kept_works(older: Older) -> None:
    told = older.told
    older.whole.run("up", "--detach")  # two HSMs are wanted, one is left: it grows again
    assert quickstart.ready(older.places).pin == told["pin"]
    hsm_ids = quickstart.ready(older.places).hsm_ids
    assert hsm_ids[0] == told["hsm"]
    for hsm_id in hsm_ids:
        signs(older.places, hsm_id, told["pin"])
    older.alice_is_who_she_was()
    alices = older.client("cloudhsmv2", told["alice"])
    (cluster,) = alices.describe_clusters()["Clusters"]
    assert (cluster["ClusterId"], cluster["State"], len(cluster["Hsms"])) == (told["cluster"], "ACTIVE", 2)
    (vpc,) = older.client("ec2", told["alice"]).describe_vpcs(VpcIds=[told["vpc"]])["Vpcs"]
    assert (vpc["CidrBlock"], vpc["Tags"]) == ("10.7.0.0/16", [{"Key": "Name", "Value": "kept"}])
    hsm_api = older.client("cloudhsmv2")
    restored = hsm_api.create_cluster(
        HsmType="hsm2m.medium",
        SubnetIds=list(cluster["SubnetMapping"].values()),
        SourceBackupId=told["backup"],
        Mode="NON_FIPS",
    )["Cluster"]["ClusterId"]
    deadline = time.monotonic() + PATIENCE_S
    while hsm_api.describe_clusters(Filters={"clusterIds": [restored]})["Clusters"][0]["State"] != "ACTIVE":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    hsm_api.create_hsm(ClusterId=restored, AvailabilityZone=min(cluster["SubnetMapping"]))
    signs(older.places, wait_for_hsm(hsm_api, restored), told["pin"])


def test_a_database_of_an_older_revision_is_upgraded_by_the_start(older: Older) -> None:
    newest = older.database.with_name("newest.db")
    older.database.rename(newest)
    database = Database(f"sqlite:///{older.database}")
    with database.write() as connection:
        upgrade(connection, GATEWAY, "0003")
    database.close()
    with closing(sqlite3.connect(older.database, isolation_level=None)) as raw:
        raw.execute("ATTACH ? AS newest", (str(newest),))
        names = [name for (name,) in raw.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'")]
        assert "vpcs" not in " ".join(names)
        for name in set(names) - {"alembic_version", "sqlite_sequence"}:
            raw.execute(f'INSERT INTO main."{name}" SELECT * FROM newest."{name}"')
    newest.unlink()
    shown = older.whole.up()
    assert f"AWS's API does not show {older.told['cluster']}" in shown
    with closing(sqlite3.connect(older.database)) as raw:
        assert raw.execute("SELECT version_num FROM alembic_version").fetchone() == (GATEWAY.head,)
    older.alice_is_who_she_was()
    assert older.client("cloudhsmv2", older.told["alice"]).describe_clusters()["Clusters"] == []
    ec2 = older.client("ec2")
    assert ec2.create_vpc(CidrBlock="10.8.0.0/16")["Vpc"]["State"] == "pending"
    signs(older.places, older.told["hsm"], older.told["pin"])


def test_a_database_of_a_newer_revision_is_refused_and_left_alone(older: Older) -> None:
    with closing(sqlite3.connect(older.database)) as raw, raw:
        raw.execute("UPDATE alembic_version SET version_num = '0999'")
    before = older.database.read_bytes()
    said = older.whole.run("up", "--detach", status=1)
    assert f"The database is at revision 0999, newer than this hsmsim ({GATEWAY.head}). Use the newer version." in said
    assert older.database.read_bytes() == before
