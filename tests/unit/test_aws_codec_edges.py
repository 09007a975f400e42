"""What requests may not be, and the sentences that AWS has for it."""

from __future__ import annotations

import datetime as dt
import json
import math
import struct
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.aws_values import botocore_model

from hsmsim.errors import AwsError, HsmsimError
from hsmsim.gateway import faults
from hsmsim.gateway.codec import cbor, times, xml
from hsmsim.gateway.codec.model import compile_pattern, load
from hsmsim.gateway.codec.protocols import ALL
from hsmsim.gateway.codec.tree import UnknownMemberError
from hsmsim.gateway.codec.wire import MAX_DEPTH, MAX_NODES, HttpRequest, parse_form

GRANTS = botocore_model("kms").shape_for("GrantOperation").enum
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 64), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def parse(service: str, protocol: str, operation: str, body: bytes, query: str = "") -> dict[str, Any]:
    model = load(service)
    found = model.operation(operation)
    assert found
    return ALL[protocol].parse(model, found, HttpRequest("POST", "/", query, {}, body))


def check(service: str, protocol: str, operation: str, values: dict[str, Any]) -> tuple[str, str]:
    found = load(service).operation(operation)
    assert found
    with pytest.raises(AwsError) as caught:
        ALL[protocol].validate(found, values)
    return caught.value.code, str(caught.value)


# ---- CBOR ------------------------------------------------------------------------------------------------------


@given(PLAIN)
def test_cbor_reads_what_it_writes(value: Any) -> None:
    assert cbor.decode(cbor.encode(value)) == value


@given(st.binary(max_size=60))
def test_cbor_answers_any_bytes_with_a_value_or_its_error(data: bytes) -> None:
    with suppress(cbor.CborError):
        cbor.decode(data)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        # RFC 8949, appendix A.
        ("1b000000e8d4a51000", 1000000000000),
        ("3903e7", -1000),
        ("3bffffffffffffffff", -18446744073709551616),
        ("f93e00", 1.5),
        ("fa47c35000", 100000.0),
        ("fbc010666666666666", -4.1),
        ("f97c00", math.inf),
        ("f7", None),
        ("c1fb41d452d9ec200000", dt.datetime(2013, 3, 21, 20, 4, 0, 500000, tzinfo=dt.UTC)),
        ("5f42010243030405ff", b"\x01\x02\x03\x04\x05"),
        ("7f657374726561646d696e67ff", "streaming"),
        ("9f018202039f0405ffff", [1, [2, 3], [4, 5]]),
        ("bf61610161629f0203ffff", {"a": 1, "b": [2, 3]}),
    ],
)
def test_cbor_of_the_rfc(data: str, value: Any) -> None:
    assert cbor.decode(bytes.fromhex(data)) == value


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "end too early"),
        (b"\x9b" + b"\xff" * 8, "end too early"),
        (b"\x5b\x7f" + b"\xff" * 7, "end too early"),
        (b"\x81" * (MAX_DEPTH + 2) + b"\x00", "levels"),
        (b"\x9f" + b"\x00" * (MAX_NODES + 1) + b"\xff", "values"),
        (b"\x00\x00", "bytes follow"),
        (b"\xa1\x00\x00", "no text"),
        (b"\xc0\x61a", "tag 0"),
        (b"\xc1\x61a", "tag 1"),
        (b"\xc1\xfb" + struct.pack(">d", math.nan), "no time"),
        (b"\xc1\xfb" + struct.pack(">d", 1e300), "no time"),
        (b"\x61\xff", "not UTF-8"),
        (b"\x1f", "additional information 31"),
        (b"\xf8\xff", "simple value 24"),
        (b"\xff", "simple value 31"),
        (b"\x5f\x61a\xff", "another type"),
    ],
)
def test_cbor_that_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(cbor.CborError, match=words):
        cbor.decode(data)


