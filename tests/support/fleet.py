"""A fleet daemon of a test's own, in a folder that goes with the test."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from support.hsm import ADMIN, USERS, Client
from support.mortal import ARMED
from support.mortal_fleet import ARMED_NEXT

from hsmsim.config import Places
from hsmsim.errors import CkrError
from hsmsim.fleet import customer, launch, state
from hsmsim.fleet import protocol as p
from hsmsim.hsm import messages as m
from hsmsim.hsm.cryptoki import CKR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = "cluster-aaaaaaaaaaa"
PROGRAM = ("-m", "hsmsim.fleet")
MORTAL = (str(ROOT / "tests/support/mortal_fleet.py"),)
"""The same, to die at a step, and so do its HSMs: Fleet.dying(), Fleet.arm()."""
T = TypeVar("T")


def hsm_id(letter: str) -> str:
    return f"hsm-{letter * 11}"


def backup_id(letter: str) -> str:
    return f"backup-{letter * 11}"


@dataclass(slots=True)
class Fleet:
    """The daemon, and what a gateway does through it."""

    places: Places
    program: tuple[str, ...] = PROGRAM
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        path = f"{ROOT}:{ROOT / 'tests'}"
        folders = {"HSMSIM_HOME": str(self.places.home), "HSMSIM_RUN": str(self.places.run), "PYTHONPATH": path}
        with (self.places.home.parent / "fleet.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", *self.program], env={**os.environ, **folders}, stderr=log
            )
        deadline = time.monotonic() + 30
        while True:
            assert self.process.poll() is None, self.log
            try:
                p.FleetClient(self.places.fleet_socket).close()
            except OSError:
                assert time.monotonic() < deadline, self.log
                time.sleep(0.02)
            else:
                return

    @contextmanager
    def dying(self, *steps: str) -> Iterator[None]:
        """What is done in it leads to a daemon that is killed at these steps, one after another."""
        self._arm(self.places.home / ARMED, steps)
        yield
        for step in steps:
            assert self.process is not None
            try:
                assert self.process.wait(60) == -signal.SIGKILL, self.log[-4000:]
            except subprocess.TimeoutExpired:
                pytest.fail(f"The daemon never came to: {step}.\n{self.log[-4000:]}")
            self.start()

    def arm(self, *steps: str, hsm_id: str = "") -> None:
        """Have an HSM die at these steps, one after another; without an id the next one that is made."""
        self._arm(self.places.hsm_folder(hsm_id) / ARMED if hsm_id else self.places.home / ARMED_NEXT, steps)

    @staticmethod
    def _arm(path: Path, steps: tuple[str, ...]) -> None:
        path.write_text("\n".join(steps), encoding="ascii")
        path.chmod(0o666)

    def struck(self, hsm_id: str) -> bool:
        """Whether the HSM has died at all of its steps, and nothing runs of it."""
        return not (self.places.hsm_folder(hsm_id) / ARMED).exists() and not launch.is_running(self.places, hsm_id)

    @property
    def log(self) -> str:
        return (self.places.home.parent / "fleet.log").read_text()

    def end(self, how: signal.Signals = signal.SIGKILL) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(30)

    def call(self, request: Any, result: type[T]) -> T:
        with p.FleetClient(self.places.fleet_socket) as client:
            return client.call(request, result)

    def do(self, request: Any) -> None:
        self.call(request, Any)  # type: ignore[arg-type]

    def create(self, letter: str, *, cluster: str = CLUSTER, **more: Any) -> p.HsmView:
        return self.call(p.CreateHsm(cluster, hsm_id(letter), **more), p.HsmView)

    def describe(self, letter: str) -> p.HsmView:
        return self.call(p.Describe(hsm_id(letter)), p.HsmView)

    def certificates(self, cluster: str = CLUSTER) -> p.CertificatesView:
        return self.call(p.Certificates(cluster), p.CertificatesView)

    def initialize(self, cluster: str = CLUSTER) -> None:
        signed, anchor = customer.sign(self.places.home.parent / "customer", self.certificates(cluster).csr)
        self.do(p.Initialize(cluster, signed, anchor))

    def backup(self, letter: str, cluster: str = CLUSTER, **more: Any) -> p.ImageView:
        return self.call(p.Backup(cluster, backup_id(letter), **more), p.ImageView)

    def client(self, letter: str, *, profile: int = 0) -> Client:
        return Client(self.places.socket(hsm_id(letter)), profile=profile)

    def user(self, letter: str, name: str = "alice", *, profile: int = 0) -> Client:
        """profile 2: without the key availability check, on a lone HSM."""
        client = self.client(letter, profile=profile)
        client.login(name)
        return client

    def activate(self, letter: str) -> None:
        with self.client(letter) as client:
            client.call(m.ActivateRequest(ADMIN.encode()))
            client.admin()
            for name, password in USERS.items():
                client.call(m.UserCreateRequest(name.encode(), 2, password.encode()))


def patiently(make: Callable[[], T], seconds: float = 20) -> T:
    """Make a key on a cluster whose HSMs may not have heard each other yet."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return make()
        except CkrError as error:
            if error.rv != CKR.FUNCTION_FAILED or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@contextmanager
def fleet(program: tuple[str, ...] = PROGRAM) -> Iterator[Fleet]:
    """A daemon that runs; whatever it started is gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="hsmsim-fleet-"))
    folder.chmod(0o711)
    made = Fleet(Places(folder / "home", folder / "run"), program)
    made.places.home.mkdir(mode=0o700)
    try:
        made.start()
        yield made
    finally:
        if made.process is not None and made.process.poll() is None:
            made.end(signal.SIGTERM)  # in order: nothing of it writes in the folder any more
        launch.stop(made.places, [hsm.hsm_id for hsm in state.load(made.places).hsms()], 1)
        shutil.rmtree(folder)
