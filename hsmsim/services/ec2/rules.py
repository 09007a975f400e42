"""Decisions about EC2's network, and its errors in its words. Pure.

Codes are those of EC2's "Error codes". UNVERIFIED, where no document says it: the code of `managed`; the sentences of
`managed`, `quota`, `missing` for malformed ids and `merged_tags`.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv4Network, NetmaskValueError
from typing import TYPE_CHECKING, Final

from hsmsim.errors import AwsError
from hsmsim.services.ec2.model import (
    GROUP_TEXT,
    NAMES,
    NARROWEST,
    RESERVED,
    RESERVED_FIRST,
    TAG_KEY,
    TAG_VALUE,
    TAGS,
    WIDEST,
    Kind,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_ID: Final = re.compile(r"(?P<prefix>[a-z]+)-(?:[0-9a-f]{8}|[0-9a-f]{17})")
_GROUP_NAME: Final = re.compile(r"[a-zA-Z0-9 ._\-:/()#,@\[\]+=&;{}!$*]+")
_ID_DIGITS: Final = 17


# ---- ids ---------------------------------------------------------------------------------------------------------


def new_id(prefix: str, below: Callable[[int], int]) -> str:
    """vpc-0123456789abcdef0: 17 hexadecimal digits, the first of them 0 as AWS's are."""
    return f"{prefix}-0{below(1 << 4 * (_ID_DIGITS - 1)):0{_ID_DIGITS - 1}x}"


def kind_of(id_: str) -> Kind | None:
    """Return what kind of resource the id would name, if it has an id's shape."""
    found = _ID.fullmatch(id_)
    return next((kind for kind, names in NAMES.items() if names.prefix == found["prefix"]), None) if found else None


def check_id(kind: Kind, id_: str) -> None:
    """Refuse an id of the wrong shape."""
    if kind_of(id_) is not kind:
        names = NAMES[kind]
        raise AwsError(names.malformed, f'Invalid id: "{id_}" (expecting "{names.prefix}-...")')


def missing(kind: Kind, id_: str) -> AwsError:
    """There is none in this account and region."""
    check_id(kind, id_)
    return AwsError(NAMES[kind].missing, NAMES[kind].sentence.format(id_))


# ---- errors ------------------------------------------------------------------------------------------------------


def invalid(text: str) -> AwsError:
    """A bad value."""
    return AwsError("InvalidParameterValue", text)


def bad(value: object, parameter: str, why: str = "") -> AwsError:
    """A bad value of a parameter."""
    return invalid(f"Value ({value}) for parameter {parameter} is invalid.{' ' if why else ''}{why}")


def lacking(*parameters: str) -> AwsError:
    """One of these must be given."""
    return AwsError("MissingParameter", f"The request must contain the parameter {' or '.join(parameters)}")


def clash(text: str) -> AwsError:
    """Parameters that exclude each other."""
    return AwsError("InvalidParameterCombination", text)


def dependent(text: str) -> AwsError:
    """Something else needs it."""
    return AwsError("DependencyViolation", text)


def quota(code: str, what: str) -> AwsError:
    """A quota is used up."""
    return AwsError(code, f"The maximum number of {what} has been reached.")


def managed() -> AwsError:
    """What a service of AWS manages is not the customer's to change."""
    return AwsError("AuthFailure", "You do not have permission to access the specified resource.")


# ---- addresses ---------------------------------------------------------------------------------------------------


def network(text: str, parameter: str) -> IPv4Network:
    """Read a CIDR block; host bits are cleared, as AWS does."""
    address, slash, prefix = text.partition("/")
    try:
        if not slash or not prefix.isascii() or not prefix.isdigit():
            raise NetmaskValueError(prefix)  # noqa: TRY301 - a prefix length, not a mask
        return IPv4Network((IPv4Address(address), int(prefix)), strict=False)
    except (AddressValueError, NetmaskValueError) as error:
        raise bad(text, parameter, "This is not a valid CIDR block.") from error


def vpc_network(text: str) -> IPv4Network:
    """Read a VPC's block: /16 to /28; InvalidVpc.Range."""
    found = network(text, "cidrBlock")
    if not WIDEST <= found.prefixlen <= NARROWEST:
        raise AwsError("InvalidVpc.Range", f"The CIDR '{text}' is invalid.")
    return found


