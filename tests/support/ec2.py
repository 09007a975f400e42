"""EC2's clients and refusals, and the shortest way to a network, for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.assembled import Gateway

REGION = "eu-west-1"
ACCOUNTS = iter(f"{number:012d}" for number in range(500_000_000_000, 600_000_000_000))
Client = Any


def client_of(gateway: Gateway, account: str, region: str = REGION) -> Client:
    return gateway.client("ec2", {"AccessKeyId": account, "SecretAccessKey": "any"}, region)


def refusal(work: Callable[[], object]) -> tuple[str, str, int]:
    """The code, the sentence and the status of an error."""
    with pytest.raises(ClientError) as error:
        work()
    response = error.value.response
    return (
        response["Error"]["Code"],
        response["Error"]["Message"],
        response["ResponseMetadata"]["HTTPStatusCode"],
    )


def code(work: Callable[[], object]) -> str:
    found, _, status = refusal(work)
    assert status == 400
    return found


def new_vpc(ec2: Client, cidr: str = "10.0.0.0/16") -> str:
    made: str = ec2.create_vpc(CidrBlock=cidr)["Vpc"]["VpcId"]
    return made


def new_subnet(ec2: Client, vpc: str, cidr: str = "10.0.0.0/24", **more: Any) -> str:
    made: str = ec2.create_subnet(VpcId=vpc, CidrBlock=cidr, **more)["Subnet"]["SubnetId"]
    return made


def new_group(ec2: Client, vpc: str, name: str = "web") -> str:
    made: str = ec2.create_security_group(VpcId=vpc, GroupName=name, Description="a group")["GroupId"]
    return made


def tcp(port: int, **more: Any) -> list[dict[str, Any]]:
    return [{"IpProtocol": "tcp", "FromPort": port, "ToPort": port, **more}]


OPEN = {"IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
NOBODY = "0123456789abcdef0"
