"""CloudTrail through the gateway's process and real boto3: what every call leaves behind."""

from __future__ import annotations

import itertools
import json
import sqlite3
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError
from support.assembled import ACCOUNT, Gateway

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HOME = "eu-west-1"
GLOBAL = "us-east-1"
DAY = 86400


def policy(*actions: str, effect: str = "Allow") -> str:
    statement = {"Effect": effect, "Action": list(actions), "Resource": "*"}
    return json.dumps({"Version": "2012-10-17", "Statement": statement})


def trust(arn: str) -> str:
    statement = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": arn}}
    return json.dumps({"Version": "2012-10-17", "Statement": statement})


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    one = Gateway(tmp_path_factory.mktemp("gateway"))
    yield one
    one.stop()


def history(gateway: Gateway, region: str = HOME, keys: Any = None, **query: Any) -> list[dict[str, Any]]:
    """All events that a lookup finds."""
    client = gateway.client("cloudtrail", keys or gateway.root, region)
    return [event for page in client.get_paginator("lookup_events").paginate(**query) for event in page["Events"]]


def request_id(answer: dict[str, Any]) -> str:
    return str(answer["ResponseMetadata"]["RequestId"])


def events_of(gateway: Gateway, request: str, region: str = HOME) -> list[dict[str, Any]]:
    """The events of one request; reads and errors are there a moment after the answer."""
    deadline = time.monotonic() + 10
    while True:
        found = [
            event for event in history(gateway, region) if json.loads(event["CloudTrailEvent"])["requestID"] == request
        ]
        if found or time.monotonic() > deadline:
            return found
        time.sleep(0.02)


def record_of(gateway: Gateway, answer: dict[str, Any], region: str = HOME) -> tuple[dict[str, Any], dict[str, Any]]:
    """The one event of an answer, and the record in it."""
    (event,) = events_of(gateway, request_id(answer), region)
    return event, json.loads(event["CloudTrailEvent"])


def refused(call: Callable[[], Any]) -> dict[str, Any]:
    with pytest.raises(ClientError) as error:
        call()
    answer: dict[str, Any] = error.value.response
    return answer


def new_user(gateway: Gateway, name: str, document: str = "") -> dict[str, str]:
    """Make a user with a key; returns its key."""
    iam = gateway.client("iam", gateway.root)
    iam.create_user(UserName=name)
    if document:
        iam.put_user_policy(UserName=name, PolicyName="own", PolicyDocument=document)
    key: dict[str, str] = iam.create_access_key(UserName=name)["AccessKey"]
    return key


# ---- an event per call -------------------------------------------------------------------------------------------


def test_a_change_is_recorded_whole_and_at_once(gateway: Gateway) -> None:
    iam = gateway.client("iam", gateway.root)
    answer = iam.create_user(UserName="whole", Path="/x/")
    found = [event for event in history(gateway, GLOBAL) if event["EventName"] == "CreateUser"]
    event = next(
        one for one in found if {"ResourceType": "AWS::IAM::User", "ResourceName": "whole"} in one["Resources"]
    )
    record = json.loads(event["CloudTrailEvent"])
    assert {name: event[name] for name in ("EventSource", "ReadOnly", "Username", "AccessKeyId")} == {
        "EventSource": "iam.amazonaws.com",
        "ReadOnly": "false",
        "Username": "root",
        "AccessKeyId": gateway.root["AccessKeyId"],
    }
    assert record["requestID"] == request_id(answer)
    assert record["eventID"] == event["EventId"]
    assert datetime.fromisoformat(record["eventTime"]) == event["EventTime"]
    assert record["awsRegion"] == GLOBAL
    assert record["requestParameters"] == {"path": "/x/", "userName": "whole"}
    user = record["responseElements"]["user"]
    assert (user["arn"], user["userId"]) == (answer["User"]["Arn"], answer["User"]["UserId"])
    assert record["userIdentity"] == {
        "type": "Root",
        "principalId": ACCOUNT,
        "arn": f"arn:aws:iam::{ACCOUNT}:root",
        "accountId": ACCOUNT,
        "accessKeyId": gateway.root["AccessKeyId"],
    }
    assert "errorCode" not in record


