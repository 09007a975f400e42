"""nginx with key files that name keys: the master reads them as root, the workers sign after the fork as others."""

from __future__ import annotations

import signal
import ssl
from typing import TYPE_CHECKING

import pytest
from support.nginx import VERSIONS, fetch, require_another_user, serving, until_it_answers, workers_of
from support.provider import OpenSsl, delete_keys, make_keys

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Simulator

LABELS = ("provider-rsa", "provider-p256")


@pytest.fixture
def folder(simulator: Simulator, tmp_path: Path) -> Iterator[Path]:
    for one in (tmp_path, *tmp_path.parents[:2]):
        one.chmod(0o755)
    make_keys(simulator, tmp_path, *LABELS)
    yield tmp_path
    delete_keys(simulator, *LABELS)


def test_workers_sign_after_the_fork(simulator: Simulator, folder: Path) -> None:
    """The PIN is in a file of root's alone, and no variable reaches a worker: what it needs was read before."""
    pin = folder / "pin"
    pin.write_text(simulator.ready.pin + "\n")
    pin.chmod(0o600)
    openssl = OpenSsl.make(simulator, folder, options=f"pin-source = {pin}", HSMSIM_PIN="")
    for label in LABELS:
        openssl.certificate(label)
    named = {label: f"{folder}/{label}.pem" for label in LABELS}
    with serving(folder, named, openssl.environment, 2) as (server, ports):
        until_it_answers(server, folder, "provider-p256", ports["provider-p256"])
        first = workers_of(server.pid)
        require_another_user(first)
        for label in LABELS:
            for name, version in VERSIONS.items():
                protocol, worker = fetch(folder, label, ports[label], version)
                assert (protocol, worker in first) == (name, True)
        server.send_signal(signal.SIGHUP)  # the master reads the keys again
        later = {fetch(folder, label, ports[label], ssl.TLSVersion.TLSv1_3)[1] for label in LABELS for _ in range(4)}
        assert later <= first | workers_of(server.pid)
        assert "[crit]" not in (folder / "error.log").read_text()
