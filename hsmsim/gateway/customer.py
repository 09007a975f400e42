"""The cluster of `hsmsim up`, made as a customer makes one: with AWS's APIs, a CA of one's own, and a first password.

Every step looks first whether it was done, so that it can be repeated after any crash. The cluster is known by its tag.
A cluster that the API does not know (of a state folder from before there was a gateway) is not this module's.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session

from hsmsim.errors import HsmsimError
from hsmsim.fleet import customer, quickstart
from hsmsim.gateway import manage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from hsmsim.config import Places

TAG: Final = {"Key": "hsmsim", "Value": "quickstart"}
HSM_TYPE: Final = "hsm2m.medium"
MODE: Final = "NON_FIPS"
PATIENCE_S: Final = 90.0
_PAUSES_S: Final = (0.1, 2.0)
_SETTLE_S: Final = 2.0
_WORKS: Final = frozenset({"INITIALIZED", "ACTIVE"})


def session() -> Session:
    """Return what clients are made by, with what takes longest read already; it needs no gateway."""
    made = Session()
    for service in ("cloudhsmv2", "ec2"):
        made.get_service_model(service)
    return made


class Customer:
    """Whoever has the root user's key of the first account."""

    def __init__(
        self, environment: dict[str, str], management: Callable[[], Iterable[Path]], by: Session | None = None
    ) -> None:
        """environment: as gateway.launch.environment gives it; management: the sockets of the gateways that run."""
        self._environment = environment
        self._management = management
        self._session = by or Session()
        self._hsm = self._client("cloudhsmv2")

    def _client(self, service: str) -> Any:  # noqa: ANN401 - botocore's clients are made at run time
        return self._session.create_client(
            service,
            region_name=self._environment["AWS_REGION"],
            endpoint_url=self._environment["AWS_ENDPOINT_URL"],
            aws_access_key_id=self._environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self._environment["AWS_SECRET_ACCESS_KEY"],
            config=Config(retries={"total_max_attempts": 3, "mode": "standard"}, connect_timeout=5, read_timeout=60),
        )

    def cluster_ids(self) -> set[str]:
        """Return the clusters that the API knows in this account and region."""
        return {one["ClusterId"] for one in self._clusters()}

    def bring_up(self, places: Places, say: Callable[[str], None], hsms: int, wanted: str = "") -> str:
        """Make what is missing of the cluster `wanted`, or of the one with the tag; return its id.

        The HSMs that are there run already.
        """
        try:
            cluster_id = wanted or self._find() or self._create(say)
            self._grow(cluster_id, say, 1, hsms)
            self._initialize(places, cluster_id, say)
            quickstart.activate(places, cluster_id, say)
            self._wait(cluster_id, lambda cluster: cluster["State"] == "ACTIVE")
            self._grow(cluster_id, say, hsms, hsms)
            quickstart.activate(places, cluster_id, say)  # the module's configuration names every HSM
        except (ClientError, BotoCoreError) as error:
            raise HsmsimError(f"The cluster could not be made with AWS's API: {error}") from error
        return cluster_id

    def _grow(self, cluster_id: str, say: Callable[[str], None], wanted: int, of: int) -> None:
        while (there := len(self._serving(cluster_id)["Hsms"])) < wanted:
            say(f"Making HSM {there + 1} of {of}")
            self.create_hsm(cluster_id)

    def create_hsm(self, cluster_id: str) -> str:
        """Make one more HSM, in the zone that has the fewest, and wait until it serves; return its id."""
        cluster = self._cluster(cluster_id)
        used = [one["AvailabilityZone"] for one in cluster["Hsms"]]
        zone = min(sorted(cluster["SubnetMapping"]), key=used.count)
        made: str = self._hsm.create_hsm(ClusterId=cluster_id, AvailabilityZone=zone)["Hsm"]["HsmId"]
        self._settled(cluster_id)
        return made

    def _clusters(self) -> list[dict[str, Any]]:
        pages = self._hsm.get_paginator("describe_clusters").paginate()
        return [one for page in pages for one in page["Clusters"] if not one["State"].startswith("DELETE")]

    def _cluster(self, cluster_id: str) -> dict[str, Any]:
        found = self._hsm.describe_clusters(Filters={"clusterIds": [cluster_id]})["Clusters"]
        if not found:
            raise HsmsimError(f"AWS's API does not know {cluster_id} any more.")
        cluster: dict[str, Any] = found[0]
        return cluster

    def _find(self) -> str:
        return next((one["ClusterId"] for one in self._clusters() if TAG in one["TagList"]), "")

    def _create(self, say: Callable[[str], None]) -> str:
        say("Making a cluster in the default VPC")
        wanted = [{"Name": "default-for-az", "Values": ["true"]}]
        subnets = self._client("ec2").describe_subnets(Filters=wanted)["Subnets"]
        if not subnets:
            raise HsmsimError("There is no default VPC for the cluster. Make one: aws ec2 create-default-vpc")
        made: str = self._hsm.create_cluster(
            HsmType=HSM_TYPE, Mode=MODE, SubnetIds=[one["SubnetId"] for one in subnets], TagList=[TAG]
        )["Cluster"]["ClusterId"]
        self._settled(made)
        return made

    def _initialize(self, places: Places, cluster_id: str, say: Callable[[str], None]) -> None:
        """Sign the cluster's request with a CA that is kept in HOME, unless that is done."""
        cluster = self._serving(cluster_id)
        if cluster["State"] in _WORKS:
            return
        say("Signing the cluster's certificate")
        folder = places.home / "customer" / cluster_id
        signed, anchor = customer.sign(folder, cluster["Certificates"]["ClusterCsr"].encode())
        self._hsm.initialize_cluster(ClusterId=cluster_id, SignedCert=signed.decode(), TrustAnchor=anchor.decode())
        self._wait(cluster_id, lambda found: found["State"] in _WORKS)

    def _settled(self, cluster_id: str) -> dict[str, Any]:
        """Wait until nothing is under way in a cluster, and return it."""
        return self._wait(cluster_id, _is_settled)

    def _serving(self, cluster_id: str) -> dict[str, Any]:
        """The same, where the HSMs run: a gateway that started before they did has yet to see it."""
        return self._wait(cluster_id, lambda cluster: _is_settled(cluster) and cluster["State"] != "DEGRADED")

    def _wait(self, cluster_id: str, met: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait with few calls: each is an event in CloudTrail, so the gateway itself says when to look again."""
        deadline, pause = time.monotonic() + PATIENCE_S, 0.0
        while not met(cluster := self._cluster(cluster_id)):
            if time.monotonic() > deadline:
                said = [one["StateMessage"] for one in cluster["Hsms"] if one.get("StateMessage")]
                raise HsmsimError(f"{cluster_id} is {cluster['State']} for too long. {' '.join(said)}".rstrip())
            time.sleep(pause)
            pause = min(max(2 * pause, _PAUSES_S[0]), _PAUSES_S[1])
            manage.settle(self._management, _SETTLE_S)  # another cluster may hang: that is not waited for
        return cluster


def _is_settled(cluster: dict[str, Any]) -> bool:
    if any(one["State"].endswith("_IN_PROGRESS") for one in cluster["Hsms"]):
        return False
    if cluster["State"] == "UNINITIALIZED" and cluster["Hsms"]:
        return bool(cluster["Certificates"].get("ClusterCsr"))
    return not cluster["State"].endswith("_IN_PROGRESS")
