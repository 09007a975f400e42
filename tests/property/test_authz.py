"""What holds for all policies and requests."""

from __future__ import annotations

import fnmatch
import itertools
import json
import re
from contextlib import suppress
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hsmsim.authz.conditions import OPERATORS
from hsmsim.authz.document import MalformedPolicy, Policy, parse
from hsmsim.authz.evaluate import Policies, Question, evaluate
from hsmsim.authz.patterns import ARN, compiled, tokenise
from hsmsim.authz.principal import Caller, Kind

ACCOUNT = "111122223333"
ANN = Caller(Kind.USER, ACCOUNT, f"arn:aws:iam::{ACCOUNT}:user/ann", "AIDA", name="ann")
ACTIONS = ["kms:Sign", "kms:Verify", "s3:GetObject", "cloudhsm:CreateHsm"]
RESOURCES = ["arn:aws:kms:eu-west-1:111122223333:key/a", "arn:aws:s3:::bucket/x", "arn:aws:s3:::bucket/y"]
VALUES = ["a", "b", "7", "true", "10.0.0.1", "2026-04-01", "arn:aws:s3:::bucket"]
PREPARED = {
    "Numeric": ["7", "8"],
    "Date": ["2026-04-01"],
    "Bool": ["true"],
    "Null": ["true", "false"],
    "Binary": ["YQ=="],
    "Ip": ["10.0.0.0/8"],
    "NotIp": ["10.0.0.0/8"],
}


def _fitting(operator: str) -> list[str]:
    return next((values for start, values in PREPARED.items() if operator.startswith(start)), VALUES)


@st.composite
def conditions(draw: Any) -> dict[str, Any]:
    name = draw(st.sampled_from(sorted(OPERATORS)))
    values = draw(st.lists(st.sampled_from(_fitting(name)), min_size=1, max_size=2))
    if name != "Null":
        name = (
            draw(st.sampled_from(["", "ForAllValues:", "ForAnyValue:"]))
            + name
            + draw(st.sampled_from(["", "IfExists"]))
        )
    return {name: {draw(st.sampled_from(["aws:K1", "aws:K2"])): values}}


@st.composite
def statements(draw: Any, effect: str | None = None) -> dict[str, Any]:
    return {
        "Effect": effect or draw(st.sampled_from(["Allow", "Deny"])),
        draw(st.sampled_from(["Action", "NotAction"])): draw(
            st.lists(st.sampled_from([*ACTIONS, "*", "kms:*", "s3:Get*"]), min_size=1, max_size=2)
        ),
        draw(st.sampled_from(["Resource", "NotResource"])): draw(
            st.lists(st.sampled_from([*RESOURCES, "*", "arn:aws:s3:::bucket/?"]), min_size=1, max_size=2)
        ),
        "Condition": draw(st.one_of(st.just({}), conditions())),
    }


CONTEXTS = st.dictionaries(
    st.sampled_from(["aws:k1", "aws:k2"]), st.lists(st.sampled_from(VALUES), max_size=3).map(tuple), max_size=2
)
QUESTIONS = st.builds(
    Question, st.just(ANN), st.sampled_from(ACTIONS), st.sampled_from(RESOURCES), st.just(ACCOUNT), CONTEXTS
)
LISTS = st.lists(statements(), max_size=5)


def policy(found: list[dict[str, Any]]) -> tuple[Policy, ...]:
    return (parse(json.dumps({"Version": "2012-10-17", "Statement": found})),) if found else ()


def allowed(question: Question, found: list[dict[str, Any]]) -> bool:
    return evaluate(question, Policies(policy(found))).allowed


@given(QUESTIONS, LISTS, st.randoms(use_true_random=False))
def test_order_does_not_matter(question: Question, found: list[dict[str, Any]], random: Any) -> None:
    shuffled = list(found)
    random.shuffle(shuffled)
    assert allowed(question, shuffled) == allowed(question, found)


@given(QUESTIONS, LISTS)
def test_many_documents_are_one(question: Question, found: list[dict[str, Any]]) -> None:
    apart = tuple(itertools.chain.from_iterable(policy([one]) for one in found))
    assert evaluate(question, Policies(apart)).allowed == allowed(question, found)


@given(QUESTIONS, LISTS, statements("Allow"))
def test_another_allow_takes_nothing_away(
    question: Question, found: list[dict[str, Any]], more: dict[str, Any]
) -> None:
    assert allowed(question, [*found, more]) >= allowed(question, found)


