"""HSMs that root starts: none of them makes files as root under the hands of another that has given root up."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hsmsim.hsm.process import Config, prepare
from hsmsim.storage.migrate import migrate

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root starts HSMs as somebody else")

ACCOUNT = "nobody"
USE = """
import os, pwd, sys
from sqlalchemy import text
from hsmsim.storage.database import Database
user = pwd.getpwnam(sys.argv[2])
Database(sys.argv[1]).close()  # what is imported for it may lie where only root can read
os.setgroups([]); os.setgid(user.pw_gid); os.setuid(user.pw_uid)
print("ready", flush=True)
for _ in range(int(sys.argv[3])):
    database = Database(sys.argv[1])
    with database.read() as connection:
        connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
    with database.write() as connection:
        connection.execute(text("UPDATE cluster SET version = version + 1"))
    database.close()
"""


@dataclass(frozen=True, slots=True)
class Rows:
    path: Path

    @property
    def config(self) -> Config:
        folder = self.path.parent
        return Config(
            "hsm-aaaaaaaaaaa", "cluster-aaaaaaaaaaa", f"sqlite:///{self.path}", f"{folder}/a.sock", folder, "fast", "",
            availability_check=False, model="hsm2m.medium", workers=1,
        )  # fmt: skip

    def owners(self) -> set[str]:
        return {pwd.getpwuid(file.stat().st_uid).pw_name for file in self.path.parent.glob("cluster.db*")}


@pytest.fixture
def rows() -> Iterator[Rows]:
    """A folder that the account may use; pytest's own ones are closed to it."""
    with tempfile.TemporaryDirectory(prefix="hsmsim-account-") as name:
        folder = Path(name)
        entry = pwd.getpwnam(ACCOUNT)
        os.chown(folder, entry.pw_uid, entry.pw_gid)
        yield Rows(folder / "cluster.db")


def test_an_hsm_that_starts_does_not_disturb_one_that_has_given_root_up(rows: Rows) -> None:
    prepare(rows.config, ACCOUNT)
    with subprocess.Popen(
        [sys.executable, "-c", USE, rows.config.database_url, ACCOUNT, "400"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        starts = 0
        while other.poll() is None:
            prepare(rows.config, ACCOUNT)
            starts += 1
        assert other.stderr is not None
        assert (other.returncode, other.stderr.read()) == (0, "")
    assert starts > 20
    assert os.geteuid() == 0


def test_what_a_killed_start_left_is_given_to_the_account(rows: Rows) -> None:
    migrate(rows.config.database_url)
    assert rows.owners() == {"root"}
    prepare(rows.config, ACCOUNT)
    assert rows.owners() == {ACCOUNT}
