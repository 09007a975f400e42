"""`cluster mtls` of cloudhsm-cli by TCP, and the options that put client certificates into configurations."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from support.cloudhsm_cli import Cli
from support.hsm import ADMIN, CLUSTER, USERS, Cluster, cluster
from support.mtls import Authority, Shown, admin, clear

from hsmsim.cli.cloudhsm import coverage
from hsmsim.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def pair() -> Iterator[Cluster]:
    with cluster(hsms=2, tcp=True) as made:
        yield made


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority("an authority")
    (tmp_path / "anchor.crt").write_bytes(made.chain)
    return made


@pytest.fixture
def cli(pair: Cluster, tmp_path: Path) -> Iterator[Cli]:
    """By TCP, without a certificate; at the end there is no trust anchor."""
    made = Cli(tmp_path / "cloudhsm-cli.cfg")
    made.configure(entry(pair))
    yield made.as_user("admin", "admin", ADMIN)
    with admin(pair.hsms[0].socket) as client:
        clear(client)


def entry(made: Cluster, shown: Shown | None = None, **more: Any) -> dict[str, Any]:
    ports = [int(hsm.config["listen"].rpartition(":")[2]) for hsm in made.hsms]
    inner = {
        "cluster_id": CLUSTER,
        "servers": [{"hostname": "127.0.0.1", "port": port} for port in ports],
        "hsm_ca_file": str(made.home / "customer/customerCA.crt"),
    }
    files = {"client_cert_hsm_tls_path": shown.certificate, "client_key_hsm_tls_path": shown.key} if shown else {}
    return {"type": "hsm2m", "cluster": inner | {name: str(path) for name, path in files.items()} | more}


def test_from_the_first_anchor_to_enforcement(pair: Cluster, cli: Cli, authority: Authority, tmp_path: Path) -> None:
    anchor = str(tmp_path / "anchor.crt")
    one = {"certificate-reference": "0x01", "certificate": authority.chain.decode(), "cluster-coverage": "full"}
    assert cli.ok("cluster", "mtls", "register-trust-anchor", "--path", anchor) == {"trust_anchor": one}
    assert cli.ok("cluster", "mtls", "list-trust-anchors") == {"trust_anchors": [one]}
    assert "Trust anchor already exists" in cli.refused("cluster", "mtls", "register-trust-anchor", "--path", anchor)
    enforce = ("cluster", "mtls", "set-enforcement", "--level")
    assert "Current connection must be mtls" in cli.refused(*enforce, "cluster")
    cli.configure(entry(pair, authority.issue(tmp_path)))
    assert cli.ok(*enforce, "cluster") == {"message": "Mtls enforcement level set to Cluster successfully"}
    assert cli.ok("cluster", "mtls", "get-enforcement") == {"mtls-enforcement-level": "cluster"}
    assert [user["cluster-coverage"] for user in cli.ok("user", "list")["users"]] == ["full"] * 5
    cli.configure(entry(pair))
    assert "lets nobody in without a client certificate: hsmsim configure-cli" in cli.refused("user", "list")
    cli.configure(entry(pair, Authority("another").issue(tmp_path, "other")))
    assert "comes from none of the cluster's trust anchors" in cli.refused("user", "list")
    cli.configure(entry(pair, authority.issue(tmp_path, "old", (-10, -1))))
    assert "has expired by the simulated clock" in cli.refused("user", "list")
    cli.configure(entry(pair, authority.issue(tmp_path)))
    deregister = ("cluster", "mtls", "deregister-trust-anchor", "--certificate-reference")
    assert "set-enforcement --level none" in cli.refused(*deregister, "1")
    assert cli.ok(*enforce, "none") == {"message": "Mtls enforcement level set to None successfully"}
    gone = {"message": "Trust anchor with reference 0x01 deregistered successfully"}
    assert cli.ok(*deregister, "0x01") == gone
    assert cli.ok("cluster", "mtls", "list-trust-anchors") == {"trust_anchors": []}
    assert "no such trust anchor" in cli.refused(*deregister, "0x01")


def test_what_it_refuses(cli: Cli, tmp_path: Path) -> None:
    register = ("cluster", "mtls", "register-trust-anchor", "--path")
    path = tmp_path / "given"
    for content, reason in (
        (b"no certificate", "in PEM"),
        (b"#" * 7320, "Oversized Certificate: Certificate is too long"),
        (Authority("leaf", authority=False).chain, "CA:TRUE"),
    ):
        path.write_bytes(content)
        assert reason in cli.refused(*register, str(path))
    assert "No such file" in cli.refused(*register, str(tmp_path / "missing"))
    for number in (1, 2):
        path.write_bytes(Authority(str(number)).chain)
        assert cli.ok(*register, str(path))["trust_anchor"]["certificate-reference"] == f"0x0{number}"
    path.write_bytes(Authority("3").chain)
    said = cli.refused(*register, str(path))
    assert said.startswith("Maximum number of certificates registered.")
    assert "not built into the simulator" in cli.refused(*register, str(path), "--approval", "x")
    alice = cli.as_user("crypto-user", "alice", USERS["alice"])
    assert "An admin" in alice.refused(*register, str(path))
    assert "An Admin must be logged in to set policy" in alice.refused(
        "cluster", "mtls", "set-enforcement", "--level", "none"
    )
    assert alice.ok("cluster", "mtls", "get-enforcement") == {"mtls-enforcement-level": "none"}
    for bad in ("0x", "-1", "256", "one"):
        done = cli.run("cluster", "mtls", "deregister-trust-anchor", f"--certificate-reference={bad}")
        assert (done.returncode, "is no reference, such as 0x01" in done.stderr) == (2, True)


def test_what_one_hsm_does_not_have_is_inconsistent() -> None:
    found = coverage.anchors([{1: "a", 2: "b"}, {1: "a"}])
    assert [one["cluster-coverage"] for one in found] == ["full", "inconsistent"]
    assert [one["cluster-coverage"] for one in coverage.anchors([{1: "a"}, None])] == ["inconsistent"]


def test_no_password_goes_to_who_is_no_hsm_of_the_customer(pair: Cluster, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "other.crt").write_bytes(Authority("another").chain)
    cli.configure(entry(pair, hsm_ca_file=str(tmp_path / "other.crt")))
    assert "No password goes to 127.0.0.1" in cli.refused("user", "list")
    cli.configure(entry(pair, hsm_ca_file=""))
    assert "needs `hostname`, and the cluster `hsm_ca_file`" in cli.refused("user", "list")


def test_a_key_that_is_not_private_or_has_a_passphrase(pair: Cluster, cli: Cli, tmp_path: Path) -> None:
    shown = Authority("a").issue(tmp_path)
    cli.configure(entry(pair, shown))
    shown.key.chmod(0o644)
    assert f"chmod 600 {shown.key}" in cli.refused("user", "list")
    shown.key.chmod(0o600)
    cli.configure(entry(pair, Shown(shown.certificate, shown.certificate)))
    shown.certificate.chmod(0o600)
    assert "are no certificate and its key" in cli.refused("user", "list")


# ---- configurations ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", ["configure-cli", "configure-pkcs11"])
def test_the_files_are_put_into_a_configuration_that_is_there(tool: str, pair: Cluster, tmp_path: Path) -> None:
    shown = Authority("a").issue(tmp_path)
    path = tmp_path / "client.cfg"
    before: dict[str, Any] = {"clusters": [entry(pair)], "logging": {"log_type": "term", "log_level": "warn"}}
    path.write_text(json.dumps(before))
    options = ["--client-cert-hsm-tls-file", str(shown.certificate), "--client-key-hsm-tls-file", str(shown.key)]

    def run(*more: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, [tool, "--output", str(path), *more])
        return done.exit_code, done.output

    assert run(*options)[0] == 0
    assert json.loads(path.read_text()) == before | {"clusters": [entry(pair, shown)]}
    status, said = run(*options[:2])
    assert (status, "belong together" in said) == (2, True)
    shown.key.chmod(0o644)
    assert "chmod 600" in run(*options)[1]
    shown.key.chmod(0o600)
    before["clusters"][0]["cluster"]["servers"][0]["socket"] = "/run/hsm.sock"
    path.write_text(json.dumps(before))
    status, said = run(*options)
    assert (status, "ask for no client certificate. Add --tls." in said) == (1, True)
    assert json.loads(path.read_text()) == before