# ---- JSON ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"{", "The body is not JSON."),
        (b"[1]", "The body is no structure."),
        (b'{"KeyId": "\xff"}', "The body is not JSON."),
        (b'{"KeyId": 1}', "NUMBER_VALUE cannot be converted to String"),
        (b'{"KeyId": []}', "Start of list found where not expected"),
        (b'{"KeyId": {}}', "Start of structure or map found where not expected."),
        (b'{"PendingWindowInDays": "7"}', "STRING_VALUE cannot be converted to Integer"),
        (b'{"PendingWindowInDays": true}', "TRUE_VALUE cannot be converted to Integer"),
        (b'{"PendingWindowInDays": 2147483648}', "2147483648 is out of the range of Integer"),
        (b'{"PendingWindowInDays": 1e999}', "The body is not JSON."),
        (b"[" * 100_000, "The body is not JSON."),
    ],
)
def test_json_that_is_refused(body: bytes, text: str) -> None:
    with pytest.raises(AwsError) as caught:
        parse("kms", "json", "ScheduleKeyDeletion", body)
    assert (caught.value.code, str(caught.value)) == ("SerializationException", text)


def test_json_members_that_the_model_does_not_know_and_nulls_are_passed_over() -> None:
    assert parse("kms", "json", "ScheduleKeyDeletion", b'{"KeyId": null, "New": [1]}') == {}
    assert parse("kms", "json", "ScheduleKeyDeletion", b"") == {}


def test_a_blob_is_base64() -> None:
    assert parse("kms", "json", "Encrypt", b'{"Plaintext": "aGk="}') == {"Plaintext": b"hi"}
    for wrong in (b"aGk", b"a-_=", b"%%%%"):
        with pytest.raises(AwsError, match="not base64"):
            parse("kms", "json", "Encrypt", b'{"Plaintext": "' + wrong + b'"}')


@pytest.mark.parametrize("value", ["1415838920.5", '"2014-11-13T00:35:20.5Z"', '"2014-11-13T01:35:20.5+01:00"'])
def test_a_timestamp_is_seconds_or_iso(value: str) -> None:
    found = parse("kms", "json", "ImportKeyMaterial", f'{{"ValidTo": {value}}}'.encode())
    assert found == {"ValidTo": dt.datetime(2014, 11, 13, 0, 35, 20, 500000, tzinfo=dt.UTC)}


@pytest.mark.parametrize(
    "value", ['"soon"', "1e300", "-1e300", '"2014-13-13T00:35:20Z"', '"0001-01-01T00:00:00+10:00"']
)
def test_a_timestamp_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(AwsError, match="cannot be converted to a timestamp"):
        parse("kms", "json", "ImportKeyMaterial", f'{{"ValidTo": {value}}}'.encode())


@given(st.text(max_size=30))
def test_any_text_is_a_time_or_a_value_error(text: str) -> None:
    with suppress(ValueError):
        assert times.from_text(text).tzinfo is dt.UTC


# ---- forms -----------------------------------------------------------------------------------------------------


def test_lists_of_a_form_keep_the_order_of_their_numbers() -> None:
    body = b"Action=TagUser&Tags.member.10.Key=z&Tags.member.10.Value=&Tags.member.2.Key=a&Tags.member.2.Value=1%2B"
    assert parse("iam", "query", "TagUser", body) == {"Tags": [{"Key": "a", "Value": "1+"}, {"Key": "z", "Value": ""}]}


def test_ec2_refuses_what_it_does_not_know() -> None:
    with pytest.raises(AwsError, match=r"The parameter Filter\.1\.Wrong is not recognized") as caught:
        parse("ec2", "ec2", "DescribeVpcs", b"Action=DescribeVpcs&Version=2016-11-15&Filter.1.Wrong=x")
    assert caught.value.code == "UnknownParameter"
    assert parse("iam", "query", "ListUsers", b"Action=ListUsers&Wrong=1") == {}


@pytest.mark.parametrize(
    ("service", "protocol", "operation", "body", "code"),
    [
        ("iam", "query", "ListUsers", b"MaxItems=x", "MalformedInput"),
        ("iam", "query", "ListUsers", b"MaxItems=" + b"9" * 5000, "MalformedInput"),
        ("iam", "query", "ListUsers", b"MaxItems=%D9%A1", "MalformedInput"),
        ("ec2", "ec2", "DescribeVpcs", b"MaxResults=x", "InvalidParameterValue"),
        ("ec2", "ec2", "DescribeVpcs", b"DryRun=perhaps", "InvalidParameterValue"),
        ("iam", "query", "ListUsers", b"\xff", "MalformedQueryString"),
        ("iam", "query", "ListUsers", b"Marker=%ff", "MalformedQueryString"),
        ("iam", "query", "ListUsers", b"a&" * 20_000, "MalformedQueryString"),
        ("iam", "query", "ListUsers", b"a" + b".a" * 1000, "MalformedQueryString"),
    ],
)
def test_forms_that_are_refused(service: str, protocol: str, operation: str, body: bytes, code: str) -> None:
    with pytest.raises(AwsError) as caught:
        parse(service, protocol, operation, body)
    assert caught.value.code == code


