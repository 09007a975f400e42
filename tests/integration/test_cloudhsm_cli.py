"""cloudhsm-cli on real HSM processes: the JSON of AWS's guide, its prompts, its errors."""

from __future__ import annotations

import json
import os
import signal
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from support.cloudhsm_cli import PROMPT, Cli, entry
from support.hsm import ADMIN, Cluster, cluster, eventually, refused

from hsmsim.errors import CkrError
from hsmsim.fleet import customer
from hsmsim.hsm import messages as m
from hsmsim.hsm.client import HsmClient, StrangerError
from hsmsim.hsm.cryptoki import CKR

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PASSWORD = "a-new-password"
NOBODY = 65534


@contextmanager
def beginning(home: Path, **more: str) -> Iterator[Cluster]:
    """A cluster whose first HSM runs, and nothing more."""
    (home / "images").mkdir()
    made = Cluster(home, **more)  # type: ignore[arg-type]
    try:
        made.add()
        yield made
    finally:
        for hsm in made.hsms:
            hsm.end(signal.SIGKILL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


@pytest.fixture(scope="module")
def pair() -> Iterator[Cluster]:
    """An active cluster of two HSMs. Leave it with the users of support.hsm.USERS."""
    with cluster(hsms=2) as made:
        yield made


@pytest.fixture
def cli(pair: Cluster, folder: Path) -> Cli:
    made = Cli(folder / "cloudhsm-cli.cfg")
    made.configure(entry(pair))
    return made


@pytest.fixture
def admin(cli: Cli) -> Cli:
    return cli.as_user("admin", "admin", ADMIN)


def user(name: str, role: str = "crypto-user", *, locked: str = "false", coverage: str = "full") -> dict[str, object]:
    """One of `data.users`, as the guide's page "user list" shows it."""
    return {
        "username": name,
        "role": role,
        "locked": locked,
        "mfa": [],
        "quorum": [],
        "cluster-coverage": coverage,
    }


# ---- cluster ---------------------------------------------------------------------------------------------------------


def test_a_cluster_is_activated_once_when_it_is_initialized(folder: Path) -> None:
    with beginning(folder) as made:
        cli = Cli(folder / "cli.cfg")
        cli.configure(entry(made))
        assert "InitializeCluster" in cli.refused("cluster", "activate", "--password", PASSWORD)
        assert cli.ok("cluster", "hsm-info")["hsms"][0]["serial-number"] == made.hsms[0].hsm_id
        made.initialize()
        before = {"users": [user("admin", "unactivated-admin"), user("app_user", "internal(APPLIANCE_USER)")]}
        assert cli.ok("user", "list") == before
        for bad in ("short", "x" * 33, "with:colon"):
            assert "password" in cli.refused("cluster", "activate", "--password", bad)
        assert "not active" in cli.refused("login", "--username", "admin", "--role", "admin", "--password", PASSWORD)
        assert made.hsms[0].info().state == b"INITIALIZED"
        # A login in the environment is none of activation's business.
        named = cli.as_user("admin", "admin", PASSWORD)
        assert named.ok("cluster", "activate", "--password", PASSWORD) == "Cluster activation successful"
        assert made.hsms[0].info().state == b"ACTIVE"
        assert "active already" in cli.refused("cluster", "activate", "--password", PASSWORD)
        after = {"users": [user("admin", "admin"), user("app_user", "internal(APPLIANCE_USER)")]}
        assert cli.ok("user", "list") == after
        whom = {"username": "admin", "role": "admin"}
        assert cli.ok("login", "--username", "ADMIN", "--role", "admin", "--password", PASSWORD) == whom


def test_activation_asks_twice_and_echoes_nothing(folder: Path) -> None:
    with beginning(folder) as made:
        made.initialize()
        cli = Cli(folder / "cli.cfg")
        cli.configure(entry(made))
        with cli.terminal("interactive") as terminal:
            for second, expected in ((PASSWORD + "x", 1), (PASSWORD, 0)):
                terminal.expect(PROMPT)
                terminal.type("cluster activate")
                terminal.expect("Enter password:")
                terminal.type(PASSWORD)
                terminal.expect("Confirm password:")
                terminal.type(second)
                answer = terminal.answer()
                assert answer["error_code"] == expected
            assert answer == {"error_code": 0, "data": "Cluster activation successful"}
            terminal.expect(PROMPT)
            terminal.type("quit")
            assert terminal.process.wait(20) == 0
        assert PASSWORD not in terminal.seen
        assert made.hsms[0].info().state == b"ACTIVE"


@pytest.mark.parametrize(
    ("mode", "fips_state"),
    [
        ("FIPS", "2 [FIPS mode with single factor authentication]"),
        ("NON_FIPS", "0 [non-FIPS mode with single factor authentication]"),
    ],
)
def test_hsm_info_has_the_members_of_the_guide(folder: Path, mode: str, fips_state: str) -> None:
    with beginning(folder, mode=mode, model="hsm1.medium") as made:
        cli = Cli(folder / "cli.cfg")
        cli.configure(entry(made))
        (found,) = cli.ok("cluster", "hsm-info")["hsms"]
    assert list(found.items()) == [
        ("vendor", "Marvell Semiconductors, Inc."),
        ("model", "NITROX-III CNN35XX-NFBE"),
        ("serial-number", made.hsms[0].hsm_id),
        ("hardware-version-major", "5"),
        ("hardware-version-minor", "3"),
        ("firmware-version-major", "2"),
        ("firmware-version-minor", "6"),
        ("firmware-build-number", "16"),
        ("firmware-id", "CNN35XX-NFBE-FW-2.06-16"),
        ("fips-state", fips_state),
    ]


def test_hsm_info_asks_every_hsm(pair: Cluster, cli: Cli) -> None:
    found = cli.ok("cluster", "hsm-info")["hsms"]
    assert [one["serial-number"] for one in found] == [hsm.hsm_id for hsm in pair.hsms]
    assert all(isinstance(value, str) and value for one in found for value in one.values())


# ---- users -----------------------------------------------------------------------------------------------------------


def test_an_admin_makes_changes_and_deletes_users(pair: Cluster, cli: Cli, admin: Cli) -> None:
    dave = ("--username", "Dave_1", "--role", "crypto-user")
    whom = {"username": "dave_1", "role": "crypto-user"}
    assert admin.ok("user", "create", *dave, "--password", PASSWORD) == whom
    assert user("dave_1") in cli.ok("user", "list")["users"]
    with pair.hsms[1].client() as client:
        client.login("dave_1", PASSWORD)
    assert admin.ok("user", "change-password", *dave, "--password", PASSWORD + "2") == whom
    with pair.hsms[0].client() as client:
        with refused(CKR.PIN_INCORRECT):
            client.login("dave_1", PASSWORD)
        client.login("dave_1", PASSWORD + "2")
    own = cli.as_user("crypto-user", "dave_1", PASSWORD + "2")
    assert own.ok("user", "change-password", *dave, "--password", PASSWORD + "3") == whom
    third = cli.as_user("crypto-user", "dave_1", PASSWORD + "3")
    assert "admin" in third.refused("user", "delete", "--username", "alice", "--role", "crypto-user")
    others = ("--username", "alice", "--role", "crypto-user", "--password", PASSWORD)
    assert "admin" in third.refused("user", "change-password", *others)
    assert "admin" in third.refused("user", "create", "--username", "x", "--role", "admin", "--password", PASSWORD)
    assert admin.ok("user", "delete", *dave) == whom
    assert "dave_1" not in str(cli.ok("user", "list"))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("create", "--username", "alice", "--role", "crypto-user", "--password", PASSWORD), "the name is taken"),
        (("create", "--username", "a-b", "--role", "admin", "--password", PASSWORD), "letters, digits or '_'"),
        (("create", "--username", "a" * 32, "--role", "admin", "--password", PASSWORD), "1 to 31"),
        (("create", "--username", "x", "--role", "admin", "--password", "short"), "8 to 32"),
        (("create", "--username", "x", "--role", "admin", "--password", "with:colon"), "no ':'"),
        (("create", "--username", "x", "--role", "admin", "--password", "\udcff" * 9), "UTF-8"),
        (("delete", "--username", "alice", "--role", "admin"), "no such user with this role"),
        (("delete", "--username", "admin", "--role", "admin"), "logged in"),
        (("change-password", "--username", "nobody", "--role", "admin", "--password", PASSWORD), "no such user"),
    ],
)
def test_what_is_wrong_is_said(admin: Cli, arguments: tuple[str, ...], reason: str) -> None:
    before = admin.ok("user", "list")
    assert reason in admin.refused("user", *arguments)
    assert admin.ok("user", "list") == before


