"""Clusters and HSMs: what a request writes into the rows. The worker makes it true."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import field

from hsmsim.crypto import certificates
from hsmsim.errors import HsmsimError
from hsmsim.services.cloudhsm import rules, store, views
from hsmsim.services.cloudhsm.model import (
    DAY_S,
    SERVICE,
    Certificates,
    Cluster,
    ClusterState,
    Hsm,
    HsmState,
    Unverified,
    arn_of,
)
from hsmsim.services.cloudhsm.service import (
    CloudHsm,
    Tag,
    access_to,
    everywhere,
    fresh_id,
    need_cluster,
    on_cluster,
    operation,
    page,
    pairs,
    request_tags,
)
from hsmsim.services.kernel import Access, Call, Mode, Request, Response
from hsmsim.services.network import NetworkError, NewGroup, NewInterface, Place

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hsmsim.services.cloudhsm.model import Backup

PAGE = 25
CLUSTER_FILTERS = ("clusterIds", "vpcIds", "states")


class Retention(Request, frozen=True):
    """How long backups are kept."""

    type: str | None = None
    value: str | None = None


class CreateCluster(Request, frozen=True):
    """A new cluster."""

    hsm_type: str
    subnet_ids: list[str]
    backup_retention_policy: Retention | None = None
    source_backup_id: str = ""
    network_type: str = "IPV4"
    tag_list: list[Tag] = field(default_factory=list)
    mode: str | None = None


class DescribeClusters(Request, frozen=True):
    """Which clusters."""

    filters: dict[str, list[str]] = field(default_factory=dict)
    next_token: str | None = None
    max_results: int = PAGE


class OfCluster(Request, frozen=True):
    """A cluster."""

    cluster_id: str


class ModifyCluster(Request, frozen=True):
    """What a cluster gets instead."""

    cluster_id: str
    hsm_type: str | None = None
    backup_retention_policy: Retention | None = None


class InitializeCluster(Request, frozen=True):
    """What the customer signed, and who they are."""

    cluster_id: str
    signed_cert: str
    trust_anchor: str


class CreateHsm(Request, frozen=True):
    """A new HSM."""

    cluster_id: str
    availability_zone: str
    ip_address: str = ""


class DeleteHsm(Request, frozen=True):
    """An HSM, by one of three."""

    cluster_id: str
    hsm_id: str | None = None
    eni_id: str | None = None
    eni_ip: str | None = None


# ---- making ----------------------------------------------------------------------------------------------------------


def _to_create(holds: CloudHsm, call: Call, request: CreateCluster) -> Iterable[Access]:
    """The cluster, its tags, the backup that it is made from, and the service's role if the account has none."""
    context = request_tags(pairs(request.tag_list))
    accesses = [Access("cloudhsm:CreateCluster", context=context)]
    if request.source_backup_id:
        accesses = [_access_to_source(call, request.source_backup_id, context)]
    if request.tag_list:
        arn = f"arn:aws:cloudhsm:{call.region}:{call.account}:cluster/*"
        accesses.append(Access("cloudhsm:TagResource", arn, call.account, context=context))
    return [*accesses, *holds.roles.access(call, SERVICE)]


def _named(call: Call, text: str) -> tuple[str, str, str]:
    """Return account, region and id of the backup that an id or an ARN names."""
    if not text.startswith("arn:"):
        return call.account, call.region, text
    _, _, _, region, account, tail = text.split(":", 5)
    return account, region, tail.rpartition("/")[2]


def _access_to_source(call: Call, text: str, context: Mapping[str, str | list[str]]) -> Access:
    """To a backup of the caller's account; or to another's, whose policy must allow it, whether it is there or not."""
    account, region, id_ = _named(call, text)
    if account == call.account:
        return access_to(call, id_, context)
    found = store.backup(call.tx, id_)
    policy = found.policy or None if found and (found.account, found.region) == (account, region) else None
    arn = arn_of("backup", account, region, id_)
    return Access("cloudhsm:CreateCluster", arn, account, policy=policy, context=context)


def _need_source(call: Call, text: str) -> Backup:
    """Return the backup, whosever it is, in the caller's region; CloudHsmResourceNotFoundException."""
    account, region, id_ = _named(call, text)
    found = store.backup(call.tx, id_)
    if found is None or (found.account, found.region) != (account, region) or region != call.region:
        raise rules.missing("Backup", text)
    return found