def test_failures_are_recorded_with_what_the_caller_was_told(gateway: Gateway) -> None:
    iam, ec2 = (gateway.client(name, gateway.root) for name in ("iam", "ec2"))
    nobody = new_user(gateway, "nobody")
    calls: list[tuple[str, str, Callable[[], Any], str]] = [
        ("NoSuchEntity", GLOBAL, lambda: iam.delete_user(UserName="is-not-there"), "false"),
        ("InvalidVpcID.NotFound", HOME, lambda: ec2.describe_vpcs(VpcIds=["vpc-0123456789abcdef0"]), "true"),
        ("InvalidParameterValue", HOME, lambda: ec2.create_vpc(CidrBlock="10.0.0.0"), "false"),
        ("DryRunOperation", HOME, lambda: ec2.create_vpc(CidrBlock="10.0.0.0/16", DryRun=True), "false"),
        ("UnauthorizedOperation", HOME, gateway.client("ec2", nobody).describe_vpcs, "true"),
        ("ValidationError", GLOBAL, lambda: iam.create_user(UserName="a b"), "false"),
        ("NotImplemented", GLOBAL, lambda: iam.create_login_profile(UserName="whole", Password="a-password"), "false"),
        ("AccessDenied", GLOBAL, gateway.client("iam", nobody).list_users, "true"),
        ("AccessDeniedException", HOME, gateway.client("cloudtrail", nobody).lookup_events, "true"),
        ("UnsupportedOperationException", HOME, gateway.client("cloudtrail", gateway.root).describe_trails, "true"),
    ]
    recorded = {"NoSuchEntity": "NoSuchEntityException"}
    for code, region, call, read_only in calls:
        answer = refused(call)
        event, record = record_of(gateway, answer, region)
        shown = f"Client.{code}" if record["eventSource"] == "ec2.amazonaws.com" else recorded.get(code, code)
        assert (answer["Error"]["Code"], record["errorCode"], event["ReadOnly"]) == (code, shown, read_only)
        assert record["errorMessage"] == answer["Error"]["Message"]
        assert record["responseElements"] is None
        assert "a-password" not in event["CloudTrailEvent"]


def test_a_call_that_nobody_signed_is_not_recorded(gateway: Gateway) -> None:
    wrong = gateway.root | {"SecretAccessKey": "no"}
    answer = refused(gateway.client("sts", wrong).get_caller_identity)
    assert answer["Error"]["Code"] == "SignatureDoesNotMatch"
    record_of(gateway, gateway.client("sts", gateway.root).get_caller_identity())
    assert events_of_now(gateway, request_id(answer)) == []


def events_of_now(gateway: Gateway, request: str) -> list[dict[str, Any]]:
    return [event for event in history(gateway) if json.loads(event["CloudTrailEvent"])["requestID"] == request]


def test_iam_is_recorded_in_us_east_1_and_sts_where_it_is_called(gateway: Gateway) -> None:
    listed = gateway.client("iam", gateway.root, HOME).list_users()
    asked = gateway.client("sts", gateway.root, HOME).get_caller_identity()
    globally = gateway.client("sts", gateway.root, GLOBAL).get_caller_identity()
    assert record_of(gateway, listed, GLOBAL)[1]["awsRegion"] == GLOBAL
    assert record_of(gateway, asked, HOME)[1]["awsRegion"] == HOME
    assert record_of(gateway, globally, GLOBAL)[1]["awsRegion"] == GLOBAL
    assert events_of_now(gateway, request_id(listed)) == []


# ---- who ---------------------------------------------------------------------------------------------------------


