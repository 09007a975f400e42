"""Roles, and those that belong to a service."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from msgspec import field

from hsmsim.authz.document import Purpose
from hsmsim.errors import AwsError
from hsmsim.services.iam import rules, store
from hsmsim.services.iam.entities import ROLE, PagedByPath, common, create, delete, listed, page
from hsmsim.services.iam.model import PREFIXES, ROLE_SESSION_S, TRUST_SIZE, Entity
from hsmsim.services.iam.service import (
    Iam,
    Tag,
    boundary_members,
    changeable,
    need,
    new_id,
    now,
    on,
    on_entity,
    operation,
    pairs,
    tag_list,
)
from hsmsim.services.kernel import Access, Call, Mode, Request, Response

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hsmsim.services.iam.directory import Directory


class CreateRole(Request, frozen=True):
    """A new role."""

    role_name: str
    assume_role_policy_document: str
    path: str = "/"
    description: str = ""
    max_session_duration: int = ROLE_SESSION_S
    permissions_boundary: str = ""
    tags: list[Tag] = field(default_factory=list)


class OfRole(Request, frozen=True):
    """A role."""

    role_name: str


class UpdateRole(Request, frozen=True):
    """What else a role has."""

    role_name: str
    description: str | None = None
    max_session_duration: int | None = None


class UpdateTrust(Request, frozen=True):
    """A new trust policy."""

    role_name: str
    policy_document: str


class CreateServiceLinkedRole(Request, frozen=True):
    """The role of a service."""

    aws_service_name: str = field(name="AWSServiceName")
    description: str = ""


class UpdateRoleDescription(Request, frozen=True):
    """The older way to change a description."""

    role_name: str
    description: str


def _role(found: Entity, tags: Mapping[str, str], *, details: bool = True) -> dict[str, Any]:
    shown = common(found) | {"AssumeRolePolicyDocument": rules.encoded(found.trust)}
    shown["MaxSessionDuration"] = found.max_session
    if found.description:
        shown["Description"] = found.description
    if not details:
        return shown
    return shown | boundary_members(found) | ({"Tags": tag_list(tags)} if tags else {})


def _trust(call: Call, document: str) -> str:
    """Check a trust policy; MalformedPolicyDocument, LimitExceeded."""
    if rules.size(document) > TRUST_SIZE:
        raise rules.quota("ACLSizePerRole", TRUST_SIZE)
    policy = rules.read_document(document, Purpose.TRUST)
    for statement in policy.statements:
        principals = statement.principals
        if statement.not_action or not all(one.pattern.lower().startswith("sts:") for one in statement.actions):
            text = "AssumeRole policy may only specify STS AssumeRole actions."
            raise AwsError("MalformedPolicyDocument", text)
        for arn in sorted(principals.arns if principals else ()):
            _need_principal(call, arn)
    return document


def _need_principal(call: Call, arn: str) -> None:
    """Refuse a user or role that its account, known here, does not have. Other accounts are not ours to look into."""
    _, _, service, _, account, tail = arn.split(":", 5)
    if service != "iam" or account not in store.accounts(call.tx):
        return
    found = store.entities(call.tx, store.ENTITIES.c.account == account)
    if not any(one.arn == arn for one in found if one.kind.value == tail.partition("/")[0]):
        raise AwsError("MalformedPolicyDocument", f'Invalid principal in policy: "AWS":"{arn}"')


@operation(CreateRole, Mode.WRITE, on_entity(ROLE))
def create_role(iam: Iam, call: Call, request: CreateRole) -> Response:
    """CreateRole."""
    new = Entity(
        id=new_id(call, PREFIXES[ROLE]),
        account=call.account,
        kind=ROLE,
        name=request.role_name,
        path=request.path,
        created=now(call),
        boundary=request.permissions_boundary,
        trust=_trust(call, request.assume_role_policy_document),
        description=request.description,
        max_session=request.max_session_duration,
    )
    if new.path.startswith("/aws-service-role/"):
        raise rules.invalid("The path /aws-service-role/ is reserved for service-linked roles.")
    tags = create(iam, call, new, pairs(request.tags))
    return {"Role": _role(new, tags)}


@operation(OfRole, Mode.READ, on_entity(ROLE))
def get_role(_iam: Iam, call: Call, request: OfRole) -> Response:
    """GetRole."""
    found = need(call, ROLE, request.role_name)
    return {"Role": _role(found, store.tags(call.tx, found.id)) | {"RoleLastUsed": {}}}


@operation(PagedByPath, Mode.READ, on("arn:aws:iam::{account}:role/"))
def list_roles(_iam: Iam, call: Call, request: PagedByPath) -> Response:
    """ListRoles, without tags and boundaries, as AWS does."""
    taken, members = page(listed(call, ROLE, request.path_prefix), request)
    return {"Roles": [_role(one, {}, details=False) for one in taken], **members}


@operation(UpdateRole, Mode.WRITE, on_entity(ROLE))
def update_role(iam: Iam, call: Call, request: UpdateRole) -> Response:
    """UpdateRole; a duration that is left out becomes one hour again, as AWS documents."""
    found = changeable(need(call, ROLE, request.role_name))
    description = found.description if request.description is None else request.description
    duration = request.max_session_duration or ROLE_SESSION_S
    store.change_entity(call.tx, found.id, description=description, max_session=duration)
    iam.directory.changed(call, entity=found.id)
    return {}


@operation(UpdateRoleDescription, Mode.WRITE, on_entity(ROLE))
def update_role_description(iam: Iam, call: Call, request: UpdateRoleDescription) -> Response:
    """UpdateRoleDescription: of a service-linked role too."""
    found = need(call, ROLE, request.role_name)
    store.change_entity(call.tx, found.id, description=request.description)
    iam.directory.changed(call, entity=found.id)
    return {"Role": _role(need(call, ROLE, request.role_name), store.tags(call.tx, found.id))}


@operation(UpdateTrust, Mode.WRITE, on_entity(ROLE))
def update_assume_role_policy(iam: Iam, call: Call, request: UpdateTrust) -> None:
    """UpdateAssumeRolePolicy."""
    found = changeable(need(call, ROLE, request.role_name))
    store.change_entity(call.tx, found.id, trust=_trust(call, request.policy_document))
    iam.directory.changed(call, entity=found.id)


@operation(OfRole, Mode.WRITE, on_entity(ROLE))
def delete_role(iam: Iam, call: Call, request: OfRole) -> None:
    """DeleteRole."""
    delete(iam, call, changeable(need(call, ROLE, request.role_name)))


# ---- service-linked roles ----------------------------------------------------------------------------------------

# Principal -> the role's name, the name of its policy.
_LINKED: Final = {
    "cloudhsm.amazonaws.com": ("AWSServiceRoleForCloudHSM", "CloudHSMServiceRolePolicy"),
    "cks.kms.amazonaws.com": (
        "AWSServiceRoleForKeyManagementServiceCustomKeyStores",
        "AWSKeyManagementServiceCustomKeyStoresServiceRolePolicy",
    ),
}


def linked_role(service: str) -> tuple[str, str]:
    """Return name and path of a service's role; InvalidInput if the service has none here."""
    if service not in _LINKED:
        known = ", ".join(_LINKED)
        raise AwsError("InvalidInput", f"Service Name {service} is not valid. Those with a role here are: {known}.")
    return _LINKED[service][0], f"/aws-service-role/{service}/"


