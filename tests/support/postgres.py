"""A PostgreSQL server for tests: made by the code that `hsmsim database` runs, gone at the end."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hsmsim.fleet.postgresql import LocalServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def server() -> Iterator[LocalServer]:
    """Under root it runs as the account that Debian's package makes; PostgreSQL refuses to run as root."""
    home = Path(tempfile.mkdtemp(prefix="hsmsim-postgres-"))
    home.chmod(0o755)
    account = "postgres" if os.geteuid() == 0 else ""
    run = home / "run"
    run.mkdir()
    if account:
        os.chown(run, pwd.getpwnam(account).pw_uid, -1)
    made = LocalServer(home / "data", run, account)
    try:
        made.make([pwd.getpwuid(os.geteuid()).pw_name])
        made.start()
        yield made
    finally:
        if made.pid is not None:
            made.stop("immediate")
        shutil.rmtree(home)
