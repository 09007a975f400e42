"""The rules of security groups."""

from __future__ import annotations

from typing import Any, Final

from msgspec import field

from hsmsim.errors import AwsError
from hsmsim.services.ec2 import permissions, rules, store
from hsmsim.services.ec2.groups import OfGroup, on_group, resolve
from hsmsim.services.ec2.model import RULES_PER_GROUP, Group, Kind, Opening, Rule
from hsmsim.services.ec2.service import (
    Describe,
    Described,
    TagSpecification,
    arn,
    describe,
    members,
    need_group,
    on_tags,
    operation,
    place_of,
    tag_list,
    tag_new,
)
from hsmsim.services.kernel import Access, Call, Mode, Request, Response

_DESCRIBED: Final = Described(
    Kind.RULE,
    "securityGroupRuleIds",
    "SecurityGroupRuleId",
    {"group-id": members("GroupId"), "security-group-rule-id": members("SecurityGroupRuleId")},
)


class IpRange(Request, frozen=True):
    """An IPv4 block."""

    cidr_ip: str = ""
    description: str = ""


class Ipv6Range(Request, frozen=True):
    """An IPv6 block."""

    cidr_ipv6: str = ""
    description: str = ""


class UserIdGroupPair(Request, frozen=True):
    """A group of the same VPC."""

    group_id: str = ""
    group_name: str = ""
    user_id: str = ""
    description: str = ""


class IpPermission(Request, frozen=True):
    """A protocol, its ports, and who may use them."""

    ip_protocol: str | None = None
    from_port: int | None = None
    to_port: int | None = None
    ip_ranges: list[IpRange] = field(default_factory=list)
    ipv6_ranges: list[Ipv6Range] = field(default_factory=list)
    user_id_group_pairs: list[UserIdGroupPair] = field(default_factory=list)


class Permissions(OfGroup, frozen=True):
    """A group and permissions."""

    ip_permissions: list[IpPermission] = field(default_factory=list)


class _Ingress(Permissions, frozen=True):
    """The older way: one permission in members of the request itself."""

    ip_protocol: str | None = None
    from_port: int | None = None
    to_port: int | None = None
    cidr_ip: str | None = None


class AuthorizeIngress(_Ingress, frozen=True):
    """New rules for what comes in."""

    tag_specifications: list[TagSpecification] = field(default_factory=list)


class AuthorizeEgress(Permissions, frozen=True):
    """New rules for what goes out."""

    tag_specifications: list[TagSpecification] = field(default_factory=list)


class RevokeIngress(_Ingress, frozen=True):
    """Rules to take away."""

    security_group_rule_ids: list[str] = field(default_factory=list)


class RevokeEgress(Permissions, frozen=True):
    """Rules to take away."""

    security_group_rule_ids: list[str] = field(default_factory=list)


class DescribeSecurityGroupRules(Describe, frozen=True):
    """Rules."""

    security_group_rule_ids: list[str] = field(default_factory=list)


# ---- requests to openings ----------------------------------------------------------------------------------------


def _openings(call: Call, group: Group, request: Permissions) -> dict[Opening, str]:
    """Return what the request asks for, with the descriptions."""
    given = [*request.ip_permissions, *_older(request)]
    found = [pair for permission in given for pair in _of_permission(call, group, permission)]
    permissions.check_once([opening for opening, _ in found])
    permissions.check_descriptions(description for _, description in found)
    return dict(found)


def _older(request: Permissions) -> list[IpPermission]:
    if not isinstance(request, _Ingress):
        return []
    given = (request.ip_protocol, request.from_port, request.to_port, request.cidr_ip)
    if all(one is None for one in given):
        return []
    if request.ip_permissions:
        raise rules.clash("The parameter 'ipPermissions' may not be used in combination with 'ipProtocol'")
    if request.cidr_ip is None:
        raise rules.lacking("cidrIp")
    return [IpPermission(**_members(request))]


def _members(request: _Ingress) -> dict[str, Any]:
    return {
        "ip_protocol": request.ip_protocol,
        "from_port": request.from_port,
        "to_port": request.to_port,
        "ip_ranges": [IpRange(cidr_ip=request.cidr_ip or "")],
    }


def _of_permission(call: Call, group: Group, given: IpPermission) -> list[tuple[Opening, str]]:
    protocol = permissions.protocol_of(given.ip_protocol)
    first, last = permissions.ports_of(protocol, given.from_port, given.to_port)
    found = [
        (Opening(protocol, first, last, cidr4=permissions.cidr4(one.cidr_ip)), one.description)
        for one in given.ip_ranges
    ]
    found += [
        (Opening(protocol, first, last, cidr6=permissions.cidr6(one.cidr_ipv6)), one.description)
        for one in given.ipv6_ranges
    ]
    found += [
        (Opening(protocol, first, last, peer=_peer(call, group, one)), one.description)
        for one in given.user_id_group_pairs
    ]
    if not found:
        raise rules.lacking("ipRanges", "ipv6Ranges", "groups")
    return found


def _peer(call: Call, group: Group, pair: UserIdGroupPair) -> str:
    """Return the id of a group that a rule refers to; it lies in the same VPC, since VPCs are not peered here."""
    if pair.user_id not in {"", group.account}:
        raise rules.missing(Kind.GROUP, pair.group_id)
    if pair.group_id:
        peer = need_group(call.tx, place_of(call), pair.group_id)
        if peer.vpc != group.vpc:
            text = "You have specified two resources that belong to different networks."
            raise AwsError("InvalidGroup.NotFound", text)
        return peer.id
    named = store.group_named(call.tx, group.vpc, pair.group_name) if pair.group_name else None
    if named is None:
        raise AwsError("InvalidGroup.NotFound", f"The security group '{pair.group_name}' does not exist")
    return named.id


