"""Documented behaviour of IAM policies as data: what AWS's user guide says about each element, in examples of our own.

Each: what it shows, the statement of an identity policy of user Ann, an action, a resource, condition keys, the answer.
"""
# ruff: noqa: E501, FBT001, FBT003 - rows of tables

from __future__ import annotations

from typing import Any

ACCOUNT = "111122223333"
KEY = f"arn:aws:kms:eu-west-1:{ACCOUNT}:key/0a1b"
HOME = "arn:aws:s3:::homes/ann/letter.txt"

Example = tuple[str, dict[str, Any], str, str, dict[str, Any], bool]


def allow(
    action: Any = "*", resource: Any = "*", condition: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    found = {"Effect": "Allow", "Action": action, "Resource": resource, "Condition": condition or {}, **more}
    return {key: value for key, value in found.items() if value is not None}


def when(operator: str, key: str, *values: Any) -> dict[str, Any]:
    return allow(condition={operator: {key: list(values)}})


def _if(text: str, operator: str, values: list[Any], given: Any, expected: bool) -> Example:
    context = {} if given is None else {"aws:Test": given}
    return (f"{operator} {text}", when(operator, "aws:Test", *values), "kms:Sign", KEY, context, expected)


ELEMENTS: list[Example] = [
    ("an action is matched without regard to case", allow("KMS:sign"), "kms:Sign", KEY, {}, True),
    ("a star in an action", allow("kms:Gen*Key"), "kms:GenerateDataKey", KEY, {}, True),
    ("a star in an action needs the rest", allow("kms:Gen*Pair"), "kms:GenerateDataKey", KEY, {}, False),
    ("a question mark is one character", allow("kms:Si?n"), "kms:Sign", KEY, {}, True),
    ("a question mark is not none", allow("kms:Sign?"), "kms:Sign", KEY, {}, False),
    ("another service", allow("s3:*"), "kms:Sign", KEY, {}, False),
    ("NotAction leaves its own out", allow(None, NotAction="iam:*"), "iam:GetUser", "*", {}, False),
    ("NotAction takes all others", allow(None, NotAction="iam:*"), "kms:Sign", KEY, {}, True),
    ("a resource is matched with regard to case", allow(resource=KEY.upper().replace("ARN:AWS:KMS", "arn:aws:kms")), "kms:Sign", KEY, {}, False),
    ("a star for region", allow(resource=f"arn:aws:kms:*:{ACCOUNT}:key/*"), "kms:Sign", KEY, {}, True),
    ("a star does not take a colon from the middle", allow(resource="arn:aws:kms:*:key/*"), "kms:Sign", KEY, {}, False),
    ("a star at the end goes over colons", allow(resource="arn:aws:kms:*"), "kms:Sign", KEY, {}, True),
    ("NotResource leaves its own out", allow(resource=None, NotResource=KEY), "kms:Sign", KEY, {}, False),
    ("NotResource takes all others", allow(resource=None, NotResource=KEY), "kms:Sign", KEY + "x", {}, True),
    ("a variable in a resource", allow(resource="arn:aws:s3:::homes/${aws:username}/*"), "s3:GetObject", HOME, {}, True),
    ("a variable that has another value", allow(resource="arn:aws:s3:::homes/${aws:userid}/*"), "s3:GetObject", HOME, {}, False),
    ("a variable without a value", allow(resource="arn:aws:s3:::homes/${aws:PrincipalTag/x}/*"), "s3:GetObject", HOME, {}, False),
    ("a variable with a default", allow(resource="arn:aws:s3:::homes/${aws:PrincipalTag/x, 'ann'}/*"), "s3:GetObject", HOME, {}, True),
    ("a variable's stars are characters", allow(resource="arn:aws:s3:::${aws:Test}"), "s3:GetObject", HOME, {"aws:Test": "*"}, False),
    ("an escaped star", allow(resource="arn:aws:s3:::a${*}b"), "s3:GetObject", "arn:aws:s3:::a*b", {}, True),
    ("an escaped star is no wildcard", allow(resource="arn:aws:s3:::a${*}b"), "s3:GetObject", "arn:aws:s3:::axb", {}, False),
    ("an escaped dollar", allow(resource="arn:aws:s3:::a${$}{b}"), "s3:GetObject", "arn:aws:s3:::a${b}", {}, True),
    ("a condition key is matched without regard to case", when("StringEquals", "AWS:test", "a"), "kms:Sign", KEY, {"aws:Test": "a"}, True),
    (
        "all keys of a condition must hold",
        allow(condition={"StringEquals": {"aws:A": "1", "aws:B": "2"}}), "kms:Sign", KEY, {"aws:A": "1", "aws:B": "3"}, False,
    ),
    (
        "all operators of a condition must hold",
        allow(condition={"StringEquals": {"aws:A": "1"}, "Bool": {"aws:B": True}}), "kms:Sign", KEY, {"aws:A": "1", "aws:B": "true"}, True,
    ),
    ("a variable in a condition", when("StringEquals", "aws:Test", "${aws:username}"), "kms:Sign", KEY, {"aws:Test": "ann"}, True),
    ("a variable without value matches nothing", when("StringEquals", "aws:Test", "${aws:No}"), "kms:Sign", KEY, {"aws:Test": ""}, False),
    ("a number as JSON", when("NumericLessThan", "aws:Test", 10), "kms:Sign", KEY, {"aws:Test": "9"}, True),
]  # fmt: skip

CONDITIONS: list[Example] = [
    _if("one of several", "StringEquals", ["a", "b"], "b", True),
    _if("case counts", "StringEquals", ["a"], "A", False),
    _if("a star is a star", "StringEquals", ["a*"], "ab", False),
    _if("key missing", "StringEquals", ["a"], None, False),
    _if("none of several", "StringNotEquals", ["a", "b"], "b", False),
    _if("another", "StringNotEquals", ["a", "b"], "c", True),
    _if("key missing", "StringNotEquals", ["a"], None, True),
    _if("other case", "StringEqualsIgnoreCase", ["aB"], "Ab", True),
    _if("other case", "StringNotEqualsIgnoreCase", ["aB"], "Ab", False),
    _if("wildcards", "StringLike", ["a*c?"], "abbcd", True),
    _if("the end counts", "StringLike", ["a*c"], "abcd", False),
    _if("wildcards", "StringNotLike", ["a*"], "abc", False),
    _if("key missing", "StringNotLike", ["a*"], None, True),
    _if("equal in value", "NumericEquals", ["10.0"], "10", True),
    _if("as numbers, not as text", "NumericLessThan", ["9"], "10", False),
    _if("equal", "NumericLessThanEquals", ["10"], "10", True),
    _if("more", "NumericGreaterThan", ["10"], "10.5", True),
    _if("less", "NumericGreaterThanEquals", ["10"], "9", False),
    _if("other", "NumericNotEquals", ["10"], "9", True),
    _if("a word", "NumericLessThan", ["10"], "few", False),
    _if("the same moment in another zone", "DateEquals", ["2026-04-01T02:00:00+02:00"], "2026-04-01T00:00:00Z", True),
    _if("before", "DateLessThan", ["2026-04-01T00:00:00Z"], "2026-03-31T23:59:59Z", True),
    _if("seconds since the epoch", "DateGreaterThan", ["1775001600"], "2026-04-01T00:00:01Z", True),
    _if("a date alone is midnight", "DateLessThanEquals", ["2026-04-01"], "2026-04-01T00:00:00Z", True),
    _if("before", "DateGreaterThanEquals", ["2026-04-01"], "2026-03-31", False),
    _if("another", "DateNotEquals", ["2026-04-01"], "2026-03-31", True),
    _if("true", "Bool", ["true"], "True", True),
    _if("as JSON", "Bool", [False], "true", False),
    _if("key missing", "Bool", ["false"], None, False),
    _if("the same bytes", "BinaryEquals", ["QmluYXJ5"], "QmluYXJ5", True),
    _if("other bytes", "BinaryEquals", ["QmluYXJ5"], "QmluYXJ6", False),
    _if("within", "IpAddress", ["203.0.113.0/24"], "203.0.113.7", True),
    _if("outside", "IpAddress", ["203.0.113.0/24"], "203.0.114.7", False),
    _if("one address", "IpAddress", ["203.0.113.7"], "203.0.113.7", True),
    _if("within", "IpAddress", ["2001:db8::/32"], "2001:db8::1", True),
    _if("of another family", "IpAddress", ["0.0.0.0/0"], "2001:db8::1", False),
    _if("within", "NotIpAddress", ["203.0.113.0/24"], "203.0.113.7", False),
    _if("outside", "NotIpAddress", ["203.0.113.0/24"], "198.51.100.7", True),
    _if("part by part", "ArnLike", ["arn:aws:sns:*:111122223333:t*"], "arn:aws:sns:eu-west-1:111122223333:topic", True),
    _if(
        "a star stays in its part",
        "ArnLike",
        ["arn:aws:sns:*:topic"],
        "arn:aws:sns:eu-west-1:111122223333:topic",
        False,
    ),
    _if("is ArnLike", "ArnEquals", ["arn:aws:iam::*:role/R"], "arn:aws:iam::111122223333:role/R", True),
    _if("is ArnNotLike", "ArnNotEquals", ["arn:aws:iam::*:role/R"], "arn:aws:iam::111122223333:role/R", False),
    _if("key missing", "ArnNotLike", ["arn:aws:iam::*:role/R"], None, True),
    _if("key missing", "Null", ["true"], None, True),
    _if("key there", "Null", ["true"], "x", False),
    _if("key there", "Null", ["false"], "x", True),
    _if("key missing", "StringEqualsIfExists", ["a"], None, True),
    _if("key there", "StringEqualsIfExists", ["a"], "b", False),
    _if("key missing", "BoolIfExists", ["true"], None, True),
    _if("all among them", "ForAllValues:StringEquals", ["a", "b", "c"], ["a", "b"], True),
    _if("one is not among them", "ForAllValues:StringEquals", ["a", "b"], ["a", "x"], False),
    _if("key missing", "ForAllValues:StringEquals", ["a"], None, True),
    _if("empty text is nothing", "ForAllValues:StringEquals", ["a"], [""], True),
    _if("one is among them", "ForAnyValue:StringEquals", ["a"], ["x", "a"], True),
    _if("none is among them", "ForAnyValue:StringEquals", ["a"], ["x", "y"], False),
    _if("key missing", "ForAnyValue:StringEquals", ["a"], None, False),
    _if("key missing", "ForAnyValue:StringNotEquals", ["a"], None, False),
    _if("key missing", "ForAnyValue:StringEqualsIfExists", ["a"], None, True),
    _if("one differs", "ForAnyValue:StringNotEquals", ["a"], ["a", "x"], True),
    _if("one is forbidden", "ForAllValues:StringNotEquals", ["a"], ["a", "x"], False),
    _if("none is forbidden", "ForAllValues:StringNotLike", ["a*"], ["b", "c"], True),
]

MALFORMED: list[tuple[str, str]] = [
    ("{", "This policy contains invalid Json: .* \\(at line 1, column 2\\)"),
    ("[]", "no JSON object"),
    ('{"Statement":[]}', "\\(at Statement\\)"),
    ('{"Version":"2012-10-18","Statement":{}}', "\\(at Version\\)"),
    ('{"Statement":{},"Statement":{}}', "given twice. \\(at Statement\\)"),
    ('{"Statement":{"Effect":"Allow","Action":"s3:*"}}', "must contain resources. \\(at Statement\\[0\\]\\)"),
    ('{"Statement":{"Effect":"Allow","Resource":"*"}}', "must contain actions"),
    ('{"Statement":{"Effect":"allow","Action":"s3:*","Resource":"*"}}', "Effect must be Allow or Deny. \\(at Statement\\[0\\].Effect\\)"),
    ('{"Statement":{"Effect":"Allow","Action":"*","NotAction":"*","Resource":"*"}}', "exclude each other"),
    ('{"Statement":{"Effect":"Allow","Action":"GetUser","Resource":"*"}}', "must be prefaced by a vendor"),
    ('{"Statement":{"Effect":"Allow","Action":"a:b:c","Resource":"*"}}', "only one colon"),
    ('{"Statement":{"Effect":"Allow","Action":"s 3:*","Resource":"*"}}', "Vendor s 3 is not valid"),
    ('{"Statement":{"Effect":"Allow","Action":[],"Resource":"*"}}', "The list is empty. \\(at Statement\\[0\\].Action\\)"),
    ('{"Statement":{"Effect":"Allow","Action":["s3:*",1],"Resource":"*"}}', "\\(at Statement\\[0\\].Action\\[1\\]\\)"),
    ('{"Statement":{"Effect":"Allow","Action":"*","Resource":"bucket"}}', 'Resource bucket must be in ARN format or "\\*"'),
    ('{"Statement":{"Effect":"Allow","Action":"*","Resource":"arn:aws:k*:::x"}}', "vendor must be fully qualified"),
    ('{"Statement":{"Effect":"Allow","Action":"*","Resource":"arn:moon:s3:::x"}}', 'Partition "moon" is not valid'),
    ('{"Statement":{"Effect":"Allow","Action":"*","Resource":"*","Principal":"*"}}', "should not specify a principal"),
    ('{"Statement":{"Effect":"Allow","Action":"*","Resource":"*","Sid":"a-b"}}', "must be alpha-numeric"),
    ('{"Statement":{"Effect":"Allow","Action":"*","Resource":"*","Colour":"red"}}', "no element Colour"),
    ('{"Statement":{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"Is":{"aws:a":"b"}}}}', "Is is no condition operator"),
    ('{"Statement":{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"NullIfExists":{"aws:a":"true"}}}}', "NullIfExists is no"),
    ('{"Statement":{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"Bool":{"aws:a":"maybe"}}}}', "Condition.Bool.aws:a"),
    ('{"Statement":{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"NumericEquals":{"aws:a":"NaN"}}}}', "'NaN' is no number"),
    ('{"Statement":{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"Bool":{"plain":"true"}}}}', "prefaced by a vendor"),
    ('{"Statement":{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"Bool":{"aws:a":{}}}}}', "strings, numbers and booleans"),
    (
        '{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"*","Resource":"arn:aws:s3:::${aws:username"}}',
        "a variable is not closed",
    ),
    ('{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"*","Resource":"arn:aws:s3:::${}"}}', "no policy variable"),
    (
        '{"Statement":[{"Sid":"a","Effect":"Allow","Action":"*","Resource":"*"},{"Sid":"a","Effect":"Deny","Action":"*","Resource":"*"}]}',
        "must be unique",
    ),
    ("[" * 100000, "nested too deeply"),
]  # fmt: skip
