"""Security groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from msgspec import field

from hsmsim.errors import AwsError
from hsmsim.services.ec2 import founding, permissions, rules, store
from hsmsim.services.ec2.model import DEFAULT_GROUP, Group, Kind, Rule
from hsmsim.services.ec2.service import (
    Describe,
    Described,
    Dry,
    Tagging,
    arn,
    default_vpc,
    describe,
    in_vpc,
    members,
    need_group,
    need_vpc,
    on,
    on_new,
    operation,
    place_of,
    tag_list,
    tag_new,
)
from hsmsim.services.kernel import Access, Call, Mode, Response

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hsmsim.services.ec2.filters import Values

_OF_RULES: Final = {
    "cidr": ("IpRanges", "CidrIp"),
    "from-port": ("FromPort",),
    "group-id": ("UserIdGroupPairs", "GroupId"),
    "ipv6-cidr": ("Ipv6Ranges", "CidrIpv6"),
    "prefix-list-id": ("PrefixListIds", "PrefixListId"),
    "protocol": ("IpProtocol",),
    "to-port": ("ToPort",),
    "user-id": ("UserIdGroupPairs", "UserId"),
}
_SIDES: Final = {"ip-permission": "IpPermissions", "egress.ip-permission": "IpPermissionsEgress"}
_FILTERS: Final[dict[str, Values[Mapping[str, Any]]]] = {
    "description": members("Description"),
    "group-id": members("GroupId"),
    "group-name": members("GroupName"),
    "owner-id": members("OwnerId"),
    "vpc-id": members("VpcId"),
} | {f"{side}.{name}": members(member, *path) for side, member in _SIDES.items() for name, path in _OF_RULES.items()}


class CreateSecurityGroup(Tagging, frozen=True, kw_only=True):
    """A new group; without vpc_id in the default VPC."""

    group_name: str
    description: str
    vpc_id: str = ""


class OfGroup(Dry, frozen=True):
    """A group by its id, or by its name in the default VPC."""

    group_id: str = ""
    group_name: str = ""


class DescribeSecurityGroups(Describe, frozen=True):
    """Groups."""

    group_ids: list[str] = field(default_factory=list)
    group_names: list[str] = field(default_factory=list)


def resolve(call: Call, request: OfGroup) -> Group:
    """Return the group that the request names; InvalidGroup.NotFound."""
    if request.group_id:
        return need_group(call.tx, place_of(call), request.group_id)
    if request.group_name:
        return _in_default_vpc(call, request.group_name)
    raise rules.lacking("groupName", "groupId")


def _in_default_vpc(call: Call, name: str) -> Group:
    home = _home(call)
    found = store.group_named(call.tx, home, name)
    if found is None:
        text = f"The security group '{name}' does not exist in default VPC '{home}'"
        raise AwsError("InvalidGroup.NotFound", text)
    return found


def on_group(call: Call, request: OfGroup) -> list[Access]:
    """The operation on the group that the request names."""
    home = default_vpc(call.tx, place_of(call))
    if request.group_id:
        mine = store.of(place_of(call), store.GROUPS)
        found = next(iter(store.groups(call.tx, *mine, store.GROUPS.c.id == request.group_id)), None)
    else:
        found = store.group_named(call.tx, home.id, request.group_name) if home else None
    if found is None:
        return [Access(f"ec2:{call.operation}", arn(call, Kind.GROUP, request.group_id or "*"), call.account)]
    return [on(call, Kind.GROUP, found.id, **in_vpc(call, found.vpc))]


def _on_new_group(call: Call, request: CreateSecurityGroup) -> list[Access]:
    own = default_vpc(call.tx, place_of(call))
    home = request.vpc_id or (own.id if own else "*")
    new = on_new(call, Kind.GROUP, request.tag_specifications, **in_vpc(call, home))
    return [*new, on(call, Kind.VPC, home)]


def _home(call: Call) -> str:
    home = default_vpc(call.tx, place_of(call))
    if home is None:
        raise AwsError("VPCIdNotSpecified", "No default VPC for this user")
    return home.id


@operation(CreateSecurityGroup, Mode.WRITE, _on_new_group)
def create_security_group(call: Call, request: CreateSecurityGroup) -> Response:
    """CreateSecurityGroup."""
    rules.check_group_text(request.group_name, request.description)
    home = need_vpc(call.tx, place_of(call), request.vpc_id or _home(call))
    if request.group_name == DEFAULT_GROUP:
        raise AwsError("InvalidParameterValue", "Cannot use reserved security group name: default")
    made = founding.group(call.tx, call.ids, home, request.group_name, request.description)
    tags = tag_new(call, Kind.GROUP, made.id, request.tag_specifications)
    return {"GroupId": made.id, "SecurityGroupArn": arn(call, Kind.GROUP, made.id), "Tags": tag_list(tags)}


@operation(OfGroup, Mode.WRITE, on_group)
def delete_security_group(call: Call, request: OfGroup) -> Response:
    """DeleteSecurityGroup."""
    group = resolve(call, request)
    if group.name == DEFAULT_GROUP:
        text = f'the specified group: "{group.id}" name: "{group.name}" cannot be deleted by a user'
        raise AwsError("CannotDelete", text)
    if store.group_in_use(call.tx, group.id):
        raise rules.dependent(f"resource {group.id} has a dependent object")
    store.remove_group(call.tx, group.id)
    return {"Return": True, "GroupId": group.id}


def _shown(call: Call, group: Group, own: Iterable[Rule], tags: Mapping[str, str]) -> dict[str, Any]:
    kept = list(own)
    return {
        "GroupId": group.id,
        "GroupName": group.name,
        "Description": group.description,
        "OwnerId": group.account,
        "VpcId": group.vpc,
        "SecurityGroupArn": arn(call, Kind.GROUP, group.id),
        "IpPermissions": permissions.shown((one for one in kept if not one.egress), group.account),
        "IpPermissionsEgress": permissions.shown((one for one in kept if one.egress), group.account),
        "Tags": tag_list(tags),
    }


def _described(names: Mapping[str, str]) -> Described:
    """How groups are described; names: of all groups, by id."""

    def of(side: str) -> Values[Mapping[str, Any]]:
        peers = members(side, "UserIdGroupPairs", "GroupId")
        return lambda shown: [names[str(peer)] for peer in peers(shown) if peer in names]

    by_name = {f"{side}.group-name": of(member) for side, member in _SIDES.items()}
    return Described(Kind.GROUP, "groupIds", "GroupId", _FILTERS | by_name)


@operation(DescribeSecurityGroups, Mode.READ)
def describe_security_groups(call: Call, request: DescribeSecurityGroups) -> Response:
    """DescribeSecurityGroups."""
    place = place_of(call)
    groups = store.groups(call.tx, *store.of(place, store.GROUPS))
    ids = request.group_ids + [_in_default_vpc(call, name).id for name in request.group_names]
    tags = store.all_tags(call.tx, place)
    own: dict[str, list[Rule]] = {group.id: [] for group in groups}
    for rule in store.rules_in(call.tx, place):
        own[rule.group].append(rule)
    found = [_shown(call, group, own[group.id], tags.get(group.id, {})) for group in groups]
    shown, more = describe(_described({group.id: group.name for group in groups}), request, ids, found)
    return {"SecurityGroups": shown, **more}