# ---- operations --------------------------------------------------------------------------------------------------


def _on_new_rules(call: Call, request: AuthorizeIngress | AuthorizeEgress) -> list[Access]:
    return [*on_group(call, request), *on_tags(call, Kind.RULE, request.tag_specifications)]


@operation(AuthorizeIngress, Mode.WRITE, _on_new_rules)
def authorize_security_group_ingress(call: Call, request: AuthorizeIngress) -> Response:
    """AuthorizeSecurityGroupIngress."""
    return _authorize(call, request, request.tag_specifications, egress=False)


@operation(AuthorizeEgress, Mode.WRITE, _on_new_rules)
def authorize_security_group_egress(call: Call, request: AuthorizeEgress) -> Response:
    """AuthorizeSecurityGroupEgress."""
    return _authorize(call, request, request.tag_specifications, egress=True)


def _authorize(call: Call, request: Permissions, tags: list[TagSpecification], *, egress: bool) -> Response:
    group = resolve(call, request)
    wanted = _openings(call, group, request)
    if not wanted:
        raise rules.lacking("ipPermissions")
    there = _rules_of(call, group, egress=egress)
    for opening in wanted:
        if opening in there:
            raise permissions.duplicate(opening)
    if permissions.weight([*there, *wanted]) > RULES_PER_GROUP:
        raise rules.quota("RulesPerSecurityGroupLimitExceeded", "rules per security group")
    made = []
    for opening, description in wanted.items():
        rule = Rule(rules.new_id("sgr", call.ids.below), group.id, egress, opening, description)
        store.add_rule(call.tx, rule)
        made.append(_shown(call, rule, tag_new(call, Kind.RULE, rule.id, tags)))
    return {"Return": True, "SecurityGroupRules": made}


@operation(RevokeIngress, Mode.WRITE, on_group)
def revoke_security_group_ingress(call: Call, request: RevokeIngress) -> Response:
    """RevokeSecurityGroupIngress."""
    return _revoke(call, request, request.security_group_rule_ids, egress=False)


@operation(RevokeEgress, Mode.WRITE, on_group)
def revoke_security_group_egress(call: Call, request: RevokeEgress) -> Response:
    """RevokeSecurityGroupEgress."""
    return _revoke(call, request, request.security_group_rule_ids, egress=True)


def _revoke(call: Call, request: Permissions, ids: list[str], *, egress: bool) -> Response:
    """Take rules away. What is not there is an error in a VPC, and told in the answer in the default one, as in AWS."""
    group = resolve(call, request)
    there = _rules_of(call, group, egress=egress)
    if ids:
        by_id = {rule.id: rule for rule in there.values()}
        for id_ in ids:
            if id_ not in by_id:
                raise rules.missing(Kind.RULE, id_)
        gone, unknown = [by_id[id_] for id_ in dict.fromkeys(ids)], []
    else:
        wanted = _openings(call, group, request)
        if not wanted:
            raise rules.lacking("ipPermissions", "securityGroupRuleIds")
        gone = [there[opening] for opening in wanted if opening in there]
        unknown = [Rule("", group.id, egress, opening) for opening in wanted if opening not in there]
    if unknown and not store.vpcs(call.tx, store.VPCS.c.id == group.vpc, store.VPCS.c.default):
        raise AwsError("InvalidPermission.NotFound", "The specified rule does not exist in this security group.")
    store.remove_rules(call.tx, [rule.id for rule in gone])
    return {
        "Return": True,
        "UnknownIpPermissions": permissions.shown(unknown, group.account),
        "RevokedSecurityGroupRules": [_revoked(rule) for rule in gone],
    }


def _rules_of(call: Call, group: Group, *, egress: bool) -> dict[Opening, Rule]:
    found = store.rules(call.tx, store.RULES.c.group == group.id, store.RULES.c.egress == egress)
    return {rule.opening: rule for rule in found}


def _common(rule: Rule) -> dict[str, Any]:
    opening = rule.opening
    given = {"CidrIpv4": opening.cidr4, "CidrIpv6": opening.cidr6, "Description": rule.description}
    return {
        "SecurityGroupRuleId": rule.id,
        "GroupId": rule.group,
        "IsEgress": rule.egress,
        "IpProtocol": opening.protocol,
        "FromPort": opening.first,
        "ToPort": opening.last,
        **{name: value for name, value in given.items() if value},
    }


def _revoked(rule: Rule) -> dict[str, Any]:
    return _common(rule) | ({"ReferencedGroupId": rule.opening.peer} if rule.opening.peer else {})


def _shown(call: Call, rule: Rule, tags: dict[str, str]) -> dict[str, Any]:
    peer = {"GroupId": rule.opening.peer, "UserId": call.account}
    return {
        **_common(rule),
        "GroupOwnerId": call.account,
        "SecurityGroupRuleArn": arn(call, Kind.RULE, rule.id),
        **({"ReferencedGroupInfo": peer} if rule.opening.peer else {}),
        "Tags": tag_list(tags),
    }


@operation(DescribeSecurityGroupRules, Mode.READ)
def describe_security_group_rules(call: Call, request: DescribeSecurityGroupRules) -> Response:
    """DescribeSecurityGroupRules."""
    place = place_of(call)
    tags = store.all_tags(call.tx, place)
    found = [_shown(call, rule, tags.get(rule.id, {})) for rule in store.rules_in(call.tx, place)]
    shown, more = describe(_DESCRIBED, request, request.security_group_rule_ids, found)
    return {"SecurityGroupRules": shown, **more}
