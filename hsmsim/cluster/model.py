"""The rows of a cluster as values. A row is immutable; a change is a new row of a higher version.

Rules: `version` is the cluster's version that wrote the row and is set by Replica.write; `deleted` marks a tombstone,
which keeps the key and the last columns so that its MAC stays checkable. Keys are never reused. Field order is part of
the MAC (rows.py): append only, with a migration that seals the rows again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

ROLE_ADMIN: Final = 1
ROLE_CRYPTO_USER: Final = 2
ROLE_APPLIANCE_USER: Final = 3
ROLE_UNACTIVATED_ADMIN: Final = 4
"""Shown, never stored: an admin without a password, before the cluster is activated."""

UNINITIALIZED: Final = "UNINITIALIZED"
INITIALIZED: Final = "INITIALIZED"
ACTIVE: Final = "ACTIVE"

FIPS: Final = "FIPS"
NON_FIPS: Final = "NON_FIPS"

IDENTITY_ID: Final = 1
MTLS_ID: Final = 1
FIRST_PARTITION: Final = 1
IDS_PER_VERSION: Final = 16


def new_key(version: int, index: int) -> int:
    """The handle or id of the index-th new thing of a version: never given twice, whoever writes."""
    if not 0 <= index < IDS_PER_VERSION:
        raise ValueError(f"a version makes at most {IDS_PER_VERSION} new things, not number {index}")
    return version * IDS_PER_VERSION + index


class Keyring(Protocol):
    """What seals rows: the engine, which alone has the masking key."""

    def mac(self, purpose: str, data: bytes) -> bytes:
        """HMAC-SHA256 under HKDF(masking key, purpose)."""


@dataclass(frozen=True, slots=True)
class ClusterRow:
    """One per database.

    `digest` sums the MACs of all live rows, so that a row that vanished or came back from the past is noticed even at a
    start; tombstones up to version `purged` are gone for good.
    """

    cluster_id: str
    incarnation: str
    version: int
    state: str
    purged: int = 0
    digest: bytes = bytes(32)
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class IdentityRow:
    """What the cluster is to the outside; one, with id IDENTITY_ID. `mode` never changes.

    key: the masked private key that the CSR and the cluster's certificate are for; trust_anchor: PEM, as the customer
    gave it; the other certificates and the CSR are DER. limited_write: token objects and users stay as they are.
    """

    id: int
    mode: str
    limited_write: bool = False
    key: bytes = b""
    csr: bytes = b""
    hsm_certificate: bytes = b""
    aws_hardware: bytes = b""
    manufacturer_hardware: bytes = b""
    certificate: bytes = b""
    trust_anchor: bytes = b""
    version: int = 0
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class MtlsRow:
    """What the TCP ports ask of clients' certificates; one, with id MTLS_ID.

    A trust anchor is PEM, its certificate first and then those above it; empty: none is registered under this
    reference. enforced: nobody is let in without a certificate, instead of whoever shows none.
    """

    id: int
    enforced: bool = False
    anchor_1: bytes = b""
    anchor_2: bytes = b""
    version: int = 0
    deleted: bool = False

    @property
    def anchors(self) -> dict[int, bytes]:
        """The trust anchors by reference."""
        return {number: anchor for number, anchor in ((1, self.anchor_1), (2, self.anchor_2)) if anchor}


@dataclass(frozen=True, slots=True)
class PartitionRow:
    """A partition: a SoftHSM2 token in every HSM, a slot in the module. The first has id 1 and an empty name."""

    id: int
    name: str
    version: int = 0
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class UserRow:
    """A user of a partition. An empty password_hash: no login until one is set."""

    id: int
    partition_id: int
    name: str
    role: int
    salt: bytes
    password_hash: bytes
    password_version: int
    version: int = 0
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class ObjectRow:
    """A token object. attributes: an encoded wire template; material: masked key, or SubjectPublicKeyInfo DER."""

    handle: int
    partition_id: int
    owner_id: int
    object_class: int
    key_type: int
    private: bool
    attributes: bytes
    material: bytes
    version: int = 0
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class ShareRow:
    """A user who may use an object of another."""

    handle: int
    user_id: int
    version: int = 0
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class MemberRow:
    """An HSM of the cluster: where it answers, its certificate (DER), the masking key sealed to it.

    socket: the path of its unix socket, and where it is on the network (hsmsim.hsm.address).
    """

    hsm_id: str
    socket: str
    certificate: bytes
    sealed: bytes
    version: int = 0
    deleted: bool = False


Row: TypeAlias = ClusterRow | IdentityRow | MtlsRow | PartitionRow | UserRow | ObjectRow | ShareRow | MemberRow


@dataclass(frozen=True, slots=True)
class LockoutRow:
    """Bad logins in a row of a user on one HSM; belongs to that HSM and has no version of the cluster."""

    hsm_id: str
    user_id: int
    failures: int


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """What happened: wire operation, who, with what result. handle: object or user id, 0 for none."""

    opcode: str
    user: str
    role: int
    rv: int
    handle: int
    detail: str


@dataclass(frozen=True, slots=True)
class AuditRow:
    """An entry in an HSM's log: gap-free `sequence` per HSM, `boot` counts its starts, `time` in microseconds."""

    hsm_id: str
    sequence: int
    boot: int
    time: int
    opcode: str
    user: str
    role: int
    rv: int
    handle: int
    detail: str


@dataclass(frozen=True, slots=True)
class Change:
    """The rows that became valid with one version, tombstones included."""

    version: int
    rows: tuple[Row, ...]
