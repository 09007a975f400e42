"""A network for tests of services that stand in one: three zones in one VPC, one more elsewhere; rows like EC2's."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from sqlalchemy import text

from hsmsim.services.network import InterfaceFacts, NetworkError, Refusal, SubnetFacts, TcpOpening

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.engine import Connection

    from hsmsim.services.network import NewGroup, NewInterface, Place

VPC, OTHER_VPC = "vpc-0123456789abcdef0", "vpc-0fedcba9876543210"
SUBNETS = {
    f"subnet-0000000000000000{number}": SubnetFacts(
        f"subnet-0000000000000000{number}", vpc, f"eu-west-1{zone}", f"10.0.{number}.0/24", 251
    )
    for number, (zone, vpc) in enumerate([("a", VPC), ("b", VPC), ("c", VPC), ("a", VPC), ("b", OTHER_VPC)])
}
SUBNET_IDS = list(SUBNETS)
_TABLES = (
    "CREATE TABLE IF NOT EXISTS test_interfaces (id TEXT, ip TEXT, subnet TEXT, groupid TEXT)",
    "CREATE TABLE IF NOT EXISTS test_groups (id TEXT, name TEXT, first INTEGER, last INTEGER)",
)


class TestNetwork:
    """The port, on two tables of its own in the gateway's database."""

    __test__ = False

    def prepare(self, tx: Connection) -> None:
        for table in _TABLES:
            tx.execute(text(table))

    def rows(self, tx: Connection) -> dict[str, list[dict[str, object]]]:
        """What is there now."""
        return {
            name: [dict(row._mapping) for row in tx.execute(text(f"SELECT * FROM test_{name} ORDER BY id"))]
            for name in ("interfaces", "groups")
        }

    def subnets(self, _tx: Connection, _place: Place, ids: Iterable[str]) -> list[SubnetFacts]:
        for id_ in ids:
            if id_ not in SUBNETS:
                raise NetworkError(Refusal.NO_SUBNET, f"The subnet ID '{id_}' does not exist")
        return [SUBNETS[id_] for id_ in ids]

    def create_group(self, tx: Connection, _place: Place, new: NewGroup) -> str:
        count = tx.execute(text("SELECT coalesce(max(rowid), 0) FROM test_groups")).scalar_one()
        id_ = f"sg-{count + 1:017x}"
        values = {"i": id_, "n": new.name, "f": new.first_port, "l": new.last_port}
        tx.execute(text("INSERT INTO test_groups VALUES (:i, :n, :f, :l)"), values)
        return id_

    def delete_group(self, tx: Connection, _place: Place, group: str) -> bool:
        return tx.execute(text("DELETE FROM test_groups WHERE id = :i"), {"i": group}).rowcount > 0

    def openings(self, _tx: Connection, _place: Place, _group: str) -> list[TcpOpening]:
        return []

    def create_interface(self, tx: Connection, _place: Place, new: NewInterface) -> InterfaceFacts:
        taken = set(tx.execute(text("SELECT ip FROM test_interfaces")).scalars())
        network = ipaddress.ip_network(SUBNETS[new.subnet].cidr)
        if not new.address:
            address = next(str(ip) for ip in list(network.hosts())[3:] if str(ip) not in taken)
        elif ipaddress.ip_address(new.address) not in network:
            raise NetworkError(Refusal.BAD_ADDRESS, "Address does not fall within the subnet's address range")
        elif new.address in taken:
            raise NetworkError(Refusal.IN_USE, f"The specified address is already in use: {new.address}")
        else:
            address = new.address
        id_ = f"eni-{int(ipaddress.ip_address(address)):017x}"
        values = {"i": id_, "a": address, "s": new.subnet, "g": new.group}
        tx.execute(text("INSERT INTO test_interfaces VALUES (:i, :a, :s, :g)"), values)
        return InterfaceFacts(id_, new.subnet, address, (new.group,))

    def delete_interface(self, tx: Connection, _place: Place, interface: str) -> None:
        tx.execute(text("DELETE FROM test_interfaces WHERE id = :i"), {"i": interface})
