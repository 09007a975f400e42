"""The configuration file and the log: where they are, and that every trouble is one code and one line with advice."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import stat
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from conftest import ROOT
from support.p11 import Module, refused

from hsmsim.hsm.cryptoki import CKR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from conftest import Simulator

root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may be somebody else")
NOBODY = 65534


@pytest.fixture
def config(simulator: Simulator) -> Any:
    return json.loads(simulator.places.module_config.read_text())


@pytest.fixture
def start(simulator: Simulator, tmp_path: Path) -> Callable[..., Module]:
    """A module with this configuration, before C_Initialize."""

    def make(content: Any, **more: str) -> Module:
        path = tmp_path / "pkcs11.cfg"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return Module({**simulator.environment, "HSMSIM_PKCS11_CONFIG": str(path), **more}, start=False)

    return make


def said(capfd: pytest.CaptureFixture[str]) -> list[str]:
    """The module's lines on standard error since the last look."""
    return [
        line.partition("hsmsim_pkcs11: ")[2] for line in capfd.readouterr().err.splitlines() if "hsmsim_pkcs11" in line
    ]


def slots(module: Module) -> int:
    count = ctypes.c_ulong(1)
    module.call("C_GetSlotList", ctypes.c_ubyte(1), ctypes.byref(module.slot), ctypes.byref(count))
    return count.value


# ---- a file that is wrong ------------------------------------------------------------------------------------------


def _with(content: Any, path: str, value: Any) -> Any:
    """The document with one member changed: path is names and numbers with dots between."""
    *way, last = path.split(".")
    inner = content
    for step in way:
        inner = inner[int(step) if step.isdigit() else step]
    inner[last] = value
    return content


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("clusters", [], '"clusters" is missing or empty'),
        ("clusters", {}, "clusters wants a list"),
        ("clusters.0.cluster", None, 'needs "cluster"'),
        ("clusters.0.cluster.servers", [], "no server of the cluster is enabled"),
        ("clusters.0.cluster.servers", "all", "servers wants a list"),
        ("clusters.0.cluster.servers.0.enable", "no", "enable wants true or false"),
        ("clusters.0.cluster.servers.0.socket", "run/hsm.sock", "an absolute path of at most 107 bytes"),
        ("clusters.0.cluster.servers.0.socket", "/" + "x" * 107, "an absolute path of at most 107 bytes"),
        ("clusters.0.cluster.servers.0.socket", None, '"hsm_ca_file" is to name the customer'),
        ("clusters.0.cluster.options", True, "options wants an object"),
        ("clusters.0.cluster.options.disable_key_availability_check", "true", "wants true or false"),
        ("clusters.0.hsmsim.uid", "root", "uid wants a number"),
        ("clusters.0.hsmsim.uid", -1, '"uid" is out of range'),
        ("clusters.0.hsmsim.label", "x" * 128, "names have at most 127 bytes"),
        ("hsmsim.profile", "aws", '"profile" is general or cloudhsm'),
        ("hsmsim.timeout_ms", "5000", "timeout_ms wants a number"),
        ("hsmsim.timeout_ms", 99, '"timeout_ms" is between 100 and 600000'),
        ("logging.log_level", "loud", "log_level error, warn, info, debug or trace"),
        ("logging.log_type", "file", "with an absolute log_file"),
        ("logging.log_file", 7, "log_file wants a string"),
    ],
)
def test_a_member_that_is_wrong(
    start: Callable[..., Module], config: Any, capfd: pytest.CaptureFixture[str], path: str, value: object, says: str
) -> None:
    module = start(_with(config, path, value))
    assert module.rv("C_Initialize", None) is CKR.GENERAL_ERROR
    (line,) = said(capfd)
    assert says in line
    assert line.startswith(module.environment["HSMSIM_PKCS11_CONFIG"])
    assert module.rv("C_GetInfo", ctypes.create_string_buffer(128)) is CKR.CRYPTOKI_NOT_INITIALIZED


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "line 1: the file ends in the middle"),
        (b'{\n "clusters": [\n', "line 3: the file ends in the middle"),
        (b"{} {}", "line 1: something follows the value"),
        (b"[]", '"clusters" is missing or empty'),
        (b"\0" * 100, "line 1: "),
        (b"[" * 1000, "line 1: "),
        (b" " * 65537, "line 1: larger than 64 KiB"),
        (b"[" + b"0," * 30_000 + b"0]", "line 1: too many values"),
    ],
)
def test_a_file_that_is_none(
    start: Callable[..., Module], capfd: pytest.CaptureFixture[str], content: bytes, says: str
) -> None:
    assert start(content).rv("C_Initialize", None) is CKR.GENERAL_ERROR
    (line,) = said(capfd)
    assert says in line
    assert "`hsmsim configure-pkcs11`" in line


