"""CloudTrail's event history over a real database and writer: what is kept, found and forgotten."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import func, insert, select, text

from hsmsim.clock import ManualClock
from hsmsim.errors import AwsError, StorageError
from hsmsim.services.cloudtrail import resources, rules, store
from hsmsim.services.cloudtrail.model import RETENTION_S, Attribute, Position, Query, Resource
from hsmsim.services.cloudtrail.retention import Retention
from hsmsim.services.iam.store import MEMBERS
from hsmsim.storage.database import Database
from hsmsim.storage.migrate import GATEWAY, migrate
from hsmsim.storage.writer import GroupWriter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy.engine import Connection

NOW = 1_700_000_000
ACCOUNT = "123456789012"
HERE = Query(ACCOUNT, "eu-west-1")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path}/gateway.db"
    migrate(url, GATEWAY)
    one = Database(url, durable=False)
    yield one
    one.close()


@pytest.fixture
def writer(database: Database) -> Iterator[GroupWriter]:
    one = GroupWriter(database)
    yield one
    one.close()


def event(number: int = 0, **members: Any) -> dict[str, Any]:
    """A record, `number` seconds after NOW."""
    identity = {"type": "IAMUser", "arn": f"arn:aws:iam::{ACCOUNT}:user/ann", "accessKeyId": "AKIAANN"}
    return {
        "userIdentity": {**identity, "userName": "ann"},
        "eventTime": datetime.fromtimestamp(NOW + number, UTC).isoformat().replace("+00:00", "Z"),
        "eventSource": "iam.amazonaws.com",
        "eventName": "GetUser",
        "awsRegion": "eu-west-1",
        "requestParameters": None,
        "responseElements": None,
        "eventID": f"id-{number}",
        "readOnly": True,
        "recipientAccountId": ACCOUNT,
    } | members


def record(writer: GroupWriter, *events: dict[str, Any]) -> None:
    history = store.History(lambda: None)
    writer.write(lambda connection: history.record(connection, *events))


def found(
    database: Database, query: Query = HERE, after: Position | None = None, kept: float = 0, most: int = 50
) -> list[str]:
    with database.read() as connection:
        return [entry.id for _, entry in store.lookup(connection, query, after, kept, most)]


def by(attribute: Attribute, value: str) -> Query:
    return Query(ACCOUNT, "eu-west-1", None, None, attribute, value)


# ---- looking up --------------------------------------------------------------------------------------------------


def test_the_newest_come_first_and_those_of_a_second_in_the_order_of_their_calls(
    database: Database, writer: GroupWriter
) -> None:
    record(writer, event(1), event(3), event(2, eventID="a"), event(2, eventID="b"))
    assert found(database) == ["id-3", "b", "a", "id-1"]


def test_pages_neither_repeat_nor_miss(database: Database, writer: GroupWriter) -> None:
    record(writer, *(event(number // 4, eventID=f"e{number}") for number in range(22)))
    everything, pages, after = found(database), [], None
    while True:
        with database.read() as connection:
            page = store.lookup(connection, HERE, after, 0, 5)
        if not page:
            break
        after = page[-1][0]
        pages += [entry.id for _, entry in page]
        record(writer, event(1000, eventID="later"))
    assert pages == everything == [f"e{number}" for number in range(21, -1, -1)]


def test_accounts_and_regions_are_apart(database: Database, writer: GroupWriter) -> None:
    record(writer, event(1), event(2, awsRegion="us-east-1"), event(3, recipientAccountId="999999999999"))
    assert found(database) == ["id-1"]
    assert found(database, Query(ACCOUNT, "us-east-1")) == ["id-2"]
    assert found(database, Query("999999999999", "eu-west-1")) == ["id-3"]


def test_both_ends_of_a_time_range_are_in_it(database: Database, writer: GroupWriter) -> None:
    record(writer, *(event(number) for number in range(5)))
    assert found(database, Query(ACCOUNT, "eu-west-1", NOW + 1.0, NOW + 3.0)) == ["id-3", "id-2", "id-1"]
    assert found(database, Query(ACCOUNT, "eu-west-1", None, NOW + 1.0)) == ["id-1", "id-0"]
    assert found(database, Query(ACCOUNT, "eu-west-1", NOW + 1.0), kept=NOW + 3.0) == ["id-4", "id-3"]


ROLE = {"type": "AssumedRole", "arn": f"arn:aws:sts::{ACCOUNT}:assumed-role/Deploy/s1", "accessKeyId": "ASIAROLE"}


@pytest.mark.parametrize(
    ("attribute", "value", "ids"),
    [
        (Attribute.EVENT_ID, "id-2", ["id-2"]),
        (Attribute.EVENT_ID, "id-", []),
        (Attribute.EVENT_NAME, "CreateUser", ["id-2"]),
        (Attribute.EVENT_NAME, "createuser", []),
        (Attribute.READ_ONLY, "false", ["id-2"]),
        (Attribute.READ_ONLY, "true", ["id-3", "id-1", "id-0"]),
        (Attribute.USERNAME, "s1", ["id-1"]),
        (Attribute.USERNAME, "ann", ["id-3", "id-2", "id-0"]),
        (Attribute.EVENT_SOURCE, "sts.amazonaws.com", ["id-3"]),
        (Attribute.ACCESS_KEY_ID, "ASIAROLE", ["id-1"]),
        (Attribute.RESOURCE_TYPE, "AWS::IAM::User", ["id-2"]),
        (Attribute.RESOURCE_TYPE, "AWS::IAM", []),
        (Attribute.RESOURCE_NAME, 'b"ob', ["id-2"]),
        (Attribute.RESOURCE_NAME, "ob", []),
        (Attribute.RESOURCE_NAME, "arn:aws:iam::1:role/R", ["id-3"]),
        (Attribute.RESOURCE_NAME, 'x","AWS::IAM::User', []),
    ],
)
def test_every_attribute_finds_its_events_and_no_others(
    database: Database, writer: GroupWriter, attribute: Attribute, value: str, ids: list[str]
) -> None:
    assume = {"requestParameters": {"roleArn": "arn:aws:iam::1:role/R"}}
    record(
        writer,
        event(0),
        event(1, userIdentity=ROLE),
        event(2, eventName="CreateUser", readOnly=False, requestParameters={"userName": 'b"ob'}),
        event(3, eventSource="sts.amazonaws.com", **assume),
    )
    assert found(database, by(attribute, value)) == ids


def test_a_lookup_reads_no_rows_but_those_it_answers(database: Database) -> None:
    """The index holds all filters, so that a search through a long history costs little."""
    plan = "EXPLAIN QUERY PLAN SELECT id FROM cloudtrail_events WHERE account = 'a' AND region = 'r' AND time >= 0 AND "
    plan += "name = 'n' AND source = 's' AND read_only = 1 AND username = 'u' AND access_key = 'k' AND resources = 'r' "
    with database.read() as connection:
        (step,) = connection.execute(text(plan + "ORDER BY time DESC, sequence DESC")).all()
    assert "USING COVERING INDEX cloudtrail_lookup (account=? AND region=? AND time>?)" in step.detail


# ---- with the change that it records -----------------------------------------------------------------------------


def test_a_commit_that_fails_leaves_no_event(database: Database, writer: GroupWriter) -> None:
    history = store.History(lambda: None)

    def work(connection: Connection) -> None:
        connection.exec_driver_sql("PRAGMA defer_foreign_keys=ON")  # a member of no group: found out at the commit
        connection.execute(insert(MEMBERS).values(group_id="none", user_id="none"))
        history.record(connection, event(1))

    with pytest.raises(StorageError, match="FOREIGN KEY constraint failed"):
        writer.write(work)
    assert found(database) == []
    record(writer, event(2))
    assert found(database) == ["id-2"]


def test_events_that_are_written_again_are_there_once(database: Database, writer: GroupWriter) -> None:
    history = store.History(lambda: None)
    other = {"recipientAccountId": "210987654321"}
    record(writer, event(1), event(2), event(5, **other))
    batch = [event(1), event(2), event(3), event(5, **other), event(4)]
    for _ in range(2):
        writer.write(lambda connection: history.record(connection, *batch, again=True))
        assert found(database) == ["id-4", "id-3", "id-2", "id-1"]
        with database.read() as connection:
            assert connection.execute(select(func.count()).select_from(store.EVENTS)).scalar() == 5


def test_a_work_that_raises_leaves_no_event(database: Database, writer: GroupWriter) -> None:
    history = store.History(lambda: None)

    def work(connection: Connection) -> None:
        history.record(connection, event(1))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        writer.write(work)
    assert found(database) == []


# ---- forgetting --------------------------------------------------------------------------------------------------


def test_events_are_forgotten_after_90_days_of_simulated_time(database: Database, writer: GroupWriter) -> None:
    clock = ManualClock(float(NOW))
    retention = Retention(database, writer, clock, 1000)
    assert retention.step() == RETENTION_S
    record(writer, event(0), event(0), event(100))
    clock.advance(RETENTION_S)
    assert retention.step() == 1.0
    assert len(found(database)) == 3
    clock.advance(60)
    assert retention.step() == 40.0
    assert found(database) == ["id-100"]
    clock.advance(1000)
    assert retention.step() == RETENTION_S
    assert found(database) == []


def test_the_oldest_go_where_there_are_too_many(database: Database, writer: GroupWriter) -> None:
    grown: list[int] = []
    history = store.History(lambda: grown.append(1))
    count = 2 * store.PRUNED + 500
    events = [event(number) for number in range(count)]
    writer.write(lambda connection: history.record(connection, *events))
    assert grown == [1]
    Retention(database, writer, ManualClock(float(NOW)), 10).step()
    assert found(database) == [f"id-{number}" for number in range(count - 1, count - 11, -1)]
    with database.read() as connection:
        assert connection.execute(select(func.count()).select_from(store.EVENTS)).scalar() == 10
    Retention(database, writer, ManualClock(float(NOW)), 10).step()
    assert len(found(database)) == 10


# ---- what is kept of an event ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("identity", "name"),
    [
        ({"type": "Root", "arn": f"arn:aws:iam::{ACCOUNT}:root"}, "root"),
        ({"type": "IAMUser", "arn": f"arn:aws:iam::{ACCOUNT}:user/x/ann", "userName": "ann"}, "ann"),
        (ROLE, "s1"),
        ({"type": "FederatedUser", "arn": f"arn:aws:sts::{ACCOUNT}:federated-user/bob"}, "bob"),
        ({"type": "AWSService", "invokedBy": "cloudhsm.amazonaws.com"}, ""),
    ],
)
def test_user_names(identity: dict[str, str], name: str) -> None:
    assert rules.username(identity) == name


def test_the_resources_of_an_assumed_role() -> None:
    role, session = f"arn:aws:iam::{ACCOUNT}:role/R", f"arn:aws:sts::{ACCOUNT}:assumed-role/R/s1"
    answer = {
        "credentials": {"accessKeyId": "ASIANEW", "expiration": "Jan 1, 2026, 1:00:00 AM", "sessionToken": "t"},
        "assumedRoleUser": {"assumedRoleId": "AROAR:s1", "arn": session},
    }
    asked = {"roleArn": role, "roleSessionName": "s1"}
    made = event(eventSource="sts.amazonaws.com", requestParameters=asked, responseElements=answer)
    assert resources.of(made) == (
        Resource("AWS::IAM::AccessKey", "ASIANEW"),
        Resource("AWS::STS::AssumedRole", "AROAR:s1"),
        Resource("AWS::STS::AssumedRole", session),
        Resource("AWS::IAM::Role", role),
        Resource("AWS::STS::AssumedRole", "s1"),
    )


def test_resources_in_lists_and_only_where_the_member_stands_for_one() -> None:
    groups = {"securityGroupSet": {"items": [{"groupId": "sg-1"}, {"groupId": "sg-2"}, {"groupId": "sg-1"}]}}
    found_ = resources.of(event(eventSource="ec2.amazonaws.com", responseElements=groups))
    assert [one.name for one in found_] == ["sg-1", "sg-2"]
    policy = {"policy": {"arn": "arn:p", "policyName": "p"}}
    assert resources.of(event(responseElements=policy)) == (Resource("AWS::IAM::Policy", "arn:p"),)
    assert resources.of(event(responseElements={"user": {"arn": "arn:u"}})) == ()
    assert resources.of(event(eventSource="cloudtrail.amazonaws.com", requestParameters={"userName": "x"})) == ()


def test_the_whole_record_is_kept() -> None:
    made = event(7, requestParameters={"userName": "zoë"})
    kept = rules.entry(made)
    assert json.loads(kept.body) == made
    assert (kept.time, kept.id, kept.read_only) == (NOW + 7, "id-7", True)


# ---- what is asked -----------------------------------------------------------------------------------------------


def test_tokens_belong_to_their_query() -> None:
    position = Position(NOW + 0.25, 2**40)
    query = by(Attribute.USERNAME, "ann")
    token = rules.token(query, position)
    assert rules.position(query, token) == position
    assert rules.position(query, None) is None
    others = [
        by(Attribute.USERNAME, "bob"),
        by(Attribute.EVENT_NAME, "ann"),
        Query(ACCOUNT, "us-east-1", None, None, Attribute.USERNAME, "ann"),
        Query("999999999999", "eu-west-1", None, None, Attribute.USERNAME, "ann"),
        Query(ACCOUNT, "eu-west-1", 1.0, None, Attribute.USERNAME, "ann"),
        Query(ACCOUNT, "eu-west-1", None, 1.0, Attribute.USERNAME, "ann"),
    ]
    calls = [partial(rules.position, other, token) for other in others]
    calls += [partial(rules.position, query, text_) for text_ in ("", "x", "é", token[:-4], token + "AAAA", "A" * 44)]
    for call in calls:
        with pytest.raises(AwsError) as error:
            call()
        assert error.value.code == "InvalidNextTokenException"


@pytest.mark.parametrize(
    "asked",
    [
        [("Username", "a"), ("EventName", "b")],
        [("UserName", "a")],
        [("Username", "")],
        [("Username", "a" * 2001)],
        [("Username", "_" * 1001)],
        [("ReadOnly", "True")],
    ],
)
def test_lookup_attributes_that_are_not_valid(asked: list[tuple[str, str]]) -> None:
    with pytest.raises(AwsError) as error:
        rules.attribute(asked)
    assert error.value.code == "InvalidLookupAttributesException"


def test_lookup_attributes_at_their_limit() -> None:
    assert rules.attribute([]) == (None, "")
    assert rules.attribute([("Username", "a" * 2000)]) == (Attribute.USERNAME, "a" * 2000)
    assert rules.attribute([("Username", "_" * 1000)]) == (Attribute.USERNAME, "_" * 1000)