def test_who_called(gateway: Gateway) -> None:
    iam = gateway.client("iam", gateway.root)
    key = new_user(gateway, "caller", policy("sts:*", "iam:*"))
    user = iam.get_user(UserName="caller")["User"]
    role = iam.create_role(RoleName="Called", AssumeRolePolicyDocument=trust(user["Arn"]))["Role"]
    sts = gateway.client("sts", key)
    of_role = sts.assume_role(RoleArn=role["Arn"], RoleSessionName="session-1")["Credentials"]
    of_user = sts.get_session_token()["Credentials"]
    of_other = sts.get_federation_token(Name="guest", Policy=policy("sts:*"))["Credentials"]

    def who(keys: dict[str, str]) -> tuple[str, str, dict[str, Any]]:
        event, record = record_of(gateway, gateway.client("sts", keys).get_caller_identity())
        identity = record["userIdentity"]
        assert identity["accessKeyId"] == event["AccessKeyId"] == keys["AccessKeyId"]
        assert identity["accountId"] == ACCOUNT
        return event["Username"], identity["type"], identity

    name, kind, identity = who(key)
    assert (name, kind, identity["userName"], identity["arn"]) == ("caller", "IAMUser", "caller", user["Arn"])
    assert "sessionContext" not in identity
    name, kind, identity = who(of_role)
    assert (name, kind) == ("session-1", "AssumedRole")
    assert identity["principalId"] == f"{role['RoleId']}:session-1"
    assert identity["arn"] == f"arn:aws:sts::{ACCOUNT}:assumed-role/Called/session-1"
    assert identity["sessionContext"]["sessionIssuer"] == {
        "type": "Role",
        "principalId": role["RoleId"],
        "arn": role["Arn"],
        "accountId": ACCOUNT,
        "userName": "Called",
    }
    name, kind, identity = who(of_user)
    assert (name, kind, identity["principalId"]) == ("caller", "IAMUser", user["UserId"])
    assert identity["sessionContext"]["attributes"]["mfaAuthenticated"] == "false"
    name, kind, identity = who(of_other)
    assert (name, kind, identity["principalId"]) == ("guest", "FederatedUser", f"{ACCOUNT}:guest")
    assert identity["sessionContext"]["sessionIssuer"]["arn"] == user["Arn"]


# ---- what is shown -----------------------------------------------------------------------------------------------


def test_sessions_and_keys_are_shown_without_their_secrets(gateway: Gateway) -> None:
    iam = gateway.client("iam", gateway.root)
    key = new_user(gateway, "shown", policy("sts:*"))
    arn = iam.get_user(UserName="shown")["User"]["Arn"]
    role = iam.create_role(RoleName="Shown", AssumeRolePolicyDocument=trust(arn))["Role"]["Arn"]
    sts = gateway.client("sts", key)
    makers: list[tuple[dict[str, Any], str, dict[str, Any] | None]] = [
        (sts.assume_role(RoleArn=role, RoleSessionName="s1"), "true", {"roleArn": role, "roleSessionName": "s1"}),
        (sts.get_session_token(), "true", None),
        (sts.get_federation_token(Name="guest"), "false", {"name": "guest"}),
    ]
    for answer, read_only, parameters in makers:
        event, record = record_of(gateway, answer)
        made = answer["Credentials"]
        assert record["requestParameters"] == parameters
        shown = record["responseElements"]["credentials"]
        assert set(shown) == {"accessKeyId", "expiration", "sessionToken"}
        assert (shown["accessKeyId"], shown["sessionToken"]) == (made["AccessKeyId"], made["SessionToken"])
        assert event["ReadOnly"] == read_only
        assert {"ResourceType": "AWS::IAM::AccessKey", "ResourceName": made["AccessKeyId"]} in event["Resources"]
    _, record = record_of(gateway, sts.get_caller_identity())
    assert (record["requestParameters"], record["responseElements"]) == (None, None)
    answer = iam.create_access_key(UserName="shown")
    _, record = record_of(gateway, answer, GLOBAL)
    shown = record["responseElements"]["accessKey"]
    assert set(shown) == {"userName", "accessKeyId", "status", "createDate"}
    assert shown["accessKeyId"] == answer["AccessKey"]["AccessKeyId"]
    _, record = record_of(gateway, iam.list_access_keys(UserName="shown"), GLOBAL)
    assert (record["requestParameters"], record["responseElements"]) == ({"userName": "shown"}, None)


