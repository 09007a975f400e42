"""STS's operations. All from memory: a session is its token (hsmsim.authz.session), so nothing is stored."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from msgspec import field

from hsmsim.authz.context import tag_keys
from hsmsim.authz.principal import Kind, access_key_id, account_of_key, new_secret
from hsmsim.authz.session import Session, issue
from hsmsim.errors import AwsError
from hsmsim.services.kernel import Access, Call, Mode, Nothing, Request, Response, Service
from hsmsim.services.sts import rules
from hsmsim.services.sts.model import HOUR_S, USER_SESSION_S, Roles

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hsmsim.authz.principal import Role

_KEY_ID: Final = re.compile(r"A[A-Z]{3}[A-Z2-7]{16}")
_ROLE_ARN: Final = re.compile(r"arn:aws:iam::(\d{12}):role/[\w+=,.@/-]+", re.ASCII)

Run: TypeAlias = Callable[[Roles, Call, Any], Response]


class Tag(Request, frozen=True):
    """A session tag."""

    key: str
    value: str


class PolicyDescriptor(Request, frozen=True):
    """A managed policy that narrows the session."""

    arn: str = field(name="arn", default="")


class AssumeRole(Request, frozen=True):
    """AssumeRole's members, but MFA and provided contexts."""

    role_arn: str
    role_session_name: str
    policy_arns: list[PolicyDescriptor] = field(default_factory=list)
    policy: str = ""
    duration_seconds: int = HOUR_S
    tags: list[Tag] = field(default_factory=list)
    transitive_tag_keys: list[str] = field(default_factory=list)
    external_id: str = ""
    source_identity: str = ""


class GetSessionToken(Request, frozen=True):
    """GetSessionToken's members, but MFA."""

    duration_seconds: int = USER_SESSION_S


class GetFederationToken(Request, frozen=True):
    """GetFederationToken's members."""

    name: str
    policy: str = ""
    policy_arns: list[PolicyDescriptor] = field(default_factory=list)
    duration_seconds: int = USER_SESSION_S
    tags: list[Tag] = field(default_factory=list)


class GetAccessKeyInfo(Request, frozen=True):
    """A key id of whatever account."""

    access_key_id: str


def build(roles: Roles) -> Service:
    """Return the service over IAM's roles."""
    service = Service("sts", "sts", "sts.amazonaws.com", "sts", denied="AccessDenied", unsupported="NotImplemented")
    add = service.operation
    nobody_asked: Callable[[Call, Any], Iterable[Access]] = lambda _call, _request: ()  # noqa: E731 - a table's entry
    add(Nothing, Mode.INLINE, nobody_asked)(get_caller_identity)
    add(GetAccessKeyInfo, Mode.INLINE)(get_access_key_info)
    # CloudTrail shows their answers, without the secret, and calls two of the three read-only all the same.
    makers: list[tuple[type[Request], Callable[[Call, Any], Iterable[Access]], Run, bool]] = [
        (GetSessionToken, nobody_asked, get_session_token, True),
        (GetFederationToken, _on_federation, get_federation_token, False),
        (AssumeRole, partial(_on_role, roles), assume_role, True),
    ]
    for request, access, run, reads in makers:
        add(request, Mode.INLINE, access, name=request.__name__, read_only=reads, shows_response=True)(
            partial(run, roles)
        )
    return service


# ---- who ---------------------------------------------------------------------------------------------------------


def get_caller_identity(call: Call, _request: Nothing) -> Response:
    """GetCallerIdentity: nobody needs a right to it."""
    return {"UserId": call.caller.user_id, "Account": call.caller.account, "Arn": call.caller.arn}


def get_access_key_info(_call: Call, request: GetAccessKeyInfo) -> Response:
    """GetAccessKeyInfo: the account is in the id."""
    if not _KEY_ID.fullmatch(request.access_key_id):
        raise AwsError("ValidationError", f"{request.access_key_id} is no access key id.")
    return {"Account": account_of_key(request.access_key_id)}


# ---- sessions of roles -------------------------------------------------------------------------------------------


def _on_role(roles: Roles, call: Call, request: AssumeRole) -> list[Access]:
    """What the caller and the role's trust policy must allow."""
    found = _ROLE_ARN.fullmatch(request.role_arn)
    if found is None:
        raise AwsError("ValidationError", f"{request.role_arn} is invalid")
    if call.caller.kind is Kind.ROOT:
        raise rules.denied("Roles may not be assumed by root accounts.")
    if call.caller.kind is Kind.FEDERATED:
        raise rules.denied("Cannot call AssumeRole with the credentials of a federated user")
    role = roles.role(request.role_arn)
    context = _role_keys(request, role)
    actions = ["sts:AssumeRole"]
    actions += ["sts:TagSession"] if request.tags or call.caller.transitive else []
    actions += ["sts:SetSourceIdentity"] if request.source_identity or call.caller.source_identity else []
    policy = role.trust if role else None
    return [Access(action, request.role_arn, found[1], policy, context, sole=True) for action in actions]


def _role_keys(request: AssumeRole, role: Role | None) -> dict[str, str | list[str]]:
    keys: dict[str, str | list[str]] = {"sts:RoleSessionName": request.role_session_name}
    keys |= _tag_context(request.tags) | (tag_keys("aws:ResourceTag", role.tags) if role else {})
    for key, value in (("sts:ExternalId", request.external_id), ("sts:SourceIdentity", request.source_identity)):
        if value:
            keys[key] = value
    if request.transitive_tag_keys:
        keys["sts:TransitiveTagKeys"] = list(request.transitive_tag_keys)
    return keys


