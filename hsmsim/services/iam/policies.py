"""Managed policies: AWS's own, which nobody changes, and the account's."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from msgspec import field

from hsmsim.errors import AwsError
from hsmsim.services.iam import rules, store
from hsmsim.services.iam.managed import AWS_POLICIES, SERVICE_ONLY
from hsmsim.services.iam.model import MANAGED_SIZE, POLICIES, POLICY_TAGS, VERSIONS, ManagedPolicy, Version
from hsmsim.services.iam.service import Iam, Paged, Tag, new_id, now, on, on_policy, operation, pairs, stamp, tag_list
from hsmsim.services.kernel import Access, Call, Mode, Request, Response

if TYPE_CHECKING:
    from collections.abc import Mapping


class CreatePolicy(Request, frozen=True):
    """A new policy."""

    policy_name: str
    policy_document: str
    path: str = "/"
    description: str = ""
    tags: list[Tag] = field(default_factory=list)


class OfPolicy(Request, frozen=True):
    """A managed policy."""

    policy_arn: str


class PagedOfPolicy(Paged, frozen=True, kw_only=True):
    """A page about a managed policy."""

    policy_arn: str


class ListPolicies(Paged, frozen=True, kw_only=True):
    """Which policies."""

    scope: str = "All"
    only_attached: bool = False
    path_prefix: str = "/"
    policy_usage_filter: str = ""


class ListEntities(Paged, frozen=True, kw_only=True):
    """Who has a policy."""

    policy_arn: str
    entity_filter: str = ""
    path_prefix: str = "/"
    policy_usage_filter: str = ""


class CreateVersion(Request, frozen=True):
    """A new document."""

    policy_arn: str
    policy_document: str
    set_as_default: bool = False


class OfVersion(Request, frozen=True):
    """One document."""

    policy_arn: str
    version_id: str


class TagPolicy(Request, frozen=True):
    """Tags to set."""

    policy_arn: str
    tags: list[Tag]


class UntagPolicy(Request, frozen=True):
    """Tags to remove."""

    policy_arn: str
    tag_keys: list[str]


# ---- finding -----------------------------------------------------------------------------------------------------


def find(call: Call, arn: str) -> ManagedPolicy | None:
    """Return AWS's policy of this ARN, or the account's own."""
    if arn in AWS_POLICIES:
        return AWS_POLICIES[arn][0]
    found = store.policy_named(call.tx, call.account, arn.rpartition("/")[2])
    return found if found is not None and found.arn == arn else None


def need(call: Call, arn: str) -> ManagedPolicy:
    """Return it; NoSuchEntity."""
    found = find(call, arn)
    if found is None:
        raise rules.no_such(f"Policy {arn} was not found.")
    return found


def need_own(call: Call, arn: str) -> ManagedPolicy:
    """Return a policy that the account may change."""
    if arn.startswith("arn:aws:iam::aws:"):
        raise AwsError("AccessDenied", f"{arn} is a policy of AWS, which nobody can change.", 403)
    return need(call, arn)


def attachable(call: Call, arn: str, *, boundary: bool = False) -> None:
    """NoSuchEntity, InvalidInput: a policy that cannot be attached, or be a boundary."""
    if find(call, arn) is None:
        what = f"Scope ARN: {arn}" if boundary else f"Policy {arn}"
        raise rules.no_such(f"{what} does not exist or is not attachable.")
    if arn in SERVICE_ONLY:
        raise AwsError("PolicyNotAttachable", "Cannot attach a Service Role Policy to a Customer Role.")


def _documents(call: Call, policy: ManagedPolicy) -> list[Version]:
    if policy.arn in AWS_POLICIES:
        return [AWS_POLICIES[policy.arn][1]]
    return store.versions(call.tx, policy.id)


def _checked(document: str) -> str:
    if rules.size(document) > MANAGED_SIZE:
        raise rules.quota("PolicySize", MANAGED_SIZE)
    rules.read_document(document)
    return document


# ---- shapes ------------------------------------------------------------------------------------------------------


def _policy(policy: ManagedPolicy, used: tuple[Mapping[str, int], Mapping[str, int]]) -> dict[str, Any]:
    return {
        "PolicyName": policy.name,
        "PolicyId": policy.id,
        "Arn": policy.arn,
        "Path": policy.path,
        "DefaultVersionId": f"v{policy.default}",
        "AttachmentCount": used[0].get(policy.arn, 0),
        "PermissionsBoundaryUsageCount": used[1].get(policy.arn, 0),
        "IsAttachable": policy.arn not in SERVICE_ONLY,
        "CreateDate": stamp(policy.created),
        "UpdateDate": stamp(policy.updated),
    }


def _details(call: Call, policy: ManagedPolicy) -> dict[str, Any]:
    """A policy as it is shown alone."""
    tags = store.tags(call.tx, policy.id)
    shown = _policy(policy, store.usage(call.tx, call.account))
    shown |= {"Description": policy.description} if policy.description else {}
    return shown | ({"Tags": tag_list(tags)} if tags else {})


def _version(policy: ManagedPolicy, version: Version, *, document: bool = False) -> dict[str, Any]:
    shown = {
        "VersionId": version.id,
        "IsDefaultVersion": version.number == policy.default,
        "CreateDate": stamp(version.created),
    }
    return shown | ({"Document": rules.encoded(version.document)} if document else {})


# ---- policies ----------------------------------------------------------------------------------------------------


def _on_new(_iam: Iam, call: Call, request: CreatePolicy) -> Access:
    arn = f"arn:aws:iam::{call.account}:policy{request.path}{request.policy_name}"
    tags: dict[str, str | list[str]] = {f"aws:RequestTag/{tag.key}": tag.value for tag in request.tags}
    if request.tags:
        tags["aws:TagKeys"] = [tag.key for tag in request.tags]
    return Access("iam:CreatePolicy", arn, call.account, context=tags)


@operation(CreatePolicy, Mode.WRITE, _on_new)
def create_policy(iam: Iam, call: Call, request: CreatePolicy) -> Response:
    """CreatePolicy."""
    document = _checked(request.policy_document)
    if store.policy_named(call.tx, call.account, request.policy_name):
        raise rules.exists(f"A policy called {request.policy_name} already exists. Duplicate names are not allowed.")
    if len(store.policies_of(call.tx, call.account)) >= POLICIES:
        raise rules.quota("PoliciesPerAccount", POLICIES)
    time = now(call)
    new = ManagedPolicy(
        new_id(call, "ANPA"), call.account, request.policy_name, request.path, request.description, time, time, 1
    )
    store.add_policy(call.tx, new, document)
    store.set_tags(call.tx, new.id, rules.merged_tags({}, pairs(request.tags), POLICY_TAGS, "TagsPerPolicy"))
    iam.directory.changed(call, policy=new.arn)
    return {"Policy": _details(call, new)}


@operation(OfPolicy, Mode.READ, on_policy)
def get_policy(_iam: Iam, call: Call, request: OfPolicy) -> Response:
    """GetPolicy."""
    return {"Policy": _details(call, need(call, request.policy_arn))}


@operation(ListPolicies, Mode.READ, on("policy path /"))
def list_policies(_iam: Iam, call: Call, request: ListPolicies) -> Response:
    """ListPolicies."""
    found = [] if request.scope == "AWS" else store.policies_of(call.tx, call.account)
    found += [] if request.scope == "Local" else [policy for policy, _ in AWS_POLICIES.values()]
    used = {"PermissionsPolicy": ("AttachmentCount",), "PermissionsBoundary": ("PermissionsBoundaryUsageCount",)}
    counts: tuple[str, ...] = used.get(request.policy_usage_filter, ())
    if request.only_attached and not counts:
        counts = ("AttachmentCount", "PermissionsBoundaryUsageCount")
    usage = store.usage(call.tx, call.account)
    shown = [_policy(one, usage) for one in found if one.path.startswith(request.path_prefix)]
    kept = [one for one in shown if not counts or any(one[count] for count in counts)]
    taken, members = rules.page(kept, lambda one: str(one["Arn"]), request.marker, request.max_items)
    return {"Policies": list(taken), **members}


@operation(OfPolicy, Mode.WRITE, on_policy)
def delete_policy(iam: Iam, call: Call, request: OfPolicy) -> None:
    """DeletePolicy."""
    policy = need_own(call, request.policy_arn)
    having, bounded = store.users_of_policy(call.tx, call.account, policy.arn)
    if having or bounded:
        raise rules.conflict("Cannot delete a policy attached to entities.")
    if len(store.versions(call.tx, policy.id)) > 1:
        raise rules.conflict(
            "This policy has more than one version. Before you delete a policy, you must delete the policy's versions. "
            "The default version is deleted with the policy."
        )
    store.remove_policy(call.tx, policy.id)
    iam.directory.changed(call, policy=policy.arn)


@operation(ListEntities, Mode.READ, on_policy)
def list_entities_for_policy(_iam: Iam, call: Call, request: ListEntities) -> Response:
    """ListEntitiesForPolicy."""
    need(call, request.policy_arn)
    having, bounded = store.users_of_policy(call.tx, call.account, request.policy_arn)
    by_use = {"PermissionsPolicy": having, "PermissionsBoundary": bounded}
    found = {one.id: one for one in by_use.get(request.policy_usage_filter, having + bounded)}
    kinds = {"User": "user", "Group": "group", "Role": "role"}
    wanted = kinds.get(request.entity_filter)
    if request.entity_filter and wanted is None:
        raise rules.invalid(f"EntityFilter {request.entity_filter} is not one of User, Role and Group here.")
    kept = [one for one in found.values() if one.path.startswith(request.path_prefix) and wanted in {None, one.kind}]
    taken, members = rules.page(kept, lambda one: f"{one.kind}/{one.name.lower()}", request.marker, request.max_items)
    shown: dict[str, Any] = {"PolicyGroups": [], "PolicyUsers": [], "PolicyRoles": []}
    for one in taken:
        prefix = one.kind.capitalize()
        shown[f"Policy{prefix}s"].append({f"{prefix}Name": one.name, f"{prefix}Id": one.id})
    return shown | members


# ---- versions ----------------------------------------------------------------------------------------------------


@operation(CreateVersion, Mode.WRITE, on_policy)
def create_policy_version(iam: Iam, call: Call, request: CreateVersion) -> Response:
    """CreatePolicyVersion."""
    policy = need_own(call, request.policy_arn)
    document = _checked(request.policy_document)
    if len(store.versions(call.tx, policy.id)) >= VERSIONS:
        raise rules.limit(
            f"A managed policy can have up to {VERSIONS} versions. Before you create a new version, you must delete an "
            "existing version."
        )
    version = store.add_version(call.tx, policy.id, document, now(call))
    if request.set_as_default:
        store.set_default(call.tx, policy.id, version.number, now(call))
        policy = replace(policy, default=version.number)
    iam.directory.changed(call, policy=policy.arn)
    return {"PolicyVersion": _version(policy, version)}


@operation(OfVersion, Mode.READ, on_policy)
def get_policy_version(_iam: Iam, call: Call, request: OfVersion) -> Response:
    """GetPolicyVersion."""
    policy = need(call, request.policy_arn)
    return {"PolicyVersion": _version(policy, _need_version(call, policy, request.version_id), document=True)}


def _need_version(call: Call, policy: ManagedPolicy, version_id: str) -> Version:
    number = rules.version_number(version_id)
    for version in _documents(call, policy):
        if version.number == number:
            return version
    raise rules.no_such(f"Policy {policy.arn} version {version_id} does not exist or is not attachable.")


@operation(PagedOfPolicy, Mode.READ, on_policy)
def list_policy_versions(_iam: Iam, call: Call, request: PagedOfPolicy) -> Response:
    """ListPolicyVersions, newest first."""
    policy = need(call, request.policy_arn)
    found = _documents(call, policy)
    newest = max(one.number for one in found)
    taken, members = rules.page(found, lambda one: f"{newest - one.number:09d}", request.marker, request.max_items)
    return {"Versions": [_version(policy, one) for one in taken], **members}


@operation(OfVersion, Mode.WRITE, on_policy)
def set_default_policy_version(iam: Iam, call: Call, request: OfVersion) -> None:
    """SetDefaultPolicyVersion."""
    policy = need_own(call, request.policy_arn)
    version = _need_version(call, policy, request.version_id)
    store.set_default(call.tx, policy.id, version.number, now(call))
    iam.directory.changed(call, policy=policy.arn)


@operation(OfVersion, Mode.WRITE, on_policy)
def delete_policy_version(_iam: Iam, call: Call, request: OfVersion) -> None:
    """DeletePolicyVersion."""
    policy = need_own(call, request.policy_arn)
    version = _need_version(call, policy, request.version_id)
    if version.number == policy.default:
        raise rules.conflict("Cannot delete the default version of a policy.")
    store.remove_version(call.tx, policy.id, version.number)


# ---- tags --------------------------------------------------------------------------------------------------------


@operation(TagPolicy, Mode.WRITE, on_policy)
def tag_policy(iam: Iam, call: Call, request: TagPolicy) -> None:
    """TagPolicy."""
    policy = need_own(call, request.policy_arn)
    before = store.tags(call.tx, policy.id)
    store.set_tags(call.tx, policy.id, rules.merged_tags(before, pairs(request.tags), POLICY_TAGS, "TagsPerPolicy"))
    iam.directory.changed(call, policy=policy.arn)


@operation(UntagPolicy, Mode.WRITE, on_policy)
def untag_policy(iam: Iam, call: Call, request: UntagPolicy) -> None:
    """UntagPolicy."""
    policy = need_own(call, request.policy_arn)
    store.set_tags(call.tx, policy.id, rules.without_tags(store.tags(call.tx, policy.id), request.tag_keys))
    iam.directory.changed(call, policy=policy.arn)


@operation(PagedOfPolicy, Mode.READ, on_policy)
def list_policy_tags(_iam: Iam, call: Call, request: PagedOfPolicy) -> Response:
    """ListPolicyTags."""
    tags = store.tags(call.tx, need(call, request.policy_arn).id)
    taken, members = rules.page(sorted(tags), str, request.marker, request.max_items)
    return {"Tags": tag_list({key: tags[key] for key in taken}), **members}
