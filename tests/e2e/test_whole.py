"""`hsmsim up` with the gateway: real processes, real boto3, the real AWS CLI, and kill -9 of anything."""

from __future__ import annotations

import json
import os
import pwd
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import ClientError
from cryptography import x509
from support.whole import ROOT, Whole, whole

from hsmsim.errors import HsmsimError
from hsmsim.fleet import processes, protocol, state
from hsmsim.gateway import launch, manage

if TYPE_CHECKING:
    from collections.abc import Iterator

ACCOUNT = "123456789012"
KEY = re.compile(r"AKIA[A-Z2-7]{16} [A-Za-z0-9/+]{40}")
SYSTEM_PYTHON = Path("/usr/bin/python3.11")
TRUST = {
    "Version": "2012-10-17",
    "Statement": {"Effect": "Allow", "Principal": {"AWS": ACCOUNT}, "Action": "sts:AssumeRole"},
}
MAY = {"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": "*"}}


@pytest.fixture(scope="module")
def up() -> Iterator[Whole]:
    """One that runs; tests of this module leave it running."""
    with whole() as one:
        one.up()
        yield one


@pytest.fixture
def fresh() -> Iterator[Whole]:
    with whole() as one:
        yield one


# ---- up, down, env ---------------------------------------------------------------------------------------------------


def test_the_root_key_is_shown_once_and_works(fresh: Whole) -> None:
    first = fresh.up()
    shown = KEY.findall(first)
    assert len(shown) == 1
    env = fresh.env()
    assert shown == [f"{env['AWS_ACCESS_KEY_ID']} {env['AWS_SECRET_ACCESS_KEY']}"]
    assert first.count(env["AWS_SECRET_ACCESS_KEY"]) == 1
    assert fresh.client("sts").get_caller_identity()["Arn"] == f"arn:aws:iam::{ACCOUNT}:root"
    pids = fresh.pid("gateway"), fresh.pid("fleet")

    second = fresh.up()
    assert not KEY.findall(second)
    assert str(fresh.places.gateway_home / "root-key.json") in second
    assert (fresh.pid("gateway"), fresh.pid("fleet")) == pids

    assert re.fullmatch(r"Stopped gateway, fleet daemon, hsm-\w+\.\n", fresh.run("down"))
    assert fresh.run("down") == "Nothing was running.\n"
    assert "not running" in fresh.run("account", "list", status=1)
    fresh.up()
    again = fresh.env()
    kept = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "HSMSIM_PIN", "HSMSIM_MODULE")
    assert [again[name] for name in kept] == [env[name] for name in kept]


def test_the_aws_cli_works_with_env_alone(up: Whole) -> None:
    assert json.loads(up.shell("aws sts get-caller-identity"))["Account"] == ACCOUNT
    script = (
        "aws iam create-user --user-name dora >/dev/null; aws iam list-users; aws iam delete-user --user-name dora; "
        'printf "%s" "$AWS_ENDPOINT_URL"'
    )
    for arguments, scheme in (((), "http://127.0.0.1:"), (("--https",), "https://localhost:")):
        text, _, url = up.shell(script, *arguments).rpartition("}")
        assert [user["Arn"] for user in json.loads(text + "}")["Users"]] == [f"arn:aws:iam::{ACCOUNT}:user/dora"]
        assert url.strip().startswith(scheme)


def test_https_is_trusted_by_its_authority_alone(up: Whole) -> None:
    port = int(up.env("--https")["AWS_ENDPOINT_URL"].rpartition(":")[2])
    trusting = ssl.create_default_context(cafile=str(up.places.authority_certificate))
    trusting.verify_flags |= ssl.VERIFY_X509_STRICT
    for name in ("localhost", "127.0.0.1"):
        with (
            socket.create_connection(("127.0.0.1", port)) as raw,
            trusting.wrap_socket(raw, server_hostname=name) as tls,
        ):
            assert tls.version() == "TLSv1.3"
    for context, name in ((trusting, "amazonaws.com"), (ssl.create_default_context(), "localhost")):
        with socket.create_connection(("127.0.0.1", port)) as raw, pytest.raises(ssl.SSLCertVerificationError):
            context.wrap_socket(raw, server_hostname=name)
    key = up.places.authority_folder / "ca.key"
    assert key.stat().st_mode & 0o777 == 0o600
    authority = x509.load_pem_x509_certificate(up.places.authority_certificate.read_bytes())
    permitted = authority.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees or []
    assert {str(name.value) for name in permitted} == {"localhost", "127.0.0.0/8", "::1/128"}


