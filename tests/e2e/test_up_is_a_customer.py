"""The cluster of `hsmsim up` is made with AWS's APIs: they show it and change it, and nothing is lost by kills."""

from __future__ import annotations

import json
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from support.whole import Whole, whole

from hsmsim.fleet import launch, state

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def fresh() -> Iterator[Whole]:
    with whole(AWS_REGION="us-east-1") as one:
        yield one


def clusters(one: Whole) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(one.shell("aws cloudhsmv2 describe-clusters"))["Clusters"]
    return found


def test_the_api_shows_the_cluster_and_the_module_uses_it(fresh: Whole) -> None:
    fresh.run("up", "--detach")
    events = json.loads(fresh.shell("aws cloudtrail lookup-events"))["Events"]
    assert 5 <= len(events) < 50, "a customer who waits does not fill the event history"
    (cluster,) = clusters(fresh)
    assert (cluster["State"], cluster["HsmType"], cluster["Mode"]) == ("ACTIVE", "hsm2m.medium", "NON_FIPS")
    assert cluster["TagList"] == [{"Key": "hsmsim", "Value": "quickstart"}]
    listed = json.loads(fresh.run("hsm", "list", "--json"))
    assert {hsm["HsmId"] for hsm in cluster["Hsms"]} == {hsm["hsm_id"] for hsm in listed}
    assert len({hsm["AvailabilityZone"] for hsm in cluster["Hsms"]}) == 2
    folder = fresh.places.home / "customer" / cluster["ClusterId"]
    root = x509.load_pem_x509_certificate((folder / "customerCA.crt").read_bytes())
    own = x509.load_pem_x509_certificate(cluster["Certificates"]["ClusterCertificate"].encode())
    own.verify_directly_issued_by(root)
    fresh.run("key", "generate", "ec", "--label", "kept")

    added = fresh.run("hsm", "create").strip()
    assert added in {hsm["HsmId"] for hsm in clusters(fresh)[0]["Hsms"]}
    assert added in fresh.places.module_config.read_text()
    fresh.shell(f"aws cloudhsmv2 delete-hsm --cluster-id {cluster['ClusterId']} --hsm-id {added}")
    deadline = time.monotonic() + 30
    while added in {hsm.hsm_id for hsm in state.load(fresh.places).hsms()}:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "kept" in fresh.run("key", "list")


def test_up_killed_at_any_moment_makes_one_cluster(fresh: Whole) -> None:
    for delay in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0):
        with subprocess.Popen(
            fresh.command("up", "--detach"), env=fresh.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            time.sleep(delay)
            process.kill()
    fresh.run("up", "--detach")
    (cluster,) = clusters(fresh)
    assert (cluster["State"], len(cluster["Hsms"])) == ("ACTIVE", 2)
    fresh.run("key", "generate", "aes", "--label", "usable")


def test_two_at_once_make_one_cluster(fresh: Whole) -> None:
    both = [
        subprocess.Popen(fresh.command("up", "--detach", "--hsms", "1"), env=fresh.environment, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    shown = [one.communicate(timeout=120)[0].decode() for one in both]
    assert [one.returncode for one in both] == [0, 0]
    assert len({text.split()[0] for text in shown}) == 1
    assert len(clusters(fresh)) == 1


def test_a_gateway_killed_with_hsms_stopped_is_mended_by_up(fresh: Whole) -> None:
    fresh.up()
    (cluster,) = clusters(fresh)
    (hsm,) = cluster["Hsms"]
    fresh.kill("gateway")
    fresh.kill("fleet")
    assert launch.kill(fresh.places, hsm["HsmId"])
    fresh.up()
    (again,) = clusters(fresh)
    assert (again["ClusterId"], again["State"]) == (cluster["ClusterId"], "ACTIVE")
    assert [one["HsmId"] for one in again["Hsms"]] == [hsm["HsmId"]]


def a_customer_s(one: Whole) -> tuple[str, str]:
    """A cluster in another region and its HSM: of somebody who has not signed its certificate yet."""
    api, ec2 = one.client("cloudhsmv2"), one.client("ec2")
    subnet = ec2.describe_subnets()["Subnets"][0]
    cluster = api.create_cluster(HsmType="hsm2m.medium", Mode="FIPS", SubnetIds=[subnet["SubnetId"]])["Cluster"]
    one.run("clock", "advance", "1s")
    made = api.create_hsm(ClusterId=cluster["ClusterId"], AvailabilityZone=subnet["AvailabilityZone"])["Hsm"]
    one.run("clock", "advance", "1s")
    return cluster["ClusterId"], made["HsmId"]


def test_quickstart_makes_another_when_the_first_was_deleted(fresh: Whole) -> None:
    """What customers have besides is started by `up` with the rest, and otherwise left to them."""
    assert "The gateway is not running" in fresh.run("quickstart", status=1)
    fresh.up()
    (first,) = clusters(fresh)
    theirs, their_hsm = a_customer_s(fresh)
    (hsm,) = first["Hsms"]
    cluster = f"--cluster-id {first['ClusterId']}"
    fresh.shell(f"aws cloudhsmv2 delete-hsm {cluster} --hsm-id {hsm['HsmId']}")
    fresh.run("clock", "advance", "1s")  # returns when what was asked for has been done
    fresh.shell(f"aws cloudhsmv2 delete-cluster {cluster}")
    fresh.run("clock", "advance", "1s")
    said = fresh.run("quickstart", "--hsms", "1")
    (second,) = [one for one in clusters(fresh) if one["State"] == "ACTIVE"]
    assert said.startswith(f"{second['ClusterId']} is ACTIVE with 1 HSMs: hsm-")
    assert second["ClusterId"] != first["ClusterId"]
    assert fresh.run("key", "list") == ""
    fresh.run("down")
    said = fresh.up()
    assert f"{second['ClusterId']} is ACTIVE with 1 HSMs" in said
    assert "does not show" not in said
    launch.wait_ready(fresh.places, [their_hsm])
    (found,) = fresh.client("cloudhsmv2").describe_clusters()["Clusters"]
    assert (found["ClusterId"], found["State"]) == (theirs, "UNINITIALIZED")
    assert [hsm["HsmId"] for hsm in found["Hsms"]] == [their_hsm]


def test_a_cluster_made_without_the_api_is_named_and_goes_on(fresh: Whole) -> None:
    fresh.run("up", "--detach", "--no-gateway")
    fresh.run("key", "generate", "ec", "--label", "kept")
    cluster_id = state.load(fresh.places).only_cluster().cluster_id
    done = fresh.done("up", "--detach")
    assert f"AWS's API does not show {cluster_id}: it was made without it" in done.stdout
    assert "Starting the gateway" in done.stderr
    assert "Starting the HSMs" not in done.stderr, "they run"
    fresh.run("down")
    assert fresh.done("up", "--detach").stderr.count("Starting the HSMs") == 1
    assert clusters(fresh) == []
    assert [one["label"] for one in json.loads(fresh.run("key", "list", "--json"))] == ["kept", "kept"]
    added = fresh.run("hsm", "create").strip()
    assert added in {hsm.hsm_id for hsm in state.load(fresh.places).hsms()}
