"""Two gateways on one PostgreSQL database: what one has answered, the other knows; either may die."""

from __future__ import annotations

import itertools
import json
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError, HTTPClientError
from support import postgres
from support.assembled import Gateway
from support.hsm import eventually

from hsmsim.storage.database import in_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hsmsim.fleet.postgresql import LocalServer

REGION = "us-east-1"
PATIENCE_S = 60
ALLOW = {"Effect": "Allow", "Action": "iam:ListUsers", "Resource": "*"}
DENY = {**ALLOW, "Effect": "Deny"}
_NAMES = itertools.count()


@dataclass(slots=True)
class Pair:
    """Two gateways, or what is left of them."""

    folder: Path
    database: str
    all: list[Gateway] = field(default_factory=list)

    def start(self, name: str) -> Gateway:
        gateway = Gateway(self.folder, name, database=self.database)
        self.all = [one for one in self.all if one.name != name] + [gateway]
        return gateway

    @property
    def orders(self) -> list[tuple[Gateway, Gateway]]:
        """Who writes and who is asked."""
        first, second = self.all
        return [(first, second), (second, first)]

    def leader(self) -> Gateway:
        """The one that leads; there is one soon, and never two."""
        found: list[Gateway] = []

        def one_leads() -> bool:
            found[:] = [gateway for gateway in self.all if gateway.process.poll() is None and gateway.leads]
            assert len(found) <= 1
            return len(found) == 1

        eventually(one_leads, PATIENCE_S)
        return found[0]

    def end(self) -> None:
        for gateway in self.all:
            if gateway.process.poll() is None:
                gateway.stop()


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with postgres.server() as made:
        yield made


@pytest.fixture(scope="module")
def both(server: LocalServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    made = Pair(tmp_path_factory.mktemp("pair"), in_schema(server.url, "gateway"))
    try:
        made.start("first")
        made.start("second")
        yield made
    finally:
        made.end()


@pytest.fixture
def pair(both: Pair) -> Pair:
    """Both, whatever the test before did to one of them."""
    for gateway in both.all:
        if gateway.process.poll() is not None:
            both.start(gateway.name)
    return both


def refusal(call: Callable[[], Any]) -> str:
    """The code of the error that a call is answered with."""
    with pytest.raises(ClientError) as error:
        call()
    return str(error.value.response["Error"]["Code"])


def document(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


def new_name(prefix: str) -> str:
    return f"{prefix}-{next(_NAMES)}"


# ---- what one has answered, the other knows -----------------------------------------------------------------------


def test_a_key_is_good_and_revoked_at_both_at_once(pair: Pair) -> None:
    for writes, asked in pair.orders * 5:
        iam, name = writes.client("iam", writes.root), new_name("alice")
        arn = iam.create_user(UserName=name)["User"]["Arn"]
        key = iam.create_access_key(UserName=name)["AccessKey"]
        sts = asked.client("sts", key)
        assert sts.get_caller_identity()["Arn"] == arn
        iam.update_access_key(UserName=name, AccessKeyId=key["AccessKeyId"], Status="Inactive")
        assert refusal(sts.get_caller_identity) == "InvalidClientTokenId"
        iam.update_access_key(UserName=name, AccessKeyId=key["AccessKeyId"], Status="Active")
        assert sts.get_caller_identity()["Arn"] == arn
        iam.delete_access_key(UserName=name, AccessKeyId=key["AccessKeyId"])
        assert refusal(sts.get_caller_identity) == "InvalidClientTokenId"


def test_a_policy_counts_at_both_at_once(pair: Pair) -> None:
    for writes, asked in pair.orders * 5:
        iam, name = writes.client("iam", writes.root), new_name("bob")
        iam.create_user(UserName=name)
        other = asked.client("iam", iam.create_access_key(UserName=name)["AccessKey"])
        assert refusal(other.list_users) == "AccessDenied"
        iam.put_user_policy(UserName=name, PolicyName="may", PolicyDocument=document(ALLOW))
        assert other.list_users()["Users"]
        policy = iam.create_policy(PolicyName=name, PolicyDocument=document(DENY))["Policy"]["Arn"]
        iam.attach_user_policy(UserName=name, PolicyArn=policy)
        assert refusal(other.list_users) == "AccessDenied"
        iam.create_policy_version(PolicyArn=policy, PolicyDocument=document(ALLOW), SetAsDefault=True)
        assert other.list_users()["Users"]
        group = iam.create_group(GroupName=name)["Group"]["GroupName"]
        iam.put_group_policy(GroupName=group, PolicyName="not", PolicyDocument=document(DENY))
        iam.add_user_to_group(GroupName=group, UserName=name)
        assert refusal(other.list_users) == "AccessDenied"


def test_a_session_is_good_at_both_until_its_role_is_gone(pair: Pair) -> None:
    for writes, asked in pair.orders:
        iam, name = writes.client("iam", writes.root), new_name("role")
        user = iam.create_user(UserName=name)["User"]["Arn"]
        key = iam.create_access_key(UserName=name)["AccessKey"]
        trust = document({"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": user}})
        role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)["Role"]["Arn"]
        session = asked.client("sts", key).assume_role(RoleArn=role, RoleSessionName="now")["Credentials"]
        for gateway in (writes, asked):
            assert gateway.client("sts", session).get_caller_identity()["Arn"].endswith(f":assumed-role/{name}/now")
        iam.delete_role(RoleName=name)
        assert refusal(asked.client("sts", session).get_caller_identity) == "InvalidClientTokenId"


