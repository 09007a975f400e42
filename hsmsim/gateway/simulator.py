"""All of it: HSMs, the fleet's daemon, the gateway. What `hsmsim up` starts and `hsmsim down` stops.

Every step looks first whether it was done, so that whatever was killed is mended by doing it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hsmsim.config import module_path
from hsmsim.fleet import launch as hsm_processes
from hsmsim.fleet import processes, quickstart, simclock, state
from hsmsim.gateway import launch, manage

if TYPE_CHECKING:
    from collections.abc import Callable

    from hsmsim.config import Places
    from hsmsim.services.iam.bootstrap import RootKey


@dataclass(frozen=True, slots=True)
class Running:
    """What runs. gateway: None where it was not wanted; new_key: the root user's key, if it was made by this start."""

    hsms: quickstart.Ready
    gateway: launch.Ready | None = None
    new_key: RootKey | None = None


def bring_up(
    places: Places,
    say: Callable[[str], None],
    options: launch.Options | None,
    *,
    hsms: int = quickstart.HSMS,
    engine: str = "fast",
) -> Running:
    """Start what does not run and return when clients can use it. options: None for no gateway."""
    module_path()  # before anything is made: is it built?
    if options is None:
        return Running(quickstart.bring_up(places, say, hsms=hsms, engine=engine))
    with state.lock(places):
        state.prepare(places)
        simclock.share(places)
        before = launch.root_key(places)
        say("Starting the gateway")
        launch.start(places, options)
    ready = quickstart.bring_up(places, say, hsms=hsms, engine=engine)
    gateway = launch.wait_ready(places)
    return Running(ready, gateway, launch.root_key(places) if before is None else None)


def take_down(places: Places) -> list[str]:
    """Stop the gateway, the daemon, then every HSM; return those that ran."""
    return launch.stop(places) + quickstart.take_down(places)


def move_clock(places: Places, seconds: int | None) -> list[str]:
    """Move simulated time on, or back to real time (None).

    Every process follows at once; what is due by then has been done when this returns, but for the parts of the gateway
    that it names.
    """
    if seconds is None:
        simclock.reset(places)
    else:
        simclock.advance(places, seconds)
    if launch.ready(places) is None:
        return []
    late: list[str] = manage.call(places.gateway_socket, "POST", manage.CLOCK)["unfinished"]
    return late


def missing(places: Places, running: Running) -> list[tuple[str, str]]:
    """Return what ended since, by name, and how to start it again."""
    processes.reap()
    found = [
        (hsm_id, f"hsmsim hsm start {hsm_id}")
        for hsm_id in running.hsms.hsm_ids
        if not hsm_processes.is_running(places, hsm_id)
    ]
    if running.gateway is not None:
        background = (launch.gateway(places), launch.daemon(places))
        found += [(one.name, "hsmsim up --detach") for one in background if not processes.is_running(one)]
    return found