@given(QUESTIONS, LISTS, statements("Deny"))
def test_another_deny_gives_nothing(question: Question, found: list[dict[str, Any]], more: dict[str, Any]) -> None:
    assert allowed(question, [*found, more]) <= allowed(question, found)


@given(QUESTIONS, LISTS)
def test_an_explicit_deny_wins_everywhere(question: Question, found: list[dict[str, Any]]) -> None:
    everything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    stop = policy([{**everything, "Effect": "Deny"}])
    for policies in (
        Policies((*policy(found), *stop)),
        Policies(policy([everything]), boundary=stop[0]),
        Policies(policy([everything]), session=stop),
    ):
        decision = evaluate(question, policies)
        assert (decision.allowed, decision.explicit) == (False, True)


@given(QUESTIONS, statements("Allow"), st.sampled_from(["Action", "Resource"]))
def test_not_action_and_not_resource_are_complements(question: Question, found: dict[str, Any], element: str) -> None:
    other = f"Not{element}"
    values = found.pop(element, None) or found.pop(other)
    bare = {**found, "Condition": {}}
    elsewhere = "Resource" if element == "Action" else "Action"
    bare = {key: value for key, value in bare.items() if elsewhere not in key} | {elsewhere: "*"}
    assert allowed(question, [bare | {element: values}]) != allowed(question, [bare | {other: values}])


@given(QUESTIONS, LISTS, LISTS)
def test_a_boundary_and_a_session_policy_are_intersections(
    question: Question, found: list[dict[str, Any]], narrow: list[dict[str, Any]]
) -> None:
    limit = policy(narrow or [{"Effect": "Deny", "Action": "*", "Resource": "*"}])
    both = allowed(question, found) and evaluate(question, Policies(limit)).allowed
    assert evaluate(question, Policies(policy(found), boundary=limit[0])).allowed == both
    assert evaluate(question, Policies(policy(found), session=limit)).allowed == both


@given(st.sampled_from(sorted(set(OPERATORS) - {"Null"})), st.data())
def test_a_missing_key(name: str, data: Any) -> None:
    values = data.draw(st.lists(st.sampled_from(_fitting(name)), min_size=1))
    question = Question(ANN, ACTIONS[0], RESOURCES[0], ACCOUNT, data.draw(st.sampled_from([{}, {"aws:k": ()}])))

    def answer(operator: str) -> bool:
        condition = {operator: {"aws:K": values}}
        return allowed(question, [{"Effect": "Allow", "Action": "*", "Resource": "*", "Condition": condition}])

    assert answer(name) is OPERATORS[name].negated
    assert answer(f"{name}IfExists") is True
    assert answer(f"ForAllValues:{name}") is True
    assert answer(f"ForAnyValue:{name}") is False
    assert answer(f"ForAnyValue:{name}IfExists") is True


@given(st.text(alphabet="ab*?", max_size=12), st.text(alphabet="ab\n", max_size=12))
def test_wildcards_match_as_a_shell_s_do(pattern: str, text: str) -> None:
    found = compiled(tokenise(pattern, variables=False)).fullmatch(text) is not None
    assert found is fnmatch.fnmatchcase(text, pattern)


def plainly(pattern: str, arn: ARN) -> re.Pattern[str]:
    """The same rules as a plain expression, which may take for ever."""
    out, colons = "", 0
    for index, sign in enumerate(pattern):
        inner = colons < 5 and not (arn is ARN.OPEN and index == len(pattern) - 1)
        out += {"*": "[^:]*" if inner else ".*", "?": "[^:]" if colons < 5 else "."}.get(sign, re.escape(sign))
        colons += sign == ":"
    return re.compile(out, re.DOTALL)


@given(
    st.text(alphabet="ab:*?", max_size=14),
    st.text(alphabet="ab:", max_size=14),
    st.sampled_from([ARN.PARTS, ARN.OPEN]),
)
def test_arns_match_part_by_part(pattern: str, text: str, arn: ARN) -> None:
    found = compiled(tokenise(pattern, variables=False), arn).fullmatch(text) is not None
    assert found is (plainly(pattern, arn).fullmatch(text) is not None)


@given(st.recursive(st.none() | st.booleans() | st.text(max_size=5), lambda inner: st.lists(inner) | st.dictionaries(
    st.sampled_from(["Version", "Statement", "Effect", "Action", "Resource", "Condition", "Bool", "x"]), inner
), max_leaves=12))  # fmt: skip
def test_any_json_is_a_policy_or_explained(document: Any) -> None:
    with suppress(MalformedPolicy):
        assert isinstance(parse(json.dumps(document)), Policy)