def test_a_form_is_decoded_once() -> None:
    assert parse_form("a=%2525+b&&c", "X") == [("a", "%25 b"), ("c", "")]


# ---- XML -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<a>",
        b"<a><b></a>",
        b'<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>',
        b"<a>" * (MAX_DEPTH + 2) + b"</a>" * (MAX_DEPTH + 2),
        b"<a>" + b"<b/>" * (MAX_NODES + 1) + b"</a>",
        b"<a>\xff</a>",
    ],
)
def test_xml_that_is_refused(data: bytes) -> None:
    with pytest.raises(xml.XmlError):
        xml.read(data)


@given(st.text())
def test_any_text_is_carried_by_xml_or_replaced(text: str) -> None:
    found = xml.read(f"<a>{xml.escape(text)}</a>".encode("utf-8", "strict" if text.isascii() else "surrogatepass"))
    for sent, got in zip(text, found.text, strict=True):
        assert got in {sent, "\ufffd"}
        assert got == sent or sent < " " or sent in "\ufffe\uffff"


# ---- validation ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "values", "found", "constraint"),
    [
        ("DescribeKey", {}, "Value null at 'keyId'", "Member must not be null"),
        (
            "CreateAlias",
            {"AliasName": "", "TargetKeyId": "k"},
            "Value '' at 'aliasName'",
            "Member must have length greater than or equal to 1",
        ),
        (
            "ScheduleKeyDeletion",
            {"KeyId": "k", "PendingWindowInDays": 366},
            "Value '366' at 'pendingWindowInDays'",
            "Member must have value less than or equal to 365",
        ),
        (
            "Encrypt",
            {"KeyId": "k", "Plaintext": b"x" * 4097},
            "Value at 'plaintext'",
            "Member must have length less than or equal to 4096",
        ),
        (
            "Decrypt",
            {"CiphertextBlob": b""},
            "Value 'java.nio.HeapByteBuffer[pos=0 lim=0 cap=0]' at 'ciphertextBlob'",
            "Member must have length greater than or equal to 1",
        ),
        (
            "EnableKey",
            {"KeyId": "k" * 2049},
            f"Value '{'k' * 2049}' at 'keyId'",
            "Member must have length less than or equal to 2048",
        ),
        (
            "CreateGrant",
            {"KeyId": "k", "GranteePrincipal": "p", "Operations": ["Sign", "Fly"]},
            "Value 'Fly' at 'operations.2.member'",
            f"Member must satisfy enum value set: [{', '.join(GRANTS)}]",
        ),
        (
            "CreateGrant",
            {"KeyId": "k", "GranteePrincipal": "p", "Operations": ["Sign", None]},
            "Value null at 'operations.2.member'",
            "Member must not be null",
        ),
        (
            "Encrypt",
            {"KeyId": "k", "Plaintext": b"x", "EncryptionContext": {"a": None}},
            "Value null at 'encryptionContext.a.member'",
            "Member must not be null",
        ),
    ],
)
def test_json_services_say_what_does_not_fit(
    operation: str, values: dict[str, Any], found: str, constraint: str
) -> None:
    code, text = check("kms", "json", operation, values)
    assert code == "ValidationException"
    assert text == f"1 validation error detected: {found} failed to satisfy constraint: {constraint}"


def test_all_failures_are_told_together_and_sensitive_values_are_not() -> None:
    code, text = check("iam", "query", "CreateLoginProfile", {"UserName": "a b", "Password": ""})
    assert code == "ValidationError"
    assert text == (
        "2 validation errors detected: Value 'a b' at 'userName' failed to satisfy constraint: Member must satisfy "
        r"regular expression pattern: [\w+=,.@-]+; Value at 'password' failed to satisfy constraint: Member must have "
        "length greater than or equal to 1"
    )


