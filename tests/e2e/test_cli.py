"""The `hsmsim` command against a running cluster: what it does, what it prints, what it says when it cannot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from hsmsim.hsm.client import SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Simulator

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def label(simulator: Simulator, request: pytest.FixtureRequest) -> Iterator[str]:
    """A label of the test's own; whatever keys it gets are deleted afterwards."""
    name = request.node.name[:60]
    yield name
    if keys(simulator, name):
        simulator.run("key", "delete", "--label", name, "--yes")


def keys(simulator: Simulator, label: str, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(simulator.run("key", "list", "--label", label, "--json", *arguments))
    return found


def written(path: Path, text: str) -> str:
    path.write_text(text + "\n")
    path.chmod(0o600)
    return str(path)


# ---- the simulator -----------------------------------------------------------------------------------------------


def test_env_is_what_a_shell_needs(simulator: Simulator) -> None:
    script = (
        f'{simulator.run("env")}printf "%s\\n" "$HSMSIM_MODULE" "$HSMSIM_TOKEN" "$HSMSIM_PIN" "$HSMSIM_PKCS11_CONFIG"'
    )
    shell = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=True, env={})
    module, token, pin, config = shell.stdout.splitlines()
    assert Path(module).name == "libhsmsim_pkcs11.so"
    assert token == "hsmsim"
    assert pin == simulator.ready.pin
    assert json.loads(Path(config).read_text())["clusters"][0]["cluster"]["cluster_id"] == simulator.ready.cluster_id
    assert json.loads(simulator.run("env", "--json"))["HSMSIM_PIN"] == pin


def test_both_hsms_are_active(simulator: Simulator) -> None:
    found = json.loads(simulator.run("hsm", "list", "--json"))
    assert [one["hsm_id"] for one in found] == list(simulator.hsm_ids)
    assert {one["state"] for one in found} == {"ACTIVE"}
    assert {one["pid"] for one in found} == {simulator.pid(0), simulator.pid(1)}
    assert simulator.run("status").count("ACTIVE") == 2


def test_state_is_private_and_what_clients_need_is_not(simulator: Simulator) -> None:
    assert simulator.places.home.stat().st_mode & 0o067 == 0
    assert simulator.places.credentials_file.stat().st_mode & 0o777 == 0o600
    assert simulator.places.run.stat().st_mode & 0o777 == 0o755
    config = simulator.places.module_config
    assert config.stat().st_mode & 0o777 == 0o644
    assert simulator.password not in config.read_text()


def test_down_and_up_keep_keys_and_pin(new_simulator: Callable[..., Simulator]) -> None:
    one = new_simulator()
    one.run("key", "generate", "ec", "--label", "kept")
    before = one.run("key", "list", "--json")
    assert one.run("down") == f"Stopped {', '.join(one.hsm_ids)}.\n"
    assert one.run("down") == "Nothing was running.\n"
    assert "not running" in one.run("env", status=1)
    assert "No HSM" in one.run("key", "list", status=1)
    one.run("status", status=3)
    again = one.run("up", "--detach")
    assert f"PIN     {one.ready.pin}" in again
    assert one.run("key", "list", "--json") == before
    assert one.run("down") == f"Stopped gateway, fleet daemon, {', '.join(one.hsm_ids)}.\n"


def test_a_killed_hsm_is_seen_and_started_again(new_simulator: Callable[..., Simulator]) -> None:
    one = new_simulator()
    first, second = one.hsm_ids
    one.run("hsm", "kill", first)
    states = {found["hsm_id"]: found["state"] for found in json.loads(one.run("hsm", "list", "--json"))}
    assert states == {first: "STOPPED", second: "ACTIVE"}
    assert "at least 2 HSMs" in one.run("key", "generate", "ec", "--label", "refused", status=1)
    one.run("hsm", "start", first)
    assert [found["live"] for found in json.loads(one.run("hsm", "list", "--json"))] == [2, 2]
    one.run("key", "generate", "ec", "--label", "accepted")
    one.run("hsm", "stop", second)
    assert [found["label"] for found in json.loads(one.run("key", "list", "--json"))] == ["accepted", "accepted"]


