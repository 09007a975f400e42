"""Policies: what they allow, one document at a time and together."""
# ruff: noqa: E501, FBT001 - rows of tables

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import pytest
from support.authz_examples import ACCOUNT, CONDITIONS, ELEMENTS, HOME, KEY, MALFORMED, allow

from hsmsim.authz.context import Circumstances, global_keys, lowered
from hsmsim.authz.document import MalformedPolicy, Purpose, parse
from hsmsim.authz.evaluate import EVERYTHING, Decision, Policies, Question, Source, evaluate
from hsmsim.authz.principal import Caller, Kind, canonical_user

OTHER = "444455556666"
ANN = Caller(Kind.USER, ACCOUNT, f"arn:aws:iam::{ACCOUNT}:user/ann", "AIDAAAAAAAAAAAAAAAAAA", name="ann")
ROOT = Caller(Kind.ROOT, ACCOUNT, f"arn:aws:iam::{ACCOUNT}:root", ACCOUNT)
ROLE_ARN = f"arn:aws:iam::{ACCOUNT}:role/team/Signer"
SESSION = Caller(
    Kind.ROLE,
    ACCOUNT,
    f"arn:aws:sts::{ACCOUNT}:assumed-role/Signer/s1",
    "AROAAAAAAAAAAAAAAAAAA:s1",
    name="Signer",
    issuer=ROLE_ARN,
    issuer_id="AROAAAAAAAAAAAAAAAAAA",
    issued=1_700_000_000,
)
HSM_SERVICE = Caller(Kind.SERVICE, "", "cloudhsm.amazonaws.com", "")
FULL = allow()
DENY = allow() | {"Effect": "Deny"}


def policy(*statements: dict[str, Any], purpose: Purpose = Purpose.IDENTITY, version: str = "2012-10-17") -> Any:
    return parse(json.dumps({"Version": version, "Statement": list(statements)}), purpose)


def resource(principal: Any, **more: Any) -> Any:
    return policy({**FULL, "Principal": principal, **more}, purpose=Purpose.RESOURCE)


def deciding(policies: Policies, caller: Caller = ANN, owner: str = ACCOUNT, **question: Any) -> Decision:
    asked = {"action": "kms:Sign", "resource": KEY, "context": {}} | question
    return evaluate(Question(caller, owner=owner, **asked), policies)


@pytest.mark.parametrize("example", ELEMENTS + CONDITIONS, ids=lambda example: example[0])
def test_documented_examples(example: Any) -> None:
    _, statement, action, target, context, expected = example
    around = Circumstances(1_700_000_000, "eu-west-1", "203.0.113.1", "aws-cli/2", secure=True, owner=ACCOUNT)
    keys = global_keys(ANN, around) | lowered(context)
    found = deciding(Policies((policy(statement),)), action=action, resource=target, context=keys)
    assert found.allowed is expected


@pytest.mark.parametrize(("text", "words"), MALFORMED, ids=[text[:60] for text, _ in MALFORMED])
def test_a_malformed_document_is_explained_with_its_place(text: str, words: str) -> None:
    with pytest.raises(MalformedPolicy, match=words):
        parse(text)


@pytest.mark.parametrize(
    ("statement", "purpose", "words"),
    [
        ({"Effect": "Allow", "Action": "*", "Resource": "*"}, Purpose.RESOURCE, "Missing required field Principal"),
        ({**FULL, "Principal": "*"}, Purpose.TRUST, "Has prohibited field Resource"),
        ({"Effect": "Allow", "Action": "*", "NotPrincipal": "*"}, Purpose.TRUST, "prohibited field NotPrincipal"),
        ({**FULL, "Principal": "ann"}, Purpose.RESOURCE, "Invalid principal in policy"),
        ({**FULL, "Principal": {"AWS": "ann"}}, Purpose.RESOURCE, 'Invalid principal in policy: "AWS":"ann"'),
        ({**FULL, "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:user/*"}}, Purpose.RESOURCE, "Invalid principal"),
        ({**FULL, "Principal": {"Service": "*"}}, Purpose.RESOURCE, "Invalid principal"),
        ({**FULL, "Principal": {"Planet": "Mars"}}, Purpose.RESOURCE, "Planet is no kind of principal"),
    ],
)
def test_malformed_principals(statement: dict[str, Any], purpose: Purpose, words: str) -> None:
    with pytest.raises(MalformedPolicy, match=words):
        policy(statement, purpose=purpose)


