"""Users, groups and roles: what is the same for the three, and users and groups themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from msgspec import field

from hsmsim.authz.principal import Kind
from hsmsim.services.iam import rules, store
from hsmsim.services.iam.model import GROUPS_PER_USER, PREFIXES, QUOTAS, Entity, EntityKind
from hsmsim.services.iam.policies import attachable
from hsmsim.services.iam.service import (
    Iam,
    Paged,
    Tag,
    boundary_members,
    need,
    new_id,
    now,
    on,
    on_entity,
    operation,
    own_name,
    pairs,
    stamp,
    tag_list,
)
from hsmsim.services.kernel import Call, Mode, Request, Response

USER: Final = EntityKind.USER
GROUP: Final = EntityKind.GROUP
ROLE: Final = EntityKind.ROLE


# ---- all three ---------------------------------------------------------------------------------------------------


def create(iam: Iam, call: Call, new: Entity, tags: list[tuple[str, str]]) -> dict[str, str]:
    """Add an entity with its tags; returns these. EntityAlreadyExists, LimitExceeded, NoSuchEntity (the boundary)."""
    kind = new.kind
    if store.entity(call.tx, call.account, kind, new.name):
        raise rules.exists(f"{kind.capitalize()} with name {new.name} already exists.")
    if store.count_entities(call.tx, call.account, kind) >= QUOTAS[kind].count:
        raise rules.quota(f"{kind.capitalize()}sPerAccount", QUOTAS[kind].count)
    if new.boundary:
        attachable(call, new.boundary, boundary=True)
    store.add_entity(call.tx, new)
    found = rules.merged_tags({}, tags, QUOTAS[kind].tags, f"TagsPer{kind.capitalize()}")
    store.set_tags(call.tx, new.id, found)
    iam.directory.changed(call, entity=new.id)
    return found


def delete(iam: Iam, call: Call, found: Entity) -> None:
    """Remove an entity; DeleteConflict where it still has policies. Who gets its name later is trusted by no role."""
    if store.attached(call.tx, found.id):
        raise rules.conflict("Cannot delete entity, must detach all policies first.")
    if store.inline(call.tx, found.id):
        raise rules.conflict("Cannot delete entity, must delete policies first.")
    store.remove_entity(call.tx, found.id)
    iam.directory.changed(call, entity=found.id)
    retrust(iam, call, found.arn, found.id)


def retrust(iam: Iam, call: Call, arn: str, instead: str) -> None:
    """In the trust policies of roles, name a user or role that is gone by its id, one that moved by its new ARN."""
    for role in store.entities(call.tx, store.ENTITIES.c.kind == ROLE.value):  # JSON can spell an ARN in many ways
        trust = rules.renamed_principal(role.trust, arn, instead)
        if trust != role.trust:
            store.change_entity(call.tx, role.id, trust=trust)
            iam.directory.changed(call, entity=role.id)


def listed(call: Call, kind: EntityKind, prefix: str) -> list[Entity]:
    """The account's entities below a path."""
    clauses = [store.ENTITIES.c.account == call.account, store.ENTITIES.c.kind == kind.value]
    return [one for one in store.entities(call.tx, *clauses) if one.path.startswith(prefix)]


def page(found: list[Entity], request: Paged) -> tuple[Any, dict[str, object]]:
    """One page, by name."""
    return rules.page(found, lambda one: one.name.lower(), request.marker, request.max_items)


def common(found: Entity) -> dict[str, Any]:
    """Return the members that all three have."""
    prefix = found.kind.capitalize()
    return {
        "Path": found.path,
        f"{prefix}Name": found.name,
        f"{prefix}Id": found.id,
        "Arn": found.arn,
        "CreateDate": stamp(found.created),
    }


class PagedByPath(Paged, frozen=True):
    """A page of those below a path."""

    path_prefix: str = "/"


# ---- users -------------------------------------------------------------------------------------------------------


class CreateUser(Request, frozen=True):
    """A new user."""

    user_name: str
    path: str = "/"
    permissions_boundary: str = ""
    tags: list[Tag] = field(default_factory=list)


class OfUser(Request, frozen=True):
    """A user."""

    user_name: str


class OfUserOrSelf(Request, frozen=True):
    """A user; without a name the one who calls."""

    user_name: str = ""


class UpdateUser(Request, frozen=True):
    """A new name or path."""

    user_name: str
    new_path: str = ""
    new_user_name: str = ""


def _user(found: Entity) -> dict[str, Any]:
    return common(found) | boundary_members(found)


@operation(CreateUser, Mode.WRITE, on_entity(USER))
def create_user(iam: Iam, call: Call, request: CreateUser) -> Response:
    """CreateUser."""
    boundary = request.permissions_boundary
    id_ = new_id(call, PREFIXES[USER])
    new = Entity(id_, call.account, USER, request.user_name, request.path, now(call), boundary)
    tags = create(iam, call, new, pairs(request.tags))
    return {"User": _user(new) | ({"Tags": tag_list(tags)} if tags else {})}


@operation(OfUserOrSelf, Mode.READ, on_entity(USER))
def get_user(_iam: Iam, call: Call, request: OfUserOrSelf) -> Response:
    """GetUser; root gets itself, which has no name."""
    if not request.user_name and call.caller.kind is Kind.ROOT:
        created = store.accounts(call.tx).get(call.account, now(call))
        return {"User": {"UserId": call.account, "Arn": call.caller.arn, "CreateDate": stamp(created)}}
    found = need(call, USER, request.user_name or own_name(call))
    tags = store.tags(call.tx, found.id)
    return {"User": _user(found) | ({"Tags": tag_list(tags)} if tags else {})}