def subnet_network(text: str, vpc: str, others: Iterable[str]) -> IPv4Network:
    """Read a subnet's block, which must lie in its VPC's and meet no other: InvalidSubnet.Range, .Conflict."""
    found = network(text, "cidrBlock")
    if not WIDEST <= found.prefixlen <= NARROWEST or not found.subnet_of(IPv4Network(vpc)):
        raise AwsError("InvalidSubnet.Range", f"The CIDR '{text}' is invalid.")
    if any(found.overlaps(IPv4Network(other)) for other in others):
        raise AwsError("InvalidSubnet.Conflict", f"The CIDR '{text}' conflicts with another subnet")
    return found


def free_block(vpc: str, others: Iterable[str], prefix: int) -> str | None:
    """Return the first block of this size in the VPC that meets no other."""
    taken = [IPv4Network(other) for other in others]
    blocks = IPv4Network(vpc).subnets(new_prefix=prefix)
    return next((str(one) for one in blocks if not any(one.overlaps(other) for other in taken)), None)


def available(cidr: str, used: int) -> int:
    """How many addresses are left in a subnet."""
    return IPv4Network(cidr).num_addresses - RESERVED - used


def usable_address(cidr: str, text: str) -> str:
    """Return the address, if a subnet has it and it is not reserved; whether it is taken is another question."""
    try:
        found = IPv4Address(text)
    except AddressValueError as error:
        raise bad(text, "privateIpAddress", "This is not a valid IPv4 address.") from error
    block = IPv4Network(cidr)
    if found not in block:
        raise invalid("Address does not fall within the subnet's address range")
    if not RESERVED_FIRST <= int(found) - int(block.network_address) < block.num_addresses - 1:
        raise invalid("Address is in subnet's reserved address range")
    return str(found)


def free_address(cidr: str, taken: set[str], below: Callable[[int], int]) -> str | None:
    """Return any address that is not taken: the first one at or after a random place."""
    block = IPv4Network(cidr)
    count = block.num_addresses - RESERVED
    first, start = int(block.network_address) + RESERVED_FIRST, below(count)
    for step in range(count):
        address = str(IPv4Address(first + (start + step) % count))
        if address not in taken:
            return address
    return None


def mac(address: str, salt: int) -> str:
    """Return a locally administered address that ends in the IPv4 one; salt: a byte."""
    octets = [0x02, salt, *IPv4Address(address).packed]
    return ":".join(f"{octet:02x}" for octet in octets)


def private_name(address: str, domain: str) -> str:
    """ip-10-0-0-5.eu-west-1.compute.internal."""
    return f"ip-{address.replace('.', '-')}.{domain}"


# ---- names and tags ----------------------------------------------------------------------------------------------


def check_group_text(name: str, description: str) -> None:
    """Refuse a group's name or description that EC2 would not take."""
    for value, parameter in ((name, "GroupName"), (description, "GroupDescription")):
        if len(value) > GROUP_TEXT:
            raise bad(value, parameter, f"Must be no more than {GROUP_TEXT} characters long.")
        if not _GROUP_NAME.fullmatch(value):
            raise bad(value, parameter, "Character sets beyond ASCII are not supported.")
    if kind_of(name) is Kind.GROUP or name.startswith("sg-"):
        raise invalid("Group names may not be in the format sg-*.")


def merged_tags(before: Mapping[str, str], new: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the tags with the new ones over them; InvalidParameterValue, TagLimitExceeded."""
    after = dict(before)
    seen: set[str] = set()
    for key, value in new:
        if key in seen:
            raise invalid(f"Duplicate tag key '{key}' specified.")
        seen.add(key)
        if not key:
            raise invalid("Tag key cannot be null or empty.")
        if len(key) > TAG_KEY:
            raise invalid(f"Tag key exceeds the maximum length of {TAG_KEY} characters")
        if len(value) > TAG_VALUE:
            raise invalid(f"Tag value exceeds the maximum length of {TAG_VALUE} characters")
        if key.lower().startswith("aws:"):
            raise invalid(f"Tag keys starting with 'aws:' are reserved for internal use: {key}")
        after[key] = value
    if len(after) > TAGS:
        raise quota("TagLimitExceeded", "tags for a resource")
    return after


def without_tags(before: Mapping[str, str], gone: Iterable[tuple[str, str | None]]) -> dict[str, str]:
    """Return the tags without those; a tag that is named with a value goes only if it has it."""
    after = dict(before)
    for key, value in gone:
        if key in after and value in {None, after[key]}:
            del after[key]
    return after