def test_a_command_that_needs_a_login_says_what_to_set(cli: Cli) -> None:
    create = ("user", "create", "--username", "x", "--role", "admin", "--password", PASSWORD)
    assert "CLOUDHSM_PIN" in cli.refused(*create)
    assert "CLOUDHSM_PIN" in cli.as_user("co", "admin", ADMIN).refused(*create)
    assert "wrong" in cli.as_user("crypto-user", "admin", ADMIN).refused(*create)
    assert "wrong" in cli.as_user("admin", "nobody", ADMIN).refused(*create)


def test_without_a_terminal_nothing_is_asked(admin: Cli) -> None:
    done = admin.run("user", "create", "--username", "x", "--role", "admin")
    assert done.returncode == 1
    assert "--password" in json.loads(done.stdout)["data"]


# ---- interactive mode ------------------------------------------------------------------------------------------------


def test_a_login_lasts_until_the_logout(cli: Cli) -> None:
    create = "user create --username erin --role admin --password 'a new password'"
    delete = "user delete --username erin --role admin"
    answers = cli.shell(
        "logout",
        create,
        f"login --username admin --role admin --password {ADMIN}",
        f"login --username alice --role crypto-user --password {ADMIN}",
        create,
        f"user change-password --username admin --role admin --password {PASSWORD}",
        f"user change-password --username admin --role admin --password {ADMIN}",
        delete,
        "logout",
        delete,
        "login --username 'admin",
    )
    whom, erin = ({"username": name, "role": "admin"} for name in ("admin", "erin"))
    nobody = "Nobody is logged in. First: login --username NAME --role ROLE"
    assert [answer["data"] for answer in answers] == [
        "Nobody is logged in.",
        nobody,
        whom,
        "admin (admin) is logged in already. First: logout",
        erin,
        whom,
        whom,
        erin,
        "Logout successful",
        nobody,
        "The line cannot be read: No closing quotation.",
    ]
    assert [answer["error_code"] for answer in answers] == [1, 1, 0, 1, 0, 0, 0, 0, 0, 1, 1]