def test_the_old_version_has_no_variables() -> None:
    statement = allow(resource="arn:aws:s3:::homes/${aws:username}/*")
    keys = {"aws:username": ("ann",)}
    found = deciding(Policies((policy(statement, version="2008-10-17"),)), resource=HOME, context=keys)
    assert not found.allowed
    literal = "arn:aws:s3:::homes/${aws:username}/x"
    assert deciding(Policies((policy(statement, version="2008-10-17"),)), resource=literal, context=keys).allowed


@pytest.mark.parametrize("pattern", ["*a" * 2000 + "b", "arn:aws:s3:::" + "*a" * 2000 + "b"])
def test_no_pattern_makes_the_gateway_think_for_long(pattern: str) -> None:
    statement = allow(condition={"StringLike": {"aws:Test": pattern}})
    started = time.process_time()
    found = deciding(Policies((policy(statement),)), context={"aws:test": ("arn:aws:s3:::" + "a" * 5000,)})
    assert not found.allowed
    assert time.process_time() - started < 10, "backtracking would take centuries"


# ---- several policies --------------------------------------------------------------------------------------------

IDENTITY = (Source.IDENTITY, False)
MATRIX: list[tuple[str, Caller, str, Policies, bool, tuple[Source, bool]]] = [
    ("nothing allows", ANN, ACCOUNT, Policies(), False, IDENTITY),
    ("identity allows", ANN, ACCOUNT, Policies((policy(FULL),)), True, IDENTITY),
    ("deny beats allow", ANN, ACCOUNT, Policies((policy(FULL), policy(DENY))), False, (Source.IDENTITY, True)),
    ("the resource's policy alone suffices", ANN, ACCOUNT, Policies(resource=resource({"AWS": ANN.arn})), True, (Source.RESOURCE, False)),
    ("by the user's id", ANN, ACCOUNT, Policies(resource=resource({"AWS": ANN.user_id})), True, (Source.RESOURCE, False)),
    ("everyone", ANN, ACCOUNT, Policies(resource=resource("*")), True, (Source.RESOURCE, False)),
    ("somebody else", ANN, ACCOUNT, Policies(resource=resource({"AWS": ANN.arn + "e"})), False, IDENTITY),
    ("the account delegates", ANN, ACCOUNT, Policies(resource=resource({"AWS": ACCOUNT})), False, IDENTITY),
    ("the account delegates, identity allows", ANN, ACCOUNT, Policies((policy(FULL),), resource=resource({"AWS": f"arn:aws:iam::{ACCOUNT}:root"}), sole=True), True, IDENTITY),
    ("sole: identity alone does not suffice", ANN, ACCOUNT, Policies((policy(FULL),), resource=resource({"AWS": OTHER}), sole=True), False, (Source.RESOURCE, False)),
    ("sole: root neither", ROOT, ACCOUNT, Policies((EVERYTHING,), resource=resource({"AWS": ANN.arn}), sole=True), False, (Source.RESOURCE, False)),
    ("root is allowed everything", ROOT, ACCOUNT, Policies((EVERYTHING,)), True, IDENTITY),
    ("a resource's deny stops root", ROOT, ACCOUNT, Policies((EVERYTHING,), resource=resource("*", Effect="Deny")), False, (Source.RESOURCE, True)),
    ("two accounts: identity alone", ANN, OTHER, Policies((policy(FULL),)), False, (Source.RESOURCE, False)),
    ("two accounts: resource alone", ANN, OTHER, Policies(resource=resource({"AWS": ANN.arn})), False, IDENTITY),
    ("two accounts: both", ANN, OTHER, Policies((policy(FULL),), resource=resource({"AWS": ACCOUNT})), True, IDENTITY),
    ("two accounts: by canonical user", ANN, OTHER, Policies((policy(FULL),), resource=resource({"CanonicalUser": canonical_user(ACCOUNT)})), True, IDENTITY),
    ("boundary leaves it out", ANN, ACCOUNT, Policies((policy(FULL),), boundary=policy(allow("s3:*"))), False, (Source.BOUNDARY, False)),
    ("boundary denies", ANN, ACCOUNT, Policies((policy(FULL),), boundary=policy(DENY)), False, (Source.BOUNDARY, True)),
    ("boundary alone grants nothing", ANN, ACCOUNT, Policies(boundary=policy(FULL)), False, IDENTITY),
    ("a policy that names the user passes the boundary", ANN, ACCOUNT, Policies(boundary=policy(allow("s3:*")), resource=resource({"AWS": ANN.arn})), True, (Source.RESOURCE, False)),
    ("session policy leaves it out", SESSION, ACCOUNT, Policies((policy(FULL),), session=(policy(allow("s3:*")),)), False, (Source.SESSION, False)),
    ("one of two session policies allows", SESSION, ACCOUNT, Policies((policy(FULL),), session=(policy(allow("s3:*")), policy(FULL))), True, IDENTITY),
    ("session policy alone grants nothing", SESSION, ACCOUNT, Policies(session=(policy(FULL),)), False, IDENTITY),
    ("a policy that names the role stays in the session policy", SESSION, ACCOUNT, Policies(session=(policy(allow("s3:*")),), resource=resource({"AWS": ROLE_ARN})), False, (Source.SESSION, False)),
    ("a policy that names the role suffices", SESSION, ACCOUNT, Policies(resource=resource({"AWS": ROLE_ARN})), True, (Source.RESOURCE, False)),
    ("a policy that names the session passes the session policy", SESSION, ACCOUNT, Policies(session=(policy(allow("s3:*")),), resource=resource({"AWS": SESSION.arn})), True, (Source.RESOURCE, False)),
    ("everyone, within the boundary of a role", SESSION, ACCOUNT, Policies(boundary=policy(allow("s3:*")), resource=resource("*")), False, (Source.BOUNDARY, False)),
    ("deny for the role meets its session", SESSION, ACCOUNT, Policies((policy(FULL),), resource=resource({"AWS": ROLE_ARN}, Effect="Deny")), False, (Source.RESOURCE, True)),
    ("a service needs the resource's policy", HSM_SERVICE, ACCOUNT, Policies(), False, IDENTITY),
    ("a service that is named", HSM_SERVICE, ACCOUNT, Policies(resource=resource({"Service": "cloudhsm.amazonaws.com"})), True, (Source.RESOURCE, False)),
]  # fmt: skip


