"""Fixtures for the tests of those who use HSMs: a simulator per test run, its cluster, boto3 clients.

Installed, pytest finds it by its entry point; in a checkout: `pytest -p hsmsim.pytest_plugin`. It is imported in every
test run of its environment, so that what it needs is imported when a fixture is used.

The simulator is a child that ends when its standard input does (hsmsim.gateway.ephemeral): also after a killed run
nothing stays behind. Nothing of the test process is changed, not even its environment.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

HSMS = "hsmsim_hsms"
END_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that is ACTIVE, as a client of PKCS#11 needs it. pin: `user:password`, as CloudHSM has it."""

    cluster_id: str
    hsm_ids: tuple[str, ...]
    module: Path
    module_config: Path
    token: str
    pin: str = field(repr=False)
    environment: dict[str, str] = field(repr=False)
    """For a process that loads the module: HSMSIM_MODULE, HSMSIM_TOKEN, HSMSIM_PIN, HSMSIM_PKCS11_CONFIG."""

    @property
    def user(self) -> str:
        """The crypto user's name."""
        return self.pin.partition(":")[0]

    @property
    def password(self) -> str:
        """The crypto user's password."""
        return self.pin.partition(":")[2]


@dataclass(frozen=True, slots=True)
class Simulator:
    """A running simulator. environment: what `hsmsim env` exports, with HSMSIM_HOME and HSMSIM_RUN for its commands."""

    home: Path
    endpoint_url: str
    region: str
    cluster: Cluster
    environment: dict[str, str] = field(repr=False)

    def client(self, service: str, **options: Any) -> Any:  # noqa: ANN401 - as in boto3
        """Return a boto3 client of this service with the root user's key; options as of boto3.client, which win."""
        try:
            import boto3  # noqa: PLC0415 - tests of PKCS#11 alone do without
        except ImportError as error:
            raise pytest.UsageError(
                "hsmsim_client makes boto3 clients, and boto3 is not installed here: pip install boto3"
            ) from error
        own = {
            "endpoint_url": self.endpoint_url,
            "region_name": self.region,
            "aws_access_key_id": self.environment["AWS_ACCESS_KEY_ID"],
            "aws_secret_access_key": self.environment["AWS_SECRET_ACCESS_KEY"],
        }
        return boto3.client(service, **(own | options))


class ClientFactory(Protocol):
    """What the fixture `hsmsim_client` is."""

    def __call__(self, service: str, **options: Any) -> Any:  # noqa: ANN401 - as in boto3
        """Return a boto3 client of this service; options as of boto3.client."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the setting of how many HSMs there are."""
    parser.addini(HSMS, "HSMs of the simulator that the fixture `hsmsim` starts", default="2")


@pytest.fixture(scope="session")
def hsmsim(pytestconfig: pytest.Config) -> Iterator[Simulator]:
    """A simulator for the whole run, in a folder of its own and on free ports; gone at the end."""
    with _running(pytestconfig.getini(HSMS)) as one:
        yield one


@pytest.fixture(scope="session")
def hsmsim_cluster(hsmsim: Simulator) -> Cluster:
    """The simulator's cluster: ACTIVE, with a crypto user, what clients of PKCS#11 load."""
    return hsmsim.cluster


@pytest.fixture(scope="session")
def hsmsim_client(hsmsim: Simulator) -> ClientFactory:
    """What makes boto3 clients of the simulator; it takes what boto3.client does."""
    return hsmsim.client


@contextmanager
def _running(hsms: str) -> Iterator[Simulator]:
    command = [sys.executable, "-P", "-m", "hsmsim.gateway.ephemeral", "--hsms", hsms]
    child = subprocess.Popen(  # noqa: S603 - our own
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C ends the tests first, and they still have their simulator while they end
    )
    assert child.stdout is not None  # noqa: S101 - it is a pipe
    try:
        line = child.stdout.readline()
        if line:
            yield _simulator(json.loads(line))
    finally:
        _, said = child.communicate(timeout=END_SECONDS)
    if child.returncode != 0:
        raise RuntimeError(f"The simulator {'did not end well' if line else 'did not start'}. {said.strip()}")


def _simulator(told: dict[str, Any]) -> Simulator:
    environment = told["environment"]
    of_pkcs11 = {name: environment[name] for name in environment if name.startswith("HSMSIM_")}
    cluster = Cluster(
        told["cluster_id"],
        tuple(told["hsm_ids"]),
        Path(environment["HSMSIM_MODULE"]),
        Path(environment["HSMSIM_PKCS11_CONFIG"]),
        environment["HSMSIM_TOKEN"],
        environment["HSMSIM_PIN"],
        of_pkcs11,
    )
    url, region = environment["AWS_ENDPOINT_URL"], environment["AWS_REGION"]
    return Simulator(Path(told["home"]), url, region, cluster, environment)
