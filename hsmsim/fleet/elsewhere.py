"""HSMs of a cluster on other hosts, where a simulator of its own runs them (docs/how-to/several-hosts.md).

Rules: the cluster's own host has the roots and says which HSMs there are; a guest host has HSMs of it and nothing else.
An HSM is made where it is to run: its seed never leaves that host. Its public keys go to the cluster's host, as a
`Request`, and certificates come back, as `Certified`; neither holds a secret, but who carries them must not change
them. Then it joins as every HSM does. Each host names the database by a URL of its own.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import structs

from hsmsim import ids
from hsmsim.errors import HsmsimError
from hsmsim.fleet import databases, hsmconfig, operations, state, tcp
from hsmsim.hsm.address import joined, parse
from hsmsim.hsm.client import HsmClient
from hsmsim.hsm.messages import HsmInfoRequest, HsmInfoResponse, RemoveMemberRequest
from hsmsim.hsm.roots import devices
from hsmsim.hsm.roots.process import Certify
from hsmsim.storage import files

if TYPE_CHECKING:
    from hsmsim.config import Places
    from hsmsim.fleet.state import Cluster, Elsewhere, Fleet
    from hsmsim.hsm.roots.process import Roots

LOOK_SECONDS: Final = 2.0
_CERTIFICATES: Final = frozenset(
    {devices.MANUFACTURER_CERTIFICATE, devices.DEVICE_CERTIFICATE, devices.AWS_HARDWARE, devices.MANUFACTURER_HARDWARE}
)


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An HSM that was made on a guest host: where others will reach it, and its public keys."""

    hsm_id: str
    address: str
    device: bytes
    hardware: bytes