def test_a_command_goes_to_another_hsm_where_the_first_is_cut_off(simulator: Simulator) -> None:
    first = simulator.hsm_ids[0]
    simulator.run("fault", "partition", first, "--from", "clients")
    try:
        start = time.monotonic()
        simulator.run("key", "list")
        assert time.monotonic() - start < SECONDS / 2
    finally:
        simulator.run("fault", "clear", first)


def test_the_clock_is_moved_shown_and_reset(simulator: Simulator) -> None:
    try:
        assert "400 days, 0:00:00 ahead" in simulator.run("clock", "advance", "400d")
        assert "400 days, 0:10:00 ahead" in simulator.run("clock", "advance", "10m")
        shown = json.loads(simulator.run("clock", "show", "--json"))
        assert shown["offset"] == 400 * 86_400 + 600
        assert "write it like 10m, 36h or 400d" in simulator.run("clock", "advance", "soon", status=1)
        simulator.run("user", "list")
    finally:
        assert "0:00:00 ahead" in simulator.run("clock", "reset")


def test_an_hsm_more_has_every_key(new_simulator: Callable[..., Simulator]) -> None:
    one = new_simulator()
    one.run("key", "generate", "aes", "--label", "spread")
    made = one.run("hsm", "create").strip()
    third = next(found for found in json.loads(one.run("hsm", "list", "--json")) if found["hsm_id"] == made)
    assert (third["state"], third["keys"]) == ("ACTIVE", 1)


def test_an_unknown_hsm_is_one_sentence(simulator: Simulator) -> None:
    said = simulator.run("hsm", "start", "hsm-aaaaaaaaaaa", status=1)
    assert "Error: There is no HSM hsm-aaaaaaaaaaa. The HSMs here are: hsm-" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("key", "import", "/nonexistent", "--label", "x"), "Error: /nonexistent: No such file or directory."),
        (("key", "import", "/tmp", "--label", "x"), "Error: /tmp: Is a directory."),
        (
            ("user", "create", "dora", "--password-file", "/nonexistent"),
            "Error: /nonexistent: No such file or directory.",
        ),
        (("nonsense",), "Usage: hsmsim "),
    ],
)
def test_a_wrong_argument_is_one_sentence(simulator: Simulator, arguments: tuple[str, ...], reason: str) -> None:
    said = simulator.run(*arguments, status=2 if arguments == ("nonsense",) else 1)
    assert reason in said
    assert "Traceback" not in said


