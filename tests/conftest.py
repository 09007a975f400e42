"""A real simulator for tests: its own HSM processes, in its own folders, started and stopped by the fleet code."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from hsmsim.cli.hsm import describe
from hsmsim.config import Places
from hsmsim.fleet import launch, quickstart
from hsmsim.gateway import simulator as everything

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[1]
FREE_PORTS = {"HSMSIM_PORT": "0", "HSMSIM_TLS_PORT": "0"}
settings.register_profile("suite", deadline=None, derandomize=True)  # the same examples everywhere, however slow
settings.load_profile("suite")


@dataclass(frozen=True, slots=True)
class Simulator:
    """A running simulator. `environment`: what a client process needs, `hsmsim env` included."""

    places: Places
    ready: quickstart.Ready

    @property
    def environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        own = {"HSMSIM_HOME": str(self.places.home), "HSMSIM_RUN": str(self.places.run), **FREE_PORTS}
        return {**os.environ, **own, **self.ready.environment(), "PATH": path}

    @property
    def hsm_ids(self) -> tuple[str, ...]:
        return self.ready.hsm_ids

    @property
    def user(self) -> str:
        return self.ready.pin.partition(":")[0]

    @property
    def password(self) -> str:
        return self.ready.pin.partition(":")[2]

    def socket(self, number: int = 0) -> Path:
        return self.places.socket(self.hsm_ids[number])

    def configured(self, folder: Path, **own: object) -> dict[str, str]:
        """`environment` with a configuration of the module's own: members of its `hsmsim` (transport, timeout_ms)."""
        content = json.loads(self.ready.module_config.read_text(encoding="utf-8"))
        path = folder / f"{'-'.join(map(str, own.values()))}.cfg"
        path.write_text(json.dumps(content | {"hsmsim": content["hsmsim"] | own}), encoding="utf-8")
        return self.environment | {"HSMSIM_PKCS11_CONFIG": str(path)}

    def start(self, number: int) -> None:
        launch.start(self.places, self.hsm_ids[number])
        launch.wait_ready(self.places, [self.hsm_ids[number]])
        launch.wait_heard(self.places, self.hsm_ids)

    def stop(self, number: int) -> None:
        assert launch.stop(self.places, [self.hsm_ids[number]])

    def home(self) -> int:
        """Where most sessions are: a client is at home at one HSM, and a guest, with one session, at others."""
        sessions = [int(str(describe(self.places, hsm_id)["sessions"] or 0)) for hsm_id in self.hsm_ids]
        return sessions.index(max(sessions))

    def kill(self, number: int) -> None:
        assert launch.kill(self.places, self.hsm_ids[number])

    def pid(self, number: int) -> int | None:
        return launch.pid_of(self.places, self.hsm_ids[number])

    def log(self, number: int) -> str:
        path = self.places.hsm_folder(self.hsm_ids[number]) / "hsm.log"
        return path.read_text(encoding="utf-8", errors="replace")

    @contextmanager
    def client(self, script: str, greeting: str) -> Iterator[subprocess.Popen[str]]:
        """A Python program that `env` was told, when it has said its first line; it ends when its input does."""
        with subprocess.Popen(
            [sys.executable, "-c", script],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as client:
            assert client.stdout is not None
            assert client.stdout.readline() == f"{greeting}\n"
            yield client
            client.communicate()

    def run(self, *arguments: str, text: str | None = None, status: int = 0) -> str:
        """Run the `hsmsim` command; its standard output. A wrong exit status fails with all that it printed."""
        done = subprocess.run(
            [sys.executable, "-P", "-m", "hsmsim.cli", *arguments],
            env={**self.environment, "PYTHONPATH": str(ROOT)},
            input=text,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == status, f"hsmsim {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout if status == 0 else done.stderr


@contextmanager
def running(*, hsms: int = 2, engine: str = "fast") -> Iterator[Simulator]:
    """A simulator in a folder of its own: not tmp_path, which the account of the HSM processes cannot reach."""
    folder = Path(tempfile.mkdtemp(prefix="hsmsim-test-"))
    folder.chmod(0o711)
    places = Places(folder / "home", folder / "run")
    try:
        yield Simulator(places, quickstart.bring_up(places, lambda _: None, hsms=hsms, engine=engine))
    finally:
        if places.fleet_file.exists():
            everything.take_down(places)
        shutil.rmtree(folder)


TOLD = pytest.StashKey[list[str]]()


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Say a line that the summary at the end of the run shows: what a long loop did."""
    told = request.config.stash.setdefault(TOLD, [])
    return lambda text: told.append(f"{request.node.name}: {text}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if told := config.stash.get(TOLD, []):
        terminalreporter.section("what was done")
        for line in told:
            terminalreporter.line(line)


@pytest.fixture(scope="session")
def engine() -> str:
    """What the HSMs of the suite compute with: HSMSIM_TEST_ENGINE=softhsm runs it on the reference."""
    return os.environ.get("HSMSIM_TEST_ENGINE", "fast")


@pytest.fixture(scope="session")
def simulator(engine: str) -> Iterator[Simulator]:
    """Two HSMs for the whole session. Leave it as you found it: keys gone, HSMs running, users and passwords kept."""
    with running(engine=engine) as one:
        yield one


@pytest.fixture
def new_simulator(engine: str) -> Iterator[Callable[..., Simulator]]:
    """Make simulators of the test's own, to be broken at will: new_simulator(hsms=2)."""
    with ExitStack() as stack:

        def make(*, hsms: int = 2, engine: str = engine) -> Simulator:
            return stack.enter_context(running(hsms=hsms, engine=engine))

        yield make
