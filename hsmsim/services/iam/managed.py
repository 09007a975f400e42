"""AWS's own managed policies that matter here, as AWS documents what they allow.

A small list: those whose whole document is known to us. ReadOnlyAccess and its kind name hundreds of services and
change weekly; a shortened one would lie.
"""

from __future__ import annotations

import json
from typing import Any, Final

from hsmsim.services.iam.model import ManagedPolicy, Version

_MADE: Final = 1_423_216_800.0  # 2015-02-06T10:00:00Z, when most of them appeared


def _allow(*actions: str, resource: str | list[str] = "*") -> dict[str, Any]:
    return {"Effect": "Allow", "Action": list(actions), "Resource": resource}


_DOCUMENTS: Final[dict[str, list[dict[str, Any]]]] = {
    "/AdministratorAccess": [_allow("*")],
    "/PowerUserAccess": [
        {"Effect": "Allow", "NotAction": ["iam:*", "organizations:*", "account:*"], "Resource": "*"},
        _allow(
            "account:GetAccountInformation",
            "account:GetPrimaryEmail",
            "account:ListRegions",
            "iam:CreateServiceLinkedRole",
            "iam:DeleteServiceLinkedRole",
            "iam:ListRoles",
            "organizations:DescribeEffectivePolicy",
            "organizations:DescribeOrganization",
        ),
    ],
    "/IAMReadOnlyAccess": [
        _allow(
            "iam:GenerateCredentialReport",
            "iam:GenerateServiceLastAccessedDetails",
            "iam:Get*",
            "iam:List*",
            "iam:SimulateCustomPolicy",
            "iam:SimulatePrincipalPolicy",
        )
    ],
    "/AWSCloudHSMFullAccess": [_allow("cloudhsm:*")],
    "/AWSCloudHSMReadOnlyAccess": [_allow("cloudhsm:Get*", "cloudhsm:List*", "cloudhsm:Describe*")],
    "/AWSKeyManagementServicePowerUser": [
        _allow(
            "kms:CreateAlias",
            "kms:CreateKey",
            "kms:DeleteAlias",
            "kms:Describe*",
            "kms:GenerateRandom",
            "kms:Get*",
            "kms:List*",
            "kms:TagResource",
            "kms:UntagResource",
            "iam:ListGroups",
            "iam:ListRoles",
            "iam:ListUsers",
        )
    ],
    "/AWSDenyAll": [{"Sid": "DenyAll", "Effect": "Deny", "Action": ["*"], "Resource": "*"}],
    "/aws-service-role/CloudHSMServiceRolePolicy": [
        _allow(
            "logs:CreateLogGroup",
            "logs:CreateLogStream",
            "logs:PutLogEvents",
            "logs:DescribeLogStreams",
            resource=["arn:aws:logs:*:*:*"],
        )
    ],
    "/aws-service-role/AWSKeyManagementServiceCustomKeyStoresServiceRolePolicy": [
        _allow(
            "cloudhsm:Describe*",
            "ec2:CreateNetworkInterface",
            "ec2:AuthorizeSecurityGroupIngress",
            "ec2:CreateSecurityGroup",
            "ec2:DescribeSecurityGroups",
            "ec2:RevokeSecurityGroupEgress",
            "ec2:DeleteSecurityGroup",
            "ec2:DescribeVpcs",
            "ec2:DescribeNetworkAcls",
            "ec2:DescribeNetworkInterfaces",
        )
    ],
}


def _policy(full: str, number: int) -> ManagedPolicy:
    path, _, name = full.rpartition("/")
    id_ = f"ANPAHSMSIM{number:011d}"
    return ManagedPolicy(id_, "aws", name, f"{path}/", "", _MADE, _MADE, 1)


AWS_POLICIES: Final = {
    policy.arn: (policy, Version(1, json.dumps({"Version": "2012-10-17", "Statement": statements}), _MADE))
    for policy, statements in (
        (_policy(full, number), found) for number, (full, found) in enumerate(_DOCUMENTS.items())
    )
}
SERVICE_ONLY: Final = frozenset(arn for arn in AWS_POLICIES if "/aws-service-role/" in arn)
"""Attached by CreateServiceLinkedRole alone."""