@operation(CreateCluster, Mode.WRITE, _to_create)
def create_cluster(holds: CloudHsm, call: Call, request: CreateCluster) -> Response:
    """CreateCluster."""
    if request.network_type != "IPV4":
        raise rules.unsupported(f"NetworkType {request.network_type} of cloudhsm:CreateCluster; leave it out for IPV4")
    retention = request.backup_retention_policy
    days = rules.retention_days(retention.type, retention.value) if retention else rules.DEFAULT_RETENTION
    source = _need_source(call, request.source_backup_id) if request.source_backup_id else None
    mode = rules.mode_of(request.hsm_type, request.mode, source, holds.settings.unverified)
    if source is not None:
        rules.check_source(source, request.hsm_type)
    rules.check_cluster_quota(store.count_clusters(call.tx, call.account, call.region), holds.settings)
    tags = rules.check_tags(pairs(request.tag_list), {})
    holds.roles.ensure(call, SERVICE)
    id_ = fresh_id(call, "cluster")
    vpc, mapping, group = _placed(holds, call, id_, request.subnet_ids)
    now = call.clock.time()
    new = Cluster(
        id=id_,
        account=call.account,
        region=call.region,
        state=ClusterState.CREATE_IN_PROGRESS,
        message="",
        due=holds.due(call, "CreateCluster"),
        created=now,
        hsm_type=request.hsm_type,
        mode=mode,
        retention=days,
        source_backup=source.id if source else "",
        vpc=vpc,
        group=group,
        subnets=mapping,
        certificates=Certificates(cluster=source.certificate if source else ""),
        signed="",
        anchor="",
        target="",
        former="",
        former_image="",
        rollback_until=0.0,
        ended=0.0,
    )
    store.add_cluster(call.tx, new)
    store.set_tags(call.tx, id_, tags)
    holds.follow(call)
    return {"Cluster": views.cluster(new, (), tags, now, holds.settings.unverified)}


def _placed(holds: CloudHsm, call: Call, cluster_id: str, subnets: list[str]) -> tuple[str, dict[str, str], str]:
    """Return VPC, subnets by zone, and the new security group of a cluster."""
    place = Place(call.account, call.region)
    first, last = rules.PORTS
    try:
        found = holds.network.subnets(call.tx, place, subnets)
        vpc, mapping = rules.subnet_mapping([(subnet.id, subnet.vpc, subnet.zone) for subnet in found])
        name = f"cloudhsm-{cluster_id}-sg"
        new = NewGroup(vpc, name, f"CloudHSM {cluster_id}", first, last)
        return vpc, mapping, holds.network.create_group(call.tx, place, new)
    except NetworkError as error:
        raise rules.invalid(str(error)) from error


@operation(CreateHsm, Mode.WRITE, on_cluster)
def create_hsm(holds: CloudHsm, call: Call, request: CreateHsm) -> Response:
    """CreateHsm."""
    cluster, hsms = need_cluster(call, request.cluster_id)
    in_region = store.count_hsms(call.tx, call.account, call.region)
    rules.check_create_hsm(cluster, hsms, request.availability_zone, in_region, holds.settings)
    own = store.backups_of(call.tx, cluster.id)
    image = rules.source_of(cluster, hsms, own, store.backup(call.tx, cluster.source_backup))
    id_ = fresh_id(call, "hsm")
    subnet = cluster.subnets[request.availability_zone]
    wanted = NewInterface(subnet, cluster.group, f"CloudHSM Managed Interface {id_}", "cloudhsm", request.ip_address)
    try:
        interface = holds.network.create_interface(call.tx, Place(call.account, call.region), wanted)
    except NetworkError as error:
        raise rules.invalid(str(error)) from error
    new = Hsm(
        id=id_,
        cluster=cluster.id,
        state=HsmState.CREATE_IN_PROGRESS,
        message="",
        due=holds.due(call, "CreateHsm"),
        created=call.clock.time(),
        hsm_type=cluster.hsm_type,
        zone=request.availability_zone,
        subnet=subnet,
        eni=interface.id,
        ip=interface.address,
        backup="",
        image=image,
        replaces="",
    )
    store.add_hsm(call.tx, new)
    holds.follow(call)
    return {"Hsm": views.hsm(new)}


# ---- looking ---------------------------------------------------------------------------------------------------------


@operation(DescribeClusters, Mode.READ, everywhere)
def describe_clusters(holds: CloudHsm, call: Call, request: DescribeClusters) -> Response:
    """DescribeClusters; ids that are not there are no error."""
    rules.check_filters(request.filters, CLUSTER_FILTERS)
    now, unverified = call.clock.time(), holds.settings.unverified
    members = _members(call)
    found = [
        one
        for one in store.clusters(call.tx, *store.of(store.CLUSTERS, call.account, call.region))
        if rules.is_shown(one.ended, now, unverified)
        and _wanted(one, members.get(one.id, ()), request.filters, unverified)
    ]
    taken, token = page(found, lambda one: one.id, request.next_token, request.max_results)
    shown = [views.cluster(one, members.get(one.id, ()), store.tags(call.tx, one.id), now, unverified) for one in taken]
    return {"Clusters": shown, **({"NextToken": token} if token else {})}


def _members(call: Call) -> dict[str, list[Hsm]]:
    """The HSMs of each cluster."""
    found: dict[str, list[Hsm]] = {}
    for one in store.hsms(call.tx):
        found.setdefault(one.cluster, []).append(one)
    return found