def test_what_is_the_gateways_is_its_own(up: Whole) -> None:
    folder = up.places.gateway_home
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o077 for path in folder.iterdir()} == {0}
    assert up.places.home.stat().st_mode & 0o067 == 0
    environment = Path(f"/proc/{up.pid('gateway')}/environ").read_bytes()
    assert b"HSMSIM_PIN" not in environment
    secret = up.env()["AWS_SECRET_ACCESS_KEY"].encode()
    for path in (up.places.home / "gateway.log", up.places.home / "fleet.log", folder / "gateway.db"):
        assert secret not in path.read_bytes()


def test_another_gateway_needs_rows_that_can_be_shared(up: Whole) -> None:
    listed = json.loads(up.run("gateway", "list", "--json"))
    assert [(one["name"], one["http"], one["leads"]) for one in listed] == [
        ("first", up.env()["AWS_ENDPOINT_URL"], True)
    ]
    assert "hsmsim up --database local" in up.run("gateway", "start", "second", status=1)
    for name in ("first", "Second", "../second", "a" * 17):
        assert "is no name for another gateway" in up.run("gateway", "start", name, status=1)
    assert "There is no gateway 'second'. There are: first." in up.run("gateway", "kill", "second", status=1)
    assert "The gateway second does not run." in up.run("env", "--gateway", "second", status=1)


def test_without_hsms_env_is_for_aws_alone(fresh: Whole) -> None:
    fresh.up()
    before = fresh.env()
    (hsm,) = json.loads(fresh.run("hsm", "list", "--json"))
    fresh.run("hsm", "stop", hsm["hsm_id"])
    assert fresh.env() == {name: value for name, value in before.items() if name.startswith("AWS_")}
    fresh.run("hsm", "start", hsm["hsm_id"])
    assert fresh.env() == before


def test_without_the_gateway_everything_else_is_there(fresh: Whole) -> None:
    said = fresh.up("--no-gateway")
    assert "AWS" not in said
    assert not KEY.findall(said)
    assert not any(name.startswith("AWS_") for name in fresh.env())
    assert not processes.is_running(fresh.background["gateway"])
    assert "400 days" in fresh.run("clock", "advance", "400d")
    fresh.up()
    assert fresh.client("sts").get_caller_identity()["Account"] == ACCOUNT


def test_a_port_in_use_is_named_with_who_has_it(fresh: Whole) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = fresh.up("--port", str(port), status=1)
    assert f"Port {port} of 127.0.0.1 is taken by process {os.getpid()} (" in said
    assert f"hsmsim up --port {port + 10}" in said
    assert not state.load(fresh.places).clusters


def test_it_listens_on_other_addresses_only_where_that_is_said_each_time(fresh: Whole) -> None:
    def port() -> int:
        return int(fresh.env()["AWS_ENDPOINT_URL"].rpartition(":")[2])

    fresh.up("--host", "0.0.0.0")
    fresh.up()  # one that runs goes on as it is
    with socket.create_connection(("127.0.0.2", port()), timeout=5):
        pass
    assert fresh.client("sts").get_caller_identity()["Account"] == ACCOUNT
    fresh.run("down")
    fresh.up()
    assert fresh.client("sts").get_caller_identity()["Account"] == ACCOUNT
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port()), timeout=5)


def test_other_options_for_a_gateway_that_runs_are_refused(up: Whole) -> None:
    said = up.up("--accept-any-credentials", status=1)
    assert said.endswith("Error: The gateway runs with other options than these. Stop it first: hsmsim down\n")


def test_any_credentials_are_accepted_where_that_was_asked_for(fresh: Whole) -> None:
    stranger = {"AccessKeyId": "AKIAIOSFODNN7EXAMPLE", "SecretAccessKey": "wrong"}
    fresh.up("--accept-any-credentials")
    assert fresh.client("sts", stranger).get_caller_identity()["Account"] == ACCOUNT
    other = {"AccessKeyId": "210987654321", "SecretAccessKey": "any"}
    assert fresh.client("sts", other).get_caller_identity()["Account"] == "210987654321"
    known = {"AccessKeyId": fresh.env()["AWS_ACCESS_KEY_ID"], "SecretAccessKey": "wrong"}
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        fresh.client("sts", known).get_caller_identity()
    fresh.run("down")
    fresh.up()
    with pytest.raises(ClientError, match="InvalidClientTokenId"):
        fresh.client("sts", stranger).get_caller_identity()


