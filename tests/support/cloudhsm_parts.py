"""The gateway, whose simulated clock the tests move, and which dies where they say.

Run as a program: python cloudhsm_parts.py CONFIG. On the management socket: POST /advance {"seconds": n};
POST /die {"at": "STEP before"}: the process is killed by SIGKILL at the worker's next STEP (a Do): before it does
anything; "STEP between": once the fleet has answered and no row says so; "STEP after": once the rows do. TESTS_DIE_AT
is the same for the first steps. HOME/asked names the steps that asked the fleet for something, those that can die
between.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hsmsim.clock import SharedClock
from hsmsim.config import Places
from hsmsim.fleet import simclock
from hsmsim.gateway import assembly, process
from hsmsim.gateway.config import GatewayConfig
from hsmsim.services.cloudhsm.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hsmsim.gateway.ports import Parts, Ports


RETRY_S = (0.1, 0.4)
"""Tests that kill whom the worker asks do not wait as long as people would."""


class Doom:
    """Kills the process at one step of the worker."""

    def __init__(self, worker: Worker, asked: Path) -> None:
        self._asked = asked
        self._armed = os.environ.get("TESTS_DIE_AT", "")
        self._here = threading.local()  # each cluster has a thread of its own
        self._fleet = worker._fleet
        worker._retry = RETRY_S
        for part in (worker, worker._loose):
            part._fleet = self
            part._steps = {do: partial(self._run, do.name, step) for do, step in part._steps.items()}

    def arm(self, members: Mapping[str, Any]) -> dict[str, Any]:
        self._armed = members["at"]
        return {}

    def _at(self, name: str, when: str) -> None:
        if self._armed == f"{name} {when}":
            os.kill(os.getpid(), signal.SIGKILL)

    def _run(self, name: str, step: Callable[..., None], *arguments: Any) -> None:
        self._at(name, "before")
        self._here.step = name
        step(*arguments)
        self._here.step = ""
        self._at(name, "after")

    def call(self, request: Any, result: Any) -> Any:
        answer = self._fleet.call(request, result)
        under_way = getattr(self._here, "step", "")
        if under_way:
            with self._asked.open("a", encoding="ascii") as file:
                file.write(f"{under_way}\n")
            self._at(under_way, "between")
        return answer


def build(ports: Ports) -> Parts:
    parts = assembly.build(ports)
    (worker,) = (one for one in parts.reconcilers if isinstance(one, Worker))
    places = Places.resolve({**os.environ, "HSMSIM_HOME": str(ports.home)})

    def advance(members: Mapping[str, Any]) -> dict[str, Any]:
        simclock.advance(places, members["seconds"])
        ports.wake_all()
        return {}

    routes = {**parts.routes, ("POST", "/advance"): advance, ("POST", "/die"): Doom(worker, ports.home / "asked").arm}
    return replace(parts, routes=routes)


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    config = GatewayConfig.read(Path(sys.argv[1]))
    places = Places.resolve({**os.environ, "HSMSIM_HOME": str(config.home)})
    simclock.advance(places, 0)
    process.run(config, build, SharedClock(places.clock_file))
