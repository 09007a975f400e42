"""What a security group lets through: between EC2's IpPermissions and rules, each of which has one opening. Pure.

Protocols are tcp, udp, icmp, icmpv6, -1 for all, or another's number, which has no ports.
"""

from __future__ import annotations

from ipaddress import AddressValueError, IPv6Address, IPv6Network, NetmaskValueError
from typing import TYPE_CHECKING, Any, Final

from hsmsim.errors import AwsError
from hsmsim.services.ec2.model import ALL, Opening, Rule
from hsmsim.services.ec2.rules import invalid, network

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_NAMES: Final = {"6": "tcp", "17": "udp", "1": "icmp", "58": "icmpv6"}
_PORTS: Final = {"tcp", "udp"}
_ICMP: Final = {"icmp", "icmpv6"}
_LAST_PORT: Final = 65535
_LAST_ICMP: Final = 255
_DESCRIPTION: Final = 255


def protocol_of(text: str | None) -> str:
    """Return the protocol as it is shown."""
    if not text:
        raise AwsError("MissingParameter", "The request must contain the parameter ipProtocol")
    name = text.lower()
    if name in _PORTS | _ICMP | {ALL}:
        return name
    if name.isascii() and name.isdigit() and int(name) <= _LAST_ICMP:
        return _NAMES.get(str(int(name)), str(int(name)))
    raise invalid(f"Invalid value '{text}' for IP protocol. Unknown protocol.")


def ports_of(protocol: str, first: int | None, last: int | None) -> tuple[int, int]:
    """Return the ports (ICMP: type and code) that count; -1 and -1 where the protocol has none."""
    if protocol not in _PORTS | _ICMP:
        return -1, -1
    label = "TCP/UDP" if protocol in _PORTS else "ICMP"
    if first is None or last is None:
        raise invalid(f"Invalid value 'null' for portRange. Must specify both from and to ports with {label}.")
    if protocol in _ICMP:
        if not (-1 <= first <= _LAST_ICMP and -1 <= last <= _LAST_ICMP) or (first == -1 and last != -1):
            raise invalid(f"ICMP code ({last}) or type ({first}) is not valid.")
        return first, last
    for port in (first, last):
        if not 0 <= port <= _LAST_PORT:
            raise invalid(f"Invalid value '{port}' for {protocol.upper()} port. Must be between 0 and {_LAST_PORT}.")
    if first > last:
        raise invalid(f"Invalid {protocol.upper()} port range ({first}:{last})")
    return first, last


def cidr4(text: str) -> str:
    """Return an IPv4 block in its canonical form."""
    try:
        return str(network(text, "cidrIp"))
    except AwsError as error:
        raise invalid(f"CIDR block {text} is malformed") from error


def cidr6(text: str) -> str:
    """Return an IPv6 block in its canonical form."""
    address, _, prefix = text.partition("/")
    try:
        if not prefix.isascii() or not prefix.isdigit() or "%" in address:
            raise NetmaskValueError(prefix)  # noqa: TRY301 - a prefix length, no zone
        return str(IPv6Network((IPv6Address(address), int(prefix)), strict=False))
    except (AddressValueError, NetmaskValueError) as error:
        raise invalid(f"CIDR block {text} is malformed") from error


def check_descriptions(texts: Iterable[str]) -> None:
    """Refuse a rule's description that is too long."""
    if any(len(text) > _DESCRIPTION for text in texts):
        raise invalid(f"Invalid rule description. Must be no more than {_DESCRIPTION} characters long.")


def check_once(openings: Sequence[Opening]) -> None:
    """Refuse a request that names an opening twice."""
    if len(set(openings)) < len(openings):
        raise invalid("The same permission must not appear multiple times")


def weight(openings: Iterable[Opening]) -> int:
    """Count as the quota does: IPv4 and IPv6 apart, groups with both."""
    kinds = [(bool(one.cidr4), bool(one.cidr6)) for one in openings]
    return len(kinds) - min(kinds.count((True, False)), kinds.count((False, True)))


def duplicate(opening: Opening) -> AwsError:
    """The group has that rule already."""
    peer = opening.cidr4 or opening.cidr6 or opening.peer
    label = "ALL" if opening.protocol == ALL else opening.protocol.upper()
    parts = [f"peer: {peer}", label]
    if opening.protocol in _PORTS:
        parts += [f"from port: {opening.first}", f"to port: {opening.last}"]
    if opening.protocol in _ICMP:
        parts += [f"type: {_or_all(opening.first)}", f"code: {_or_all(opening.last)}"]
    return AwsError(
        "InvalidPermission.Duplicate", f'the specified rule "{", ".join([*parts, "ALLOW"])}" already exists'
    )


def _or_all(number: int) -> str:
    return "ALL" if number == -1 else str(number)


def shown(rules: Iterable[Rule], account: str) -> list[dict[str, Any]]:
    """Return IpPermissions: the rules of one direction, those of a protocol and its ports together."""
    together: dict[tuple[str, int, int], dict[str, Any]] = {}
    for rule in rules:
        opening = rule.opening
        one = together.setdefault((opening.protocol, opening.first, opening.last), _permission(opening))
        member, value = _range(rule, account)
        one[member].append(value | ({"Description": rule.description} if rule.description else {}))
    return list(together.values())


def _permission(opening: Opening) -> dict[str, Any]:
    ports = {"FromPort": opening.first, "ToPort": opening.last} if opening.protocol in _PORTS | _ICMP else {}
    lists: dict[str, Any] = {"IpRanges": [], "Ipv6Ranges": [], "PrefixListIds": [], "UserIdGroupPairs": []}
    return {"IpProtocol": opening.protocol, **ports, **lists}


def _range(rule: Rule, account: str) -> tuple[str, dict[str, str]]:
    opening = rule.opening
    if opening.cidr4:
        return "IpRanges", {"CidrIp": opening.cidr4}
    if opening.cidr6:
        return "Ipv6Ranges", {"CidrIpv6": opening.cidr6}
    return "UserIdGroupPairs", {"GroupId": opening.peer, "UserId": account}