def test_a_home_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    environment = {**os.environ, "HSMSIM_HOME": str(tmp_path / "file" / "home"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-m", "hsmsim.cli", "up", "--detach"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, f"Error: {tmp_path / 'file' / 'home'}: Not a directory.\n")


def test_scripts_up_is_quick_and_safe_to_run_again(tmp_path: Path) -> None:
    folders = {"HSMSIM_HOME": str(tmp_path / "home"), "HSMSIM_RUN": str(tmp_path / "run")}
    environment = {**os.environ, **folders, "HSMSIM_PORT": "0", "HSMSIM_TLS_PORT": "0"}
    command = [str(ROOT / "scripts" / "up"), "--detach"]
    try:
        first = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        second = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=20)
    finally:
        hsmsim = str(ROOT / ".venv" / "bin" / "hsmsim")
        subprocess.run([hsmsim, "down"], env=environment, check=True, capture_output=True)
    pins = {line.split()[1] for text in (first.stdout, second.stdout) for line in text.splitlines() if "PIN  " in line}
    assert len(pins) == 1


# ---- users and partitions ----------------------------------------------------------------------------------------


def test_a_user_is_made_renamed_in_case_and_deleted(simulator: Simulator, tmp_path: Path) -> None:
    secret = written(tmp_path / "password", "a good password")
    simulator.run("user", "create", "Alice", "--password-file", secret)
    listed = {one["name"]: one for one in json.loads(simulator.run("user", "list", "--json"))}
    assert listed["alice"]["role"] == "crypto-user"
    assert listed["alice"]["locked"] is False
    assert listed["admin"]["role"] == "admin"
    assert "taken" in simulator.run("user", "create", "ALICE", "--password-file", secret, status=1)
    simulator.run("key", "list", "--user", "alice", "--password-file", secret)
    simulator.run("user", "delete", "aLiCe")
    assert "alice" not in simulator.run("user", "list")


@pytest.mark.parametrize(
    ("password", "reason"), [("short", "8 to 32"), ("x" * 33, "8 to 32"), ("has:a colon", "no ':'")]
)
def test_a_bad_password_is_explained(simulator: Simulator, password: str, reason: str) -> None:
    assert reason in simulator.run("user", "create", "nobody", "--password-file", "-", text=password, status=1)


def test_a_password_is_never_an_argument_nor_asked_without_a_terminal(simulator: Simulator) -> None:
    assert "--password-file" in simulator.run("user", "create", "nobody", text="", status=1)
    assert "No such option" in simulator.run("user", "create", "nobody", "--password", "secret password", status=2)


def test_a_changed_password_is_followed(new_simulator: Callable[..., Simulator]) -> None:
    one = new_simulator()
    one.run("user", "change-password", "app", "--password-file", "-", text="another password")
    assert json.loads(one.run("env", "--json"))["HSMSIM_PIN"] == "app:another password"
    one.run("key", "list")
    one.run("user", "change-password", "admin", "--role", "admin", "--password-file", "-", text="a new admin word")
    one.run("user", "create", "bob", "--password-file", "-", text="password of bob")


def test_a_locked_user_is_unlocked_by_an_admin(simulator: Simulator, tmp_path: Path) -> None:
    right, wrong = written(tmp_path / "right", "password of eve"), written(tmp_path / "wrong", "not the password")
    simulator.run("user", "create", "eve", "--password-file", right)
    for _ in range(5):
        assert "is wrong" in simulator.run("key", "list", "--user", "eve", "--password-file", wrong, status=1)
    assert "locked" in simulator.run("key", "list", "--user", "eve", "--password-file", right, status=1)
    assert next(one for one in json.loads(simulator.run("user", "list", "--json")) if one["name"] == "eve")["locked"]
    simulator.run("user", "change-password", "eve", "--password-file", right)
    simulator.run("key", "list", "--user", "eve", "--password-file", right)
    simulator.run("user", "delete", "eve")


def test_a_partition_is_a_world_of_its_own(new_simulator: Callable[..., Simulator], tmp_path: Path) -> None:
    one = new_simulator()
    admin, user = written(tmp_path / "admin", "payments admin"), written(tmp_path / "user", "payments user")
    one.run("key", "generate", "aes", "--label", "ours")
    one.run("partition", "create", "payments", "--password-file", admin)
    assert [found["name"] for found in json.loads(one.run("partition", "list", "--json"))] == ["", "payments"]
    as_admin = ("--partition", "payments", "--admin-password-file", admin)
    one.run("user", "create", "alice", "--password-file", user, *as_admin)
    as_alice = ("--partition", "payments", "--user", "alice", "--password-file", user)
    assert json.loads(one.run("key", "list", "--json", *as_alice)) == []
    one.run("key", "generate", "aes", "--label", "theirs", *as_alice)
    assert [found["label"] for found in json.loads(one.run("key", "list", "--json", *as_alice))] == ["theirs"]
    assert [found["label"] for found in json.loads(one.run("key", "list", "--json"))] == ["ours"]
    assert "no partition 'nowhere'" in one.run("user", "list", "--partition", "nowhere", status=1)


# ---- keys --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("rsa", "--bits", "3072"), {("public", "RSA", 3072), ("private", "RSA", 3072)}),
        (("ec", "--curve", "P-384"), {("public", "EC", 384), ("private", "EC", 384)}),
        (("ec", "--curve", "secp256k1"), {("public", "EC", 256), ("private", "EC", 256)}),
        (("aes", "--bits", "192"), {("secret", "AES", 192)}),
        (("generic-secret", "--bits", "512"), {("secret", "GENERIC_SECRET", 512)}),
    ],
)
def test_a_key_is_made_listed_and_destroyed(
    simulator: Simulator, label: str, arguments: tuple[str, ...], expected: set[tuple[str, str, int]]
) -> None:
    made = json.loads(simulator.run("key", "generate", *arguments, "--label", label, "--json"))
    found = keys(simulator, label)
    assert {(one["class"], one["type"], one["bits"]) for one in found} == expected
    assert {one["handle"] for one in found} == set(made.values())
    assert {one["owner"] for one in found if one["class"] != "public"} == {simulator.user}
    assert not any(one["extractable"] for one in found if one["class"] != "public")
    assert len({one["id"] for one in found}) == 1
    simulator.run("key", "delete", "--label", label, "--yes")
    assert keys(simulator, label) == []
    assert f"no key labelled '{label}'" in simulator.run("key", "delete", "--label", label, "--yes", status=1)