class Certified(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the cluster's host answers. certificates: PEM, by their files' names."""

    hsm_id: str
    address: str
    cluster_id: str
    model: str
    mode: str
    availability_check: bool
    timing: str
    certificates: dict[str, bytes]


def read_request(text: bytes) -> Request:
    """Parse what `hsmsim hsm request` printed; HsmsimError."""
    try:
        return msgspec.json.decode(text, type=Request)
    except msgspec.DecodeError as error:
        raise HsmsimError(f"This is not what hsmsim hsm request prints: {error}.") from error


def read_certified(text: bytes) -> Certified:
    """Parse what `hsmsim hsm certify` printed; HsmsimError."""
    try:
        found = msgspec.json.decode(text, type=Certified)
    except msgspec.DecodeError as error:
        raise HsmsimError(f"This is not what hsmsim hsm certify prints: {error}. Did that fail?") from error
    if found.certificates.keys() != _CERTIFICATES or not ids.is_id(found.cluster_id, "cluster"):
        raise HsmsimError("The answer of hsmsim hsm certify is not whole.")
    return found


# ---- on the guest host -----------------------------------------------------------------------------------------------


def request(places: Places, address: str) -> Request:
    """Make an HSM's seed, and say who it is. address: where the cluster's other HSMs will reach it."""
    host, _ = parse(address)
    if ip_address(host).is_unspecified:
        raise HsmsimError(f"Nobody can reach {address}: say the address that this host has for others.")
    from hsmsim.hsm.engine import Engine, create_seed  # noqa: PLC0415 - the fleet does without the engine otherwise

    engine, hsm_id = Engine(workers=1), ids.new_hsm_id()
    with state.lock(places):
        state.prepare(places)
        account = state.load(places).account
        folder = state.make_hsms(places, account) / hsm_id
        folder.mkdir(mode=0o700)
        seed = folder / devices.SEED
        create_seed(str(seed))
        engine.device_load(str(seed))
        for path in (seed, folder):
            state.give(path, account)
    made = Request(hsm_id, address, engine.device_public(), engine.device_signer())
    engine.stop()
    return made


def install(places: Places, certified: Certified, database: str) -> None:
    """Start the HSM that was made here; return when it serves. database: the URL of the cluster's, from this host."""
    host, port = parse(certified.address)
    folder = places.hsm_folder(certified.hsm_id)
    if not ids.is_id(certified.hsm_id, "hsm") or not (folder / devices.SEED).exists():
        raise HsmsimError(f"{certified.hsm_id} was not made here: {folder} has no seed. Begin with: hsmsim hsm request")
    with state.lock(places):
        databases.choose(places, database)
        state.prepare(places)
        tcp.choose(places, host)
        fleet = state.load(places)
        for name, certificate in certified.certificates.items():
            files.replace(folder / name, certificate)
            state.give(folder / name, fleet.account)
        state.save(places, _with_guest(fleet, certified, port))
    operations.start(places, [certified.hsm_id])


def _with_guest(fleet: Fleet, certified: Certified, port: int) -> Fleet:
    hsm = state.Hsm(certified.hsm_id, model=certified.model, port=port)
    cluster = next((one for one in fleet.clusters if one.cluster_id == certified.cluster_id), None)
    if cluster is None:
        cluster = state.Cluster(
            certified.cluster_id,
            availability_check=certified.availability_check,
            mode=certified.mode,
            timing=certified.timing,
            guest=True,
        )
        fleet = structs.replace(fleet, clusters=(*fleet.clusters, cluster))
    others = tuple(one for one in cluster.hsms if one.hsm_id != hsm.hsm_id)
    return fleet.with_cluster(structs.replace(cluster, hsms=(*others, hsm)))


# ---- on the cluster's host -------------------------------------------------------------------------------------------


def certify(places: Places, roots: Roots, asked: Request) -> Certified:
    """Certify an HSM of another host, and remember where it is."""
    host, port = parse(asked.address)
    with state.lock(places):
        fleet = state.load(places)
        cluster = fleet.only_cluster()
        _require_reachable(fleet, cluster)
        _require_new(fleet, cluster, asked)
        certificates = roots.certify(Certify(asked.hsm_id, asked.device, asked.hardware))
        elsewhere = (*cluster.elsewhere, state.Elsewhere(asked.hsm_id, host, port))
        state.save(places, fleet.with_cluster(structs.replace(cluster, elsewhere=elsewhere)))
    model = cluster.hsms[0].model
    ours = (cluster.cluster_id, model, cluster.mode, cluster.availability_check, cluster.timing)
    return Certified(asked.hsm_id, asked.address, *ours, certificates)


def _require_reachable(fleet: Fleet, cluster: Cluster) -> None:
    if cluster.guest:
        raise HsmsimError(f"{cluster.cluster_id} is another host's cluster: HSMs are certified there.")
    if not cluster.hsms or not hsmconfig.has_other_hosts(fleet):
        raise HsmsimError(
            "HSMs of other hosts must reach the rows and the HSMs of this one. A simulator where they do is made with: "
            "hsmsim up --detach --database postgresql://... --hsm-host ADDRESS"
        )


def _require_new(fleet: Fleet, cluster: Cluster, asked: Request) -> None:
    known = {hsm.hsm_id: joined(fleet.host, hsm.port) for hsm in cluster.hsms}
    known |= {one.hsm_id: joined(one.hostname, one.port) for one in cluster.elsewhere}
    if asked.hsm_id in known or asked.address in known.values():
        raise HsmsimError(f"{cluster.cluster_id} has an HSM {asked.hsm_id}, or one at {asked.address}, already.")


def dismiss(places: Places, hsm_id: str) -> None:
    """Take an HSM of another host out of the cluster; again is harmless. Its host forgets nothing by that."""
    fleet = state.load(places)
    cluster = next((one for one in fleet.clusters if any(hsm.hsm_id == hsm_id for hsm in one.elsewhere)), None)
    if cluster is None:
        known = ", ".join(one.hsm_id for one in elsewhere_of(fleet)) or "none"
        raise HsmsimError(f"{hsm_id} is no HSM of another host. Those are: {known}.")
    with operations.alone(places, [cluster.cluster_id]):
        operations.ask(places, cluster.cluster_id, RemoveMemberRequest(hsm_id.encode()))
        with state.lock(places):
            fleet = state.load(places)
            cluster = fleet.cluster(cluster.cluster_id)
            left = tuple(one for one in cluster.elsewhere if one.hsm_id != hsm_id)
            state.save(places, fleet.with_cluster(structs.replace(cluster, elsewhere=left)))


def elsewhere_of(fleet: Fleet) -> list[Elsewhere]:
    """Return the HSMs on other hosts."""
    return [one for cluster in fleet.clusters for one in cluster.elsewhere]


def info(one: Elsewhere) -> HsmInfoResponse | None:
    """Return what it says of itself; None if it does not answer in LOOK_SECONDS."""
    try:
        with HsmClient(joined(one.hostname, one.port), seconds=LOOK_SECONDS) as client:
            return client.call(HsmInfoRequest())
    except (OSError, HsmsimError):
        return None
