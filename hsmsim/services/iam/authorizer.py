"""The gateway's Authorizer: gathers the policies that have a say, asks hsmsim.authz, and says no in AWS's words."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from hsmsim.authz.context import Circumstances, global_keys, lowered
from hsmsim.authz.document import Policy, Purpose, parse
from hsmsim.authz.evaluate import EVERYTHING, Decision, Policies, Question, evaluate
from hsmsim.authz.principal import Kind
from hsmsim.errors import AwsError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hsmsim.authz.principal import Caller
    from hsmsim.services.iam.directory import Directory, Principal
    from hsmsim.services.kernel import Access, Call

_EC2: Final = "ec2"
_WITHOUT_REASON: Final = {"sts:AssumeRole"}
"""A stranger does not learn whether there is such a role."""


def identity_policies(directory: Directory, principal: Principal) -> tuple[Policy, ...]:
    """Inline and attached policies of an entity and of its groups."""
    groups = [directory.principal(id_) for id_ in principal.groups]
    return tuple(
        document for one in (principal, *(group for group in groups if group)) for document in _own(directory, one)
    )


def _own(directory: Directory, principal: Principal) -> Iterable[Policy]:
    yield from principal.inline
    for arn in principal.attached:
        managed = directory.managed(arn)
        if managed is not None:
            yield managed.document


def policies_of(directory: Directory, caller: Caller) -> Policies:
    """The identity side of a caller."""
    if caller.kind is Kind.SERVICE:
        return Policies()
    session = tuple(parse(text) for text in caller.session_policies) or None
    if caller.kind is Kind.FEDERATED and session is None:
        session = ()  # a federated user has what its session policies allow: without any, nothing
    owner = caller.issuer_id or caller.user_id
    if owner == caller.account:
        return Policies((EVERYTHING,), session=session)
    principal = directory.principal(owner)
    if principal is None:
        return Policies()
    boundary = directory.managed(principal.entity.boundary) if principal.entity.boundary else None
    return Policies(identity_policies(directory, principal), boundary.document if boundary else None, session)


def _refuse_bare_sessions(caller: Caller, access: Access) -> None:
    """GetSessionToken without MFA, and GetFederationToken, give credentials that IAM does not take."""
    if access.action.startswith("iam:") and caller.issued and caller.kind is not Kind.ROLE:
        raise AwsError("InvalidClientTokenId", "The security token included in the request is invalid", 403)


class IamAuthorizer:
    """Implements the kernel's Authorizer. The code is AccessDenied; the gateway gives it the service's name for it."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def authorize(self, call: Call, access: Access) -> None:
        """Return if the caller may do this; AwsError, 403, with AWS's sentence."""
        _refuse_bare_sessions(call.caller, access)
        decision = self.decide(call, access)
        if decision.allowed:
            return
        start = "You are not authorized to perform this operation. " if call.service == _EC2 else ""
        where = "" if access.resource == "*" else f" on resource: {access.resource}"
        text = f"User: {call.caller.arn} is not authorized to perform: {access.action}{where}"
        reason = "" if access.action in _WITHOUT_REASON else f" {decision.reason(access.action)}"
        raise AwsError("AccessDenied", f"{start}{text}{reason}", 403)

    def decide(self, call: Call, access: Access) -> Decision:
        """Evaluate."""
        owner = access.account or call.caller.account
        around = Circumstances(
            call.clock.time(), call.region, call.source_ip, call.user_agent, secure=call.secure, owner=owner
        )
        context = global_keys(call.caller, around) | lowered(access.context)
        policies = policies_of(self._directory, call.caller)
        if access.policy is not None or access.sole:
            resource = parse(access.policy, Purpose.RESOURCE) if access.policy is not None else None
            policies = replace(policies, resource=resource, sole=access.sole)
        return evaluate(Question(call.caller, access.action, access.resource, owner, context), policies)
