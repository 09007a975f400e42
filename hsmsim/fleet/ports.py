"""Who listens on a TCP port of this machine, from /proc: for a sentence that says what to stop."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

from hsmsim.errors import HsmsimError

_LISTEN: Final = "0A"
_INODE: Final = 9


def require_free(host: str, port: int, instead: str) -> None:
    """HsmsimError if something listens there; `instead`: what to do other than to stop it."""
    if port == 0:
        return
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except PermissionError as error:
            raise HsmsimError(f"Only root may listen on port {port}. {instead}") from error
        except OSError as error:
            raise HsmsimError(f"Port {port} of {host} is taken by {_holder(port)}. Stop that, or {instead}") from error


def _holder(port: int) -> str:
    inodes = _inodes(port)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _sockets(entry) & inodes:
            return f"process {entry.name} ({_command(entry)})"
    return "a process of another user"


def _inodes(port: int) -> set[str]:
    """The sockets that listen there; proc(5), /proc/net/tcp."""
    found = set()
    for table in ("tcp", "tcp6"):
        with suppress(FileNotFoundError):
            for line in Path("/proc/net", table).read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(f"socket:[{fields[_INODE]}]")
    return found


def _sockets(entry: Path) -> set[str]:
    found = set()
    with suppress(OSError):
        for descriptor in (entry / "fd").iterdir():
            with suppress(OSError):
                found.add(str(descriptor.readlink()))
    return found


def _command(entry: Path) -> str:
    with suppress(OSError):
        words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").split()
        return " ".join(words)[:80]
    return "gone by now"
