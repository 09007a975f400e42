"""From nothing to a cluster that clients can use: HSMs, the admin's password, a crypto user, the module's file.

Every step looks first whether it was done, so that it can be run again after any crash.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec import structs

from hsmsim.config import module_path
from hsmsim.errors import HsmsimError
from hsmsim.fleet import credentials, customer, launch, locate, modulecfg, operations, state
from hsmsim.fleet.access import Role, connect, login
from hsmsim.fleet.credentials import Credential
from hsmsim.hsm.messages import ActivateRequest, HsmInfoRequest, UserCreateRequest, UserListRequest
from hsmsim.hsm.roots.process import Roots
from hsmsim.ids import new_hsm_id

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hsmsim.config import Places

USER = "app"
HSMS = 2


@dataclass(frozen=True, slots=True)
class Ready:
    """A running simulator as its clients need it."""

    cluster_id: str
    hsm_ids: tuple[str, ...]
    module: Path
    module_config: Path
    token: str
    pin: str

    def environment(self) -> dict[str, str]:
        """Return what `hsmsim env` exports."""
        return {
            "HSMSIM_MODULE": str(self.module),
            "HSMSIM_TOKEN": self.token,
            "HSMSIM_PIN": self.pin,
            "HSMSIM_PKCS11_CONFIG": str(self.module_config),
        }


def bring_up(places: Places, say: Callable[[str], None], *, hsms: int = HSMS, engine: str = "fast") -> Ready:
    """Make what is missing, start what is stopped, and return when clients can use it. `say` is told each step."""
    module_path()  # before anything is made: is it built?
    with state.lock(places), Roots(places.home) as roots:
        cluster_id = (state.load(places).own_cluster() or state.create_cluster(places)).cluster_id
        _choose(places, cluster_id)
        for number in range(len(_hsm_ids(places)), hsms):
            _start(places, _hsm_ids(places))  # a new member gets the masking key from one that serves
            say(f"Making HSM {number + 1} of {hsms}")
            made = state.create_hsm(places, cluster_id, roots, state.Hsm(new_hsm_id(), engine))
            _start(places, [made.hsm_id])
            _initialize(places, cluster_id, say)
        _tell_of_start(places, _hsm_ids(places), say)
        _start(places, _hsm_ids(places))
        _initialize(places, cluster_id, say)
        _activate(places, cluster_id, say)
        write_module_config(places)
    return ready(places)


def start(places: Places, say: Callable[[str], None]) -> None:
    """Start the HSMs that there are, and wait until those of the quickstart's cluster serve."""
    fleet = state.load(places)
    _tell_of_start(places, [hsm.hsm_id for hsm in fleet.hsms()], say)
    own = fleet.own_cluster()
    own_ids = [hsm.hsm_id for hsm in own.hsms] if own else []
    with state.lock(places):
        operations.begin(places, [hsm.hsm_id for hsm in fleet.hsms() if hsm.hsm_id not in own_ids])
    operations.start(places, own_ids)


def adopt(places: Places, *, first: bool) -> None:
    """Go on with the cluster of a folder that an older version wrote: the one whose passwords are kept here.

    first: or else the first one, in a folder that never had a gateway. The caller holds `lock`.
    """
    fleet = state.load(places)
    if fleet.quickstart:
        return
    ids = [one.cluster_id for one in fleet.clusters]
    kept = [one for one in ids if credentials.find(places, one, "", Role.CRYPTO_USER, USER) is not None]
    for cluster_id in (kept or (ids if first else []))[:1]:
        _choose(places, cluster_id)


def activate(places: Places, cluster_id: str, say: Callable[[str], None]) -> None:
    """Set the first password of an initialized cluster, make the crypto user, and write the module's configuration.

    It is the quickstart's cluster from then on.
    """
    with state.lock(places):
        _choose(places, cluster_id)
        _activate(places, cluster_id, say)
        write_module_config(places)


def _choose(places: Places, cluster_id: str) -> None:
    fleet = state.load(places)
    if fleet.quickstart != cluster_id:
        state.save(places, structs.replace(fleet, quickstart=cluster_id))