def test_ec2_names_the_missing_parameter() -> None:
    assert check("ec2", "ec2", "CreateSubnet", {}) == (
        "MissingParameter",
        "The request must contain the parameter VpcId",
    )


def test_java_patterns_mean_what_they_mean_in_java() -> None:
    tags = compile_pattern(r"^([\p{L}\p{Z}\p{N}_.:/=+\-@]*)$")
    assert tags.fullmatch("Straße 7/ünï=+@") and not tags.fullmatch("a\tb")  # noqa: PT018
    assert not compile_pattern(r"[\w+=,.@-]+").fullmatch("ü")
    with pytest.raises(HsmsimError, match="is not understood"):
        compile_pattern(r"\p{Sc}")


# ---- errors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("service", "code", "spelt"),
    [
        ("cloudhsmv2", "CloudHsmResourceNotFoundException", "Message"),
        ("kms", "NotFoundException", "message"),
        ("kms", "AccessDeniedException", "Message"),
        ("kms", "SerializationException", "Message"),
        ("kms", "ValidationException", "message"),
    ],
)
def test_the_message_is_spelt_as_the_shape_has_it(service: str, code: str, spelt: str) -> None:
    response = ALL["json"].fail(load(service), AwsError(code, "Why."), "id")
    assert json.loads(response.body) == {"__type": code, spelt: "Why."}
    assert dict(response.headers) == {
        "Content-Type": "application/x-amz-json-1.1",
        "x-amzn-RequestId": "id",
        "x-amzn-ErrorType": code,
    }


def test_an_error_in_cbor_is_named_by_its_shape_id() -> None:
    known = ALL["smithy-rpc-v2-cbor"].fail(load("cloudhsmv2"), AwsError("CloudHsmTagException", "Why."), "id")
    assert cbor.decode(known.body) == {"__type": "com.amazonaws.cloudhsmv2#CloudHsmTagException", "Message": "Why."}
    common = ALL["smithy-rpc-v2-cbor"].fail(load("cloudhsmv2"), AwsError("ValidationException", "Why."), "id")
    assert cbor.decode(common.body) == {"__type": "ValidationException", "message": "Why."}


def test_errors_of_query_and_ec2() -> None:
    query = ALL["query"].fail(load("iam"), AwsError("NoSuchEntity", "No <user>.", 404), "id").body.decode()
    assert query == (
        '<?xml version="1.0" encoding="UTF-8"?>\n<ErrorResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/">'
        "<Error><Type>Sender</Type><Code>NoSuchEntity</Code><Message>No &lt;user&gt;.</Message></Error>"
        "<RequestId>id</RequestId></ErrorResponse>"
    )
    ec2 = ALL["ec2"].fail(load("ec2"), AwsError("InvalidVpcID.NotFound", "No."), "id").body.decode()
    assert ec2 == (
        '<?xml version="1.0" encoding="UTF-8"?>\n<Response><Errors><Error><Code>InvalidVpcID.NotFound</Code>'
        "<Message>No.</Message></Error></Errors><RequestID>id</RequestID></Response>"
    )


@pytest.mark.parametrize("protocol", ["json", "smithy-rpc-v2-cbor"])
def test_a_response_or_error_that_is_not_in_the_model_is_a_defect(protocol: str) -> None:
    model = load("cloudhsmv2")
    operation = model.operation("DescribeClusters")
    assert operation
    with pytest.raises(UnknownMemberError, match="DescribeClustersResponse has no member Wrong"):
        ALL[protocol].respond(model, operation, {"Wrong": 1}, "id")
    with pytest.raises(UnknownMemberError, match="CloudHsmTagException has no member Wrong"):
        ALL[protocol].fail(model, AwsError("CloudHsmTagException", "", Wrong=1), "id")


@pytest.mark.parametrize(
    ("protocol", "code", "status"),
    [
        ("json", "UnrecognizedClientException", 400),
        ("smithy-rpc-v2-cbor", "UnrecognizedClientException", 400),
        ("query", "InvalidClientTokenId", 403),
        ("ec2", "AuthFailure", 401),
    ],
)
def test_an_unknown_key_has_a_name_in_each_protocol(protocol: str, code: str, status: int) -> None:
    told = faults.translate(AwsError("InvalidClientTokenId", "x"), ALL[protocol])
    assert (told.code, told.status) == (code, status)
