"""The gateway as a process: boto3 and raw sockets against it."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import os
import re
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest, HeadersDict
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from support.aws_values import botocore_model, parsed, request_of
from support.gateway import ROOT, Gateway, running
from support.gateway_parts import ACCOUNT, FORBIDDEN, ROLE, SECRET, USER

from hsmsim.gateway.codec.wire import HttpResponse

if TYPE_CHECKING:
    from pathlib import Path

CLUSTER = "cluster-aaaaaaaaaaa"


def code_of(error: pytest.ExceptionInfo[ClientError]) -> tuple[str, int]:
    answer = error.value.response
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]


def id_of(answer: dict[str, Any]) -> str:
    request_id: str = answer["ResponseMetadata"]["RequestId"]
    return request_id


# ---- operations and their records ------------------------------------------------------------------------------


def test_the_caller_is_who_signed(gateway: Gateway) -> None:
    answer = gateway.client("sts").get_caller_identity()
    assert (answer["UserId"], answer["Account"], answer["Arn"]) == (USER.user_id, ACCOUNT, USER.arn)
    event = gateway.event(id_of(answer))
    assert event.pop("eventID") != event.pop("requestID")
    assert event.pop("eventTime").endswith("Z")
    assert event.pop("userAgent").startswith("Boto3/")
    assert event == {
        "eventVersion": "1.11",
        "userIdentity": {
            "type": "IAMUser",
            "principalId": "AIDAEXAMPLE",
            "arn": USER.arn,
            "accountId": ACCOUNT,
            "accessKeyId": "AKIAALICE",
            "userName": "alice",
        },
        "eventSource": "sts.amazonaws.com",
        "eventName": "GetCallerIdentity",
        "awsRegion": "eu-central-1",
        "sourceIPAddress": "127.0.0.1",
        "requestParameters": None,
        "responseElements": None,
        "readOnly": True,
        "eventType": "AwsApiCall",
        "managementEvent": True,
        "recipientAccountId": ACCOUNT,
        "eventCategory": "Management",
    }


def test_an_assumed_role_is_recorded_with_its_session(gateway: Gateway) -> None:
    answer = gateway.role_client("sts").get_caller_identity()
    assert answer["Arn"] == ROLE.arn
    assert gateway.event(id_of(answer))["userIdentity"] == {
        "type": "AssumedRole",
        "principalId": "AROAEXAMPLE:session",
        "arn": ROLE.arn,
        "accountId": ACCOUNT,
        "accessKeyId": "ASIADEPLOY",
        "sessionContext": {
            "attributes": {"creationDate": "2023-11-14T22:13:20Z", "mfaAuthenticated": "false"},
            "sessionIssuer": {
                "type": "Role",
                "principalId": "AROAEXAMPLE",
                "arn": ROLE.issuer,
                "accountId": ACCOUNT,
                "userName": "Deploy",
            },
        },
    }


def test_a_write_is_seen_and_recorded_in_one_transaction(gateway: Gateway) -> None:
    client = gateway.client("cloudhsmv2")
    answer = client.tag_resource(ResourceId="cluster-write222222", TagList=[{"Key": "a", "Value": "1"}])
    # No waiting: the record is as durable as the answer.
    events = gateway.manage("GET", "/events")[1]["events"]
    (event,) = [event for event in events if event["requestID"] == id_of(answer)]
    assert event["requestParameters"] == {"resourceId": "cluster-write222222", "tagList": [{"key": "a", "value": "1"}]}
    assert event["readOnly"] is False
    assert client.list_tags(ResourceId="cluster-write222222")["TagList"] == [{"Key": "a", "Value": "1"}]


@pytest.mark.parametrize(
    ("key", "code", "status"),
    [
        ("refuse", "CloudHsmTagException", 400),
        ("defect", "CloudHsmInternalFailureException", 500),
        ("wrong", "CloudHsmInternalFailureException", 500),
    ],
)
def test_a_write_that_fails_leaves_nothing_but_its_record(gateway: Gateway, key: str, code: str, status: int) -> None:
    client, resource = gateway.client("cloudhsmv2"), f"cluster-{key}222222"
    with pytest.raises(ClientError) as error:
        client.tag_resource(ResourceId=resource, TagList=[{"Key": key, "Value": "1"}])
    assert code_of(error) == (code, status)
    event = gateway.event(id_of(error.value.response))
    assert event["errorCode"] == code
    assert event["errorMessage"] == error.value.response["Error"]["Message"]
    assert event["responseElements"] is None
    assert client.list_tags(ResourceId=resource)["TagList"] == []


def test_secrets_are_in_no_record(gateway: Gateway) -> None:
    answer = gateway.client("secretsmanager").put_secret_value(
        SecretId="s", SecretString="hunter2", ClientRequestToken="t" * 32
    )
    event = gateway.event(id_of(answer))
    assert event["requestParameters"] == {"secretId": "s", "clientRequestToken": "t" * 32}
    assert event["responseElements"] == {"name": "s", "versionId": "t" * 32}


def test_a_client_that_speaks_cbor_gets_cbor(gateway: Gateway) -> None:
    operation = botocore_model("cloudhsmv2").operation_model("ListTags")
    request = request_of(operation, {"ResourceId": "cluster-cbor2222222"}, "smithy-rpc-v2-cbor")
    answer = post(
        gateway, "cloudhsm", request.path, request.body, {k: v for k, v in request.headers.items() if k != "host"}
    )
    assert HeadersDict(answer.headers)["Content-Type"] == "application/cbor"
    assert parsed(operation.output_shape, answer, "smithy-rpc-v2-cbor")["TagList"] == []


def test_ec2_in_its_own_protocol(gateway: Gateway) -> None:
    client = gateway.client("ec2")
    assert client.describe_vpcs(VpcIds=["vpc-7", "vpc-8"])["Vpcs"] == [
        {"VpcId": "vpc-7", "IsDefault": False},
        {"VpcId": "vpc-8", "IsDefault": False},
    ]
    with pytest.raises(ClientError) as error:
        client.describe_vpcs(Filters=[{"Name": "state", "Values": ["x"]}])
    assert code_of(error) == ("Unsupported", 501)
    assert "the member Filters of ec2:DescribeVpcs" in str(error.value)
    assert gateway.event(id_of(error.value.response))["errorCode"] == "Client.Unsupported"
    with pytest.raises(ClientError) as error:
        client.describe_vpcs(VpcIds=["vpc-defect"])
    assert code_of(error) == ("InternalError", 500)
    assert gateway.event(id_of(error.value.response))["errorCode"] == "Server.InternalError"


def test_what_is_not_built_is_refused_by_name(gateway: Gateway) -> None:
    with pytest.raises(ClientError, match="hsmsim does not have cloudhsm:DescribeBackups") as error:
        gateway.client("cloudhsmv2").describe_backups()
    assert code_of(error) == ("NotImplementedException", 501)
    with pytest.raises(ClientError, match="hsmsim has no service that signs as 'sqs'") as error:
        gateway.client("sqs").list_queues()
    assert code_of(error)[1] == 501


def test_validation_is_the_models(gateway: Gateway) -> None:
    with pytest.raises(ClientError, match="Value 'nonsense' at 'resourceId' failed to satisfy constraint") as error:
        gateway.client("cloudhsmv2").list_tags(ResourceId="nonsense")
    assert code_of(error) == ("ValidationException", 400)


def test_a_denial_has_the_services_own_name(gateway: Gateway) -> None:
    with pytest.raises(ClientError, match="User: arn:aws:iam::111122223333:user/alice is not authorized") as error:
        gateway.client("cloudhsmv2").list_tags(ResourceId=FORBIDDEN)
    assert code_of(error) == ("CloudHsmAccessDeniedException", 400)


@pytest.mark.parametrize(
    ("service", "call", "code", "status"),
    [
        ("sts", "get_caller_identity", "SignatureDoesNotMatch", 403),
        ("cloudhsmv2", "describe_clusters", "InvalidSignatureException", 400),
        ("ec2", "describe_vpcs", "AuthFailure", 401),
    ],
)
def test_a_wrong_secret_is_refused_as_each_protocol_does(
    gateway: Gateway, service: str, call: str, code: str, status: int
) -> None:
    with pytest.raises(ClientError) as error:
        getattr(gateway.client(service, secret="wrong"), call)()
    assert code_of(error) == (code, status)


def test_an_unsigned_request_is_told_so(gateway: Gateway) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.ports["http"], timeout=5)
    connection.request(
        "POST", "/", "{}", {"X-Amz-Target": "BaldrApiService.ListTags", "Content-Type": "application/x-amz-json-1.1"}
    )
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())) == (
        400,
        {"__type": "MissingAuthenticationTokenException", "message": "Missing Authentication Token"},
    )
    connection.request("GET", "/")
    answer = connection.getresponse()
    assert answer.status == 403
    assert b"<Code>MissingAuthenticationToken</Code>" in answer.read()
    connection.close()


def test_any_credentials_may_be_accepted(tmp_path: Path) -> None:
    with running(tmp_path, accept_any_credentials=True) as gateway:
        answer = gateway.client("sts", key="test", secret="test").get_caller_identity()
        assert answer["Arn"] == "arn:aws:iam::123456789012:root"
        assert gateway.event(id_of(answer))["userIdentity"]["type"] == "Root"
        answer = gateway.client("sts", key="222233334444", secret="test").get_caller_identity()
        assert answer["Account"] == "222233334444"


# ---- HTTP ------------------------------------------------------------------------------------------------------


def post(gateway: Gateway, service: str, path: str, body: bytes, headers: dict[str, str], **more: str) -> HttpResponse:
    """A signed request, sent as it is."""
    request = AWSRequest("POST", gateway.url() + path, data=body, headers={**headers, **more})
    SigV4Auth(Credentials(USER.access_key_id, SECRET), service, "eu-central-1").add_auth(request)
    connection = http.client.HTTPConnection("127.0.0.1", gateway.ports["http"], timeout=10)
    connection.request("POST", path, body, dict(request.headers.items()))
    answer = connection.getresponse()
    response = HttpResponse(answer.status, answer.getheaders(), answer.read())
    connection.close()
    return response


def test_https_with_a_certificate_and_its_record(gateway: Gateway, certificates: tuple[Path, Path, Path]) -> None:
    answer = gateway.client("sts", scheme="https", verify=str(certificates[0])).get_caller_identity()
    details = gateway.event(id_of(answer))["tlsDetails"]
    assert details["tlsVersion"] == "TLSv1.3"
    assert details["cipherSuite"].startswith("TLS_")
    assert details["clientProvidedHostHeader"] == f"127.0.0.1:{gateway.ports['https']}"


def test_tls_1_2_is_taken_too(gateway: Gateway) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", gateway.ports["https"]), 5) as raw, context.wrap_socket(raw) as tls:
        assert tls.version() == "TLSv1.2"


def test_health_and_management(gateway: Gateway) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.ports["http"], timeout=5)
    connection.request("GET", "/_hsmsim/health")
    health = json.loads(connection.getresponse().read())
    connection.close()
    assert health["status"] == "ok"
    assert gateway.manage("GET", "/_hsmsim/health") == (200, health)
    assert gateway.manage("POST", "/refuse", "{}") == (400, {"error": "No. Do something else."})
    assert gateway.manage("POST", "/refuse", "[")[0] == 400
    assert gateway.manage("POST", "/nothing")[0] == 404
    assert stat.S_IMODE((gateway.home / "gateway.sock").stat().st_mode) == 0o600
    assert stat.S_IMODE(gateway.home.stat().st_mode) == 0o700


def test_a_write_wakes_its_reconciler(gateway: Gateway) -> None:
    before = gateway.manage("GET", "/steps")[1]["steps"]
    gateway.client("cloudhsmv2").tag_resource(ResourceId=CLUSTER, TagList=[{"Key": "wake", "Value": ""}])
    deadline = time.monotonic() + 10
    while gateway.manage("GET", "/steps")[1]["steps"] == before:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def raw(gateway: Gateway, data: bytes) -> bytes:
    """What comes back until the gateway closes."""
    with socket.create_connection(("127.0.0.1", gateway.ports["http"]), 5) as connection:
        connection.settimeout(5)
        received = b""
        try:
            connection.sendall(data)
            while part := connection.recv(65536):
                received += part
        except ConnectionResetError:
            pass
        return received


def test_heads_and_bodies_are_bounded(gateway: Gateway) -> None:
    assert raw(gateway, b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 200_000).startswith(b"HTTP/1.1 431 ")
    assert raw(gateway, b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 50_000).startswith(b"HTTP/1.1 431 ")
    large = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n"
    refused = raw(gateway, large)
    assert refused.startswith(b"HTTP/1.1 413 ")
    (request_id,) = re.findall(rb"x-amzn-requestid: ([0-9a-f-]{36})\r\n", refused)
    assert b"<RequestId>" + request_id + b"</RequestId>" in refused
    chunk = b"100000\r\n" + b"a" * (1 << 20) + b"\r\n"
    assert b"HTTP/1.1 413 " in raw(
        gateway, b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 3
    )
    assert raw(gateway, b"\x00\x01\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert raw(gateway, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")[:12] in {b"HTTP/1.1 400", b""}


def test_slow_clients_starve_nobody(gateway: Gateway) -> None:
    slow = []
    for data in (b"", b"POST / HT", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n1"):
        for _ in range(30):
            connection = socket.create_connection(("127.0.0.1", gateway.ports["http"]), 5)
            connection.sendall(data)
            slow.append(connection)
    try:
        client = gateway.client("sts")
        for _ in range(5):
            assert client.get_caller_identity()["Account"] == ACCOUNT
        # A head that does not come is given up within seconds; a body is waited for longer.
        slow[0].settimeout(30)
        slow[30].settimeout(30)
        assert slow[0].recv(1) == b""
        assert slow[30].recv(1) == b""
    finally:
        for connection in slow:
            connection.close()


def test_requests_in_parallel_all_count(gateway: Gateway) -> None:
    client = gateway.client("cloudhsmv2")

    def tag(number: int) -> None:
        client.tag_resource(ResourceId="cluster-parallel222", TagList=[{"Key": f"k{number}", "Value": "v"}])

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(tag, range(40)))
    found = {tag["Key"] for tag in client.list_tags(ResourceId="cluster-parallel222")["TagList"]}
    assert found == {f"k{number}" for number in range(40)}


# ---- start and end ---------------------------------------------------------------------------------------------


def test_sigterm_finishes_what_is_under_way(tmp_path: Path) -> None:
    with running(tmp_path) as gateway:
        client = gateway.client("cloudhsmv2")
        answers: list[dict[str, Any]] = []
        caller = threading.Thread(
            target=lambda: answers.append(
                client.tag_resource(ResourceId=CLUSTER, TagList=[{"Key": "slow", "Value": "1.5"}])
            )
        )
        caller.start()
        time.sleep(0.7)
        gateway.process.send_signal(signal.SIGTERM)
        caller.join()
        assert gateway.process.wait(20) == 0
        assert not (gateway.home / "gateway.sock").exists()
    with running(tmp_path) as gateway:
        assert gateway.client("cloudhsmv2").list_tags(ResourceId=CLUSTER)["TagList"] == [
            {"Key": "slow", "Value": "1.5"}
        ]
        assert gateway.event(id_of(answers[0]))["eventName"] == "TagResource"


def test_reads_just_before_the_end_are_recorded(tmp_path: Path) -> None:
    with running(tmp_path) as gateway:
        request_id = id_of(gateway.client("sts").get_caller_identity())
        gateway.process.terminate()
        assert gateway.process.wait(20) == 0
    with running(tmp_path) as gateway:
        assert gateway.event(request_id)["eventName"] == "GetCallerIdentity"


def test_a_killed_gateway_starts_again_and_a_second_one_does_not(tmp_path: Path) -> None:
    with running(tmp_path) as gateway:
        gateway.process.kill()
        gateway.process.wait(20)
    (tmp_path / "ready.json").unlink()
    with running(tmp_path) as gateway:
        assert gateway.client("sts").get_caller_identity()["Account"] == ACCOUNT
        assert _product(tmp_path / "gateway.json")[0] == 1
        assert "A gateway runs in" in _product(tmp_path / "gateway.json")[1]
        assert gateway.client("sts").get_caller_identity()["Account"] == ACCOUNT


def _product(config: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "hsmsim.gateway", "--config", str(config)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({}, "missing required field `home`"),
        ({"home": "/x", "prot": 1}, "unknown field `prot`"),
        ({"home": "/x", "port": None}, "needs a port or a tls_port"),
        ({"home": "/x", "tls_port": 0}, "tls_port needs a certificate and a key"),
        ({"home": "/x", "default_account": "1"}, "an account id has twelve digits, not '1'"),
    ],
)
def test_a_wrong_configuration_is_explained(tmp_path: Path, members: dict[str, Any], words: str) -> None:
    (tmp_path / "gateway.json").write_text(json.dumps(members))
    status, text = _product(tmp_path / "gateway.json")
    assert status == 1
    assert words in text