def _on_linked(_iam: Iam, call: Call, request: CreateServiceLinkedRole) -> Access:
    return _to_link(call, request.aws_service_name)


def _to_link(call: Call, service: str) -> Access:
    name, path = linked_role(service)
    arn = f"arn:aws:iam::{call.account}:role{path}{name}"
    return Access("iam:CreateServiceLinkedRole", arn, call.account, context={"iam:AWSServiceName": service})


@operation(CreateServiceLinkedRole, Mode.WRITE, _on_linked)
def create_service_linked_role(iam: Iam, call: Call, request: CreateServiceLinkedRole) -> Response:
    """CreateServiceLinkedRole."""
    name, _ = linked_role(request.aws_service_name)
    if store.entity(call.tx, call.account, ROLE, name):
        text = f"Service role name {name} has been taken in this account, please try a different suffix."
        raise AwsError("InvalidInput", text)
    return {"Role": _role(link(iam, call, request.aws_service_name, request.description), {})}


def link(iam: Iam, call: Call, service: str, description: str = "") -> Entity:
    """Make the service's role with its policy, or return the one that is there."""
    name, path = linked_role(service)
    found = store.entity(call.tx, call.account, ROLE, name)
    if found is not None:
        return found
    principal = {"Effect": "Allow", "Principal": {"Service": [service]}, "Action": ["sts:AssumeRole"]}
    trust = json.dumps({"Version": "2012-10-17", "Statement": [principal]}, separators=(",", ":"))
    new = Entity(new_id(call, PREFIXES[ROLE]), call.account, ROLE, name, path, now(call))
    role = replace(new, trust=trust, description=description, service=service)
    create(iam, call, role, [])
    store.attach(call.tx, role.id, f"arn:aws:iam::aws:policy/aws-service-role/{_LINKED[service][1]}")
    iam.directory.changed(call, entity=role.id)
    return role


class LinkedRoles:
    """What other services need: their own role in the caller's account, made when it is first needed."""

    def __init__(self, directory: Directory) -> None:
        self._iam = Iam(directory)

    def access(self, call: Call, service: str) -> list[Access]:
        """What the caller must be allowed for `ensure`: nothing where the role is there."""
        name, _ = linked_role(service)
        known = self._iam.directory.named(call.account, ROLE, name)
        return [] if known else [_to_link(call, service)]

    def ensure(self, call: Call, service: str) -> str:
        """Return the role's ARN; make the role in the call's transaction if there is none."""
        return link(self._iam, call, service).arn
