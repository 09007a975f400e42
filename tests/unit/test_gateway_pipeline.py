"""The pipeline in process: simulated time, load, and what goes wrong behind an answer."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import threading
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import botocore.auth
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from sqlalchemy import text
from support.gateway_parts import ACCOUNT, SECRET, USER, Store, build

from hsmsim.authz.principal import Caller, Kind
from hsmsim.clock import ManualClock
from hsmsim.errors import StorageError
from hsmsim.gateway import audit, behind, reconcile, sigv4
from hsmsim.gateway.authenticate import Authenticator
from hsmsim.gateway.behind import Behind
from hsmsim.gateway.codec.model import load
from hsmsim.gateway.codec.wire import HttpRequest
from hsmsim.gateway.fleet import NoFleet
from hsmsim.gateway.pipeline import Limits, Pipeline
from hsmsim.gateway.ports import Parts, Ports
from hsmsim.gateway.reconcile import Reconcilers
from hsmsim.ids import SystemIds
from hsmsim.services.kernel import Call, Mode, Nothing, Service
from hsmsim.storage.database import Database
from hsmsim.storage.lead import Alone
from hsmsim.storage.migrate import GATEWAY, migrate
from hsmsim.storage.writer import GroupWriter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping
    from pathlib import Path

    from sqlalchemy.engine import Connection

NOW = 1_700_000_000.0
YEAR = 365 * 86400.0


@dataclass(slots=True)
class SimulatedClock(ManualClock):
    """Simulated time runs ahead of real time."""

    ahead: float = 0.0

    def time(self) -> float:
        return self.now + self.ahead


@dataclass(slots=True)
class Recorder(Store):
    """Fails as often as it is told to."""

    failures: list[Exception] = field(default_factory=list)

    def record(self, connection: Connection, *events: Mapping[str, Any], again: bool = False) -> None:
        if self.failures:
            raise self.failures.pop(0)
        Store.record(self, connection, *events, again=again)


@dataclass(slots=True)
class Running:
    """A pipeline, and what stands around it."""

    pipeline: Pipeline
    behind: Behind
    database: Database
    clock: SimulatedClock

    def events(self) -> list[dict[str, Any]]:
        with self.database.read() as connection:
            return [json.loads(row) for row in connection.execute(text("SELECT body FROM events")).scalars()]


@asynccontextmanager
async def running(
    folder: Path, *, services: tuple[Service, ...] = (), recorder: Recorder | None = None, limits: Limits | None = None
) -> AsyncIterator[Running]:
    url, ids = f"sqlite:///{folder}/gateway.db", SystemIds()
    migrate(url, GATEWAY)
    database, clock = Database(url), SimulatedClock(NOW)
    writer = GroupWriter(database)
    recorder = recorder or Recorder()
    ports = Ports(
        database=database,
        writer=writer,
        led=writer,
        clock=clock,
        ids=ids,
        wake=lambda _: None,
        wake_all=lambda: None,
        forget_key=lambda _: None,
        default_account=ACCOUNT,
        home=folder,
        events=1000,
        fleet=NoFleet(),
    )
    built = build(ports)
    parts = Parts(services=(*built.services, *services), credentials=recorder, authorizer=recorder, recorder=recorder)
    late = Behind(recorder, writer)
    authenticator = Authenticator(recorder, clock, sigv4.KeyCache(), ACCOUNT)
    pipeline = Pipeline(parts, authenticator, database, writer, late, clock, ids, limits or Limits())
    try:
        yield Running(pipeline, late, database, clock)
    finally:
        await late.close()
        pipeline.close()
        writer.close()
        database.close()


@pytest.fixture(autouse=True)
def signer_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: dt.datetime.fromtimestamp(NOW, dt.UTC))


def signed(service: str, body: str, **headers: str) -> HttpRequest:
    request = AWSRequest("POST", "http://localhost/", data=body, headers=headers)
    SigV4Auth(Credentials(USER.access_key_id, SECRET), service, "eu-central-1").add_auth(request)
    sent = {name.lower(): value for name, value in request.headers.items()}
    return HttpRequest("POST", "/", "", {**sent, "host": "localhost"}, body.encode(), "127.0.0.1")


def tag(key: str, resource: str = "cluster-22222222223") -> HttpRequest:
    body = json.dumps({"ResourceId": resource, "TagList": [{"Key": key, "Value": "v"}]})
    return signed("cloudhsm", body, **{"X-Amz-Target": "BaldrApiService.TagResource"})


def who() -> HttpRequest:
    return signed("sts", "Action=GetCallerIdentity&Version=2011-06-15")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


def test_simulated_time_is_recorded_and_signatures_live_in_real_time(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as one:
            one.clock.ahead = YEAR
            assert (await one.pipeline.handle(who())).status == 200
            assert (await one.pipeline.handle(tag("a"))).status == 200
            await one.behind.close()
            assert {event["eventTime"] for event in one.events()} == {"2024-11-13T22:13:20Z"}

    asyncio.run(scenario())


def test_events_wait_for_a_database_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(behind, "RETRY_S", 0.01)
    recorder = Recorder()
    recorder.failures = [StorageError("away"), StorageError("still away")]

    async def scenario() -> None:
        async with running(tmp_path, recorder=recorder) as one:
            for _ in range(3):
                assert (await one.pipeline.handle(who())).status == 200
            await until(lambda: len(one.events()) == 3)
            recorder.failures = [ZeroDivisionError()]
            assert (await one.pipeline.handle(who())).status == 200
            await until(lambda: not recorder.failures)
            assert (await one.pipeline.handle(who())).status == 200
            await one.behind.close()
            assert len(one.events()) == 4

    asyncio.run(scenario())


def test_events_of_a_commit_that_nobody_heard_of_are_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(behind, "RETRY_S", 0.01)

    @contextmanager
    def write(database: Database, **how: bool) -> Iterator[Connection]:
        with real(database, **how) as connection:
            yield connection
        if silent:
            raise StorageError(silent.pop())

    real, silent = Database.write, ["The server died before it said that this was durable."]

    async def scenario() -> None:
        async with running(tmp_path) as one:
            monkeypatch.setattr(Database, "write", write)
            for _ in range(3):
                assert (await one.pipeline.handle(who())).status == 200
            await until(lambda: not silent)
            assert (await one.pipeline.handle(who())).status == 200
            await one.behind.close()
            assert len(one.events()) == 4

    asyncio.run(scenario())


def test_a_write_whose_record_cannot_be_written_did_not_happen(tmp_path: Path) -> None:
    recorder = Recorder()

    async def scenario() -> None:
        async with running(tmp_path, recorder=recorder) as one:
            recorder.failures = [ZeroDivisionError()]
            answer = await one.pipeline.handle(tag("a"))
            assert answer.status == 500
            assert json.loads(answer.body)["__type"] == "CloudHsmInternalFailureException"
            with one.database.read() as connection:
                assert connection.execute(text("SELECT count(*) FROM tags")).scalar() == 0

    asyncio.run(scenario())


def test_more_than_the_gateway_holds_is_refused_at_once(tmp_path: Path) -> None:
    blocked, go = threading.Event(), threading.Event()
    slow = Service("kms", "kms", "kms.amazonaws.com", "kms")

    @slow.operation(Nothing, Mode.BLOCK)
    def list_keys(_call: Call, _request: Nothing) -> dict[str, Any]:
        blocked.set()
        go.wait()
        return {"Keys": []}

    def request() -> HttpRequest:
        return signed("kms", "{}", **{"X-Amz-Target": "TrentService.ListKeys"})

    async def scenario() -> None:
        async with running(tmp_path, services=(slow,), limits=Limits(threads=1, waiting=1)) as one:
            under_way = [asyncio.create_task(one.pipeline.handle(request())) for _ in range(2)]
            await until(blocked.is_set)
            refused = await one.pipeline.handle(request())
            assert (refused.status, json.loads(refused.body)["__type"]) == (503, "ServiceUnavailableException")
            # What needs no thread is answered meanwhile.
            assert (await one.pipeline.handle(who())).status == 200
            go.set()
            assert [(await task).status for task in under_way] == [200, 200]

    asyncio.run(scenario())


def test_what_follows_an_answer_cannot_undo_it(tmp_path: Path) -> None:
    service = Service("kms", "kms", "kms.amazonaws.com", "kms")

    @service.operation(Nothing, Mode.WRITE)
    def create_key(call: Call, _request: Nothing) -> dict[str, Any]:
        call.after(lambda: 1 / 0)  # type: ignore[arg-type,return-value]
        return {"KeyMetadata": {"KeyId": "k", "CreationDate": call.clock.time()}}

    async def scenario() -> None:
        async with running(tmp_path, services=(service,)) as one:
            answer = await one.pipeline.handle(signed("kms", "{}", **{"X-Amz-Target": "TrentService.CreateKey"}))
            assert json.loads(answer.body) == {"KeyMetadata": {"KeyId": "k", "CreationDate": 1700000000}}
            (event,) = one.events()
            assert event["responseElements"] == {
                "keyMetadata": {"keyId": "k", "creationDate": "Nov 14, 2023, 10:13:20 PM"}
            }

    asyncio.run(scenario())


def test_identities_of_services_and_of_a_users_sessions() -> None:
    service = Caller(Kind.SERVICE, ACCOUNT, "cloudhsm.amazonaws.com", "")
    assert audit.identity(service) == {"type": "AWSService", "invokedBy": "cloudhsm.amazonaws.com"}
    session = Caller(Kind.USER, ACCOUNT, USER.arn, "AIDAEXAMPLE", "ASIAX", "alice", issued=NOW)
    assert audit.identity(session)["sessionContext"] == {
        "attributes": {"creationDate": "2023-11-14T22:13:20Z", "mfaAuthenticated": "false"}
    }


def test_sensitive_members_are_left_out_wherever_they_are() -> None:
    operation = load("sts").operation("AssumeRole")
    assert operation
    keys = {"AccessKeyId": "ASIA", "SecretAccessKey": "s3cret", "SessionToken": "t", "Expiration": NOW}
    assert audit.shown(operation.output, {"Credentials": keys}) == {
        "credentials": {"accessKeyId": "ASIA", "sessionToken": "t", "expiration": "Nov 14, 2023, 10:13:20 PM"}
    }


class Failing:
    """Fails twice, then is done until it is woken."""

    name = "failing"

    def __init__(self) -> None:
        self.steps = 0
        self.settled = threading.Event()

    def step(self) -> float | None:
        self.steps += 1
        if self.steps <= 2:
            raise ZeroDivisionError
        self.settled.set()
        return None


def test_reconcilers_try_again_and_are_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "FIRST_RETRY_S", 0.01)
    one, all_of_them = Failing(), Reconcilers(Alone())
    all_of_them.wake("failing")  # nothing runs yet: nothing happens
    all_of_them.start([one])
    assert one.settled.wait(10)
    for wake in (lambda: all_of_them.wake("failing"), all_of_them.wake_all):
        before = one.steps
        one.settled.clear()
        wake()
        assert one.settled.wait(10)
        assert one.steps == before + 1
    all_of_them.stop()
    all_of_them.wake("failing")
    assert one.steps == 5
