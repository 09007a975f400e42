"""A gateway with IAM, STS and CloudHSM over the tests' network, whose simulated clock the tests move.

Run as a program: python cloudhsm_parts.py CONFIG. On the management socket: POST /advance {"seconds": n}, GET /network.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.network import TestNetwork

from hsmsim.clock import SharedClock
from hsmsim.config import Places
from hsmsim.fleet import simclock
from hsmsim.gateway import assembly, process
from hsmsim.gateway.config import GatewayConfig
from hsmsim.gateway.ports import Parts, Ports
from hsmsim.services.iam import api as iam
from hsmsim.services.iam.authorizer import IamAuthorizer

if TYPE_CHECKING:
    from collections.abc import Mapping


def build(ports: Ports) -> Parts:
    network = TestNetwork()
    ports.writer.write(network.prepare)
    directory = assembly.open_directory(ports)
    service, worker = assembly.build_cloudhsm(ports, directory, network)
    places = Places.resolve({**os.environ, "HSMSIM_HOME": str(ports.home)})

    def advance(members: Mapping[str, Any]) -> dict[str, Any]:
        simclock.advance(places, members["seconds"])
        ports.wake_all()
        return {}

    def rows(_members: Mapping[str, Any]) -> dict[str, Any]:
        with ports.database.read() as tx:
            return network.rows(tx)

    return Parts(
        services=(iam.build(directory), service),
        credentials=directory,
        authorizer=IamAuthorizer(directory),
        recorder=assembly.NoRecorder(),
        reconcilers=(worker,),
        routes={("POST", "/advance"): advance, ("GET", "/network"): rows},
    )


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    config = GatewayConfig.read(Path(sys.argv[1]))
    places = Places.resolve({**os.environ, "HSMSIM_HOME": str(config.home)})
    simclock.advance(places, 0)
    process.run(config, build, SharedClock(places.clock_file))
