"""A whole CloudHSM for tests: the fleet's daemon, a gateway over it, boto3, and a customer with openssl."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError
from support.fleet import PROGRAM, ROOT, Fleet, fleet
from support.hsm import ADMIN, USERS, Client

from hsmsim.hsm import messages as m

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ACCOUNT = "123456789012"
REGION = "eu-west-1"
PATIENCE_S = 60.0
NO_CLUSTER, NO_BACKUP = "cluster-aaaaaaaaaaa", "backup-aaaaaaaaaaa"
ONCE = Config(retries={"total_max_attempts": 1, "mode": "standard"}, connect_timeout=5, read_timeout=30)


def backup_arn(id_: str, *, account: str = ACCOUNT, region: str = REGION) -> str:
    return f"arn:aws:cloudhsm:{region}:{account}:backup/{id_}"


NOWHERE: dict[str, dict[str, Any]] = {
    "delete_cluster": {"ClusterId": NO_CLUSTER},
    "modify_cluster": {"ClusterId": NO_CLUSTER, "HsmType": "hsm2m.medium"},
    "initialize_cluster": {"ClusterId": NO_CLUSTER, "SignedCert": "a", "TrustAnchor": "a"},
    "create_hsm": {"ClusterId": NO_CLUSTER, "AvailabilityZone": f"{REGION}a"},
    "delete_hsm": {"ClusterId": NO_CLUSTER, "HsmId": "hsm-aaaaaaaaaaa"},
    "create_cluster": {
        "HsmType": "hsm2m.medium",
        "SubnetIds": ["subnet-0123456789abcdef0"],
        "SourceBackupId": NO_BACKUP,
    },
    "copy_backup_to_region": {"BackupId": NO_BACKUP, "DestinationRegion": "us-west-2"},
    "delete_backup": {"BackupId": NO_BACKUP},
    "restore_backup": {"BackupId": NO_BACKUP},
    "modify_backup_attributes": {"BackupId": NO_BACKUP, "NeverExpires": True},
    "tag_resource": {"ResourceId": NO_CLUSTER, "TagList": [{"Key": "a", "Value": "b"}]},
    "untag_resource": {"ResourceId": NO_BACKUP, "TagKeyList": ["a"]},
    "list_tags": {"ResourceId": NO_BACKUP},
    "put_resource_policy": {"ResourceArn": backup_arn(NO_BACKUP), "Policy": "{}"},
    "get_resource_policy": {"ResourceArn": backup_arn(NO_BACKUP)},
    "delete_resource_policy": {"ResourceArn": backup_arn(NO_BACKUP)},
}
"""What operations are asked that are about something that is not there."""


@dataclass(slots=True)
class Simulator:
    """The processes, and what a user does with them."""

    fleet: Fleet
    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    url: str = ""
    vpc: str = ""
    subnets: list[str] = field(default_factory=list)
    """In zones a, b and c of one VPC; then another in a of the same VPC, and one in b of another."""
    killed: set[str] = field(default_factory=set)
    """The places at which the gateway was killed, see `dying`."""

    # ---- processes -----------------------------------------------------------------------------------------------

    def start(self, die_at: str = "") -> None:
        """The gateway; it goes on with what is in its folder, and dies as cloudhsm_parts.py says."""
        ready, path = self.folder / "ready.json", self.folder / "gateway.json"
        ready.unlink(missing_ok=True)
        path.write_text(
            json.dumps(
                {
                    "home": str(self.fleet.places.home),
                    "port": 0,
                    "ready": str(ready),
                    "fleet": str(self.fleet.places.fleet_socket),
                    **self.config,
                }
            )
        )
        environment = {
            **os.environ,
            "HSMSIM_HOME": str(self.fleet.places.home),
            "HSMSIM_RUN": str(self.fleet.places.run),
            "TESTS_DIE_AT": die_at,
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        }
        command = [sys.executable, "-P", str(ROOT / "tests/support/cloudhsm_parts.py"), str(path)]
        with (self.folder / "gateway.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        deadline = time.monotonic() + PATIENCE_S
        while not ready.exists():
            if self.process.poll() is not None:
                assert die_at, self.log
                return
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)
        self.url = f"http://127.0.0.1:{json.loads(ready.read_text())['http']}"

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """The gateway only."""
        assert self.process is not None
        self.process.send_signal(how)
        self.process.wait(30)

    def restart(self, how: signal.Signals = signal.SIGKILL) -> None:
        self.end(how)
        self.start()

    @contextmanager
    def dying(self, *places: str) -> Iterator[None]:
        """What is done in it leads to a gateway that is killed at these places of its steps, one after another.

        The first may come before the answer has left: what was done is to be looked up, not taken from the answer.
        """
        self.manage("POST", "/die", at=places[0])
        with suppress(ConnectionClosedError, ConnectionError):
            yield
        for place, following in zip(places, (*places[1:], ""), strict=True):
            self.dead(place)
            self.start(following)

    def dead(self, place: str) -> None:
        """Wait until the gateway has been killed at this place."""
        assert self.process is not None
        try:
            assert self.process.wait(PATIENCE_S) == -signal.SIGKILL, self.log[-4000:]
        except subprocess.TimeoutExpired:
            pytest.fail(f"The gateway never came to {place}.\n{self.log[-4000:]}")
        self.killed.add(place)

    def asked(self) -> set[str]:
        """The steps that have asked the fleet for something."""
        return set((self.fleet.places.home / "asked").read_text(encoding="ascii").split())

    @property
    def log(self) -> str:
        return (self.folder / "gateway.log").read_text()

    def lay_network(self) -> None:
        """The customer's VPCs, by EC2."""
        ec2 = self.client("ec2")
        self.vpc, other = (ec2.create_vpc(CidrBlock=block)["Vpc"]["VpcId"] for block in ("10.0.0.0/16", "10.1.0.0/16"))
        for number, (zone, vpc) in enumerate([*((zone, self.vpc) for zone in "abca"), ("b", other)]):
            second = 0 if vpc == self.vpc else 1
            made = ec2.create_subnet(
                VpcId=vpc, AvailabilityZone=f"{REGION}{zone}", CidrBlock=f"10.{second}.{number}.0/24"
            )
            self.subnets.append(made["Subnet"]["SubnetId"])

    def interfaces(self) -> list[dict[str, Any]]:
        return list(self.client("ec2").describe_network_interfaces()["NetworkInterfaces"])

    def groups(self) -> dict[str, dict[str, Any]]:
        """The security groups of the customer's VPC by id, without its default one."""
        filters = [{"Name": "vpc-id", "Values": [self.vpc]}]
        found = self.client("ec2").describe_security_groups(Filters=filters)["SecurityGroups"]
        return {group["GroupId"]: group for group in found if group["GroupName"] != "default"}

    # ---- clients -------------------------------------------------------------------------------------------------

    @property
    def root(self) -> dict[str, str]:
        """The root user's keys."""
        kept = json.loads((self.fleet.places.home / "root-key.json").read_text())
        return {"AccessKeyId": kept["access_key_id"], "SecretAccessKey": kept["secret_access_key"]}

    def client(self, service: str = "cloudhsmv2", keys: dict[str, str] | None = None, region: str = REGION) -> Any:
        """boto3 with these keys, or root's."""
        keys = keys or self.root
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name=region,
            aws_access_key_id=keys["AccessKeyId"],
            aws_secret_access_key=keys["SecretAccessKey"],
            config=ONCE,
        )

    def manage(self, method: str, path: str, **members: Any) -> dict[str, Any]:
        connection = http.client.HTTPConnection("localhost", timeout=30)
        connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.sock.connect(str(self.fleet.places.home / "gateway.sock"))
        try:
            connection.request(method, path, json.dumps(members) if members else None)
            answer = connection.getresponse()
            body = json.loads(answer.read())
            assert answer.status == 200, body
            return dict(body)
        finally:
            connection.close()

    def advance(self, **span: float) -> None:
        """Simulated time: days=, hours=, minutes=."""
        units = {"days": 86_400, "hours": 3600, "minutes": 60, "seconds": 1}
        self.manage("POST", "/advance", seconds=int(sum(units[name] * value for name, value in span.items())))

    def hsm(self, hsm_id: str, *, profile: int = 2) -> Client:
        """The HSM's wire, without the availability check."""
        return Client(self.fleet.places.socket(hsm_id), profile=profile)

    # ---- what a user does ----------------------------------------------------------------------------------------

    def cluster(self, id_: str) -> dict[str, Any]:
        found = self.client().describe_clusters(Filters={"clusterIds": [id_]})["Clusters"]
        assert len(found) == 1, found
        return dict(found[0])

    def backups(self, **filters: list[str]) -> list[dict[str, Any]]:
        return list(self.client().describe_backups(Filters=filters, SortAscending=True)["Backups"])

    def when(self, id_: str, met: Callable[[dict[str, Any]], Any], seconds: float = PATIENCE_S) -> dict[str, Any]:
        """The cluster, once it is so."""
        deadline = time.monotonic() + seconds
        while not met(found := self.cluster(id_)):
            assert time.monotonic() < deadline, f"{found}\n{self.log[-4000:]}"
            time.sleep(0.05)
        return found

    def until(self, id_: str, state: str) -> dict[str, Any]:
        return self.when(id_, lambda found: found["State"] == state)

    def settled(self, id_: str) -> dict[str, Any]:
        """The cluster, once all its HSMs are there and its backups written."""

        def met(found: dict[str, Any]) -> bool:
            writing = self.backups(clusterIds=[id_], states=["CREATE_IN_PROGRESS"])
            return not writing and all(hsm["State"] in {"ACTIVE", "DEGRADED"} for hsm in found["Hsms"])

        return self.when(id_, met)

    def eventually(self, met: Callable[[], Any], seconds: float = PATIENCE_S) -> Any:
        """What it returns, once that is true."""
        deadline = time.monotonic() + seconds
        while not (found := met()):
            assert time.monotonic() < deadline, self.log[-4000:]
            time.sleep(0.05)
        return found

    def create(self, *, subnets: list[str] | None = None, **more: Any) -> str:
        mode = {} if "SourceBackupId" in more else {"Mode": "FIPS"}
        wanted = {"HsmType": "hsm2m.medium", "SubnetIds": subnets or self.subnets[:3], **mode, **more}
        id_ = str(self.client().create_cluster(**wanted)["Cluster"]["ClusterId"])
        self.until(id_, "ACTIVE" if "SourceBackupId" in more else "UNINITIALIZED")
        return id_

    def add(self, id_: str, zone: str = "a", **more: Any) -> dict[str, Any]:
        """An HSM that is ACTIVE."""
        made = self.client().create_hsm(ClusterId=id_, AvailabilityZone=f"{REGION}{zone}", **more)["Hsm"]

        def up(found: dict[str, Any]) -> bool:
            return any(hsm["HsmId"] == made["HsmId"] and hsm["State"] == "ACTIVE" for hsm in found["Hsms"])

        found = self.when(id_, up)
        return next(hsm for hsm in found["Hsms"] if hsm["HsmId"] == made["HsmId"])

    def remove(self, id_: str, hsm_id: str) -> dict[str, Any]:
        self.client().delete_hsm(ClusterId=id_, HsmId=hsm_id)
        return self.when(id_, lambda found: all(hsm["HsmId"] != hsm_id for hsm in found["Hsms"]))

    def sign(self, id_: str) -> tuple[str, str]:
        """The customer: a root and the certificate that it gives to the cluster's CSR, by openssl."""
        return signed(self.folder / id_, self.cluster(id_)["Certificates"]["ClusterCsr"])

    def initialize(self, id_: str) -> dict[str, Any]:
        certificate, root = self.sign(id_)
        self.client().initialize_cluster(ClusterId=id_, SignedCert=certificate, TrustAnchor=root)
        return self.until(id_, "INITIALIZED")

    def activate(self, hsm_id: str) -> None:
        """What cloudhsm-cli does; and the users alice, bob, ..."""
        with self.hsm(hsm_id) as client:
            client.call(m.ActivateRequest(ADMIN.encode()))
            client.admin()
            for name, password in USERS.items():
                client.call(m.UserCreateRequest(name.encode(), 2, password.encode()))

    def active(self, **more: Any) -> tuple[str, dict[str, Any]]:
        """A cluster that is ACTIVE, and its HSM."""
        id_ = self.create(**more)
        hsm = self.add(id_)
        self.initialize(id_)
        self.activate(hsm["HsmId"])
        self.until(id_, "ACTIVE")
        self.settled(id_)
        return id_, hsm


