"""The port through which other services reach EC2's network, inside their own transaction."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from support.aws import World

from hsmsim.errors import AwsError
from hsmsim.ids import SystemIds
from hsmsim.services.ec2 import api as ec2
from hsmsim.services.ec2 import founding, store
from hsmsim.services.ec2.model import Subnet
from hsmsim.services.network import (
    InterfaceFacts,
    Network,
    NetworkError,
    NewGroup,
    NewInterface,
    Place,
    Refusal,
    TcpOpening,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy.engine import Connection

HOME = Place("123456789012", "eu-central-1")
ELSEWHERE = Place("123456789012", "eu-west-1")
STRANGER = Place("999988887777", "eu-central-1")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    one = World(tmp_path)
    one.writer.write(lambda tx: founding.ensure(tx, HOME, SystemIds()))
    yield one
    one.close()


@pytest.fixture
def network(world: World) -> Network:
    return ec2.network(world.clock, SystemIds())


@pytest.fixture
def within(world: World) -> Callable[[Callable[[Connection], Any]], Any]:
    return world.writer.write


Within = Any


def subnet(tx: Connection, zone: str = "eu-central-1a") -> Any:
    return store.subnets(tx, *store.of(HOME, store.SUBNETS), store.SUBNETS.c.zone == zone)[0]


def refusal(work: Callable[[], object]) -> Refusal:
    with pytest.raises(NetworkError) as error:
        work()
    return error.value.reason


def cluster_group(tx: Connection, network: Network, name: str = "cloudhsm-cluster-abc-sg") -> str:
    return network.create_group(tx, HOME, NewGroup(subnet(tx).vpc, name, "of a cluster", 2223, 2225))


def test_subnets_in_the_order_of_their_ids(network: Network, within: Within) -> None:
    def work(tx: Connection) -> None:
        first, second = subnet(tx), subnet(tx, "eu-central-1b")
        found = network.subnets(tx, HOME, [second.id, first.id])
        assert [(one.id, one.zone, one.free) for one in found] == [
            (second.id, "eu-central-1b", 4091),
            (first.id, "eu-central-1a", 4091),
        ]
        assert {one.vpc for one in found} == {first.vpc}
        assert found[1].cidr == "172.31.0.0/20"
        assert refusal(lambda: network.subnets(tx, ELSEWHERE, [first.id])) is Refusal.NO_SUBNET
        assert refusal(lambda: network.subnets(tx, STRANGER, [first.id])) is Refusal.NO_SUBNET
        assert refusal(lambda: network.subnets(tx, HOME, ["subnet-x"])) is Refusal.NO_SUBNET

    within(work)


def test_a_cluster_s_group_reaches_itself_and_nothing_else(network: Network, within: Within) -> None:
    def work(tx: Connection) -> None:
        id_ = cluster_group(tx, network)
        assert sorted(network.openings(tx, HOME, id_), key=lambda one: one.egress) == [
            TcpOpening(egress=False, first_port=2223, last_port=2225, group=id_, cidr=""),
            TcpOpening(egress=True, first_port=2223, last_port=2225, group=id_, cidr=""),
        ]
        found = store.groups(tx, store.GROUPS.c.id == id_)[0]
        assert (found.name, found.description) == ("cloudhsm-cluster-abc-sg", "of a cluster")
        assert refusal(lambda: cluster_group(tx, network)) is Refusal.EXISTS
        nowhere = NewGroup("vpc-0123456789abcdef0", "x", "x", 1, 1)
        assert refusal(lambda: network.create_group(tx, HOME, nowhere)) is Refusal.NO_VPC
        assert refusal(lambda: network.openings(tx, STRANGER, id_)) is Refusal.NO_GROUP
        assert network.delete_group(tx, HOME, id_)
        assert network.delete_group(tx, HOME, id_)
        assert refusal(lambda: network.openings(tx, HOME, id_)) is Refusal.NO_GROUP

    within(work)


def test_everything_is_an_opening_of_every_port(network: Network, within: Within) -> None:
    def work(tx: Connection) -> None:
        own = store.group_named(tx, subnet(tx).vpc, "default")
        assert own is not None
        assert sorted(network.openings(tx, HOME, own.id), key=lambda one: one.egress) == [
            TcpOpening(egress=False, first_port=0, last_port=65535, group=own.id, cidr=""),
            TcpOpening(egress=True, first_port=0, last_port=65535, group="", cidr="0.0.0.0/0"),
        ]

    within(work)


def test_an_interface_takes_an_address_and_gives_it_back(network: Network, within: Within) -> None:
    def work(tx: Connection) -> None:
        home, group = subnet(tx), cluster_group(tx, network)

        def add(address: str = "", where: str = home.id, own: str = group) -> InterfaceFacts:
            return network.create_interface(tx, HOME, NewInterface(where, own, "for an HSM", "cloudhsm", address))

        made = add("172.31.0.20")
        assert re.fullmatch(r"eni-0[0-9a-f]{16}", made.id)
        assert made == InterfaceFacts(made.id, home.id, "172.31.0.20", (group,))
        assert network.interface(tx, HOME, made.id) == made
        assert network.subnets(tx, HOME, [home.id])[0].free == 4090
        assert refusal(lambda: add("172.31.0.20")) is Refusal.IN_USE
        assert refusal(lambda: add("172.31.0.3")) is Refusal.BAD_ADDRESS
        assert refusal(lambda: add("172.31.15.255")) is Refusal.BAD_ADDRESS
        assert refusal(lambda: add("172.31.16.4")) is Refusal.BAD_ADDRESS
        assert refusal(lambda: add("hsm")) is Refusal.BAD_ADDRESS
        assert refusal(lambda: add(where="subnet-12345678")) is Refusal.NO_SUBNET
        assert refusal(lambda: add(own="sg-12345678")) is Refusal.NO_GROUP
        assert not network.delete_group(tx, HOME, group)
        network.delete_interface(tx, HOME, made.id)
        assert refusal(lambda: network.delete_interface(tx, HOME, made.id)) is Refusal.NO_INTERFACE
        assert add("172.31.0.20").address == "172.31.0.20"

    within(work)


def test_a_full_subnet_has_no_address(network: Network, within: Within) -> None:
    def work(tx: Connection) -> None:
        vpc = founding.vpc(tx, HOME, SystemIds(), "10.0.0.0/28")
        tiny = Subnet("subnet-0123456789abcdef0", HOME.account, HOME.region, vpc.id, "eu-central-1a", "10.0.0.0/28")
        store.add_subnet(tx, tiny)
        group = network.create_group(tx, HOME, NewGroup(vpc.id, "g", "g", 1, 2))
        new = NewInterface(tiny.id, group, "", "cloudhsm")
        made = {network.create_interface(tx, HOME, new).address for _ in range(11)}
        assert made == {f"10.0.0.{host}" for host in range(4, 15)}
        assert network.subnets(tx, HOME, [tiny.id])[0].free == 0
        assert refusal(lambda: network.create_interface(tx, HOME, new)) is Refusal.NO_ADDRESS

    within(work)


def test_what_the_transaction_undoes_was_never_there(network: Network, world: World) -> None:
    made: list[str] = []

    def work(tx: Connection) -> None:
        made.append(cluster_group(tx, network))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        world.writer.write(work)
    with world.database.read() as tx:
        assert refusal(lambda: network.openings(tx, HOME, made[0])) is Refusal.NO_GROUP


def test_an_account_sees_a_managed_interface_and_cannot_take_it(network: Network, world: World) -> None:
    world.services["ec2"] = ec2.build(world.database)
    caller, place = world.root.caller, ELSEWHERE

    def run(name: str, **members: Any) -> dict[str, Any]:
        return world.run("ec2", name, caller, members)

    zone = {"Name": "availability-zone", "Values": ["eu-west-1a"]}
    home = run("DescribeSubnets", Filters=[zone])["Subnets"][0]

    def work(tx: Connection) -> InterfaceFacts:
        group = network.create_group(tx, place, NewGroup(home["VpcId"], "cluster", "of a cluster", 2223, 2225))
        new = NewInterface(home["SubnetId"], group, "of an HSM", "cloudhsm.amazonaws.com", "172.31.0.9")
        return network.create_interface(tx, place, new)

    made = world.writer.write(work)
    (shown,) = run("DescribeNetworkInterfaces")["NetworkInterfaces"]
    assert (shown["NetworkInterfaceId"], shown["PrivateIpAddress"]) == (made.id, "172.31.0.9")
    assert (shown["RequesterManaged"], shown["RequesterId"]) == (True, "cloudhsm.amazonaws.com")
    assert (shown["Status"], shown["Description"]) == ("in-use", "of an HSM")
    assert (shown["Attachment"]["Status"], shown["Attachment"]["InstanceOwnerId"]) == ("attached", "amazon-aws")
    for name, value in [("attachment.attach-time", "2023-11-14T22:13:20.000Z"), ("requester-id", "cloudhsm*")]:
        found = run("DescribeNetworkInterfaces", Filters=[{"Name": name, "Values": [value]}])
        assert len(found["NetworkInterfaces"]) == 1
    for name, members, code in [
        ("DeleteNetworkInterface", {}, "InvalidParameterValue"),
        ("ModifyNetworkInterfaceAttribute", {"Description": {"Value": "mine"}}, "AuthFailure"),
        ("ModifyNetworkInterfaceAttribute", {"Groups": []}, "AuthFailure"),
    ]:
        with pytest.raises(AwsError) as error:
            run(name, NetworkInterfaceId=made.id, **members)
        assert error.value.code == code
    with pytest.raises(AwsError) as error:
        run("DeleteSubnet", SubnetId=home["SubnetId"])
    assert error.value.code == "DependencyViolation"
    mine = run("CreateNetworkInterface", SubnetId=home["SubnetId"])["NetworkInterface"]["NetworkInterfaceId"]
    with world.database.read() as tx:
        assert refusal(lambda: network.delete_interface(tx, place, mine)) is Refusal.NO_INTERFACE
    world.writer.write(lambda tx: network.delete_interface(tx, place, made.id))
    assert [one["NetworkInterfaceId"] for one in run("DescribeNetworkInterfaces")["NetworkInterfaces"]] == [mine]