def _wanted(cluster: Cluster, hsms: Iterable[Hsm], filters: dict[str, list[str]], unverified: Unverified) -> bool:
    state = rules.shown_state(cluster, hsms, unverified)
    values = {"clusterIds": cluster.id, "vpcIds": cluster.vpc, "states": state.value}
    return all(values[name] in wanted for name, wanted in filters.items())


def _shown(holds: CloudHsm, call: Call, cluster: Cluster, hsms: Iterable[Hsm]) -> dict[str, Any]:
    tags, now = store.tags(call.tx, cluster.id), call.clock.time()
    return {"Cluster": views.cluster(cluster, hsms, tags, now, holds.settings.unverified)}


# ---- changing --------------------------------------------------------------------------------------------------------


@operation(InitializeCluster, Mode.WRITE, on_cluster)
def initialize_cluster(holds: CloudHsm, call: Call, request: InitializeCluster) -> Response:
    """InitializeCluster. The certificate is checked here against the cluster's CSR, and by the HSM again."""
    cluster, hsms = need_cluster(call, request.cluster_id)
    rules.check_state(cluster, hsms, "InitializeCluster", ClusterState.UNINITIALIZED)
    if not cluster.certificates.csr:
        raise rules.invalid(f"{cluster.id} has no CSR yet: create an HSM, and wait until it is ACTIVE.")
    if any(hsm.state is not HsmState.ACTIVE for hsm in hsms):
        raise rules.invalid(f"InitializeCluster needs the HSM of {cluster.id} to be ACTIVE.")
    try:
        spki = certificates.key_of_request(cluster.certificates.csr.encode())
        certificates.check(request.signed_cert.encode(), request.trust_anchor.encode(), spki)
    except HsmsimError as error:
        raise rules.invalid(str(error)) from error
    message = "Cluster is initializing. State will change to INITIALIZED upon completion."
    changed = store.change_cluster(
        call.tx,
        cluster,
        state=ClusterState.INITIALIZE_IN_PROGRESS,
        message=message,
        due=holds.due(call, "InitializeCluster"),
        signed=request.signed_cert,
        anchor=request.trust_anchor,
    )
    holds.follow(call)
    return {"State": changed.state.value, "StateMessage": message}


@operation(ModifyCluster, Mode.WRITE, on_cluster)
def modify_cluster(holds: CloudHsm, call: Call, request: ModifyCluster) -> Response:
    """ModifyCluster: retention, HSM type, or both."""
    cluster, hsms = need_cluster(call, request.cluster_id)
    retention = request.backup_retention_policy
    if retention is None and request.hsm_type is None:
        raise rules.invalid("ModifyCluster needs a BackupRetentionPolicy or an HsmType.")
    if retention is not None:
        days = rules.retention_days(retention.type, retention.value)
        cluster = store.change_cluster(call.tx, cluster, retention=days)
    if request.hsm_type is not None:
        cluster = _migrate(holds, call, cluster, hsms, request.hsm_type)
    holds.follow(call)
    return _shown(holds, call, cluster, store.hsms_of(call.tx, cluster.id))


def _migrate(holds: CloudHsm, call: Call, cluster: Cluster, hsms: list[Hsm], hsm_type: str) -> Cluster:
    now = call.clock.time()
    state = rules.check_migration(cluster, hsms, hsm_type, now)
    store.change_hsms(call.tx, store.HSMS.c.cluster == cluster.id, backup="", replaces="")
    values: dict[str, Any] = {"state": state, "target": hsm_type, "due": holds.due(call, "Migration")}
    if state is ClusterState.MODIFY_IN_PROGRESS:
        values |= {"former": cluster.hsm_type, "former_image": "", "rollback_until": now + DAY_S}
    return store.change_cluster(call.tx, cluster, **values)


@operation(DeleteHsm, Mode.WRITE, on_cluster)
def delete_hsm(holds: CloudHsm, call: Call, request: DeleteHsm) -> Response:
    """DeleteHsm."""
    cluster, hsms = need_cluster(call, request.cluster_id)
    hsm = rules.chosen_hsm(hsms, request.hsm_id, request.eni_id, request.eni_ip)
    rules.check_delete_hsm(cluster, hsms, hsm)
    due = holds.due(call, "DeleteHsm")
    store.change_hsm(call.tx, hsm, state=HsmState.DELETE_IN_PROGRESS, message="", due=due, backup="")
    holds.follow(call)
    return {"HsmId": hsm.id}


@operation(OfCluster, Mode.WRITE, on_cluster)
def delete_cluster(holds: CloudHsm, call: Call, request: OfCluster) -> Response:
    """DeleteCluster. Its backups stay."""
    cluster, hsms = need_cluster(call, request.cluster_id)
    rules.check_delete(cluster, hsms)
    changed = store.change_cluster(
        call.tx,
        cluster,
        state=ClusterState.DELETE_IN_PROGRESS,
        message="The cluster is being deleted.",
        due=holds.due(call, "DeleteCluster"),
    )
    holds.follow(call)
    return _shown(holds, call, changed, ())