def test_an_ed25519_pair(simulator: Simulator, label: str) -> None:
    simulator.run("key", "generate", "ed25519", "--label", label, "--id", "00ff")
    assert {(one["class"], one["type"], one["id"]) for one in keys(simulator, label)} == {
        ("public", "EC_EDWARDS", "00ff"),
        ("private", "EC_EDWARDS", "00ff"),
    }


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 2048),
        ec.generate_private_key(ec.SECP521R1()),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["rsa", "ec", "ed25519"],
)
def test_a_key_that_people_have_is_imported(
    simulator: Simulator, label: str, tmp_path: Path, key: rsa.RSAPrivateKey
) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"a passphrase")))
    passphrase = written(tmp_path / "passphrase", "a passphrase")
    simulator.run("key", "import", str(path), "--label", label, "--passphrase-file", passphrase)
    assert {one["class"] for one in keys(simulator, label)} == {"public", "private"}


def test_a_key_is_imported_from_standard_input(simulator: Simulator, label: str) -> None:
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
    )
    simulator.run("key", "import", "-", "--label", label, text=pem.decode())
    assert len(keys(simulator, label)) == 2


def test_a_key_is_shared_and_unshared(simulator: Simulator, label: str, tmp_path: Path) -> None:
    secret = written(tmp_path / "password", "password of bob")
    as_bob = ("--user", "bob", "--password-file", secret)
    simulator.run("user", "create", "bob", "--password-file", secret)
    simulator.run("key", "generate", "aes", "--label", label)
    assert keys(simulator, label, *as_bob) == []
    simulator.run("key", "share", "--label", label, "--with", "bob")
    assert [(one["owner"], one["shared"]) for one in keys(simulator, label, *as_bob)] == [(simulator.user, ["bob"])]
    assert "only the key's owner" in simulator.run("key", "delete", "--label", label, "--yes", *as_bob, status=1)
    simulator.run("key", "unshare", "--label", label, "--from", "bob")
    assert keys(simulator, label, *as_bob) == []
    simulator.run("user", "delete", "bob")


def test_only_an_admin_trusts_a_key(simulator: Simulator, label: str) -> None:
    handle = json.loads(simulator.run("key", "generate", "aes", "--label", label, "--json"))["key"]
    assert "is trusted" in simulator.run("key", "trust", handle)
    assert "is not trusted" in simulator.run("key", "trust", handle, "--off")


# ---- the module's configuration ----------------------------------------------------------------------------------


def test_configuration_files_are_written_and_added_to(simulator: Simulator, tmp_path: Path) -> None:
    path = tmp_path / "own" / "pkcs11.cfg"
    to = ("configure-pkcs11", "--output", str(path))
    simulator.run(*to, "--profile", "cloudhsm", "--disable-key-availability-check")
    content = json.loads(path.read_text())
    assert content["hsmsim"]["profile"] == "cloudhsm"
    assert content["clusters"][0]["cluster"]["options"] == {"disable_key_availability_check": True}
    simulator.run(*to, "--add-cluster", "--partition", "pay", "--label", "pay")
    content = json.loads(path.read_text())
    assert [one["hsmsim"]["label"] for one in content["clusters"]] == ["hsmsim", "pay"]
    assert content["hsmsim"]["profile"] == "cloudhsm"
    path.write_text("[]")
    assert "--add-cluster" in simulator.run(*to, "--add-cluster", status=1)
