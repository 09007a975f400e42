"""hsmsim's pytest plugin, in test runs of their own as its users have them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

from hsmsim import pytest_plugin

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0
COMMAND = [sys.executable, "-m", "pytest", "-p", "hsmsim.pytest_plugin", "-p", "no:cacheprovider", "-p", "no:randomly"]

USES = """
    import json
    from pathlib import Path

    import pkcs11
    import pytest
    from botocore.exceptions import ClientError
    from pkcs11 import KeyType, Mechanism

    @pytest.fixture(scope="session", autouse=True)
    def note(hsmsim):
        told = {"home": str(hsmsim.home), "pids": [int(one.read_text().split()[0]) for one in pids(hsmsim.home)]}
        Path("told.json").write_text(json.dumps(told))

    def pids(home):
        return [*home.glob("*.pid"), *home.glob("hsms/*/*.pid")]
"""


def project(folder: Path, tests: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    """A test run in the folder of these tests."""
    (folder / "test_it.py").write_text(dedent(USES) + dedent(tests))
    return subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def told(folder: Path) -> tuple[Path, list[int]]:
    """The simulator's state folder, and its processes: two HSMs, the gateway, the fleet's daemon."""
    found = json.loads((folder / "told.json").read_text())
    return Path(found["home"]), found["pids"]


def eventually(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def gone(home: Path, pids: list[int]) -> bool:
    return not home.parent.exists() and not any(runs(pid) for pid in pids)


def runs(pid: int) -> bool:
    """A process that has ended may wait for init to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_run_that_signs_and_calls_aws_and_fails_leaves_nothing(tmp_path: Path) -> None:
    run = project(
        tmp_path,
        """
        def test_caller(hsmsim_client):
            assert hsmsim_client("sts").get_caller_identity()["Arn"] == "arn:aws:iam::123456789012:root"

        def test_options_win(hsmsim_client):
            with pytest.raises(ClientError, match="InvalidClientTokenId"):
                hsmsim_client("sts", aws_access_key_id="AKIAIOSFODNN7EXAMPLE").get_caller_identity()

        def test_a_signature(hsmsim, hsmsim_cluster, monkeypatch):
            assert hsmsim_cluster.environment.items() <= hsmsim.environment.items()
            assert len(hsmsim_cluster.hsm_ids) == 2
            monkeypatch.setenv("HSMSIM_PKCS11_CONFIG", str(hsmsim_cluster.module_config))
            token = pkcs11.lib(str(hsmsim_cluster.module)).get_token(token_label=hsmsim_cluster.token)
            with token.open(rw=True, user_pin=f"{hsmsim_cluster.user}:{hsmsim_cluster.password}") as session:
                public, private = session.generate_keypair(KeyType.RSA, 2048, store=True, label="mine")
                signature = private.sign(b"pay", mechanism=Mechanism.SHA256_RSA_PKCS)
                assert public.verify(b"pay", signature, mechanism=Mechanism.SHA256_RSA_PKCS)
                assert not public.verify(b"pray", signature, mechanism=Mechanism.SHA256_RSA_PKCS)

        def test_no_secret_is_shown(hsmsim, hsmsim_cluster):
            shown = repr(hsmsim)
            assert hsmsim_cluster.cluster_id in shown
            assert hsmsim_cluster.password not in shown
            assert hsmsim.environment["AWS_SECRET_ACCESS_KEY"] not in shown

        def test_that_fails():
            raise AssertionError("as tests do")
        """,
    )
    output, _ = run.communicate(timeout=120)
    assert "4 passed" in output, output
    assert "as tests do" in output
    assert "1 failed" in output
    assert run.returncode == 1
    home, pids = told(tmp_path)
    assert len(pids) == 4
    assert gone(home, pids)


def test_a_run_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    run = project(
        tmp_path,
        """
        import time

        def test_that_hangs(hsmsim_client):
            assert hsmsim_client("sts").get_caller_identity()["Account"] == "123456789012"
            Path("hangs").touch()
            time.sleep(600)
        """,
    )
    eventually((tmp_path / "hangs").exists)
    home, pids = told(tmp_path)
    assert home.is_dir()
    assert len(pids) == 4
    run.send_signal(signal.SIGKILL)
    run.communicate(timeout=60)
    eventually(lambda: gone(home, pids))


def test_how_many_hsms_is_a_setting(tmp_path: Path) -> None:
    one = "def test_it(hsmsim_cluster): assert len(hsmsim_cluster.hsm_ids) == 1"
    run = project(tmp_path, one, "-o", "hsmsim_hsms=1")
    output, _ = run.communicate(timeout=120)
    assert run.returncode == 0, output


def test_a_simulator_that_does_not_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    own = {"SOFTHSM2_LIBRARY": str(tmp_path / "missing.so"), "TMPDIR": str(tmp_path / "tmp")}
    run = project(tmp_path, "def test_it(): pass", **own)
    output, _ = run.communicate(timeout=120)
    assert run.returncode == 1
    assert "The simulator did not start." in output
    assert "missing.so" in output
    assert list((tmp_path / "tmp").glob("hsmsim-*")) == []


def test_without_boto3_only_clients_fail_and_say_what_to_do(tmp_path: Path) -> None:
    run = project(
        tmp_path,
        """
        import sys

        def test_of_pkcs11(hsmsim_cluster, monkeypatch):
            assert hsmsim_cluster.module.is_file()

        def test_client(hsmsim_client, monkeypatch):
            monkeypatch.setitem(sys.modules, "boto3", None)
            with pytest.raises(pytest.UsageError, match="pip install boto3"):
                hsmsim_client("sts")
        """,
        "-o",
        "hsmsim_hsms=1",
    )
    output, _ = run.communicate(timeout=120)
    assert "2 passed" in output, output


def test_an_installed_hsmsim_is_found_by_pytest() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"hsmsim": pytest_plugin.__name__}
