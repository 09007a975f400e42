"""SimulateCustomPolicy and SimulatePrincipalPolicy: the evaluator, asked about a request that nobody made.

Answers have the decision, the boundary's part in it and the condition keys that were missing; not the places of the
statements that matched.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from msgspec import field

from hsmsim.authz.document import Purpose
from hsmsim.authz.evaluate import Policies, Question, evaluate
from hsmsim.authz.principal import Caller, Kind
from hsmsim.errors import AwsError
from hsmsim.services.iam import rules
from hsmsim.services.iam.authorizer import identity_policies
from hsmsim.services.iam.model import EntityKind
from hsmsim.services.iam.service import Iam, Paged, on, operation
from hsmsim.services.kernel import Access, Call, Mode, Request, Response

if TYPE_CHECKING:
    from hsmsim.services.iam.directory import Principal

_SOURCE: Final = re.compile(r"arn:aws:iam::(\d{12}):(user|group|role)/(?:.+/)?([^/]+)")
_USER: Final = re.compile(r"arn:aws:iam::(\d{12}):user/(?:.+/)?([^/]+)")
_OWNER: Final = re.compile(r"(?:arn:aws:iam::)?(\d{12})(?::root)?")


class ContextEntry(Request, frozen=True):
    """A condition key of the request."""

    context_key_name: str
    context_key_values: list[str]
    context_key_type: str = "string"


class SimulateCustomPolicy(Paged, frozen=True, kw_only=True):
    """Policies, and what would be asked."""

    policy_input_list: list[str]
    permissions_boundary_policy_input_list: list[str] = field(default_factory=list)
    action_names: list[str]
    resource_arns: list[str] = field(default_factory=list)
    resource_policy: str = ""
    resource_owner: str = ""
    caller_arn: str = ""
    context_entries: list[ContextEntry] = field(default_factory=list)


class SimulatePrincipalPolicy(SimulateCustomPolicy, frozen=True, kw_only=True):
    """The same of a user, group or role, with policies beside its own."""

    policy_source_arn: str
    policy_input_list: list[str] = field(default_factory=list)


# ---- the operations ----------------------------------------------------------------------------------------------


@operation(SimulateCustomPolicy, Mode.READ, on("*"))
def simulate_custom_policy(_iam: Iam, call: Call, request: SimulateCustomPolicy) -> Response:
    """SimulateCustomPolicy."""
    nobody = Caller(Kind.USER, call.account, f"arn:aws:iam::{call.account}:user/simulated", "")
    return _answers(request, nobody, Policies())


def _on_source(_iam: Iam, call: Call, request: SimulatePrincipalPolicy) -> Access:
    return Access("iam:SimulatePrincipalPolicy", request.policy_source_arn, call.account)


@operation(SimulatePrincipalPolicy, Mode.READ, _on_source)
def simulate_principal_policy(iam: Iam, call: Call, request: SimulatePrincipalPolicy) -> Response:
    """SimulatePrincipalPolicy."""
    principal = _principal(iam, call, request.policy_source_arn)
    entity = principal.entity
    caller = Caller(Kind.USER, entity.account, entity.arn, entity.id, name=entity.name)
    boundary = iam.directory.managed(entity.boundary) if entity.boundary else None
    own = identity_policies(iam.directory, principal)
    return _answers(request, caller, Policies(own, boundary.document if boundary else None))


def _principal(iam: Iam, call: Call, arn: str) -> Principal:
    found = _SOURCE.fullmatch(arn)
    if found is None or found[1] != call.account:
        raise AwsError("InvalidInput", f"Invalid Entity Arn: {arn} does not clearly define entity type and name.")
    known = iam.directory.named(found[1], EntityKind(found[2]), found[3])
    if known is None or known.entity.arn != arn:
        raise rules.no_entity(EntityKind(found[2]), found[3])
    return known


# ---- asking ------------------------------------------------------------------------------------------------------


def _answers(request: SimulateCustomPolicy, caller: Caller, base: Policies) -> Response:
    """Ask for every action on every resource."""
    caller = _as_caller(request.caller_arn) if request.caller_arn else caller
    owner = _account(request.resource_owner) if request.resource_owner else caller.account
    policies = _with_inputs(base, request)
    context = {entry.context_key_name.lower(): _values(entry) for entry in request.context_entries}
    questions = [
        Question(caller, action, resource, owner, context)
        for action in request.action_names
        for resource in request.resource_arns or ["*"]
    ]
    numbered = [(f"{number:06d}", _answer(question, policies)) for number, question in enumerate(questions)]
    taken, members = rules.page(numbered, lambda one: one[0], request.marker, request.max_items)
    return {"EvaluationResults": [answer for _, answer in taken], **members}


def _as_caller(arn: str) -> Caller:
    found = _USER.fullmatch(arn)
    if found is None:
        raise AwsError("InvalidInput", f"CallerArn must be the ARN of a user, not {arn}.")
    return Caller(Kind.USER, found[1], arn, "", name=found[2])


def _account(text: str) -> str:
    found = _OWNER.fullmatch(text)
    if found is None:
        raise AwsError("InvalidInput", f"ResourceOwner must be an account's id or ARN, not {text}.")
    return found[1]


def _with_inputs(base: Policies, request: SimulateCustomPolicy) -> Policies:
    more = tuple(rules.read_document(text) for text in request.policy_input_list)
    boundaries = request.permissions_boundary_policy_input_list
    if len(boundaries) > 1:
        raise AwsError("InvalidInput", "There can be one permissions boundary only.")
    boundary = rules.read_document(boundaries[0]) if boundaries else base.boundary
    resource = rules.read_document(request.resource_policy, Purpose.RESOURCE) if request.resource_policy else None
    return Policies(base.identity + more, boundary, resource=resource)


def _values(entry: ContextEntry) -> tuple[str, ...]:
    if not entry.context_key_type.endswith("List") and len(entry.context_key_values) > 1:
        raise AwsError("InvalidInput", f"{entry.context_key_name} has several values but its type is no list.")
    return tuple(entry.context_key_values)


def _answer(question: Question, policies: Policies) -> dict[str, Any]:
    decision = evaluate(question, policies)
    word = "allowed" if decision.allowed else "explicitDeny" if decision.explicit else "implicitDeny"
    shown: dict[str, Any] = {
        "EvalActionName": question.action,
        "EvalResourceName": question.resource,
        "EvalDecision": word,
        "MissingContextValues": _missing(question, policies),
    }
    if policies.boundary is not None:
        bounded = evaluate(question, Policies((policies.boundary,))).allowed
        shown["PermissionsBoundaryDecisionDetail"] = {"AllowedByPermissionsBoundary": bounded}
    return shown


def _missing(question: Question, policies: Policies) -> list[str]:
    """Condition keys that a policy looks at and the request does not have."""
    documents = (*policies.identity, policies.boundary, policies.resource)
    names = {
        condition.name
        for document in documents
        if document is not None
        for statement in document.statements
        for condition in statement.conditions
        if condition.key not in question.context
    }
    return sorted(names)
