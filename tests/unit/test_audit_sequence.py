"""The audit log: no gap, one boot counter per start, in the transaction of what it records."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from unit.replicas import HSM_A, HSM_B, make_database, new_object, open_replica, run_sql

from hsmsim.cluster.model import AuditEntry
from hsmsim.errors import CkrError, StorageError

if TYPE_CHECKING:
    from pathlib import Path

    from hsmsim.cluster.model import ObjectRow
    from hsmsim.cluster.replica import Replica

CREATE = AuditEntry("CREATE_OBJECT", "alice", 2, 0, 32, "label")
LOGIN = AuditEntry("LOGIN", "alice", 2, 0xA0, 0, "")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return make_database(tmp_path)


def log(replica: Replica) -> list[tuple[int, int, str]]:
    found = []
    for row, problem in replica.log.rows():
        assert row is not None, problem
        found.append((row.sequence, row.boot, row.opcode))
    return found


def test_the_sequence_goes_on_and_the_boot_counter_counts_starts(url: str) -> None:
    first = open_replica(url)
    first.audit(LOGIN)
    first.write(lambda version: [new_object(version)], CREATE)
    second = open_replica(url)
    second.set_failures(18, 1, LOGIN)
    assert (first.boot, second.boot) == (1, 2)
    assert log(second) == [(1, 1, "BOOT"), (2, 1, "LOGIN"), (3, 1, "CREATE_OBJECT"), (4, 2, "BOOT"), (5, 2, "LOGIN")]


def test_each_hsm_has_a_log_of_its_own(url: str) -> None:
    one, two = open_replica(url), open_replica(url, HSM_B)
    one.audit(LOGIN)
    two.audit(CREATE)
    assert log(one) == [(1, 1, "BOOT"), (2, 1, "LOGIN")]
    assert log(two) == [(1, 1, "BOOT"), (2, 1, "CREATE_OBJECT")]


def test_a_record_holds_what_was_said(url: str) -> None:
    replica = open_replica(url)
    replica.audit(AuditEntry("USER_CREATE", "admin", 1, 0x11, 99, "bøb"))
    row = [row for row, _ in replica.log.rows()][-1]
    assert row is not None
    assert (row.opcode, row.user, row.role, row.rv, row.handle, row.detail) == (
        "USER_CREATE",
        "admin",
        1,
        0x11,
        99,
        "bøb",
    )
    assert row.time == 1_700_000_000_000_000
    assert row.hsm_id == HSM_A


def test_a_write_that_does_not_happen_leaves_no_record_and_no_gap(url: str) -> None:
    one, two = open_replica(url), open_replica(url, HSM_B)

    def refuse(_version: int) -> list[ObjectRow]:
        raise CkrError(0x05)

    with pytest.raises(CkrError):
        one.write(refuse, CREATE)
    two.write(lambda version: [new_object(version)])
    one.write(lambda version: [new_object(version)], CREATE)  # loses the race once, then builds again
    run_sql(url, "ALTER TABLE objects RENAME TO hidden")
    with pytest.raises(StorageError):
        one.write(lambda version: [new_object(version)], CREATE)
    run_sql(url, "ALTER TABLE hidden RENAME TO objects")
    one.audit(LOGIN)
    assert [sequence for sequence, _, _ in log(one)] == [1, 2, 3]


def test_threads_leave_no_gap(url: str) -> None:
    replica = open_replica(url)

    def work() -> None:
        for _ in range(20):
            replica.audit(LOGIN)
            replica.write(lambda version: [new_object(version)], CREATE)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [sequence for sequence, _, _ in log(replica)] == list(range(1, 162))


@pytest.mark.parametrize(
    "column", ["hsm_id", "boot", "time", "opcode", "user", "role", "rv", "handle", "detail", "mac"]
)
def test_a_changed_record_is_told(url: str, column: str) -> None:
    replica = open_replica(url)
    replica.audit(LOGIN)
    replica.audit(CREATE)
    run_sql(url, f'UPDATE audit SET "{column}" = ? WHERE sequence = 2', 5)
    problems = [problem for row, problem in replica.log.rows() if row is None]
    assert len(problems) == 1
    assert "2" in problems[0]


def test_missing_records_are_told_at_the_next_start(url: str) -> None:
    replica = open_replica(url)
    for _ in range(3):
        replica.audit(LOGIN)
    run_sql(url, "DELETE FROM audit WHERE sequence = 3")
    started = open_replica(url)
    assert started.alarms == 1
    assert [problem for row, problem in started.log.rows() if row is None] == ["records 3 to 3 are missing"]