def openssl(folder: Path, *arguments: str, check: bool = True) -> str:
    """Run openssl in a folder; its output."""
    done = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout


def signed(folder: Path, csr: str, *, key: tuple[str, ...] = ("rsa:2048",), digest: str = "-sha256") -> tuple[str, str]:
    """A root with such a key, and the certificate that it gives to the CSR."""
    folder.mkdir(exist_ok=True)
    (folder / "cluster.csr").write_text(csr)
    root = ("-keyout", "root.key", "-out", "root.crt", "-subj", "/CN=customer root", "-days", "3652", digest)
    openssl(folder, "req", "-x509", "-newkey", *key, "-nodes", *root)
    by = ("-CA", "root.crt", "-CAkey", "root.key", "-CAcreateserial", digest, "-days", "3652")
    openssl(folder, "x509", "-req", "-in", "cluster.csr", *by, "-out", "signed.crt")
    return (folder / "signed.crt").read_text(), (folder / "root.crt").read_text()


@contextmanager
def refused(code: str, text: str = "", status: int = 400) -> Iterator[None]:
    """What is done in it gets this error, with this in its sentence."""
    with pytest.raises(ClientError) as caught:
        yield
    response = caught.value.response
    assert (response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]) == (code, status), response
    assert text in response["Error"]["Message"]


@contextmanager
def simulator(program: tuple[str, ...] = PROGRAM, **config: Any) -> Iterator[Simulator]:
    """Processes that run, the fleet's daemon from this program; all of them are gone at the end."""
    with fleet(program) as made:
        one = Simulator(made, made.places.home.parent, config)
        try:
            one.start()
            one.lay_network()
            yield one
        finally:
            if one.process is not None and one.process.poll() is None:
                one.end()