def test_help_names_what_works_and_nothing_else(cli: Cli) -> None:
    for words in (("help",), ("--help",)):
        printed = cli.run(*words).stdout
        assert "interactive" in printed
        commands = {line.split()[0] for line in printed.partition("Commands:")[2].splitlines() if line.strip()}
        assert commands == {"cluster", "help", "interactive", "login", "logout", "user"}
    assert "change-mfa" not in cli.run("help", "user").stdout
    assert "cloudhsm-cli user create" in cli.run("help", "user", "create").stdout
    assert cli.run("help", "nothing").returncode == 2
    shown = cli.run("interactive", text="help\nquit\nuser list\n").stdout
    assert "quit" in shown
    assert "error_code" not in shown


@pytest.mark.parametrize(
    "words",
    [
        ("key", "list"),
        ("quorum", "token-sign", "list"),
        ("crypto", "sign", "ecdsa"),
        ("user", "change-mfa", "token-sign"),
        ("user", "change-quorum", "token-sign"),
        ("user", "replicate"),
        ("login", "--username", "admin", "--role", "admin", "mfa-token-sign", "--token", "x"),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_what_is_not_built_is_refused_by_name(cli: Cli, words: tuple[str, ...]) -> None:
    named = "login mfa-token-sign" if words[0] == "login" else words[0]
    assert cli.refused(*words).startswith(f"`{named}")


def test_a_login_is_on_every_hsm(pair: Cluster, cli: Cli, admin: Cli) -> None:
    frank = ("--username", "frank", "--role", "crypto-user")
    admin.ok("user", "create", *frank, "--password", PASSWORD)
    with cli.terminal("interactive") as terminal:
        terminal.expect(PROMPT)
        terminal.type("login --username frank --role crypto-user")
        terminal.expect("Enter password:")
        terminal.type(PASSWORD)
        assert terminal.answer()["error_code"] == 0
        for hsm in pair.hsms:
            with hsm.client() as client, refused(CKR.FUNCTION_REJECTED):
                client.admin().call(m.UserDeleteRequest(b"frank", 2))
        assert "logged in" in admin.refused("user", "change-password", *frank, "--password", PASSWORD)
        terminal.type("logout")
        assert terminal.answer() == {"error_code": 0, "data": "Logout successful"}
    assert PASSWORD not in terminal.seen
    admin.ok("user", "delete", *frank)


# ---- HSMs that differ ------------------------------------------------------------------------------------------------


def test_a_user_who_is_locked_on_one_hsm_is_inconsistent_until_an_admin_sets_a_password(
    pair: Cluster, cli: Cli, admin: Cli
) -> None:
    for _ in range(5):
        with pair.hsms[1].client() as client, pytest.raises(CkrError):
            client.login("carol", "not-her-password")
    assert user("carol", locked="inconsistent") in cli.ok("user", "list")["users"]
    carol = ("--username", "carol", "--role", "crypto-user", "--password", "carol-password")
    admin.ok("user", "change-password", *carol)
    assert user("carol") in cli.ok("user", "list")["users"]


def test_an_hsm_that_does_not_answer_makes_coverage_inconsistent(folder: Path) -> None:
    with cluster(hsms=2) as made:
        cli = Cli(folder / "cli.cfg")
        cli.configure(entry(made), logging={"log_type": "file", "log_file": str(folder / "cli.log")})
        admin = cli.as_user("admin", "admin", ADMIN)
        with cli.terminal("interactive") as terminal:
            terminal.expect(PROMPT)
            terminal.type(f"login --username admin --role admin --password {ADMIN}")
            assert terminal.answer()["error_code"] == 0
            made.hsms[0].end(signal.SIGKILL)
            terminal.type(f"user create --username gina --role crypto-user --password {PASSWORD}")
            assert terminal.answer() == {"error_code": 0, "data": {"username": "gina", "role": "crypto-user"}}
        assert {one["cluster-coverage"] for one in cli.ok("user", "list")["users"]} == {"inconsistent"}
        assert [one["serial-number"] for one in cli.ok("cluster", "hsm-info")["hsms"]] == [made.hsms[1].hsm_id]
        made.hsms[0].start()
        eventually(lambda: user("gina") in cli.ok("user", "list")["users"], 20)
        admin.ok("user", "delete", "--username", "gina", "--role", "crypto-user")
        for hsm in made.hsms:
            hsm.end(signal.SIGKILL)
        assert made.hsms[1].hsm_id in cli.refused("user", "list")
        log = (folder / "cli.log").read_text()
    assert f"{made.hsms[0].hsm_id} does not answer" in log
    assert PASSWORD not in log
    assert ADMIN not in log


# ---- whom a password goes to -----------------------------------------------------------------------------------------


def test_the_customers_root_must_have_issued_the_clusters_certificate(pair: Cluster, cli: Cli, folder: Path) -> None:
    root = pair.home / "customer" / customer.ROOT_CERTIFICATE
    login = ("login", "--username", "admin", "--role", "admin", "--password", ADMIN)
    cli.configure(entry(pair, hsm_ca_file=str(root)))
    assert cli.ok(*login) == {"username": "admin", "role": "admin"}
    customer._key(folder / "other.key")
    other = customer._certificate(
        customer._NAME,
        customer._key(folder / "other.key").public_key(),
        customer._key(folder / "other.key"),
        authority=True,
    )
    (folder / "other.crt").write_bytes(other)
    (folder / "empty.crt").write_bytes(b"")
    for name, reason in (("other.crt", "not issued by"), ("empty.crt", "no certificate"), ("none.crt", "No such file")):
        cli.configure(entry(pair, hsm_ca_file=str(folder / name)))
        assert reason in cli.refused(*login)


def test_an_hsm_of_another_cluster_is_refused(pair: Cluster, cli: Cli) -> None:
    wrong = entry(pair)
    wrong["cluster"]["cluster_id"] = "cluster-zzzzzzzzzzz"
    cli.configure(wrong)
    said = cli.refused("user", "list")
    assert "cluster-aaaaaaaaaaa" in said
    assert "cluster-zzzzzzzzzzz" in said


def test_no_password_goes_into_a_folder_that_others_write(pair: Cluster, cli: Cli) -> None:
    mode = pair.home.stat().st_mode
    pair.home.chmod(0o777)
    try:
        said = cli.refused("login", "--username", "admin", "--role", "admin", "--password", ADMIN)
    finally:
        pair.home.chmod(mode)
    assert "no password goes there" in said


@contextmanager
def listener(path: Path) -> Iterator[None]:
    """A process at this socket: as root one of nobody's, who cannot run our Python; so it is forked."""
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    begun, begins = os.pipe()
    child = os.fork()
    if child == 0:
        if os.geteuid() == 0:
            os.setresuid(NOBODY, NOBODY, NOBODY)
        made.listen()
        os.write(begins, b"x")
        signal.pause()
    try:
        assert os.read(begun, 1) == b"x"
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        made.close()
        os.close(begun)
        os.close(begins)


def test_no_password_goes_to_a_process_of_another_user(folder: Path) -> None:
    path = folder / "hsm.sock"
    wanted = 0 if os.geteuid() == 0 else os.geteuid() + 1
    with listener(path), pytest.raises(StrangerError, match="no password goes there"):
        HsmClient(path, uid=wanted)


# ---- configuration ---------------------------------------------------------------------------------------------------


def test_one_of_several_clusters_is_named(pair: Cluster, cli: Cli, folder: Path) -> None:
    gone = {"cluster_id": "cluster-bbbbbbbbbbb", "servers": [{"hostname": "10.0.0.4", "socket": str(folder / "gone")}]}
    cli.configure(entry(pair), {"cluster": gone})
    assert "--cluster-id" in cli.refused("user", "list")
    here = ("--cluster-id", "cluster-aaaaaaaaaaa")
    assert user("alice") in cli.ok("user", "list", *here)["users"]
    assert "cluster-aaaaaaaaaaa, cluster-bbbbbbbbbbb" in cli.refused("user", "list", "--cluster-id", "cluster-x")
    assert "10.0.0.4" in cli.refused("user", "list", "--cluster-id", "cluster-bbbbbbbbbbb")
    done = cli.run("interactive", *here, text="user list\n")
    assert '"username": "alice"' in done.stdout


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "Input data was truncated"),
        ('{"clusters": []}', "names no HSM"),
        ('{"clusters": [{"cluster": {"servers": [], "cluster_id": "c"}}]}', "names no HSM"),
        ('{"clusters": [{"cluster": {"servers": [{"hostname": "10.0.0.4"}]}}]}', "socket"),
        ('{"clusters": [{"cluster": {"servers": [{"socket": "/s"}], "hsm_ca_fiel": "x"}}]}', "hsm_ca_fiel"),
        ('{"clusters": [{"cluster": {"servers": [{"socket": "/s"}]}}], "logging": {"log_type": "x"}}', "log_type"),
        ('{"clusters": [{"cluster": {"servers": [{"socket": "/s"}]}}], "logging": {"log_level": "x"}}', "log_level"),
    ],
)
def test_a_wrong_configuration_is_named(cli: Cli, content: str, reason: str) -> None:
    cli.config.write_text(content)
    assert reason in cli.refused("user", "list")