def test_ctrl_c_stops_everything_in_order(fresh: Whole) -> None:
    command = fresh.command("up", "--hsms", "1")
    with subprocess.Popen(command, env=fresh.environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while "Ctrl-C" not in (line := process.stdout.readline()):
            assert line or process.poll() is None
        fresh.client("sts").get_caller_identity()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert not any(processes.is_running(one) for one in fresh.background.values())
    assert fresh.run("down") == "Nothing was running.\n"
    assert "The gateway has stopped." in (fresh.places.home / "gateway.log").read_text()


# ---- kills -----------------------------------------------------------------------------------------------------------


def status(one: Whole) -> str:
    """What `hsmsim status` shows of the daemons and of all of it."""
    done = subprocess.run(one.command("status"), env=one.environment, capture_output=True, text=True, check=False)
    shown = done.stdout[done.stdout.index("fleet daemon") :].splitlines()
    assert done.returncode == (0 if "ACTIVE" in done.stdout else 3)
    return " ".join(shown[:2])


def test_status_says_what_is_missing(fresh: Whole) -> None:
    assert status(fresh) == "fleet daemon  not running not running; start it: hsmsim up --detach"
    fresh.up()
    assert status(fresh) == "fleet daemon  running running"
    (hsm,) = json.loads(fresh.run("hsm", "list", "--json"))
    fresh.kill("fleet")
    assert status(fresh) == "fleet daemon  not running not all of it runs; start it again: hsmsim up --detach"
    fresh.run("hsm", "kill", hsm["hsm_id"])
    assert status(fresh) == "fleet daemon  not running no HSM runs; start it: hsmsim up --detach"


def test_a_reader_that_has_had_enough_is_no_error(up: Whole) -> None:
    with subprocess.Popen(up.command("services", "ec2"), env=up.environment, stdout=-1, stderr=-1) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


def test_whatever_is_killed_up_mends(fresh: Whole) -> None:
    fresh.up()
    fresh.client("iam").create_user(UserName="lasting")
    names = ("gateway", "fleet")
    for killed in [subset for size in (1, 2) for subset in combinations(names, size)]:
        for name in killed:
            fresh.kill(name)
        others = {name: fresh.pid(name) for name in names if name not in killed}
        assert (fresh.env().get("AWS_ENDPOINT_URL") is None) == ("gateway" in killed)
        fresh.up()
        assert {name: fresh.pid(name) for name in others} == others
        users = fresh.client("iam").list_users()["Users"]
        assert [user["UserName"] for user in users] == ["lasting"]
        with protocol.FleetClient(fresh.places.fleet_socket) as client:
            found = client.call(protocol.ListHsms(), list[protocol.HsmView])
        assert [one.state for one in found] == ["RUNNING"]


def test_up_killed_at_any_moment_is_repeated(fresh: Whole) -> None:
    for delay in (0.3, 0.6, 0.9, 1.4):
        with subprocess.Popen(
            fresh.command("up", "--detach", "--hsms", "1"),
            env=fresh.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            time.sleep(delay)
            process.kill()
    fresh.up()
    assert fresh.client("sts").get_caller_identity()["Account"] == ACCOUNT
    marks = [f"{launch.gateway(fresh.places).name}", str(fresh.places.gateway().config)]
    running = [
        entry.name
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and marks[1].encode() in _command_line(entry).split(b"\0")
    ]
    assert running == [str(fresh.pid("gateway"))]


def _command_line(entry: Path) -> bytes:
    try:
        return (entry / "cmdline").read_bytes()
    except OSError:
        return b""


def test_a_starter_killed_before_it_noted_the_process_is_made_good(fresh: Whole) -> None:
    fresh.up()
    pids = {name: fresh.pid(name) for name in ("gateway", "fleet")}
    for process in fresh.background.values():
        process.pid_file.unlink()
    fresh.up()
    assert {name: fresh.pid(name) for name in pids} == pids


# ---- accounts --------------------------------------------------------------------------------------------------------


def test_accounts_are_made_listed_and_apart(up: Whole) -> None:
    made = json.loads(up.run("account", "create", "210987654321", "--json"))
    other = up.client("iam", {"AccessKeyId": made["access_key_id"], "SecretAccessKey": made["secret_access_key"]})
    other.create_user(UserName="apart")
    assert [user["Arn"] for user in other.list_users()["Users"]] == ["arn:aws:iam::210987654321:user/apart"]
    assert up.client("iam").list_users()["Users"] == []
    drawn = json.loads(up.run("account", "create", "--json"))["account"]
    listed = [one["account"] for one in json.loads(up.run("account", "list", "--json"))]
    assert listed == [ACCOUNT, "210987654321", drawn]
    assert "There is an account 210987654321 already." in up.run("account", "create", "210987654321", status=1)
    assert "twelve digits" in up.run("account", "create", "12", status=1)
    assert KEY.search(up.run("account", "create").replace("\nexport AWS_SECRET_ACCESS_KEY=", " "))


# ---- services --------------------------------------------------------------------------------------------------------


def test_what_the_catalog_says_is_refused_is_refused_by_name(up: Whole) -> None:
    found = {one["name"]: one for one in json.loads(up.run("services", "sts", "--json"))[0]["operations"]}
    assert found["GetCallerIdentity"]["works"] is True
    assert (found["DecodeAuthorizationMessage"]["works"], found["GetSessionToken"]["works"]) == (False, True)
    sts = up.client("sts")
    with pytest.raises(ClientError, match=r"NotImplemented.*DecodeAuthorizationMessage"):
        sts.decode_authorization_message(EncodedMessage="x")
    assert "TokenCode" in found["GetSessionToken"]["refused"]
    with pytest.raises(ClientError, match=r"NotImplemented.*TokenCode"):
        sts.get_session_token(TokenCode="123456")
    assert re.search(r"^iam +[0-9]+ +[0-9]+ +query *$", up.run("services"), re.MULTILINE)
    assert "It has " in up.run("services", "nonsense", status=1)


# ---- time ------------------------------------------------------------------------------------------------------------


def test_after_400_days_sessions_work_and_stamps_follow(fresh: Whole) -> None:
    fresh.up()
    iam = fresh.client("iam")
    role = iam.create_role(RoleName="Deploy", AssumeRolePolicyDocument=json.dumps(TRUST))["Role"]
    assert "400 days, 0:00:00 ahead" in fresh.run("clock", "advance", "400d")
    iam.create_user(UserName="dora")
    iam.put_user_policy(UserName="dora", PolicyName="may", PolicyDocument=json.dumps(MAY))
    dora = iam.create_access_key(UserName="dora")["AccessKey"]
    assumed = fresh.client("sts", dora).assume_role(RoleArn=role["Arn"], RoleSessionName="later")
    arn = fresh.client("sts", assumed["Credentials"]).get_caller_identity()["Arn"]
    assert arn == f"arn:aws:sts::{ACCOUNT}:assumed-role/Deploy/later"
    assert 3500 < assumed["Credentials"]["Expiration"].timestamp() - time.time() < 3700
    later = iam.create_role(RoleName="Later", AssumeRolePolicyDocument=json.dumps(TRUST))["Role"]
    assert (later["CreateDate"] - role["CreateDate"]).days == 400
    assert "0:00:00 ahead" in fresh.run("clock", "reset")


# ---- as root ---------------------------------------------------------------------------------------------------------


def test_the_gateway_of_root_runs_as_another_user() -> None:
    try:
        uid = pwd.getpwnam(launch.ACCOUNT).pw_uid
    except KeyError:
        pytest.skip(f"there is no system user {launch.ACCOUNT}")
    if os.geteuid() != 0 or not SYSTEM_PYTHON.exists():
        pytest.skip("not root, or no Python that other users reach")
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    with whole(PYTHONPATH=f"{ROOT}{os.pathsep}{packages}") as one:
        one.python = str(SYSTEM_PYTHON)
        if "gateway runs as root" in one.up():
            pytest.skip("this checkout is in a folder that other users do not reach")
        for _ in range(2):
            assert Path(f"/proc/{one.pid('gateway')}").stat().st_uid == uid
            assert {path.stat().st_uid for path in one.places.gateway_home.iterdir()} == {uid}
            assert one.client("sts").get_caller_identity()["Account"] == ACCOUNT
            one.kill("gateway")
            one.up()
        reach = subprocess.run(
            ["setpriv", "--reuid", launch.ACCOUNT, "--regid", launch.ACCOUNT, "--init-groups", "cat"]
            + [str(path) for path in (one.places.credentials_file, one.places.authority_folder / "ca.key")],
            capture_output=True,
            check=False,
        )
        assert (reach.returncode, reach.stdout) == (1, b"")


def test_faults_can_be_asked_for_through_the_management_socket(up: Whole) -> None:
    socket_ = up.places.gateway().socket
    [well] = manage.call(socket_, "GET", manage.FAULTS)["faults"]
    assert well["cut"] == []
    manage.call(socket_, "POST", manage.FAULTS, {"hsm_id": well["hsm_id"], "slow_ms": 1.5, "cut": ["peers"]})
    [ill] = json.loads(up.run("fault", "list", "--json"))
    assert ill == well | {"slow_ms": 1.5, "cut": ["peers"]}
    for members, words in (({"hsm_id": "hsm-zzzzzzzzzzz"}, "no HSM"), ({"hsm": 1}, "no faults of an HSM")):
        with pytest.raises(HsmsimError, match=words):
            manage.call(socket_, "POST", manage.FAULTS, members)
    up.run("fault", "clear")
    assert manage.call(socket_, "GET", manage.FAULTS)["faults"] == [well]
