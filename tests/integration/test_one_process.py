"""One process serves an HSM's folder, and is found however it was started."""

from __future__ import annotations

import signal

from support.hsm import cluster

from hsmsim.config import Places
from hsmsim.fleet import launch


def test_a_second_process_leaves_the_first_alone() -> None:
    with cluster() as made:
        hsm = made.hsms[0]
        first = hsm.running
        second = hsm.start(wait=False).running
        assert second.wait(30) == 1
        assert f"{hsm.hsm_id} is served by another process already" in hsm.log
        hsm.process = first
        with hsm.user("alice") as alice:
            assert alice.aes(token=True)
        hsm.end(signal.SIGKILL)
        hsm.start()  # a killed process leaves no claim behind


def test_a_process_whose_starter_was_killed_is_found() -> None:
    with cluster() as made:
        places = Places(made.home, made.home)
        assert launch.pid_of(places, made.hsms[0].hsm_id) == made.hsms[0].running.pid