@operation(PagedByPath, Mode.READ, on("arn:aws:iam::{account}:user/"))
def list_users(_iam: Iam, call: Call, request: PagedByPath) -> Response:
    """ListUsers, without tags and boundaries, as AWS does."""
    taken, members = page(listed(call, USER, request.path_prefix), request)
    return {"Users": [common(one) for one in taken], **members}


@operation(UpdateUser, Mode.WRITE, on_entity(USER))
def update_user(iam: Iam, call: Call, request: UpdateUser) -> None:
    """UpdateUser: the id stays, so keys, policies and groups do."""
    found = need(call, USER, request.user_name)
    name = request.new_user_name or found.name
    other = store.entity(call.tx, call.account, USER, name)
    if other is not None and other.id != found.id:
        raise rules.exists(f"User with name {name} already exists.")
    changed = replace(found, name=name, path=request.new_path or found.path)
    store.change_entity(call.tx, found.id, name=changed.name, key=changed.name.lower(), path=changed.path)
    iam.directory.changed(call, entity=found.id)
    retrust(iam, call, found.arn, changed.arn)


@operation(OfUser, Mode.WRITE, on_entity(USER))
def delete_user(iam: Iam, call: Call, request: OfUser) -> None:
    """DeleteUser."""
    found = need(call, USER, request.user_name)
    if store.keys_of(call.tx, found.id):
        raise rules.conflict("Cannot delete entity, must delete access keys first.")
    if store.groups_of(call.tx, found.id):
        raise rules.conflict("Cannot delete entity, must remove users from group first.")
    delete(iam, call, found)


# ---- groups ------------------------------------------------------------------------------------------------------


class CreateGroup(Request, frozen=True):
    """A new group."""

    group_name: str
    path: str = "/"


class OfGroup(Request, frozen=True):
    """A group."""

    group_name: str


class GetGroup(Paged, frozen=True, kw_only=True):
    """A group and a page of its users."""

    group_name: str


class Membership(Request, frozen=True):
    """A user in a group."""

    group_name: str
    user_name: str


class GroupsForUser(Paged, frozen=True, kw_only=True):
    """The groups of a user."""

    user_name: str


@operation(CreateGroup, Mode.WRITE, on_entity(GROUP))
def create_group(iam: Iam, call: Call, request: CreateGroup) -> Response:
    """CreateGroup."""
    id_ = new_id(call, PREFIXES[GROUP])
    new = Entity(id_, call.account, GROUP, request.group_name, request.path, now(call))
    create(iam, call, new, [])
    return {"Group": common(new)}


@operation(GetGroup, Mode.READ, on_entity(GROUP))
def get_group(_iam: Iam, call: Call, request: GetGroup) -> Response:
    """GetGroup."""
    found = need(call, GROUP, request.group_name)
    taken, members = page(store.members_of(call.tx, found.id), request)
    return {"Group": common(found), "Users": [common(one) for one in taken], **members}


@operation(PagedByPath, Mode.READ, on("arn:aws:iam::{account}:group/"))
def list_groups(_iam: Iam, call: Call, request: PagedByPath) -> Response:
    """ListGroups."""
    taken, members = page(listed(call, GROUP, request.path_prefix), request)
    return {"Groups": [common(one) for one in taken], **members}


@operation(OfGroup, Mode.WRITE, on_entity(GROUP))
def delete_group(iam: Iam, call: Call, request: OfGroup) -> None:
    """DeleteGroup."""
    found = need(call, GROUP, request.group_name)
    if store.members_of(call.tx, found.id):
        raise rules.conflict("Cannot delete entity, must remove users from group first.")
    delete(iam, call, found)


@operation(Membership, Mode.WRITE, on_entity(GROUP))
def add_user_to_group(iam: Iam, call: Call, request: Membership) -> None:
    """AddUserToGroup: adding a member again changes nothing."""
    group, user = need(call, GROUP, request.group_name), need(call, USER, request.user_name)
    groups = store.groups_of(call.tx, user.id)
    if any(one.id == group.id for one in groups):
        return
    if len(groups) >= GROUPS_PER_USER:
        raise rules.quota("GroupsPerUser", GROUPS_PER_USER)
    store.join(call.tx, group.id, user.id)
    iam.directory.changed(call, entity=user.id)


@operation(Membership, Mode.WRITE, on_entity(GROUP))
def remove_user_from_group(iam: Iam, call: Call, request: Membership) -> None:
    """RemoveUserFromGroup."""
    group, user = need(call, GROUP, request.group_name), need(call, USER, request.user_name)
    if not store.leave(call.tx, group.id, user.id):
        raise rules.no_such(f"User {user.name} is not in group {group.name}.")
    iam.directory.changed(call, entity=user.id)


@operation(GroupsForUser, Mode.READ, on_entity(USER))
def list_groups_for_user(_iam: Iam, call: Call, request: GroupsForUser) -> Response:
    """ListGroupsForUser."""
    taken, members = page(store.groups_of(call.tx, need(call, USER, request.user_name).id), request)
    return {"Groups": [common(one) for one in taken], **members}