@pytest.mark.parametrize("case", MATRIX, ids=lambda case: case[0])
def test_policies_together(case: Any) -> None:
    _, caller, owner, policies, allowed, (source, explicit) = case
    found = deciding(policies, caller, owner)
    assert (found.allowed, found.source, found.explicit) == (allowed, source, explicit)


@pytest.mark.parametrize(
    ("named", "denied"),
    [([ANN.arn, ACCOUNT], False), ([ANN.arn], True), ([ACCOUNT], True), ([OTHER], True)],
)
def test_not_principal_spares_only_who_is_named_with_the_account(named: list[str], denied: bool) -> None:
    statement = {key: value for key, value in DENY.items() if key != "Principal"} | {"NotPrincipal": {"AWS": named}}
    found = deciding(Policies((policy(FULL),), resource=policy(statement, purpose=Purpose.RESOURCE)))
    assert found.allowed is not denied


def test_a_session_is_spared_by_account_role_and_session() -> None:
    statement = {**DENY, "NotPrincipal": {"AWS": [ACCOUNT, ROLE_ARN, SESSION.arn]}}
    spared = Policies((policy(FULL),), resource=policy(statement, purpose=Purpose.RESOURCE))
    assert deciding(spared, SESSION).allowed
    assert not deciding(spared, replace(SESSION, arn=SESSION.arn + "2")).allowed


def test_the_sentences_are_aws_s() -> None:
    assert deciding(Policies()).reason("kms:Sign") == "because no identity-based policy allows the kms:Sign action"
    found = deciding(Policies((policy(FULL),), resource=resource("*", Effect="Deny", Sid="stop it")))
    assert (found.reason("kms:Sign"), found.sid) == ("with an explicit deny in a resource-based policy", "stop it")
    assert deciding(Policies((EVERYTHING,))).reason("kms:Sign") == ""


def test_global_keys() -> None:
    around = Circumstances(1_775_001_600.9, "eu-west-1", "203.0.113.1", "aws-cli/2", secure=False, owner=OTHER)
    keys = {key: value for key, (value,) in global_keys(SESSION, around).items()}
    assert keys == {
        "aws:currenttime": "2026-04-01T00:00:00Z",
        "aws:epochtime": "1775001600",
        "aws:securetransport": "false",
        "aws:sourceip": "203.0.113.1",
        "aws:useragent": "aws-cli/2",
        "aws:requestedregion": "eu-west-1",
        "aws:resourceaccount": OTHER,
        "aws:viaawsservice": "false",
        "aws:principalarn": ROLE_ARN,
        "aws:principalaccount": ACCOUNT,
        "aws:principaltype": "AssumedRole",
        "aws:principalisawsservice": "false",
        "aws:userid": "AROAAAAAAAAAAAAAAAAAA:s1",
        "aws:tokenissuetime": "2023-11-14T22:13:20Z",
        "aws:multifactorauthpresent": "false",
    }
    mine = global_keys(replace(ANN, tags={"Team": "Blue"}), around)
    assert (mine["aws:username"], mine["aws:principaltag/team"]) == (("ann",), ("Blue",))
    assert "aws:tokenissuetime" not in mine
    assert "aws:multifactorauthpresent" not in mine