def test_no_secret_reaches_the_database(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    try:
        iam = gateway.client("iam", gateway.root)
        made: list[dict[str, str]] = [gateway.root]
        for number in range(4):
            key = new_user(gateway, f"u{number}", policy("sts:*", "iam:*"))
            made += [key, gateway.client("iam", key).create_access_key()["AccessKey"]]
            refused(gateway.client("iam", key).create_access_key)
            arn = iam.get_user(UserName=f"u{number}")["User"]["Arn"]
            role = iam.create_role(RoleName=f"r{number}", AssumeRolePolicyDocument=trust(arn))["Role"]["Arn"]
            sts = gateway.client("sts", key)
            for _ in range(3):
                made.append(sts.assume_role(RoleArn=role, RoleSessionName="s1")["Credentials"])
                made.append(sts.get_session_token()["Credentials"])
                made.append(sts.get_federation_token(Name="guest")["Credentials"])
                refused(gateway.client("sts", made[-1]).get_session_token)
                refused(lambda: sts.assume_role(RoleArn="arn:aws:iam::111122223333:role/x", RoleSessionName="s1"))  # noqa: B023
            iam.update_access_key(UserName=f"u{number}", AccessKeyId=key["AccessKeyId"], Status="Inactive")
            iam.list_access_keys(UserName=f"u{number}")
    finally:
        gateway.stop()
    assert len(made) == 1 + 4 * 11
    files = [path for path in gateway.home.iterdir() if path.name.startswith("gateway.db")]
    kept = b"".join(path.read_bytes() for path in files)
    for one in made:
        assert one["AccessKeyId"].encode() in kept
        for part in (one["SecretAccessKey"], one["SecretAccessKey"][5:25]):
            assert part.encode() not in kept
        assert one["SecretAccessKey"] not in gateway.log()


# ---- looking up --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def busy(gateway: Gateway) -> dict[str, str]:
    """A user who did several things; its key."""
    key = new_user(gateway, "busy", policy("sts:*", "iam:*"))
    sts, iam = gateway.client("sts", key, GLOBAL), gateway.client("iam", key)
    for number in range(4):
        iam.create_group(GroupName=f"busy{number}")
        sts.get_caller_identity()
    refused(lambda: iam.get_group(GroupName="busy-none"))
    events_of(gateway, request_id(sts.get_caller_identity()), GLOBAL)
    return key


@pytest.mark.parametrize(
    ("attribute", "value", "fits", "least"),
    [
        ("EventName", "CreateGroup", lambda event: event["EventName"] == "CreateGroup", 4),
        ("ReadOnly", "false", lambda event: event["ReadOnly"] == "false", 4),
        ("ReadOnly", "true", lambda event: event["ReadOnly"] == "true", 6),
        ("Username", "busy", lambda event: event["Username"] == "busy", 10),
        (
            "ResourceType",
            "AWS::IAM::Group",
            lambda event: event["Resources"][0]["ResourceType"] == "AWS::IAM::Group",
            5,
        ),
        ("ResourceName", "busy1", lambda event: event["Resources"][0]["ResourceName"] == "busy1", 1),
        ("EventSource", "sts.amazonaws.com", lambda event: event["EventSource"] == "sts.amazonaws.com", 5),
        ("EventSource", "kms.amazonaws.com", lambda _event: False, 0),
    ],
)
def test_each_attribute_finds_its_events(
    gateway: Gateway,
    busy: dict[str, str],
    attribute: str,
    value: str,
    fits: Callable[[dict[str, Any]], bool],
    least: int,
) -> None:
    of_busy = {event["EventId"] for event in history(gateway, GLOBAL) if event["AccessKeyId"] == busy["AccessKeyId"]}
    found = history(gateway, GLOBAL, LookupAttributes=[{"AttributeKey": attribute, "AttributeValue": value}])
    assert all(fits(event) for event in found)
    assert sum(event["EventId"] in of_busy for event in found) >= least


def test_an_event_is_found_by_its_id_and_by_the_key_that_signed_it(gateway: Gateway, busy: dict[str, str]) -> None:
    by_key = [{"AttributeKey": "AccessKeyId", "AttributeValue": busy["AccessKeyId"]}]
    found = history(gateway, GLOBAL, LookupAttributes=by_key)
    assert len(found) == 10
    assert {event["Username"] for event in found} == {"busy"}
    one = found[3]
    assert history(
        gateway, GLOBAL, LookupAttributes=[{"AttributeKey": "EventId", "AttributeValue": one["EventId"]}]
    ) == [one]


def test_pages_are_newest_first_and_tokens_belong_to_their_query(gateway: Gateway, busy: dict[str, str]) -> None:
    trail = gateway.client("cloudtrail", gateway.root, GLOBAL)
    query = {"LookupAttributes": [{"AttributeKey": "AccessKeyId", "AttributeValue": busy["AccessKeyId"]}]}
    whole = trail.lookup_events(**query)
    assert "NextToken" not in whole
    times = [event["EventTime"] for event in whole["Events"]]
    assert times == sorted(times, reverse=True)
    pages = list(trail.get_paginator("lookup_events").paginate(**query, PaginationConfig={"PageSize": 4}))
    assert [len(page["Events"]) for page in pages] == [4, 4, 2]
    assert [event for page in pages for event in page["Events"]] == whole["Events"]
    token = pages[0]["NextToken"]
    assert trail.lookup_events(**query, NextToken=token, MaxResults=1)["Events"] == [whole["Events"][4]]
    for other in ({}, {**query, "EndTime": datetime.now(UTC)}):
        assert refused(lambda: trail.lookup_events(**other, NextToken=token))["Error"]["Code"] == (  # noqa: B023
            "InvalidNextTokenException"
        )
    elsewhere = gateway.client("cloudtrail", gateway.root, HOME)
    assert refused(lambda: elsewhere.lookup_events(**query, NextToken=token))["Error"]["Code"] == (
        "InvalidNextTokenException"
    )


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"MaxResults": 51}, "InvalidMaxResultsException"),
        ({"NextToken": "x"}, "InvalidNextTokenException"),
        ({"EventCategory": "insight"}, "UnsupportedOperationException"),
        ({"EventCategory": "data"}, "InvalidEventCategoryException"),
        (
            {"StartTime": datetime(2026, 1, 2, tzinfo=UTC), "EndTime": datetime(2026, 1, 1, tzinfo=UTC)},
            "InvalidTimeRangeException",
        ),
        (
            {"LookupAttributes": [{"AttributeKey": "Shoe", "AttributeValue": "x"}]},
            "InvalidLookupAttributesException",
        ),
        (
            {"LookupAttributes": [{"AttributeKey": "ReadOnly", "AttributeValue": "no"}]},
            "InvalidLookupAttributesException",
        ),
        (
            {"LookupAttributes": [{"AttributeKey": "Username", "AttributeValue": "x"}] * 2},
            "InvalidLookupAttributesException",
        ),
    ],
)
def test_errors(gateway: Gateway, members: dict[str, Any], code: str) -> None:
    answer = refused(lambda: gateway.client("cloudtrail", gateway.root).lookup_events(**members))
    assert (answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]) == (code, 400)
    assert record_of(gateway, answer)[1]["errorCode"] == code


