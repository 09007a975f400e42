"""Principals: who signs a request, as IAM names them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Kind(StrEnum):
    """CloudTrail's userIdentity.type."""

    ROOT = "Root"
    USER = "IAMUser"
    ROLE = "AssumedRole"
    SERVICE = "AWSService"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call.

    arn: arn:aws:iam::111122223333:user/path/name, :root, arn:aws:sts::...:assumed-role/Role/session, or for an AWS
    service its principal (cloudhsm.amazonaws.com). user_id: aws:userid (AIDA..., AROA...:session, the account id for
    root). issuer: the role's ARN for AssumedRole. tags: aws:PrincipalTag. issued: real seconds when the session was
    issued. session_policies: documents that narrow an assumed role.
    """

    kind: Kind
    account: str
    arn: str
    user_id: str
    access_key_id: str = ""
    name: str = ""
    issuer: str = ""
    issuer_id: str = ""
    issued: float = 0.0
    tags: Mapping[str, str] = field(default_factory=dict)
    session_policies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Credential:
    """What proves a caller: the secret that signs its requests."""

    secret: str = field(repr=False)
    caller: Caller
