"""`hsmsim bench all --quick`: every workload, every contender, in fractions of a second. Shapes and sane values; the
speed is scripts/bench's to say.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from hsmsim.bench import contenders as who
from hsmsim.bench import handshakes, signing
from hsmsim.bench.fill import KEYS
from hsmsim.bench.machine import has_lanes
from hsmsim.bench.openssl import Provider
from hsmsim.errors import HsmsimError

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
SIGNERS = {
    *(who.HSMSIM, who.PLAIN, who.SOCKET, who.REFERENCE, who.OPENSSL, who.NEWER),
    *(who.SOFTHSM, who.SOFTHSM_PROCESSES, who.P11_KIT),
}


def hsmsim(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "hsmsim.cli", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False)


@dataclass(frozen=True, slots=True)
class Ran:
    """What the run left."""

    folder: Path
    printed: str
    progress: str

    def document(self, name: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder / f"{name}.json").read_text())
        return content

    def of(self, name: str, workload: str) -> dict[str, dict[str, Any]]:
        found = [one for one in self.document(name)["measurements"] if one["workload"] == workload]
        return {one["contender"]: one for one in found}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("bench") / "figures"
    done = hsmsim("bench", "all", "--quick", "--output", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    return Ran(folder, done.stdout, done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("workload", [signing.SIGN, signing.SIGN_ONE])
def test_everybody_signs(ran: Ran, workload: str) -> None:
    found = ran.of("sign", workload)
    without = set(ran.document("sign")["missing"])
    assert without == (set() if has_lanes() else {who.LANES})
    assert set(found) | without == SIGNERS | {who.LANES}
    for one in found.values():
        assert one["setting"] == {"key": "p256", "clients": 1}
        (numbers,) = one["rounds"]
        assert numbers["operations"] > 0
        assert 0 < numbers["p50_us"] <= numbers["p90_us"] <= numbers["p99_us"] <= numbers["max_us"]
        assert one["median"]["per_second"] == numbers["per_second"]
        assert numbers["per_second"] <= 1e6 / numbers["p50_us"] * 9  # crypto_mb does eight a call


@pytest.mark.slow
def test_everybody_encrypts(ran: Ran) -> None:
    found = ran.of("cipher", signing.GCM)
    missing = ran.document("cipher")["missing"]
    refused = set(missing) & {who.P11_KIT}  # 0.24's wire has no GCM: refused with CKR_MECHANISM_INVALID, and named
    assert set(found) | refused == SIGNERS
    assert all("C_EncryptInit" in missing[name] for name in refused)
    assert all(one["setting"] == {"bytes": 4096, "clients": 1} for one in found.values())
    assert all(one["median"]["per_second"] > 0 for one in found.values())


@pytest.mark.slow
def test_servers_shake_hands(ran: Ran) -> None:
    found = ran.of("handshakes", handshakes.HANDSHAKES)
    servers = {handshakes.NGINX_FILE, handshakes.NGINX_ENGINE, handshakes.NGINX_SOFTHSM, handshakes.HAPROXY_FILE}
    behind_provider = {handshakes.NGINX_PROVIDER, handshakes.HAPROXY_PROVIDER}
    missing = ran.document("handshakes")["missing"]
    if Provider.path().exists():
        servers |= behind_provider
        assert missing == {}
    else:
        assert set(missing) == behind_provider
    assert set(found) == servers
    for one in found.values():
        (numbers,) = one["rounds"]
        assert numbers["failures"] == 0
        assert numbers["handshakes"] > 0
        assert 0 < numbers["client_cpu"] <= 1.1
        assert 0 < numbers["busy"] <= 1
        assert one["doubt"] == "" or one["doubt"].startswith("void: ")


@pytest.mark.slow
def test_hsms_are_counted(ran: Ran) -> None:
    measured = ran.document("hsms")["measurements"]
    assert [one["setting"]["hsms"] for one in measured] == [1, 2]
    assert all(one["median"]["per_second"] > 0 for one in measured)


@pytest.mark.slow
def test_many_keys_cost_something(ran: Ran) -> None:
    (one,) = ran.document("keys")["measurements"]
    assert (one["workload"], one["setting"]) == (KEYS, {"keys": 50})
    assert 0 < one["median"]["find_ms"] < 1000
    assert 10 < one["median"]["resident_mib"] < 500


@pytest.mark.slow
def test_the_run_leaves_a_report_with_plots_and_tells_its_progress(ran: Ran) -> None:
    text = (ran.folder / "report.md").read_text()
    for title in ("## Bars", "## sign", "## AES-256-GCM encrypt", "## handshakes", "## many keys"):
        assert title in text
    plots = sorted(path.stem for path in ran.folder.glob("*.svg"))
    assert plots == ["aes-gcm", "handshakes", "hsms-p256", "latency-p256-1", "throughput-p256"]
    assert all(ET.parse(path).getroot().tag.endswith("svg") for path in ran.folder.glob("*.svg"))
    assert "handshakes p256 1.3 2: nginx, key in a file (1/1) ..." in ran.progress
    assert "p256 sign, one client, median latency" in ran.printed
    for name in ("sign", "cipher", "handshakes", "hsms", "keys"):
        machine = ran.document(name)["machine"]
        assert machine["openssl"].startswith("OpenSSL 3")
        assert machine["softhsm2"] == "2.6.1"
        assert "OpenSSL" in machine["cryptography"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("sign", "--kinds", "p256,rot13"), "rot13: choose of rsa2048"),
        (("sign", "--clients", "0"), "between 1 and 64"),
        (("cipher", "--sizes", "many"), "no list of numbers"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: tuple[str, ...], complaint: str) -> None:
    done = hsmsim("bench", *arguments)
    assert done.returncode == 2
    assert complaint in done.stderr


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that the account of the HSM processes reaches, as it does not tmp_path."""
    with tempfile.TemporaryDirectory(prefix="hsmsim-test-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


def test_a_run_that_is_terminated_leaves_nothing(reachable: Path) -> None:
    command = [sys.executable, "-P", "-m", "hsmsim.cli", "bench", "keys", "--count", "10000"]
    environment = {**os.environ, "TMPDIR": str(reachable)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "500 of 10000 keys" not in process.stderr.readline():
            assert process.poll() is None
        process.terminate()
        process.communicate(timeout=60)
        assert process.returncode == 128 + signal.SIGTERM
    assert list(reachable.iterdir()) == []
    assert [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(reachable).encode() in read(path)] == []


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def test_a_missing_contender_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not skipped in silence."""
    monkeypatch.setattr("hsmsim.bench.nginx.SBIN", str(tmp_path))
    with (
        pytest.raises(HsmsimError, match="apt-get install nginx-light"),
        handshakes.nginx.running(tmp_path / "server", {}, None, 1),
    ):
        pass
