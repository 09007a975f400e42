"""Whether a request is allowed: IAM's policy evaluation logic, within one account and across two.

Rules:
- A Deny that applies, in any policy, decides.
- Identity side: an identity-based policy allows, and the permissions boundary and the session policies, where there are
  any, allow too. The root user has no policies and is allowed everything in its account.
- Same account: the identity side or the resource's policy suffices. The policy that names a user, or a session, grants
  to it whatever boundary and session policies leave out; one that names a role (or everyone) grants to its sessions
  within them; one that names the account only lets the account's identity policies decide.
- Two accounts: the resource's policy and the identity side must both allow.
- `sole`: nothing is allowed that the resource's policy does not allow (KMS keys, roles), to root neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Final

from hsmsim.authz.document import Policy, parse
from hsmsim.authz.principal import Kind, canonical_user

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hsmsim.authz.document import Principals, Statement
    from hsmsim.authz.patterns import Context
    from hsmsim.authz.principal import Caller

EVERYTHING: Final = parse('{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"*","Resource":"*"}}')


class Source(Enum):
    """The kind of policy that decided, in the words of AWS's sentence; with an article for an explicit deny."""

    IDENTITY = ("identity-based policy", "an identity-based policy")
    BOUNDARY = ("permissions boundary", "a permissions boundary")
    SESSION = ("session policy", "a session policy")
    RESOURCE = ("resource-based policy", "a resource-based policy")


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer, the kind of policy that gave it, and whether a Deny did; sid: of the statement that denies."""

    allowed: bool
    source: Source
    explicit: bool = False
    sid: str = ""

    def reason(self, action: str) -> str:
        """Return the end of AWS's sentence; empty if it is allowed."""
        if self.allowed:
            return ""
        name, with_article = self.source.value
        if self.explicit:
            return f"with an explicit deny in {with_article}"
        return f"because no {name} allows the {action} action"


@dataclass(frozen=True, slots=True)
class Question:
    """May this caller do `action` on `resource`, which belongs to the account `owner`? context: all condition keys."""

    caller: Caller
    action: str
    resource: str
    owner: str
    context: Context


@dataclass(frozen=True, slots=True)
class Policies:
    """Everything that has a say. boundary, session, resource: None where there is none."""

    identity: tuple[Policy, ...] = ()
    boundary: Policy | None = None
    session: tuple[Policy, ...] | None = None
    resource: Policy | None = None
    sole: bool = False


class Grant(IntEnum):
    """Whom a statement of a resource's policy names, as far as it concerns the caller."""

    NONE = 0
    ACCOUNT = 1
    ROLE = 2
    SELF = 3


def evaluate(question: Question, policies: Policies) -> Decision:
    """Decide."""
    denied = _explicit(question, policies)
    if denied is not None:
        return denied
    grant = _grant(question, policies.resource)
    inside = question.caller.kind is Kind.SERVICE or question.owner == question.caller.account
    if grant is Grant.NONE and (policies.sole or not inside):
        return Decision(allowed=False, source=Source.RESOURCE)
    if inside and grant is Grant.SELF:
        return Decision(allowed=True, source=Source.RESOURCE)
    granted = inside and grant is Grant.ROLE
    needed: list[tuple[Source, tuple[Policy, ...] | None]] = [
        (Source.IDENTITY, None if granted else policies.identity),
        (Source.BOUNDARY, None if policies.boundary is None else (policies.boundary,)),
        (Source.SESSION, policies.session),
    ]
    for source, documents in needed:
        if documents is not None and not _allows(question, documents):
            return Decision(allowed=False, source=source)
    return Decision(allowed=True, source=Source.RESOURCE if granted else Source.IDENTITY)


def _explicit(question: Question, policies: Policies) -> Decision | None:
    """The first Deny that applies."""
    identity: list[tuple[Source, Iterable[Policy]]] = [
        (Source.IDENTITY, policies.identity),
        (Source.BOUNDARY, (policies.boundary,) if policies.boundary else ()),
        (Source.SESSION, policies.session or ()),
    ]
    for source, documents in identity:
        for statement in _statements(question, documents, allow=False):
            return Decision(allowed=False, source=source, explicit=True, sid=statement.sid)
    for statement in _statements(question, (policies.resource,) if policies.resource else (), allow=False):
        if _denies(statement, question.caller):
            return Decision(allowed=False, source=Source.RESOURCE, explicit=True, sid=statement.sid)
    return None


def _statements(question: Question, documents: Iterable[Policy], *, allow: bool) -> Iterable[Statement]:
    for document in documents:
        for statement in document.statements:
            if statement.allow is allow and statement.covers(question.action, question.resource, question.context):
                yield statement


def _allows(question: Question, documents: Iterable[Policy]) -> bool:
    return any(True for _ in _statements(question, documents, allow=True))


# ---- principals --------------------------------------------------------------------------------------------------


def _grant(question: Question, policy: Policy | None) -> Grant:
    """The strongest grant of the resource's policy."""
    found = Grant.NONE
    for statement in _statements(question, (policy,) if policy else (), allow=True):
        found = max(found, _granted(statement, question.caller))
    return found


def _granted(statement: Statement, caller: Caller) -> Grant:
    principals = statement.principals
    if principals is None:
        return Grant.NONE
    if statement.not_principal:
        return _widest(caller) if not any(_names(principals, one) for one in facets(caller)) else Grant.NONE
    if principals.everyone:
        return _widest(caller)
    return max((grant for grant, facet in _graded(caller) if _names(principals, facet)), default=Grant.NONE)


def _denies(statement: Statement, caller: Caller) -> bool:
    principals = statement.principals
    if principals is None:
        return False
    if statement.not_principal:
        return not all(_names(principals, one) for one in facets(caller))
    return any(_names(principals, one) for one in facets(caller))


@dataclass(frozen=True, slots=True)
class Facet:
    """One of the things that a caller is: its account, its role, itself; by ARN and by id."""

    account: str = ""
    arn: str = ""
    id: str = ""
    service: str = ""


def _graded(caller: Caller) -> list[tuple[Grant, Facet]]:
    if caller.kind is Kind.SERVICE:
        return [(Grant.SELF, Facet(service=caller.arn))]
    account = (Grant.ACCOUNT, Facet(account=caller.account))
    if caller.kind is Kind.ROOT:
        return [account]
    itself = (Grant.SELF, Facet(arn=caller.arn, id=caller.user_id))
    if caller.kind is Kind.USER:
        return [account, itself]
    if caller.issuer.endswith(":root"):
        return [account, itself]
    return [account, (Grant.ROLE, Facet(arn=caller.issuer, id=caller.issuer_id)), itself]


def facets(caller: Caller) -> list[Facet]:
    """All that the caller is."""
    return [facet for _, facet in _graded(caller)]


def _widest(caller: Caller) -> Grant:
    """What a statement about everyone grants."""
    return Grant.ROLE if caller.kind in {Kind.ROLE, Kind.FEDERATED} else Grant.SELF


def _names(principals: Principals, facet: Facet) -> bool:
    if principals.everyone:
        return True
    if facet.account:
        return facet.account in principals.accounts or canonical_user(facet.account) in principals.canonical
    if facet.service:
        return facet.service in principals.services
    return facet.arn in principals.arns or (bool(facet.id) and facet.id in principals.ids)
