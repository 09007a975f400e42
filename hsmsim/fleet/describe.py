"""Where the HSMs of a cluster are, asked of CloudHSM's API as AWS's configure tools ask it."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session

from hsmsim.errors import HsmsimError
from hsmsim.fleet import state
from hsmsim.fleet.locate import Server, Where
from hsmsim.ids import is_id

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from hsmsim.config import Places

REGION: Final = "us-east-1"
"""What AWS's configure tools take where none is named."""
_SERVING: Final = "ACTIVE"


@dataclass(frozen=True, slots=True)
class Api:
    """Whom to ask: the URL of CloudHSM's API, and the region that the request is signed for."""

    endpoint: str
    region: str = ""

    def clusters(self, cluster_id: str = "") -> Iterator[dict[str, Any]]:
        """DescribeClusters with the AWS credentials of the environment; HsmsimError says why not."""
        try:
            session = Session()
            region = self.region or session.get_config_variable("region") or REGION
            client = session.create_client("cloudhsmv2", region_name=region, endpoint_url=self.endpoint)
            filters = {"clusterIds": [cluster_id]} if cluster_id else {}
            for page in client.get_paginator("describe_clusters").paginate(Filters=filters):
                yield from page["Clusters"]
        except (BotoCoreError, ClientError, ValueError) as error:  # ValueError: an endpoint that is no URL
            raise HsmsimError(f"DescribeClusters at {self.endpoint} failed: {error}") from error


def of_api(places: Places, api: Api, cluster_id: str) -> Where:
    """Return where the HSMs of a cluster are that the API knows."""
    found = next(api.clusters(cluster_id), None)
    if found is None:
        raise HsmsimError(f"{api.endpoint} knows no cluster {cluster_id} in this region. Is --region right?")
    return _where(places, found)


def of_addresses(places: Places, api: Api | None, addresses: tuple[str, ...]) -> Where:
    """Return the cluster that has an HSM at one of these IP addresses, or of these ids, and those of its HSMs.

    Ids need nobody to be asked; what cluster they are of is then said by the HSMs themselves.
    """
    if all(is_id(one, "hsm") for one in addresses):
        servers = tuple(Server(one, places.socket(one)) for one in addresses)
        return Where("", state.MODEL, _uid(places), servers)
    if api is None:
        raise HsmsimError(
            "Which HSM has an IP address only CloudHSM's API knows: give --endpoint URL, or the HSM's id to -a."
        )
    clusters = [one for one in api.clusters() if any(hsm.get("EniIp") in addresses for hsm in one["Hsms"])]
    if len(clusters) != 1:
        many = ", ".join(one["ClusterId"] for one in clusters) or "none"
        raise HsmsimError(f"One cluster is to have {', '.join(addresses)}; found: {many}. Name it: --cluster-id.")
    hsms = [hsm for hsm in clusters[0]["Hsms"] if hsm.get("EniIp") in addresses]
    return _where(places, clusters[0] | {"Hsms": hsms})


def _where(places: Places, found: dict[str, Any]) -> Where:
    serving = [hsm for hsm in found["Hsms"] if hsm.get("State", _SERVING) == _SERVING]
    servers = tuple(Server(hsm.get("EniIp") or hsm["HsmId"], places.socket(_id(hsm["HsmId"]))) for hsm in serving)
    if not servers:
        raise HsmsimError(f"{found['ClusterId']} has no HSM that is {_SERVING}. Make one: aws cloudhsmv2 create-hsm")
    return Where(found["ClusterId"], found.get("HsmType", state.MODEL), _uid(places), servers)


def _id(hsm_id: str) -> str:
    """An id becomes part of a path."""
    if not is_id(hsm_id, "hsm"):
        raise HsmsimError(f"{hsm_id!r} is no HSM's id.")
    return hsm_id


def _uid(places: Places) -> int:
    """Whom the HSMs of the run folder run as: the folder's owner, if that is root, the service's account or us."""
    try:
        owner = places.run.stat().st_uid
    except OSError as error:
        raise HsmsimError(
            f"{places.run}: {error.strerror}. HSMSIM_RUN names the folder of the HSMs' sockets."
        ) from error
    try:
        account = {pwd.getpwnam(state.ACCOUNT).pw_uid}
    except KeyError:
        account = set()
    if owner not in {0, os.geteuid()} | account:
        raise HsmsimError(f"{places.run} belongs to user {owner}, no simulator's. Set HSMSIM_RUN.")
    return owner