def test_a_null_in_a_list_is_refused_and_recorded(gateway: Gateway) -> None:
    client = gateway.client("cloudtrail", gateway.root)
    client.meta.events.register("before-call.cloudtrail.LookupEvents", put_null)
    answer = refused(lambda: client.lookup_events(MaxResults=7))
    assert answer["Error"] == {
        "Code": "ValidationException",
        "Message": "1 validation error detected: Value null at 'lookupAttributes.1.member' failed to satisfy "
        "constraint: Member must not be null",
    }
    assert record_of(gateway, answer)[1]["requestParameters"] == {"lookupAttributes": [None]}


def put_null(params: dict[str, Any], **_more: Any) -> None:
    params["body"] = b'{"LookupAttributes": [null]}'


def test_a_right_to_look_up_is_needed(gateway: Gateway) -> None:
    key = new_user(gateway, "reader", policy("cloudtrail:LookupEvents"))
    assert gateway.client("cloudtrail", key, GLOBAL).lookup_events(MaxResults=1)["Events"]
    answer = refused(gateway.client("cloudtrail", new_user(gateway, "stranger")).lookup_events)
    assert answer["Error"]["Message"] == (
        f"User: arn:aws:iam::{ACCOUNT}:user/stranger is not authorized to perform: cloudtrail:LookupEvents "
        "because no identity-based policy allows the cloudtrail:LookupEvents action"
    )


