"""One process per HSM: two at a time in one folder would ruin its vault (DESIGN D1).

A process claims the folder before it opens anything in it, and records itself in hsm.pid: its id and its start time, so
that a number used again by another process is not mistaken for it. The claim ends with the process, however it ends.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

from hsmsim.errors import HsmsimError

PID_FILE: Final = "hsm.pid"


def started(pid: int) -> int:
    """When a process started, in clock ticks since boot (proc(5), stat, field 22); 0 if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(stat.rpartition(")")[2].split()[19])


def record(pid: int) -> bytes:
    """What hsm.pid says of a process."""
    return f"{pid} {started(pid)}\n".encode()


def claim(folder: Path) -> None:
    """Hold the folder for the life of this process; HsmsimError while another holds it."""
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise HsmsimError(f"{folder.name} is served by another process already: see {folder / PID_FILE}.") from None
    beside = folder / f".{PID_FILE}.new"
    beside.write_bytes(record(os.getpid()))
    beside.replace(folder / PID_FILE)
