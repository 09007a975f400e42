"""Values of IAM: entities, keys, policies, and the quotas."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

PAGE: Final = 100
ROLE_SESSION_S: Final = 3600


class EntityKind(StrEnum):
    """What can have policies."""

    USER = "user"
    GROUP = "group"
    ROLE = "role"


class Thing(StrEnum):
    """What gateways have in memory. It is named by its id; a policy by its ARN."""

    ENTITY = "entity"
    POLICY = "policy"
    KEY = "key"


PREFIXES: Final = {EntityKind.USER: "AIDA", EntityKind.GROUP: "AGPA", EntityKind.ROLE: "AROA"}


@dataclass(frozen=True, slots=True)
class Quotas:
    """Of one kind of entity: characters of all its inline policies, managed policies, tags; how many there may be."""

    inline: int
    attached: int
    tags: int
    count: int


QUOTAS: Final = {
    EntityKind.USER: Quotas(2048, 10, 50, 5000),
    EntityKind.GROUP: Quotas(5120, 10, 0, 300),
    EntityKind.ROLE: Quotas(10240, 10, 50, 1000),
}
MANAGED_SIZE: Final = 6144
TRUST_SIZE: Final = 2048
POLICIES: Final = 1500
VERSIONS: Final = 5
KEYS_PER_USER: Final = 2
GROUPS_PER_USER: Final = 10
POLICY_TAGS: Final = 50


@dataclass(frozen=True, slots=True)
class Entity:
    """A user, a group or a role. boundary: ARN or empty. trust ... service: of roles only.

    service: the principal that a service-linked role belongs to.
    """

    id: str
    account: str
    kind: EntityKind
    name: str
    path: str
    created: float
    boundary: str = ""
    trust: str = ""
    description: str = ""
    max_session: int = ROLE_SESSION_S
    service: str = ""

    @property
    def arn(self) -> str:
        """Its ARN."""
        return f"arn:aws:iam::{self.account}:{self.kind}{self.path}{self.name}"


@dataclass(frozen=True, slots=True)
class AccessKey:
    """A long-term key. owner: the user's id, the account's for root. The secret is sealed for the key's id."""

    id: str
    account: str
    owner: str
    sealed: bytes = field(repr=False)
    active: bool
    created: float


@dataclass(frozen=True, slots=True)
class ManagedPolicy:
    """A managed policy without its documents; account "aws": one of AWS's own."""

    id: str
    account: str
    name: str
    path: str
    description: str
    created: float
    updated: float
    default: int

    @property
    def arn(self) -> str:
        """Its ARN."""
        return f"arn:aws:iam::{self.account}:policy{self.path}{self.name}"


@dataclass(frozen=True, slots=True)
class Change:
    """That a thing was made, changed or deleted. Numbers grow in the order in which changes are committed."""

    sequence: int
    thing: Thing
    name: str


@dataclass(frozen=True, slots=True)
class Version:
    """One document of a managed policy."""

    number: int
    document: str
    created: float

    @property
    def id(self) -> str:
        """v1, v2, ..."""
        return f"v{self.number}"