# ---- time, size and death ----------------------------------------------------------------------------------------


def test_times_are_simulated_and_events_are_forgotten_after_90_days(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    try:
        old = gateway.client("sts", gateway.root).get_caller_identity()
        record_of(gateway, old)
        gateway.set_clock(80 * DAY)
        event, record = record_of(gateway, gateway.client("sts", gateway.root).get_caller_identity())
        ahead = event["EventTime"] - datetime.now(UTC)
        assert timedelta(days=80, minutes=-5) < ahead <= timedelta(days=80)
        assert record["eventTime"] == event["EventTime"].astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        assert events_of_now(gateway, request_id(old)) != []
        lately = history(gateway, StartTime=datetime.now(UTC) + timedelta(days=79))
        assert event["EventId"] in {one["EventId"] for one in lately}
        assert request_id(old) not in {json.loads(one["CloudTrailEvent"])["requestID"] for one in lately}
        gateway.set_clock(91 * DAY)
        assert events_of_now(gateway, request_id(old)) == []
        assert event["EventId"] in {one["EventId"] for one in history(gateway)}
    finally:
        gateway.stop()
    assert count(gateway, request_id(old)) == 1
    Gateway(tmp_path).stop()
    assert count(gateway, request_id(old)) == 0


def count(gateway: Gateway, request: str) -> int:
    """Events of a request in the database of a gateway that has stopped."""
    with sqlite3.connect(gateway.home / "gateway.db") as connection:
        query = "SELECT count(*) FROM cloudtrail_events WHERE body LIKE ?"
        found: int = connection.execute(query, (f'%"requestID":"{request}"%',)).fetchone()[0]
    connection.close()
    return found


def test_the_history_has_a_bound(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, events=100)
    try:
        sts = gateway.client("sts", gateway.root)
        for _ in range(1100):
            last = sts.get_caller_identity()
        record_of(gateway, last)
        deadline = time.monotonic() + 10
        while len(found := history(gateway)) > 400:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert request_id(last) in {json.loads(one["CloudTrailEvent"])["requestID"] for one in found}
    finally:
        gateway.stop()


def test_a_gateway_that_is_killed_keeps_an_event_exactly_for_what_it_did(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    acknowledged: list[str] = []
    dying = threading.Event()
    clients = [gateway.client("iam", gateway.root) for _ in range(4)]  # boto3 makes no clients in threads

    def work(number: int) -> None:
        for step in itertools.count():
            name = f"u{number}-{step}"
            try:
                clients[number].create_user(UserName=name)
            except Exception:  # an answer can be cut anywhere, and each place has an error of its own
                if dying.is_set():
                    return
                raise
            acknowledged.append(name)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    while len(acknowledged) < 100:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    dying.set()
    gateway.process.kill()
    for thread in threads:
        thread.join()
    gateway.process.wait(30)
    again = Gateway(tmp_path)
    try:
        pages = again.client("iam", again.root).get_paginator("list_users").paginate()
        users = {user["UserName"] for page in pages for user in page["Users"]}
        made = history(again, GLOBAL, LookupAttributes=[{"AttributeKey": "EventName", "AttributeValue": "CreateUser"}])
    finally:
        again.stop()
    recorded = [json.loads(event["CloudTrailEvent"])["requestParameters"]["userName"] for event in made]
    assert set(acknowledged) <= users
    assert sorted(recorded) == sorted(users)
