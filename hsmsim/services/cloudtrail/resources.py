"""Which resources an event is about: the members of its parameters and elements that name one, by service.

AWS derives `Resources` in the same way and documents no table of it. Marked U: the type is not one that AWS's documents
or published events show (UNVERIFIED).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hsmsim.services.cloudtrail.model import Resource

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_ASSUMED: Final = "AWS::STS::AssumedRole"
_FEDERATED: Final = "AWS::STS::FederatedUser"  # U
_KEY: Final = "AWS::IAM::AccessKey"
_POLICY: Final = "AWS::IAM::Policy"

# eventSource: member, or the member that it is in and the member: type.
_TYPES: Final[Mapping[str, Mapping[str, str]]] = {
    "iam.amazonaws.com": {
        "userName": "AWS::IAM::User",
        "groupName": "AWS::IAM::Group",
        "roleName": "AWS::IAM::Role",
        "accessKeyId": _KEY,
        "policyArn": _POLICY,
        "policy.arn": _POLICY,
    },
    "sts.amazonaws.com": {
        "accessKeyId": _KEY,
        "roleSessionName": _ASSUMED,
        "assumedRoleUser.assumedRoleId": _ASSUMED,
        "assumedRoleUser.arn": _ASSUMED,
        "federatedUser.federatedUserId": _FEDERATED,
        "federatedUser.arn": _FEDERATED,
        "roleArn": "AWS::IAM::Role",
    },
    "ec2.amazonaws.com": {
        "vpcId": "AWS::EC2::VPC",
        "subnetId": "AWS::EC2::Subnet",
        "groupId": "AWS::EC2::SecurityGroup",
        "networkInterfaceId": "AWS::EC2::NetworkInterface",
    },
    "cloudhsm.amazonaws.com": {
        "clusterId": "AWS::CloudHSM::Cluster",  # U
        "hsmId": "AWS::CloudHSM::Hsm",  # U
        "backupId": "AWS::CloudHSM::Backup",  # U
    },
}


def of(event: Mapping[str, Any]) -> tuple[Resource, ...]:
    """The resources of an event, each once: those that it made, then those that it was asked about."""
    types = _TYPES.get(event["eventSource"])
    if types is None:
        return ()
    found = {
        Resource(type_, name): None
        for part in ("responseElements", "requestParameters")
        for type_, name in _named(types, "", event[part])
    }
    return tuple(found)


def _named(types: Mapping[str, str], inside: str, value: Any) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - JSON
    if isinstance(value, dict):
        for member, inner in value.items():
            type_ = types.get(f"{inside}.{member}") or types.get(member)
            if type_ is not None and isinstance(inner, str):
                yield type_, inner
            else:
                yield from _named(types, member, inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _named(types, inside, inner)
