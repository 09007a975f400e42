"""Services that exist for tests of the gateway alone: one operation for each mode and protocol, on real AWS models.

Run as a program it is a gateway with them: python gateway_parts.py --config FILE.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import text

from hsmsim.authz.principal import Caller, Credential, Kind
from hsmsim.errors import AwsError, HsmsimError
from hsmsim.gateway.command import main
from hsmsim.gateway.ports import Parts, Ports
from hsmsim.services.kernel import Access, Call, Mode, Nothing, Request, Service

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.engine import Connection

ACCOUNT = "111122223333"
USER = Caller(Kind.USER, ACCOUNT, f"arn:aws:iam::{ACCOUNT}:user/alice", "AIDAEXAMPLE", "AKIAALICE", "alice")
ROLE = Caller(
    Kind.ROLE,
    ACCOUNT,
    f"arn:aws:sts::{ACCOUNT}:assumed-role/Deploy/session",
    "AROAEXAMPLE:session",
    "ASIADEPLOY",
    "Deploy",
    f"arn:aws:iam::{ACCOUNT}:role/Deploy",
    "AROAEXAMPLE",
    1_700_000_000.0,
)
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
FORBIDDEN = "cluster-22222222222"
TOKEN = "FwoGZXIvYXdzEXAMPLETOKEN=="

sts = Service("sts", "sts", "sts.amazonaws.com", "sts", "AccessDenied", "NotImplemented")
hsm = Service(
    "cloudhsmv2",
    "cloudhsm",
    "cloudhsm.amazonaws.com",
    "cloudhsm",
    denied="CloudHsmAccessDeniedException",
    failure="CloudHsmInternalFailureException",
)
ec2 = Service("ec2", "ec2", "ec2.amazonaws.com", "ec2", "UnauthorizedOperation", "Unsupported")
secrets = Service("secretsmanager", "secretsmanager", "secretsmanager.amazonaws.com", "secretsmanager")


def _hsm(letter: str, address: str, state: str = "ACTIVE") -> dict[str, str]:
    return {"HsmId": f"hsm-{letter * 11}", "EniIp": address, "State": state}


CLUSTERS = (
    {
        "ClusterId": "cluster-aaaaaaaaaaa",
        "HsmType": "hsm1.medium",
        "Hsms": [_hsm("d", "10.0.0.4", "CREATE_IN_PROGRESS")],
    },
    {
        "ClusterId": "cluster-bbbbbbbbbbb",
        "HsmType": "hsm1.medium",
        "Hsms": [_hsm("a", "10.0.0.4"), _hsm("b", "10.0.1.4"), _hsm("c", "10.0.2.4", "CREATE_IN_PROGRESS")],
    },
)


class Tag(Request, frozen=True):
    key: str
    value: str


class TagResourceRequest(Request, frozen=True):
    resource_id: str
    tag_list: list[Tag]


class ListTagsRequest(Request, frozen=True):
    resource_id: str


class DescribeClustersRequest(Request, frozen=True):
    filters: dict[str, list[str]] | None = None
    next_token: str | None = None
    max_results: int | None = None


class DescribeVpcsRequest(Request, frozen=True):
    vpc_ids: list[str] | None = msgspec.field(name="VpcIds", default=None)


class PutSecretValueRequest(Request, frozen=True):
    secret_id: str
    secret_string: str | None = None
    client_request_token: str | None = None


@sts.operation(Nothing, Mode.INLINE)
def get_caller_identity(call: Call, _request: Nothing) -> dict[str, Any]:
    return {"UserId": call.caller.user_id, "Account": call.account, "Arn": call.caller.arn}


@hsm.operation(TagResourceRequest, Mode.WRITE)
def tag_resource(call: Call, request: TagResourceRequest) -> dict[str, Any]:
    for tag in request.tag_list:
        call.tx.execute(
            text("INSERT INTO tags VALUES (:r, :k, :v)"), {"r": request.resource_id, "k": tag.key, "v": tag.value}
        )
        if tag.key == "refuse":
            raise AwsError("CloudHsmTagException", "This tag is refused.")
        if tag.key == "defect":
            raise ZeroDivisionError
        if tag.key == "slow":
            time.sleep(float(tag.value))
        if tag.key == "wrong":
            return {"NoSuchMember": 1}
    call.after(lambda: Counter.wake("counter"))
    return {}


@hsm.operation(ListTagsRequest, Mode.READ, lambda _, request: [Access("cloudhsm:ListTags", request.resource_id)])
def list_tags(call: Call, request: ListTagsRequest) -> dict[str, Any]:
    rows = call.tx.execute(
        text("SELECT name, value FROM tags WHERE resource = :r ORDER BY rowid"), {"r": request.resource_id}
    )
    return {"TagList": [{"Key": row.name, "Value": row.value} for row in rows]}


@hsm.operation(DescribeClustersRequest, Mode.READ)
def describe_clusters(_call: Call, request: DescribeClustersRequest) -> dict[str, Any]:
    """Two clusters a page of one, of which one has two serving HSMs."""
    wanted = (request.filters or {}).get("clusterIds", [found["ClusterId"] for found in CLUSTERS])
    found = [one for one in CLUSTERS if one["ClusterId"] in wanted]
    page = int(request.next_token or 0)
    more = {"NextToken": str(page + 1)} if page + 1 < len(found) else {}
    return {"Clusters": found[page : page + 1], **more}


@ec2.operation(DescribeVpcsRequest, Mode.READ)
def describe_vpcs(_call: Call, request: DescribeVpcsRequest) -> dict[str, Any]:
    if request.vpc_ids == ["vpc-defect"]:
        raise ZeroDivisionError
    return {"Vpcs": [{"VpcId": vpc, "IsDefault": False} for vpc in request.vpc_ids or ["vpc-1"]]}


@secrets.operation(PutSecretValueRequest, Mode.BLOCK)
def put_secret_value(call: Call, request: PutSecretValueRequest) -> dict[str, Any]:
    call.writer.write(
        lambda tx: tx.execute(text("INSERT INTO tags VALUES (:r, 'secret', '')"), {"r": request.secret_id})
    )
    return {"Name": request.secret_id, "VersionId": request.client_request_token or "v" * 32}


class Store:
    """Credentials, authorizer and recorder."""

    def find(self, access_key_id: str, session_token: str | None) -> Credential:
        if access_key_id == USER.access_key_id and session_token is None:
            return Credential(SECRET, USER)
        if access_key_id == ROLE.access_key_id:
            if session_token == TOKEN:
                return Credential(SECRET, ROLE)
            if session_token == "expired":
                raise AwsError("ExpiredToken", "The security token included in the request is expired")
        raise AwsError("InvalidClientTokenId", "The security token included in the request is invalid.")

    def authorize(self, call: Call, access: Access) -> None:
        if access.resource == FORBIDDEN:
            raise AwsError("AccessDenied", f"User: {call.caller.arn} is not authorized to perform: {access.action}")

    def record(self, connection: Connection, *events: Mapping[str, Any], again: bool = False) -> None:
        kept = set(connection.execute(text("SELECT body FROM events")).scalars()) if again else set()
        for event in events:
            body = msgspec.json.encode(event).decode()
            if body not in kept:
                connection.execute(text("INSERT INTO events VALUES (:body)"), {"body": body})


class Counter:
    """A reconciler that counts its steps where a test can see it."""

    name = "counter"
    steps = 0
    wake = staticmethod(lambda _name: None)
    stepped = threading.Event()

    def step(self) -> float | None:
        Counter.steps += 1
        return None


def build(ports: Ports) -> Parts:
    with ports.database.write() as connection:
        connection.execute(text("CREATE TABLE IF NOT EXISTS tags (resource TEXT, name TEXT, value TEXT)"))
        connection.execute(text("CREATE TABLE IF NOT EXISTS events (body TEXT)"))
    Counter.wake = staticmethod(ports.wake)
    store = Store()

    def events(_members: Mapping[str, Any]) -> dict[str, Any]:
        with ports.database.read() as connection:
            rows = connection.execute(text("SELECT body FROM events ORDER BY rowid")).scalars()
            return {"events": [msgspec.json.decode(row) for row in rows]}

    def refuse(_members: Mapping[str, Any]) -> dict[str, Any]:
        raise HsmsimError("No. Do something else.")

    return Parts(
        services=(sts, hsm, ec2, secrets),
        credentials=store,
        authorizer=store,
        recorder=store,
        reconcilers=(Counter(),),
        routes={
            ("GET", "/events"): events,
            ("POST", "/refuse"): refuse,
            ("GET", "/steps"): lambda _: {"steps": Counter.steps},
        },
    )


if __name__ == "__main__":
    sys.exit(main(build))
