"""Key material stays in the HSM and SoftHSM2's encrypted store: known keys are imported, used, and looked for."""

from __future__ import annotations

import base64
import os
import signal
import stat
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Simulator

USE = """
import os, sys
import pkcs11
token = pkcs11.lib(os.environ["HSMSIM_MODULE"]).get_token(token_label=os.environ["HSMSIM_TOKEN"])
with token.open(user_pin=os.environ.pop("HSMSIM_PIN")) as session:
    uses = (("secret-rsa", pkcs11.Mechanism.SHA256_RSA_PKCS, b"x"), ("secret-ec", pkcs11.Mechanism.ECDSA, bytes(32)))
    for label, mechanism, data in uses:
        key = session.get_key(label=label, object_class=pkcs11.ObjectClass.PRIVATE_KEY)
        key.sign(data, mechanism=mechanism)
    print("used", flush=True)
    sys.stdin.read()
"""


def number(value: int) -> bytes:
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


def forms(secret: bytes) -> list[bytes]:
    """As it is, in both byte orders, as text."""
    return [secret, secret[::-1], secret.hex().encode(), base64.b64encode(secret)[:-4]]


@pytest.fixture(scope="module")
def known(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[bytes]]:
    """Two keys in the HSM whose secret numbers the test knows."""
    folder = tmp_path_factory.mktemp("known")
    rsa_key = rsa.generate_private_key(65537, 2048)
    ec_key = ec.generate_private_key(ec.SECP256R1())
    for label, key in (("secret-rsa", rsa_key), ("secret-ec", ec_key)):
        path = folder / f"{label}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        simulator.run("key", "import", str(path), "--label", label)
        path.unlink()
    numbers = rsa_key.private_numbers()
    yield [number(numbers.p), number(numbers.q), number(numbers.d), number(ec_key.private_numbers().private_value)]
    for label in ("secret-rsa", "secret-ec"):
        simulator.run("key", "delete", "--label", label, "--yes")


def memory(pid: int) -> Iterator[bytes]:
    """All readable memory of a process, mapping by mapping."""
    with Path(f"/proc/{pid}/mem").open("rb") as mem:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            where, mode = line.split()[:2]
            if mode.startswith("r") and "[v" not in line:
                start, end = (int(part, 16) for part in where.split("-"))
                mem.seek(start)
                try:
                    yield mem.read(end - start)
                except OSError:
                    continue


def test_a_client_that_uses_a_key_never_has_it(simulator: Simulator, known: list[bytes]) -> None:
    with simulator.client(USE, "used") as client:
        seen = 0
        for block in memory(client.pid):
            seen += len(block)
            for secret in known:
                assert not any(form in block for form in forms(secret))
    assert seen > 1_000_000


def test_a_clients_core_has_no_key(simulator: Simulator, known: list[bytes], tmp_path: Path) -> None:
    """What the kernel writes when a client crashes, here on demand; written by gdb's gcore."""
    with simulator.client(USE, "used") as client:
        command = ["gcore", "-o", str(tmp_path / "core"), str(client.pid)]
        subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
    (core,) = tmp_path.glob("core*")
    content = core.read_bytes()
    assert b"libhsmsim_pkcs11.so" in content
    for secret in known:
        assert not any(form in content for form in forms(secret))


def test_an_hsm_that_crashes_leaves_no_core(new_simulator: Callable[..., Simulator]) -> None:
    one = new_simulator()
    pid = one.pid(0)
    folder = Path(f"/proc/{pid}/cwd").resolve()
    before = set(folder.glob("core*"))
    os.kill(pid, signal.SIGSEGV)
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}/stat").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < deadline, "it does not end"
        time.sleep(0.05)
    cores = {*folder.glob("core*"), *one.places.home.rglob("core*"), *one.places.run.rglob("core*")}
    assert cores - before == set()


def test_no_file_has_a_key_or_a_password(simulator: Simulator, known: list[bytes]) -> None:
    secrets = [*known, simulator.password.encode()]
    files = [path for path in simulator.places.home.rglob("*") if path.is_file()]
    files += [path for path in simulator.places.run.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"cluster.db", "hsm.log", "token.object"} <= names
    for path in files:
        if path.name == "credentials.json":
            continue  # the quickstart's users, 0600: what `hsmsim env` prints
        content = path.read_bytes()
        for secret in secrets:
            assert not any(form in content for form in forms(secret)), path


def test_modes_are_tight(simulator: Simulator) -> None:
    home = simulator.places.home
    assert stat.S_IMODE(home.stat().st_mode) & 0o707 == 0o700
    for path in home.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode & 0o066 == 0, path  # nobody else reads or writes
    for number_ in (0, 1):
        socket = simulator.socket(number_)
        assert stat.S_ISSOCK(socket.stat().st_mode)
        assert stat.S_IMODE(socket.stat().st_mode) == 0o666
        assert stat.S_IMODE(socket.parent.stat().st_mode) & 0o022 == 0


def test_an_hsm_process_is_not_dumpable(simulator: Simulator) -> None:
    pid = simulator.pid(0)
    # proc(5): the files of a process that is not dumpable belong to root, whoever runs it
    assert Path(f"/proc/{pid}/environ").stat().st_uid == 0
    limits = Path(f"/proc/{pid}/limits").read_text()
    core = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
    assert core.split()[4:6] == ["0", "0"]


@pytest.mark.skipif(os.geteuid() != 0, reason="as another user the HSMs run as that user")
def test_as_root_the_hsms_give_up_root(simulator: Simulator) -> None:
    status = Path(f"/proc/{simulator.pid(0)}/status").read_text()
    uids = next(line for line in status.splitlines() if line.startswith("Uid:")).split()[1:]
    assert len(set(uids)) == 1
    assert uids[0] != "0"
