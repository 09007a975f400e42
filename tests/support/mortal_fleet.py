"""The fleet's daemon, but it and its HSMs die at named steps of their work (see mortal.py).

The daemon's steps are armed in the file `dies` of HSMSIM_HOME, those of the next HSM that is made in `hsm-dies`, and
those of an HSM that is there in its folder.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from support import mortal
from support.mortal import ARMED, Step

from hsmsim.config import Places
from hsmsim.fleet import daemon, hsmconfig, launch, operations, processes, state
from hsmsim.hsm.roots.process import Roots

if TYPE_CHECKING:
    from hsmsim.fleet.processes import Process, Program

ARMED_NEXT: Final = "hsm-dies"
ANY: Final = ("",)
STEPS: Final = {
    "cluster made": Step("after", state, "create_cluster", ANY),
    "seed made": Step("after", Roots, "manufacture", ANY),
    "HSM made": Step("after", state, "create_hsm", ANY),
    "spawned": Step("after", processes, "_spawn", ANY),
    "serving": Step("after", launch, "wait_ready", ANY),
    "initializing": Step("before", operations, "initialize", ANY),
    "initialized": Step("after", operations, "initialize", ANY),
    "backing up": Step("before", operations, "backup", ANY),
    "backed up": Step("after", operations, "backup", ANY),
    "left": Step("after", operations, "_leave", ANY),
    "wiped": Step("after", operations, "_wipe", ANY),
}


def make_hsms_mortal(home: Path) -> None:
    """HSMs are started by mortal.py, and armed as they are made."""
    start, write_config = processes.start, hsmconfig.write

    def mortal_start(process: Process, program: Program) -> bool:
        command = " ".join(program.command).replace("-m hsmsim.hsm", str(Path(mortal.__file__))).split(" ")
        return start(process, replace(program, command=command))

    def armed_config(places: Places, fleet: state.Fleet, hsm: state.Hsm) -> None:
        write_config(places, fleet, hsm)
        if (home / ARMED_NEXT).exists():
            (home / ARMED_NEXT).rename(places.hsm_folder(hsm.hsm_id) / ARMED)

    processes.start, hsmconfig.write = mortal_start, armed_config


if __name__ == "__main__":
    home = Places.resolve().home
    make_hsms_mortal(home)
    mortal.install(home, STEPS)
    sys.exit(daemon.main())