def test_rows_are_the_same_at_both(pair: Pair) -> None:
    for writes, asked in pair.orders * 3:
        ec2, other = (gateway.client("ec2", gateway.root, REGION) for gateway in (writes, asked))
        vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
        assert [one["VpcId"] for one in other.describe_vpcs(VpcIds=[vpc])["Vpcs"]] == [vpc]
        other.create_tags(Resources=[vpc], Tags=[{"Key": "by", "Value": asked.name}])
        (found,) = ec2.describe_vpcs(VpcIds=[vpc])["Vpcs"]
        assert found["Tags"] == [{"Key": "by", "Value": asked.name}]
        ec2.delete_vpc(VpcId=vpc)
        assert refusal(partial(other.describe_vpcs, VpcIds=[vpc])) == "InvalidVpcID.NotFound"


def test_one_of_another_folder_has_nothing_to_do_with_them(pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="Gateways that share a database share their state folder"):
        Gateway(tmp_path, database=pair.database)


# ---- many at once -------------------------------------------------------------------------------------------------


def test_of_two_that_make_the_same_one_does(pair: Pair) -> None:
    clients = [gateway.client("iam", gateway.root) for gateway in pair.all]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(10):
            name, together = new_name("same"), threading.Barrier(2)

            def make(client: Any, name: str = name, together: threading.Barrier = together) -> str:
                together.wait(PATIENCE_S)
                try:
                    client.create_user(UserName=name)
                except ClientError as error:
                    return str(error.response["Error"]["Code"])
                return "made"

            assert sorted(pool.map(make, clients)) == ["EntityAlreadyExists", "made"]


@dataclass(slots=True)
class Work:
    """A client of one gateway that makes, tags and deletes users: what it was told, by name; request ids of its calls.

    told: the tag that the user has, None where it is deleted. open: calls that were never answered.
    """

    gateway: Gateway
    told: dict[str, str | None] = field(default_factory=dict)
    open: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)

    def run(self, rounds: int, died: Callable[[], object]) -> None:
        iam = self.gateway.client("iam", self.gateway.root)
        for number in range(rounds):
            name = new_name("work")
            steps: list[tuple[Callable[[], Any], str | None]] = [
                (partial(iam.create_user, UserName=name), ""),
                (partial(iam.tag_user, UserName=name, Tags=[{"Key": "k", "Value": name}]), name),
                (partial(iam.delete_user, UserName=name), None),
            ]
            for step, tag in steps[: 2 + number % 2]:
                try:
                    answer = step()
                except (ClientError, HTTPClientError):
                    if not died():
                        raise
                    self.open.add(name)
                    return
                self.told[name] = tag
                self.calls.append(answer["ResponseMetadata"]["RequestId"])


def tags_of(iam: Any, name: str) -> str | None:
    """The tag of a user; None where there is none of this name."""
    try:
        tags = iam.list_user_tags(UserName=name)["Tags"]
    except iam.exceptions.NoSuchEntityException:
        return None
    return next((tag["Value"] for tag in tags), "")


def request_ids(gateway: Gateway, source: str = "iam.amazonaws.com") -> Counter[str]:
    client = gateway.client("cloudtrail", gateway.root, REGION)
    found = [{"AttributeKey": "EventSource", "AttributeValue": source}]
    pages = client.get_paginator("lookup_events").paginate(LookupAttributes=found)
    return Counter(json.loads(one["CloudTrailEvent"])["requestID"] for page in pages for one in page["Events"])


def test_nothing_is_lost_between_them_and_each_call_is_recorded_once(pair: Pair) -> None:
    works = [Work(gateway) for gateway in pair.all * 3]
    with ThreadPoolExecutor(len(works)) as pool:
        for future in [pool.submit(work.run, 8, lambda: False) for work in works]:
            future.result()
    for gateway in pair.all:
        iam = gateway.client("iam", gateway.root)
        names = {user["UserName"] for page in iam.get_paginator("list_users").paginate() for user in page["Users"]}
        for work in works:
            assert work.told.keys() & names == {name for name, tag in work.told.items() if tag is not None}
    recorded = request_ids(pair.all[0])
    assert {call: recorded[call] for work in works for call in work.calls} == dict.fromkeys(
        itertools.chain.from_iterable(work.calls for work in works), 1
    )


