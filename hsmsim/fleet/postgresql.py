"""A PostgreSQL server of the simulator's own, for rehearsals on one machine and for tests.

Rules: its data lies in one folder (0700), it listens on a unix socket alone, and the kernel says who connects (peer):
there is no password. Under root it runs as the account of the HSMs, whom root may stand in for. Every other user that
connects is a role of the same name that may make schemas, and sees no others'.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from hsmsim.errors import HsmsimError
from hsmsim.fleet import state

if TYPE_CHECKING:
    from collections.abc import Iterable

DATABASE: Final = "hsmsim"
_PROGRAMS: Final = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin")
_SECONDS: Final = 60
_HBA: Final = "local all all peer\n"
_SETTINGS: Final = """\
listen_addresses = ''
unix_socket_permissions = 0777
max_connections = 200
shared_buffers = 32MB
log_min_messages = warning
"""


@dataclass(frozen=True, slots=True)
class LocalServer:
    """folder: its data, which exists after make(); run: where its socket is; account: whom it runs as, empty for us."""

    folder: Path
    run: Path
    account: str = ""

    @property
    def url(self) -> str:
        """The URL for the users that it knows."""
        return f"postgresql:///{DATABASE}?host={quote(str(self.run))}"

    @property
    def made(self) -> bool:
        """Whether make() was finished."""
        return (self.folder / "hsmsim-made").exists()

    def make(self, users: Iterable[str] = ()) -> None:
        """Make the server's data, with a role for each user; what a killed one left goes."""
        if self.made:
            return
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self.folder.mkdir(mode=0o700)
        state.give(self.folder, self.account)
        owner = self.account or pwd.getpwuid(os.geteuid()).pw_name
        _require_not_root(owner)
        self._run(
            "initdb",
            "--auth=peer",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            f"--username={owner}",
            "-D",
            str(self.folder),
        )
        for name, content in (("pg_hba.conf", _HBA), ("postgresql.auto.conf", _SETTINGS)):
            state.write_private(self.folder / name, content.encode(), account=self.account)
        self._create(owner, [user for user in users if user != owner])
        state.write_private(self.folder / "hsmsim-made", b"", account=self.account)

    def _create(self, owner: str, users: list[str]) -> None:
        """Make the database and the roles, by the server in its single-user mode."""
        lines = [f"CREATE DATABASE {DATABASE};"]
        for user in users:
            lines += [f'CREATE ROLE "{user}" LOGIN;', f'GRANT CREATE ON DATABASE {DATABASE} TO "{user}";']
            lines += [f'GRANT "{owner}" TO "{user}";'] if pwd.getpwnam(user).pw_uid == 0 else []
        self._run("postgres", "--single", "-D", str(self.folder), "postgres", text="\n".join([*lines, ""]))

    def start(self) -> None:
        """Start it and wait until it takes connections; HsmsimError with the end of its log where it does not."""
        self._run("pg_ctl", "-D", str(self.folder), "-l", str(self.folder / "log"), "-w", f"-o-k {self.run}", "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop it: "fast" in order, "immediate" as a crash."""
        self._run("pg_ctl", "-D", str(self.folder), "-w", "-m", mode, "stop")

    @property
    def pid(self) -> int | None:
        """The server's process; None if none runs."""
        try:
            self._run("pg_ctl", "-D", str(self.folder), "status")
            return int((self.folder / "postmaster.pid").read_text(encoding="ascii").split()[0])
        except (HsmsimError, OSError, ValueError):
            return None

    def _run(self, program: str, *arguments: str, text: str = "") -> None:
        entry = pwd.getpwnam(self.account) if self.account else None
        done = subprocess.run(  # noqa: S603 - PostgreSQL's own programs
            [str(_program(program)), *arguments],
            input=text.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_SECONDS * 2,
            check=False,
            cwd="/",
            user=entry.pw_uid if entry else None,
            group=entry.pw_gid if entry else None,
            extra_groups=[] if entry else None,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        )
        if done.returncode:
            raise HsmsimError(f"PostgreSQL's {program} failed:\n{done.stdout.decode(errors='replace').strip()}")


def _require_not_root(owner: str) -> None:
    if pwd.getpwnam(owner).pw_uid == 0:
        raise HsmsimError("PostgreSQL refuses to run as root. Make an account for it: useradd --system hsmsim")


def _program(name: str) -> Path:
    """The newest one that is installed."""
    found = [
        path / name
        for pattern in _PROGRAMS
        for path in sorted(Path("/").glob(pattern[1:]), key=_version)
        if (path / name).exists()
    ]
    if not found:
        raise HsmsimError(f"PostgreSQL's {name} is not installed (Debian: apt-get install postgresql).")
    return found[-1]


def _version(path: Path) -> int:
    digits = "".join(filter(str.isdigit, path.parent.name))
    return int(digits) if digits else 0