def test_a_file_that_is_missing_or_a_folder(
    simulator: Simulator, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for path, says in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        module = Module({**simulator.environment, "HSMSIM_PKCS11_CONFIG": str(path)}, start=False)
        assert module.rv("C_Initialize", None) is CKR.GENERAL_ERROR
        (line,) = said(capfd)
        assert str(path) in line
        assert says in line
        assert "`hsmsim configure-pkcs11`" in line
    assert module.rv("C_Finalize", None) is CKR.CRYPTOKI_NOT_INITIALIZED
    module.environment = simulator.environment
    module.call("C_Initialize", None)  # a failure leaves nothing behind
    module.call("C_Finalize", None)


@contextmanager
def as_nobody() -> Iterator[None]:
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@root
def test_a_file_that_may_not_be_read(
    simulator: Simulator, start: Callable[..., Module], config: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    module = start(config)
    path = tmp_path / "pkcs11.cfg"
    path.chmod(0o600)
    home = tmp_path / "home" / ".config" / "hsmsim"
    home.mkdir(parents=True)
    (home / "pkcs11.cfg").write_bytes(path.read_bytes())
    (home / "pkcs11.cfg").chmod(0o600)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    users = {**simulator.environment, "HOME": str(tmp_path / "home")}
    del users["HSMSIM_PKCS11_CONFIG"]
    for environment in (module.environment, users):  # the user's own is not passed over for the system's
        module.environment = environment
        with as_nobody():
            assert module.rv("C_Initialize", None) is CKR.GENERAL_ERROR
        (line,) = said(capfd)
        assert "Permission denied" in line
        assert "`hsmsim configure-pkcs11`" in line


def test_members_that_are_not_known(
    start: Callable[..., Module], config: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """AWS's own file has members that say nothing here; they are named, once, and the rest is used."""
    config["clusters"][0]["cluster"] |= {"hsm_ca_file": "/ca.crt", "client_cert_path": "/c", "client_key_path": "/k"}
    config["logging"]["log_interval"] = "daily"
    config["clusters"][0]["cluster"]["options"]["surprise"] = 1
    with start(config) as module:
        module.call("C_Initialize", None)
        (line,) = said(capfd)
        assert "options.surprise is not known here and is ignored" in line
        assert slots(module) == 1
        assert said(capfd) == []


# ---- where it is looked for ----------------------------------------------------------------------------------------


def labelled(config: Any, label: str) -> bytes:
    return json.dumps(_with(config, "clusters.0.hsmsim.label", label)).encode()


def label_of(module: Module) -> bytes:
    info = ctypes.create_string_buffer(256)
    slots(module)
    module.call("C_GetTokenInfo", module.slot, info)
    return info.raw[:32].rstrip()


def test_the_variable_then_the_users(simulator: Simulator, config: Any, tmp_path: Path) -> None:
    environment = {**simulator.environment, "HOME": str(tmp_path / "home"), "XDG_CONFIG_HOME": str(tmp_path / "xdg")}
    places = {"home": tmp_path / "home/.config/hsmsim/pkcs11.cfg", "xdg": tmp_path / "xdg/hsmsim/pkcs11.cfg"}
    for name, path in places.items():
        path.parent.mkdir(parents=True)
        path.write_bytes(labelled(config, name))
    for expected, without in (
        (b"hsmsim", ()),
        (b"xdg", ("HSMSIM_PKCS11_CONFIG",)),
        (b"home", ("HSMSIM_PKCS11_CONFIG", "XDG_CONFIG_HOME")),
    ):
        with Module({name: value for name, value in environment.items() if name not in without}) as module:
            assert label_of(module) == expected


CLIENT = """
import json, os, sys
from support.p11 import Module, RefusedError
try:
    with Module(os.environ) as module:
        import ctypes
        info = ctypes.create_string_buffer(256)
        module.call("C_GetTokenInfo", module.slot, info)
        print(info.raw[:32].decode().rstrip())
except RefusedError as error:
    print(error)
"""


def in_own_world(simulator: Simulator, files: Mapping[str, bytes], folder: Path) -> tuple[str, str]:
    """A client in a mount namespace where /etc, /run and /dev hold these files and /dev/log alone; its log."""
    for number, content in enumerate(files.values()):
        (folder / str(number)).write_bytes(content)
    placed = [f'mkdir -p "$(dirname {path})" && cp {folder / str(number)} {path}' for number, path in enumerate(files)]
    mounts = ["for place in etc run dev; do mount -t tmpfs none /$place; done"]
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listening.bind(str(folder / "log"))
    listening.settimeout(0)
    link = f"touch /dev/log && ln -sf {folder / 'log'} /dev/log"
    environment = {**simulator.environment, "PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}", "HOME": "/nowhere"}
    del environment["HSMSIM_PKCS11_CONFIG"]
    script = " && ".join([*mounts, *placed, link, f'exec {sys.executable} -c "$0"'])
    with listening:
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", script, CLIENT],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        log = done.stderr
        try:
            while True:
                log += listening.recv(4096).decode() + "\n"
        except BlockingIOError:
            pass
    return done.stdout.strip(), log


@root
def test_then_the_systems_or_none(simulator: Simulator, config: Any, tmp_path: Path) -> None:
    if subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("no mount namespaces here")
    etc, run = labelled(config, "etc"), labelled(config, "run")
    both = {"/etc/hsmsim/pkcs11.cfg": etc, "/run/hsmsim/pkcs11.cfg": run}
    assert in_own_world(simulator, both, tmp_path / _new(tmp_path)) == ("etc", "")
    assert in_own_world(simulator, {"/run/hsmsim/pkcs11.cfg": run}, tmp_path / _new(tmp_path)) == ("run", "")
    answer, log = in_own_world(simulator, {}, tmp_path / _new(tmp_path))
    assert answer == "C_Initialize: GENERAL_ERROR"
    (line,) = log.splitlines()
    for text in ("/nowhere/.config/hsmsim/pkcs11.cfg", "/etc/hsmsim/pkcs11.cfg", 'eval "$(hsmsim env)"'):
        assert text in line
    # log_type syslog: the same lines, and none on standard error
    config["logging"]["log_type"] = "syslog"
    config["clusters"][0]["cluster"]["servers"] = [{"socket": "/nowhere/hsm.sock"}]
    content = json.dumps(config).encode()
    answer, log = in_own_world(simulator, {"/etc/hsmsim/pkcs11.cfg": content}, tmp_path / _new(tmp_path))
    assert answer == "C_GetTokenInfo: SLOT_ID_INVALID"
    (line,) = log.splitlines()
    assert line.startswith("<11>")  # LOG_USER | LOG_ERR
    assert "hsmsim_pkcs11: no HSM of cluster-" in line


def _new(folder: Path) -> str:
    name = f"world-{len(list(folder.glob('world-*')))}"
    (folder / name).mkdir()
    return name


# ---- trouble with HSMs and users -----------------------------------------------------------------------------------


def test_a_stopped_simulator(start: Callable[..., Module], config: Any, capfd: pytest.CaptureFixture[str]) -> None:
    for server in config["clusters"][0]["cluster"]["servers"]:
        server["socket"] += ".none"
    with start(config) as module:
        module.call("C_Initialize", None)
        assert slots(module) == 0
        (line,) = said(capfd)
        assert line.startswith("no HSM of cluster-")
        assert "hsmsim up" in line
        module.slot.value = 0x2000000000000001
        with refused(CKR.TOKEN_NOT_PRESENT):
            module.session()
        assert said(capfd) == []  # said once


def test_a_folder_that_others_may_write(
    start: Callable[..., Module], config: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for server in config["clusters"][0]["cluster"]["servers"]:
        server["socket"] = str(tmp_path / "hsm.sock")
    tmp_path.chmod(0o777)
    with start(config) as module:
        module.call("C_Initialize", None)
        assert slots(module) == 0
        (line,) = said(capfd)
        assert "no PIN goes there" in line
        assert "hsmsim configure-pkcs11" in line


@root
def test_a_folder_or_a_server_of_somebody_else(
    start: Callable[..., Module], config: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o755)
    for server in config["clusters"][0]["cluster"]["servers"]:
        server["socket"] = str(folder / "hsm.sock")
    with socket.socket(socket.AF_UNIX) as listening, start(config) as module:
        listening.bind(str(folder / "hsm.sock"))
        with as_nobody():  # the folder is root's, who answers is not
            listening.listen()
        module.call("C_Initialize", None)
        assert slots(module) == 0
        (line,) = said(capfd)
        assert "who listens at" in line
        assert "no PIN goes there" in line
        module.call("C_Finalize", None)
        os.chown(folder, NOBODY, NOBODY)
        module.call("C_Initialize", None)
        assert slots(module) == 0
        (line,) = said(capfd)
        assert "the folder of" in line
        assert "no PIN goes there" in line


def test_a_partition_that_is_not_there(
    start: Callable[..., Module], config: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    with start(_with(config, "clusters.0.hsmsim.partition", "nowhere")) as module:
        module.call("C_Initialize", None)
        assert slots(module) == 0
        (line,) = said(capfd)
        assert "has no partition 'nowhere': see `hsmsim partition list`" in line


def test_a_wrong_pin_and_a_locked_user(
    simulator: Simulator, start: Callable[..., Module], config: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    simulator.run("user", "create", "trent", "--password-file", "-", text="password of trent")
    with start(config) as module:
        module.call("C_Initialize", None)
        slots(module)
        session = module.session()
        for code, advice in (
            *[(CKR.PIN_INCORRECT, "the PIN is user:password; five wrong ones lock the user")] * 5,
            (CKR.PIN_LOCKED, "an admin unlocks the user: hsmsim user change-password"),
        ):
            with refused(code):
                session.login("trent:this is not it")
            (line,) = said(capfd)
            assert line.endswith(advice)
            assert f"CKR_{code.name}" in line
            assert "not it" not in line
    simulator.run("user", "delete", "trent")


# ---- the log file --------------------------------------------------------------------------------------------------


def test_the_log_file(
    start: Callable[..., Module], config: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "module.log"
    config["logging"] = {"log_type": "file", "log_file": str(log), "log_level": "info"}
    umask = os.umask(0)
    try:
        with start(config) as module:
            module.call("C_Initialize", None)
            slots(module)
            with refused(CKR.PIN_INCORRECT):
                module.session().login("no colon")
    finally:
        os.umask(umask)
    served, refused_login = log.read_text().splitlines()
    assert " INFO " in served
    assert " serves slot 0x2000000000000001" in served
    assert " ERROR " in refused_login
    assert f" [{os.getpid()}] hsmsim_pkcs11: " in refused_login
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert said(capfd) == []


def test_a_log_file_is_no_link(start: Callable[..., Module], config: Any, tmp_path: Path) -> None:
    """Who may write the folder of the log does not write other files with it."""
    target = tmp_path / "target"
    (tmp_path / "module.log").symlink_to(target)
    config["logging"] = {"log_type": "file", "log_file": str(tmp_path / "module.log"), "log_level": "info"}
    with start(config) as module:
        module.call("C_Initialize", None)
        assert slots(module) == 1
    assert not target.exists()


def test_the_level_is_the_least_that_is_said(
    start: Callable[..., Module], config: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    for level, count in (("error", 0), ("warn", 0), ("info", 1)):
        with start(_with(config, "logging.log_level", level)) as module:
            module.call("C_Initialize", None)
            slots(module)
            assert len(said(capfd)) == count


# ---- hsmsim configure-pkcs11 ---------------------------------------------------------------------------------------


def test_the_command_writes_what_the_module_reads(simulator: Simulator, tmp_path: Path) -> None:
    path, log = tmp_path / "new" / "pkcs11.cfg", tmp_path / "module.log"
    options = ("--label", "mine", "--profile", "cloudhsm", "--log-file", str(log), "--log-level", "info")
    more = ("--timeout-ms", "700", "--disable-key-availability-check")
    printed = simulator.run("configure-pkcs11", "--output", str(path), *options, *more)
    assert printed == f"Wrote {path}.\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    with Module({**simulator.environment, "HSMSIM_PKCS11_CONFIG": str(path)}) as module:
        assert label_of(module) == b"mine"
        assert module.rv("C_SeedRandom", 0, None, 0) is CKR.FUNCTION_NOT_SUPPORTED
    assert "serves slot" in log.read_text()
    content = json.loads(path.read_text())
    assert content["hsmsim"]["timeout_ms"] == 700
    assert content["clusters"][0]["cluster"]["options"] == {"disable_key_availability_check": True}
    assert simulator.password not in path.read_text()
    for bad in (("--timeout-ms", "99"), ("--profile", "aws"), ("--log-level", "loud")):
        simulator.run("configure-pkcs11", "--output", str(path), *bad, status=2)
    assert json.loads(path.read_text()) == content


def test_the_command_writes_the_users_file(simulator: Simulator, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hsmsim.cli", "configure-pkcs11"],
        env={**simulator.environment, "PYTHONPATH": str(ROOT), "XDG_CONFIG_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == f"Wrote {tmp_path}/hsmsim/pkcs11.cfg.\n"
    environment = {**simulator.environment, "XDG_CONFIG_HOME": str(tmp_path)}
    del environment["HSMSIM_PKCS11_CONFIG"]
    with Module(environment) as module:
        assert label_of(module) == b"hsmsim"