def test_reads_of_both_are_recorded_once(pair: Pair) -> None:
    calls = [
        gateway.client("sts", gateway.root, REGION).get_caller_identity()["ResponseMetadata"]["RequestId"]
        for gateway in pair.all * 10
    ]
    eventually(lambda: all(request_ids(pair.all[0], "sts.amazonaws.com")[call] == 1 for call in calls), PATIENCE_S)


def test_the_history_is_looked_up_by_everything_at_both(pair: Pair) -> None:
    for writes, asked in pair.orders:
        iam, name = writes.client("iam", writes.root), new_name("Known")
        made = iam.create_user(UserName=name)["ResponseMetadata"]["RequestId"]
        trail = asked.client("cloudtrail", asked.root, REGION)

        def looked_up(key: str, value: str, trail: Any = trail) -> list[dict[str, Any]]:
            wanted = [{"AttributeKey": key, "AttributeValue": value}]
            found: list[dict[str, Any]] = trail.lookup_events(LookupAttributes=wanted)["Events"]
            return found

        (event,) = looked_up("ResourceName", name)
        assert json.loads(event["CloudTrailEvent"])["requestID"] == made
        assert looked_up("ResourceName", name.lower()) == looked_up("ResourceName", name[:-1]) == []
        for key, value in (
            ("EventId", event["EventId"]),
            ("EventName", "CreateUser"),
            ("ReadOnly", "false"),
            ("Username", "root"),
            ("ResourceType", "AWS::IAM::User"),
            ("EventSource", "iam.amazonaws.com"),
            ("AccessKeyId", writes.root["AccessKeyId"]),
        ):
            assert event["EventId"] in {one["EventId"] for one in looked_up(key, value)}, key


# ---- who leads, and who dies --------------------------------------------------------------------------------------


def subnet(gateway: Gateway) -> str:
    found = gateway.client("ec2", gateway.root, REGION).describe_subnets()["Subnets"]
    return str(found[0]["SubnetId"])


def cluster_comes(by: Gateway, at: Gateway) -> None:
    """What a reconciler does about a cluster that one gateway was asked for is seen at another one."""
    made = by.client("cloudhsmv2", by.root, REGION).create_cluster(HsmType="hsm1.medium", SubnetIds=[subnet(by)])
    cluster_id, client = made["Cluster"]["ClusterId"], at.client("cloudhsmv2", at.root, REGION)

    def made_it() -> bool:
        (found,) = client.describe_clusters(Filters={"clusterIds": [cluster_id]})["Clusters"]
        return bool(found["State"] == "UNINITIALIZED")

    eventually(made_it, PATIENCE_S)


def test_one_leads_for_both_and_the_other_when_it_dies(pair: Pair) -> None:
    leader = pair.leader()
    (other,) = (gateway for gateway in pair.all if gateway is not leader)
    cluster_comes(other, leader)
    cluster_comes(leader, other)
    works = [Work(gateway) for gateway in pair.all * 2]
    dead = threading.Event()
    with ThreadPoolExecutor(len(works)) as pool:
        running = [
            pool.submit(work.run, 20, other.process.poll if work.gateway is other else dead.is_set) for work in works
        ]
        eventually(lambda: all(len(work.calls) > 5 for work in works), PATIENCE_S)
        dead.set()
        leader.kill()
        for future in running:
            future.result()
    cluster_comes(other, other)
    assert pair.leader() is other
    back = pair.start(leader.name)
    for gateway in (other, back):
        iam, recorded = gateway.client("iam", gateway.root), request_ids(gateway)
        for work in works:
            assert {call: recorded[call] for call in work.calls} == dict.fromkeys(work.calls, 1)
            for name, tag in work.told.items():
                assert name in work.open or tags_of(iam, name) == tag
    assert any(work.open for work in works), "the killed one was asked something"
    assert pair.leader() is other
    other.stop()
    cluster_comes(back, back)


def test_without_the_database_neither_vouches_for_anybody(server: LocalServer, pair: Pair) -> None:
    """A key may have been revoked by then: who cannot ask refuses."""
    clients = [gateway.client("sts", gateway.root) for gateway in pair.all]
    assert len({client.get_caller_identity()["Arn"] for client in clients}) == 1
    server.stop("immediate")
    try:
        for client in clients:
            assert refusal(client.get_caller_identity) == "ServiceUnavailable"
    finally:
        server.start()
    assert len({client.get_caller_identity()["Arn"] for client in clients}) == 1
    pair.leader()
