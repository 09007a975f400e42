"""Principals: who signs a request, as IAM names them."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_ACCOUNT_SHIFT: Final = 7
_ACCOUNT_MASK: Final = (1 << 40) - 1


class Kind(StrEnum):
    """CloudTrail's userIdentity.type."""

    ROOT = "Root"
    USER = "IAMUser"
    ROLE = "AssumedRole"
    FEDERATED = "FederatedUser"
    SERVICE = "AWSService"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call.

    arn: arn:aws:iam::111122223333:user/path/name, :root, arn:aws:sts::...:assumed-role/Role/session,
    arn:aws:sts::...:federated-user/name, or for an AWS service its principal (cloudhsm.amazonaws.com).
    user_id: aws:userid (AIDA..., AROA...:session, account:name of a federated user, the account id for root).
    name: the user's, the role's or the federated user's. issuer, issuer_id: ARN and id of the role of an AssumedRole,
    of the user (or root) that a federated user was made by. issued: real seconds when the session was issued, 0 for a
    long-term key. tags: aws:PrincipalTag. transitive: the keys of those that a next AssumeRole keeps. session_policies:
    documents that narrow the session.
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
    transitive: tuple[str, ...] = ()
    source_identity: str = ""


def canonical_user(account: str) -> str:
    """Return an account's canonical user id: 64 hexadecimal digits, always the same."""
    return hashlib.sha256(f"hsmsim canonical user {account}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Credential:
    """What proves a caller: the secret that signs its requests."""

    secret: str = field(repr=False)
    caller: Caller


@dataclass(frozen=True, slots=True)
class Role:
    """A role as STS needs it. trust: its trust policy. max_session: seconds."""

    id: str
    account: str
    name: str
    arn: str
    trust: str
    max_session: int
    tags: Mapping[str, str]


def access_key_id(prefix: str, account: str, token: Callable[[int], bytes]) -> str:
    """AKIA..., ASIA...: the account is in it, as AWS does: bits 1 to 40 of 80; the first is 1, the others random."""
    noise = token(5)
    head = 1 << 47 | int(account) << _ACCOUNT_SHIFT | noise[0] >> 1
    return prefix + base64.b32encode(head.to_bytes(6, "big") + noise[1:]).decode()


def account_of_key(key_id: str) -> str:
    """Read the account out of an access key id; ValueError if there cannot be one in it."""
    data = base64.b32decode(key_id[4:20])
    number = int.from_bytes(data[:6], "big") >> _ACCOUNT_SHIFT & _ACCOUNT_MASK
    return f"{number:012d}"


def new_secret(token: Callable[[int], bytes]) -> str:
    """Return a secret access key: 40 signs, 240 random bits."""
    return base64.b64encode(token(30)).decode()
