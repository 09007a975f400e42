"""A cluster's rows without an HSM process: the keyring is HMAC with a key of the test."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hsmsim.clock import ManualClock
from hsmsim.cluster.founding import found
from hsmsim.cluster.model import (
    INITIALIZED,
    ClusterRow,
    IdentityRow,
    MemberRow,
    MtlsRow,
    ObjectRow,
    PartitionRow,
    ShareRow,
    UserRow,
    new_key,
)
from hsmsim.cluster.replica import Replica
from hsmsim.storage.database import Database
from hsmsim.storage.migrate import migrate

if TYPE_CHECKING:
    from pathlib import Path

    from hsmsim.cluster.model import Row

CLUSTER = "cluster-aaaaaaaaaaa"
HSM_A = "hsm-aaaaaaaaaaa"
HSM_B = "hsm-bbbbbbbbbbb"
ADMIN, ALICE, BOB = 17, 18, 19


@dataclass(frozen=True, slots=True)
class HmacKeyring:
    key: bytes = b"the masking key of a test"

    def mac(self, purpose: str, data: bytes) -> bytes:
        derived = hmac.new(self.key, purpose.encode(), hashlib.sha256).digest()
        return hmac.new(derived, data, hashlib.sha256).digest()


def first_rows() -> list[Row]:
    return [
        IdentityRow(1, "FIPS", certificate=b"certificate", trust_anchor=b"root"),
        MtlsRow(1, anchor_2=b"anchor"),
        PartitionRow(1, ""),
        UserRow(ADMIN, 1, "admin", 1, b"", b"", 0),
        UserRow(ALICE, 1, "Alice", 2, b"salt", b"hash", 1),
        UserRow(BOB, 1, "bob", 2, b"pepper", b"hsah", 1),
        ObjectRow(20, 1, ALICE, 4, 31, private=True, attributes=b"attributes", material=b"masked"),
        ShareRow(20, BOB),
        MemberRow(HSM_A, "/run/a.sock", b"certificate", b"sealed"),
    ]


def make_database(folder: Path, keyring: HmacKeyring | None = None) -> str:
    url = f"sqlite:///{folder}/cluster.db"
    migrate(url)
    database = Database(url)
    assert found(database, ClusterRow(CLUSTER, "one", 0, INITIALIZED), first_rows, keyring or HmacKeyring())
    database.close()
    return url


def open_replica(url: str, hsm_id: str = HSM_A, keyring: HmacKeyring | None = None) -> Replica:
    return Replica(url, CLUSTER, hsm_id, keyring or HmacKeyring(), clock=ManualClock())


def new_object(version: int, index: int = 0, owner: int = ALICE, material: bytes = b"masked") -> ObjectRow:
    return ObjectRow(new_key(version, index), 1, owner, 4, 31, private=True, attributes=b"label", material=material)


def tombstone(row: Row) -> Row:
    return replace(row, deleted=True)


def run_sql(url: str, statement: str, *values: object) -> int:
    """What someone with a SQL shell does; the number of rows it changed."""
    database = Database(url)
    with database.write() as connection:
        count = connection.exec_driver_sql(statement, tuple(values)).rowcount
    database.close()
    return count
