"""Our half of AWS's protocols against botocore's: what one writes the other reads, for every operation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.aws_values import botocore_model, parsed, pruned, request_of, structures, values

from hsmsim.errors import AwsError
from hsmsim.gateway.codec import model as models
from hsmsim.gateway.codec.protocols import ALL

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVICES = {
    "cloudhsmv2": ("json", "smithy-rpc-v2-cbor"),
    "sts": ("query",),
    "iam": ("query",),
    "cloudtrail": ("json",),
    "kms": ("json",),
    "secretsmanager": ("json",),
}
# Services of rest-xml are not built yet; their models stand for those that will be.
SAMPLES = {"ec2": ("ec2", 20), "route53": ("rest-xml", 3), "cloudfront": ("rest-xml", 6), "s3control": ("rest-xml", 4)}
EMPTY_IS_ABSENT = {"query", "ec2", "rest-xml"}
few = settings(
    max_examples=3,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
REQUEST_ID = "8d9f2c5e-1111-4222-8333-444455556666"


def every_operation() -> Iterator[tuple[str, str, str]]:
    for service, protocols in SERVICES.items():
        for protocol in protocols:
            for name in botocore_model(service).operation_names:
                yield service, protocol, name
    for service, (protocol, step) in SAMPLES.items():
        for name in botocore_model(service).operation_names[::step]:
            yield service, protocol, name


def every_exception() -> Iterator[tuple[str, str, str]]:
    for service, protocols in SERVICES.items():
        for protocol in protocols:
            for shape in botocore_model(service).error_shapes:
                yield service, protocol, shape.name


def same(protocol: str, found: Any, sent: Any) -> bool:
    return pruned(found) == pruned(sent) if protocol in EMPTY_IS_ABSENT else found == sent


@pytest.mark.parametrize(("service", "protocol", "name"), list(every_operation()))
@few
@given(data=st.data())
def test_requests_of_botocore_are_read(service: str, protocol: str, name: str, data: st.DataObject) -> None:
    theirs = botocore_model(service).operation_model(name)
    ours = models.load(service)
    sent = data.draw(structures(theirs.input_shape, protocol)) if theirs.input_shape else {}
    request = request_of(theirs, sent, protocol)
    codec = ALL[protocol]
    assert codec.find(ours, request) == name
    operation = ours.operation(name)
    assert operation
    assert same(protocol, codec.parse(ours, operation, request), sent)


@pytest.mark.parametrize(("service", "protocol", "name"), list(every_operation()))
@few
@given(data=st.data())
def test_botocore_reads_responses(service: str, protocol: str, name: str, data: st.DataObject) -> None:
    theirs = botocore_model(service).operation_model(name)
    ours = models.load(service)
    answer = data.draw(structures(theirs.output_shape, protocol)) if theirs.output_shape else {}
    for member in theirs.output_shape.members if theirs.output_shape else ():
        if theirs.output_shape.members[member].serialization.get("location") == "statusCode":
            answer[member] = 200
    operation = ours.operation(name)
    assert operation
    response = ALL[protocol].respond(ours, operation, answer, REQUEST_ID)
    found = parsed(theirs.output_shape, response, protocol)
    if found or theirs.output_shape:
        assert found.pop("ResponseMetadata")["RequestId"] == REQUEST_ID
    assert same(protocol, found, answer)


@pytest.mark.parametrize(("service", "protocol", "name"), list(every_exception()))
@few
@given(data=st.data())
def test_botocore_reads_errors(service: str, protocol: str, name: str, data: st.DataObject) -> None:
    theirs = botocore_model(service).shape_for(name)
    ours = models.load(service)
    text = data.draw(values(botocore_model("kms").shape_for("ErrorMessageType"), protocol))
    members = {
        member: data.draw(values(shape, protocol))
        for member, shape in theirs.members.items()
        if member.lower() != "message"
    }
    response = ALL[protocol].fail(
        ours, AwsError(name, text, theirs.metadata.get("error", {}).get("httpStatusCode", 400), **members), REQUEST_ID
    )
    found = parsed(None, response, protocol)
    assert (found["Error"]["Message"] or "") == text
    assert found["Error"]["Code"] == theirs.metadata.get("error", {}).get("code", name)
    assert found["ResponseMetadata"]["RequestId"] == REQUEST_ID
    modelled = parsed(theirs, response, protocol)
    assert same(protocol, {key: value for key, value in modelled.items() if key.lower() != "message"}, members)


@pytest.mark.parametrize("service", [*SERVICES, *SAMPLES, "s3", "logs"])
def test_every_pattern_of_the_models_is_understood(service: str) -> None:
    ours = models.load(service)
    for name in ours.operation_names:
        assert ours.operation(name)