def _hsm_ids(places: Places) -> list[str]:
    return [hsm.hsm_id for hsm in state.load(places).only_cluster().hsms]


def _tell_of_start(places: Places, hsm_ids: list[str], say: Callable[[str], None]) -> None:
    if not all(launch.is_running(places, hsm_id) for hsm_id in hsm_ids):
        say("Starting the HSMs")


def _start(places: Places, hsm_ids: list[str]) -> None:
    operations.begin(places, hsm_ids)
    operations.wait_serving(places, hsm_ids)


def _initialize(places: Places, cluster_id: str, say: Callable[[str], None]) -> None:
    """Be the customer who signs the cluster's request, unless that is done."""
    found = operations.certificates(places, cluster_id)
    if found.csr:
        say("Signing the cluster's certificate")
        folder = places.home / "customer" / cluster_id
        operations.initialize(places, cluster_id, *customer.sign(folder, found.csr))


def _activate(places: Places, cluster_id: str, say: Callable[[str], None]) -> None:
    """Set the admin's password and make the crypto user, unless that is done."""
    admin = _kept(places, cluster_id, Role.ADMIN, "admin")
    user = _kept(places, cluster_id, Role.CRYPTO_USER, USER)
    with connect(places) as client:
        if client.call(HsmInfoRequest()).state != b"ACTIVE":
            say("Setting the admin's password")
            client.call(ActivateRequest(password=admin.password.encode()))
        if USER.encode() in client.call(UserListRequest()).names:
            return
        say(f"Making the crypto user {USER}")
        login(client, admin)
        client.call(
            UserCreateRequest(name=USER.encode(), role=Role.CRYPTO_USER.number, password=user.password.encode())
        )


def _kept(places: Places, cluster_id: str, role: Role, name: str) -> Credential:
    found = credentials.find(places, cluster_id, "", role, name)
    if found is None:
        found = Credential(cluster_id, "", name, role, credentials.new_password())
        credentials.keep(places, found)
    return found


def write_module_config(places: Places) -> None:
    """Write RUN/pkcs11.cfg, which every user may read."""
    fleet = state.load(places)
    where = locate.of_fleet(places, fleet, fleet.only_cluster())
    content = modulecfg.document(where, modulecfg.Options())
    state.write_private(places.module_config, modulecfg.encoded(content), mode=0o644)


def serves(places: Places) -> bool:
    """Return whether an HSM of the quickstart's cluster runs."""
    own = state.load(places).own_cluster()
    return own is not None and any(launch.is_running(places, hsm.hsm_id) for hsm in own.hsms)


def ready(places: Places) -> Ready:
    """Return what clients need; HsmsimError if the simulator is not up."""
    fleet = state.load(places)
    cluster = fleet.only_cluster()
    hsm_ids = tuple(hsm.hsm_id for hsm in cluster.hsms)
    if not serves(places):
        raise HsmsimError("The simulator is not running. Start it: hsmsim up --detach")
    user = credentials.find(places, cluster.cluster_id, "", Role.CRYPTO_USER)
    if user is None:
        raise HsmsimError("The simulator was never started to its end. Start it: hsmsim up --detach")
    return Ready(cluster.cluster_id, hsm_ids, module_path(), places.module_config, modulecfg.TOKEN, user.pin)


def take_down(places: Places) -> list[str]:
    """Stop every HSM of the state folder; return those that ran."""
    return operations.stop(places, [hsm.hsm_id for hsm in state.load(places).hsms()])


def add_hsm(places: Places, *, engine: str = "fast") -> str:
    """Make and start one more HSM of the cluster; return its id."""
    with state.lock(places), Roots(places.home) as roots:
        cluster = state.load(places).only_cluster()
        if not any(launch.info(places, hsm.hsm_id) for hsm in cluster.hsms):
            raise HsmsimError("A new HSM gets the cluster's masking key from one that serves, and none does. hsmsim up")
        made = state.create_hsm(places, cluster.cluster_id, roots, state.Hsm(new_hsm_id(), engine))
        _start(places, [made.hsm_id])
        write_module_config(places)
    return made.hsm_id