def _tag_context(tags: list[Tag]) -> dict[str, str | list[str]]:
    if not tags:
        return {}
    return {**tag_keys("aws:RequestTag", dict(_pairs(tags))), "aws:TagKeys": [tag.key for tag in tags]}


def assume_role(roles: Roles, call: Call, request: AssumeRole) -> Response:
    """AssumeRole."""
    role = roles.role(request.role_arn)
    if role is None:  # deleted since it was authorised
        raise rules.denied(f"User: {call.caller.arn} is not authorized to perform: sts:AssumeRole")
    duration = rules.role_duration(request.duration_seconds, role, call.caller)
    tags, transitive = rules.session_tags(call.caller, role.tags, _pairs(request.tags), request.transitive_tag_keys)
    arns, policies, packed = _narrowing(roles, request.policy, request.policy_arns, request.tags)
    name = request.role_session_name
    arn = f"arn:aws:sts::{role.account}:assumed-role/{role.name}/{name}"
    source = rules.same_source(call.caller, request.source_identity)
    session = _session(
        call,
        Kind.ROLE,
        role.account,
        duration,
        arn=arn,
        user_id=f"{role.id}:{name}",
        name=role.name,
        issuer=role.arn,
        issuer_id=role.id,
        owner=role.id,
        tags=tags,
        transitive=transitive,
        policies=policies,
        policy_arns=arns,
        source_identity=source,
    )
    shown: dict[str, Any] = {
        "Credentials": _credentials(roles, session),
        "AssumedRoleUser": {"AssumedRoleId": session.user_id, "Arn": arn},
    }
    return shown | ({"SourceIdentity": source} if source else {}) | ({"PackedPolicySize": packed} if packed else {})


# ---- sessions of users -------------------------------------------------------------------------------------------


def get_session_token(roles: Roles, call: Call, request: GetSessionToken) -> Response:
    """GetSessionToken: the caller itself, for a while."""
    caller = call.caller
    rules.long_term(caller, "GetSessionToken")
    session = _session(
        call,
        caller.kind,
        caller.account,
        rules.user_duration(request.duration_seconds, caller),
        arn=caller.arn,
        user_id=caller.user_id,
        name=caller.name,
        owner=caller.user_id if caller.kind is Kind.USER else "",
    )
    return {"Credentials": _credentials(roles, session)}


def _on_federation(call: Call, request: GetFederationToken) -> list[Access]:
    arn = f"arn:aws:sts::{call.account}:federated-user/{request.name}"
    actions = ["sts:GetFederationToken", *(["sts:TagSession"] if request.tags else [])]
    return [Access(action, arn, call.account, context=_tag_context(request.tags)) for action in actions]


def get_federation_token(roles: Roles, call: Call, request: GetFederationToken) -> Response:
    """GetFederationToken: somebody whom the caller vouches for, within what both may do."""
    caller = call.caller
    rules.long_term(caller, "GetFederationToken")
    tags, _ = rules.session_tags(caller, {}, _pairs(request.tags), ())
    arns, policies, packed = _narrowing(roles, request.policy, request.policy_arns, request.tags)
    session = _session(
        call,
        Kind.FEDERATED,
        caller.account,
        rules.user_duration(request.duration_seconds, caller),
        arn=f"arn:aws:sts::{caller.account}:federated-user/{request.name}",
        user_id=f"{caller.account}:{request.name}",
        name=request.name,
        issuer=caller.arn,
        issuer_id=caller.user_id,
        owner=caller.user_id if caller.kind is Kind.USER else "",
        tags={**caller.tags, **tags},
        policies=policies,
        policy_arns=arns,
    )
    user = {"FederatedUserId": session.user_id, "Arn": session.arn}
    shown = {"Credentials": _credentials(roles, session), "FederatedUser": user}
    return shown | ({"PackedPolicySize": packed} if packed else {})


# ---- what they share ---------------------------------------------------------------------------------------------


def _pairs(tags: list[Tag]) -> list[tuple[str, str]]:
    return [(tag.key, tag.value) for tag in tags]


def _narrowing(
    roles: Roles, policy: str, descriptors: list[PolicyDescriptor], tags: list[Tag]
) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    """Return the ARNs, the documents and the packed size of what narrows a session."""
    arns = tuple(one.arn for one in descriptors)
    for arn in arns:
        if not roles.has_policy(arn):
            raise AwsError("InvalidParameterValue", f"{arn} is not a managed policy of this account.")
    policies = rules.session_policies(policy, arns)
    return arns, policies, rules.packed_size((*policies, *arns), _pairs(tags))


def _session(call: Call, kind: Kind, account: str, seconds: int, **more: Any) -> Session:  # noqa: ANN401 - Session's own
    """Make a session that starts now; its times are real ones (DESIGN D12)."""
    start = int(call.clock.real())
    return Session(
        access_key_id=access_key_id("ASIA", account, call.ids.token),
        secret=new_secret(call.ids.token),
        expires=float(start + seconds),
        kind=kind,
        account=account,
        issued=float(start),
        **({"issuer": "", "issuer_id": ""} | more),
    )


def _credentials(roles: Roles, session: Session) -> Mapping[str, Any]:
    return {
        "AccessKeyId": session.access_key_id,
        "SecretAccessKey": session.secret,
        "SessionToken": issue(roles.seal, session),
        "Expiration": datetime.fromtimestamp(session.expires, UTC),
    }
