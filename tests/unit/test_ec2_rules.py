"""EC2's decisions without a gateway: addresses, permissions, filters, pages, tags."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hsmsim.errors import AwsError
from hsmsim.services.ec2 import filters, permissions, rules
from hsmsim.services.ec2.model import Kind, Opening, Rule
from hsmsim.services.ec2.zones import REGIONS, region_of, zone_named


def code(work: Any) -> str:
    with pytest.raises(AwsError) as error:
        work()
    return error.value.code


# ---- addresses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "block"),
    [("10.0.0.0/16", "10.0.0.0/16"), ("100.68.0.18/18", "100.68.0.0/18"), ("192.168.1.255/28", "192.168.1.240/28")],
)
def test_a_vpc_s_block_is_canonical(text: str, block: str) -> None:
    assert str(rules.vpc_network(text)) == block


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.0/15", "InvalidVpc.Range"),
        ("10.0.0.0/29", "InvalidVpc.Range"),
        ("10.0.0.0", "InvalidParameterValue"),
        ("10.0.0.0/", "InvalidParameterValue"),
        ("10.0.0.0/255.255.0.0", "InvalidParameterValue"),
        ("10.0.0.0/33", "InvalidParameterValue"),
        ("10.0.0.0/٢٤", "InvalidParameterValue"),
        ("10.0.0/16", "InvalidParameterValue"),
        ("fd00::/16", "InvalidParameterValue"),
        ("", "InvalidParameterValue"),
    ],
)
def test_what_is_no_block_of_a_vpc(text: str, expected: str) -> None:
    assert code(lambda: rules.vpc_network(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.1.0.0/24", "InvalidSubnet.Range"),
        ("10.0.0.0/15", "InvalidSubnet.Range"),
        ("10.0.9.0/29", "InvalidSubnet.Range"),
        ("10.0.4.0/23", "InvalidSubnet.Conflict"),
        ("10.0.5.128/25", "InvalidSubnet.Conflict"),
        ("10.0.0.0/16", "InvalidSubnet.Conflict"),
    ],
)
def test_where_a_subnet_cannot_be(text: str, expected: str) -> None:
    assert code(lambda: rules.subnet_network(text, "10.0.0.0/16", ["10.0.5.0/24"])) == expected


def test_a_subnet_beside_another() -> None:
    assert str(rules.subnet_network("10.0.6.0/24", "10.0.0.0/16", ["10.0.5.0/24"])) == "10.0.6.0/24"


@given(st.integers(16, 28), st.data())
def test_addresses_of_a_subnet(prefix: int, data: st.DataObject) -> None:
    block = IPv4Network((data.draw(st.integers(0, 2**32 - 1)), prefix), strict=False)
    offset = data.draw(st.integers(0, block.num_addresses - 1))
    text = str(block.network_address + offset)
    if 4 <= offset < block.num_addresses - 1:
        assert rules.usable_address(str(block), text) == text
    else:
        assert code(lambda: rules.usable_address(str(block), text)) == "InvalidParameterValue"
    assert rules.available(str(block), 2) == block.num_addresses - 7


def test_every_free_address_is_given_once() -> None:
    block, below = IPv4Network("10.0.0.16/28"), random.Random(7).randrange
    taken: set[str] = set()
    for _ in range(11):
        address = rules.free_address(str(block), taken, below)
        assert address is not None
        assert address not in taken
        assert 4 <= int(IPv4Address(address)) - int(block.network_address) < 15
        taken.add(address)
    assert rules.free_address(str(block), taken, below) is None


def test_blocks_of_the_default_vpc() -> None:
    assert rules.free_block("172.31.0.0/16", [], 20) == "172.31.0.0/20"
    assert rules.free_block("172.31.0.0/16", ["172.31.0.0/20", "172.31.33.0/24"], 20) == "172.31.16.0/20"
    assert rules.free_block("172.31.0.0/16", ["172.31.0.0/17", "172.31.128.0/17"], 20) is None


# ---- ids, zones --------------------------------------------------------------------------------------------------


def test_ids() -> None:
    made = rules.new_id("vpc", random.Random(1).randrange)
    assert len(made) == len("vpc-0123456789abcdef0")
    assert made.startswith("vpc-0")
    assert rules.kind_of(made) is Kind.VPC
    assert rules.kind_of("sgr-12345678") is Kind.RULE
    assert [rules.kind_of(one) for one in ("vpc-1234567", "vpc-0123456789ABCDEF0", "x-12345678", "", "vpc")] == [
        None
    ] * 5
    assert code(lambda: rules.check_id(Kind.GROUP, made)) == "InvalidGroupId.Malformed"


def test_zones() -> None:
    assert [zone.name for zone in region_of("eu-central-1").zones] == [
        "eu-central-1a",
        "eu-central-1b",
        "eu-central-1c",
    ]
    ids = [zone.id for region in REGIONS.values() for zone in region.zones]
    assert len(set(ids)) == len(ids)
    assert zone_named(region_of("us-west-1"), "", "usw1-az3") == zone_named(region_of("us-west-1"), "us-west-1b", "")
    assert code(lambda: zone_named(region_of("us-west-1"), "us-west-1a", "usw1-az3")) == "InvalidParameterValue"
    assert code(lambda: region_of("eu-west-9")) == "AuthFailure"


# ---- permissions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("protocol", "first", "last", "opening"),
    [
        ("tcp", 22, 22, ("tcp", 22, 22)),
        ("6", 0, 65535, ("tcp", 0, 65535)),
        ("UDP", 53, 53, ("udp", 53, 53)),
        ("1", 8, -1, ("icmp", 8, -1)),
        ("-1", 22, 22, ("-1", -1, -1)),
        ("50", None, None, ("50", -1, -1)),
    ],
)
def test_protocols_and_ports(protocol: str, first: int | None, last: int | None, opening: tuple[str, int, int]) -> None:
    name = permissions.protocol_of(protocol)
    assert (name, *permissions.ports_of(name, first, last)) == opening


@pytest.mark.parametrize(
    ("protocol", "first", "last"),
    [
        ("tcp", None, 22),
        ("tcp", 23, 22),
        ("tcp", -1, -1),
        ("udp", 1, 65536),
        ("icmp", -1, 3),
        ("icmp", 256, 0),
        ("icmpv6", None, None),
    ],
)
def test_ports_that_are_none(protocol: str, first: int | None, last: int | None) -> None:
    assert code(lambda: permissions.ports_of(protocol, first, last)) == "InvalidParameterValue"


@pytest.mark.parametrize("protocol", ["256", "all", "-2", "²"])
def test_protocols_that_are_none(protocol: str) -> None:
    assert code(lambda: permissions.protocol_of(protocol)) == "InvalidParameterValue"


def test_blocks_of_permissions_are_canonical() -> None:
    assert permissions.cidr4("10.1.2.3/8") == "10.0.0.0/8"
    assert permissions.cidr4("0.0.0.0/0") == "0.0.0.0/0"
    assert permissions.cidr6("2001:DB8:0::1/64") == "2001:db8::/64"
    for wrong in ("10.0.0.0", "::/0", "10.0.0.300/24"):
        assert code(lambda wrong=wrong: permissions.cidr4(wrong)) == "InvalidParameterValue"
    for wrong in ("::", "::/129", "10.0.0.0/8", "fe80::1%eth0/64"):
        assert code(lambda wrong=wrong: permissions.cidr6(wrong)) == "InvalidParameterValue"


@pytest.mark.parametrize(
    ("opening", "words"),
    [
        (Opening("tcp", 22, 23, cidr4="0.0.0.0/0"), "peer: 0.0.0.0/0, TCP, from port: 22, to port: 23, ALLOW"),
        (Opening("-1", -1, -1, peer="sg-12345678"), "peer: sg-12345678, ALL, ALLOW"),
        (Opening("icmp", 8, -1, cidr6="::/0"), "peer: ::/0, ICMP, type: 8, code: ALL, ALLOW"),
    ],
)
def test_a_duplicate_in_ec2_s_words(opening: Opening, words: str) -> None:
    error = permissions.duplicate(opening)
    assert (error.code, str(error)) == ("InvalidPermission.Duplicate", f'the specified rule "{words}" already exists')


def test_the_quota_counts_ipv4_and_ipv6_apart() -> None:
    four = [Opening("tcp", port, port, cidr4="0.0.0.0/0") for port in range(5)]
    six = [Opening("tcp", port, port, cidr6="::/0") for port in range(3)]
    assert permissions.weight([*four, *six, Opening("tcp", 1, 1, peer="sg-12345678")]) == 6


def test_rules_of_the_same_ports_are_shown_together() -> None:
    found = [
        Rule("sgr-1", "sg-1", egress=False, opening=Opening("tcp", 1, 2, cidr4="10.0.0.0/8"), description="ours"),
        Rule("sgr-2", "sg-1", egress=False, opening=Opening("tcp", 1, 2, peer="sg-2")),
        Rule("sgr-3", "sg-1", egress=False, opening=Opening("-1", -1, -1, cidr6="::/0")),
    ]
    assert permissions.shown(found, "111122223333") == [
        {
            "IpProtocol": "tcp",
            "FromPort": 1,
            "ToPort": 2,
            "IpRanges": [{"CidrIp": "10.0.0.0/8", "Description": "ours"}],
            "Ipv6Ranges": [],
            "PrefixListIds": [],
            "UserIdGroupPairs": [{"GroupId": "sg-2", "UserId": "111122223333"}],
        },
        {
            "IpProtocol": "-1",
            "IpRanges": [],
            "Ipv6Ranges": [{"CidrIpv6": "::/0"}],
            "PrefixListIds": [],
            "UserIdGroupPairs": [],
        },
    ]


# ---- filters and pages -------------------------------------------------------------------------------------------

PEOPLE: list[dict[str, Any]] = [
    {"name": "Ann", "old": True, "tags": {"team": "blue", "a*": "x"}},
    {"name": "Anton", "old": False, "tags": {"team": "red"}},
    {"name": "b*b", "old": False, "tags": {}},
]
TABLE = {"name": lambda one: [one["name"]], "old": lambda one: [one["old"]]}


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ([], ["Ann", "Anton", "b*b"]),
        ([("name", ["Ann"])], ["Ann"]),
        ([("name", ["ann"])], []),
        ([("name", ["An*"])], ["Ann", "Anton"]),
        ([("name", ["An?"])], ["Ann"]),
        ([("name", [r"b\*b"])], ["b*b"]),
        ([("name", [r"A\*"])], []),
        ([("name", ["Ann", "b?b"])], ["Ann", "b*b"]),
        ([("old", ["false"]), ("name", ["*n*"])], ["Anton"]),
        ([("tag:team", ["*"])], ["Ann", "Anton"]),
        ([("tag:team", ["red"])], ["Anton"]),
        ([("tag-key", ["team"])], ["Ann", "Anton"]),
        ([("tag-key", [r"a\*"])], ["Ann"]),
        ([("name", ["A.n", "(", "[a"])], []),
    ],
)
def test_filters(wanted: list[tuple[str, list[str]]], names: list[str]) -> None:
    found = filters.chosen(PEOPLE, wanted, TABLE, lambda one: one["tags"])
    assert [one["name"] for one in found] == names


def test_filters_that_are_refused() -> None:
    with pytest.raises(AwsError, match=r"^The filter 'age' is invalid$") as error:
        filters.chosen(PEOPLE, [("age", ["1"])], TABLE, lambda one: one["tags"])
    assert error.value.code == "InvalidParameterValue"
    assert code(lambda: filters.chosen(PEOPLE, [("tag:x", ["1"])], TABLE)) == "InvalidParameterValue"
    assert code(lambda: filters.chosen(PEOPLE, [("name", [])], TABLE)) == "MissingParameter"
    assert code(lambda: filters.chosen(PEOPLE, [("name", ["x"] * 201)], TABLE)) == "FilterLimitExceeded"


@given(st.sets(st.text(min_size=1)), st.integers(5, 20))
def test_pages_hold_everything_once_and_in_order(found: set[str], most: int) -> None:
    seen: list[str] = []
    token: str | None = None
    while True:
        taken, more = filters.page(found, str, token, most)
        assert len(taken) <= most
        seen += taken
        token = more.get("NextToken")
        if token is None:
            break
    assert seen == sorted(found)


@pytest.mark.parametrize("token", ["x", "AWVjMjo", "AQ==", "Zm9v", "AWVjMjr_", "é"])
def test_tokens_that_nobody_gave(token: str) -> None:
    assert code(lambda: filters.page(["a"], str, token, None)) == "InvalidNextToken"


@pytest.mark.parametrize("most", [-1, 0, 4, 1001])
def test_sizes_of_pages_that_are_refused(most: int) -> None:
    assert code(lambda: filters.page(["a"], str, None, most)) == "InvalidParameterValue"


# ---- tags --------------------------------------------------------------------------------------------------------


def test_tags() -> None:
    assert rules.merged_tags({"a": "1", "b": "2"}, [("b", "3"), ("c", "")]) == {"a": "1", "b": "3", "c": ""}
    assert rules.without_tags({"a": "1", "b": "2", "c": "3"}, [("a", None), ("b", "x"), ("c", "3"), ("d", None)]) == {
        "b": "2"
    }
    full = {f"k{number}": "" for number in range(50)}
    assert code(lambda: rules.merged_tags(full, [("new", "")])) == "TagLimitExceeded"
    assert len(rules.merged_tags(full, [("k7", "v" * 256)])) == 50


@pytest.mark.parametrize(
    "tags",
    [[("", "")], [("k" * 129, "")], [("k", "v" * 257)], [("aws:x", "")], [("AWS:x", "")], [("k", "1"), ("k", "2")]],
)
def test_tags_that_are_refused(tags: list[tuple[str, str]]) -> None:
    assert code(lambda: rules.merged_tags({}, tags)) == "InvalidParameterValue"
