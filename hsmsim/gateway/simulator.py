"""All of it: HSMs, the fleet's daemon, the gateway. What `hsmsim up` starts and `hsmsim down` stops.

Every step looks first whether it was done, so that whatever was killed is mended by doing it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hsmsim.config import module_path, softhsm_library
from hsmsim.errors import HsmsimError
from hsmsim.fleet import databases, processes, quickstart, simclock, state, tcp
from hsmsim.fleet import launch as hsm_processes
from hsmsim.gateway import launch, manage

if TYPE_CHECKING:
    from collections.abc import Callable

    from botocore.session import Session

    from hsmsim.config import Places
    from hsmsim.gateway.customer import Customer
    from hsmsim.services.iam.rootkey import RootKey

_UP_LOCK: Final = ".up.lock"


@dataclass(frozen=True, slots=True)
class Running:
    """What runs. gateway: None where it was not wanted; new_key: the root user's key, if it was made by this start.

    outside: the cluster, where AWS's API does not show it.
    """

    hsms: quickstart.Ready
    gateway: launch.Ready | None = None
    new_key: RootKey | None = None
    outside: str = ""


def bring_up(
    places: Places,
    say: Callable[[str], None],
    options: launch.Options | None,
    *,
    hsms: int = quickstart.HSMS,
    engine: str = "fast",
    database: str = "",
    hsm_host: str = "",
) -> Running:
    """Start what does not run and return when clients can use it. options: None for no gateway.

    database: where the rows of a new simulator are to be (`hsmsim.fleet.databases`); empty: where they are.
    hsm_host: where HSMs are to listen by TCP (`hsmsim.fleet.tcp`); empty: where they do.
    """
    module_path()  # before anything is made: is what it needs there?
    softhsm_library()
    with state.lock(places):
        if database:
            databases.choose(places, database)
        state.prepare(places)
        if hsm_host:
            tcp.choose(places, hsm_host)
        databases.start(places)
    if options is None:
        return Running(quickstart.bring_up(places, say, hsms=hsms, engine=engine))
    with state.lock(places, _UP_LOCK):  # two at once would make two clusters
        return _bring_up(places, say, options, hsms, engine)


def _bring_up(places: Places, say: Callable[[str], None], options: launch.Options, hsms: int, engine: str) -> Running:
    with state.lock(places):
        simclock.share(places)
        before = launch.root_key(places)
        quickstart.adopt(places, first=before is None)
        say("Starting the gateway")
        launch.start(places, options)
    quickstart.start(places, say)
    session = _session()
    gateway = launch.wait_ready(places)
    known = _make_cluster(places, say, hsms, engine, session)
    ready = quickstart.ready(places)
    outside = "" if ready.cluster_id in known else ready.cluster_id
    return Running(ready, gateway, launch.root_key(places) if before is None else None, outside)


def make_cluster(places: Places, say: Callable[[str], None], hsms: int) -> quickstart.Ready:
    """Make the cluster of `up`, or what is missing of it, in a gateway that runs."""
    with state.lock(places, _UP_LOCK):
        quickstart.start(places, say)
        _make_cluster(places, say, hsms, "fast", _session())
    return quickstart.ready(places)


def _session() -> Session:
    """botocore, and what it reads, take as long as the processes take to start: imported while they do."""
    from hsmsim.gateway import customer  # noqa: PLC0415

    return customer.session()


def _customer(places: Places, session: Session | None = None) -> Customer:
    from hsmsim.gateway.customer import Customer  # noqa: PLC0415 - see _session

    environment = launch.environment(places)
    if not environment:
        raise HsmsimError("The gateway is not running. Start it: hsmsim up --detach")
    return Customer(environment, lambda: launch.management(places), session)


def _make_cluster(places: Places, say: Callable[[str], None], hsms: int, engine: str, session: Session) -> set[str]:
    """Return the clusters that AWS's API knows. One that it does not know goes on as it was made: by the fleet."""
    root = _customer(places, session)
    fleet, known = state.load(places), root.cluster_ids()
    own = next((one.cluster_id for one in fleet.clusters if one.cluster_id == fleet.quickstart), "")
    if engine != "fast" or (own and own not in known):
        quickstart.bring_up(places, say, hsms=hsms, engine=engine)
        return known
    return known | {root.bring_up(places, say, hsms, own)}


def add_hsm(places: Places, engine: str) -> str:
    """Make one more HSM of the cluster, with AWS's API where that knows the cluster; return its id."""
    if launch.serving(places):
        root, cluster_id = _customer(places), state.load(places).only_cluster().cluster_id
        if cluster_id in root.cluster_ids():
            made = root.create_hsm(cluster_id)
            quickstart.write_module_config(places)
            return made
    return quickstart.add_hsm(places, engine=engine)


def take_down(places: Places) -> list[str]:
    """Stop the gateways, the daemon, then every HSM; return those that ran."""
    return launch.stop(places) + quickstart.take_down(places) + databases.stop(places)


def move_clock(places: Places, seconds: int | None) -> list[str]:
    """Move simulated time on, or back to real time (None).

    Every process follows at once; what is due by then has been done when this returns, but for the parts of the gateway
    that it names.
    """
    if seconds is None:
        simclock.reset(places)
    else:
        simclock.advance(places, seconds)
    if not launch.serving(places):
        return []
    return manage.settle(lambda: launch.management(places))


def missing(places: Places, running: Running) -> list[tuple[str, str]]:
    """Return what ended since, by name, and how to start it again."""
    processes.reap()
    found = [
        (hsm_id, f"hsmsim hsm start {hsm_id}")
        for hsm_id in running.hsms.hsm_ids
        if not hsm_processes.is_running(places, hsm_id)
    ]
    if running.gateway is not None:
        found += [
            (one.name, "hsmsim up --detach") for one in launch.background(places) if not processes.is_running(one)
        ]
    return found
