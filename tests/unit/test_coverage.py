"""`user list` of HSMs that do not say the same."""

from __future__ import annotations

from hsmsim.cli.cloudhsm import coverage
from hsmsim.fleet.access import Role
from hsmsim.fleet.users import LOCKED_AFTER, User

ALICE = User(7, "alice", Role.CRYPTO_USER, 0)


def facts(*answers: list[User] | None) -> dict[str, tuple[object, ...]]:
    found = coverage.users(answers)
    return {str(one["username"]): (one["role"], one["locked"], one["cluster-coverage"]) for one in found}


def test_the_same_everywhere_is_full() -> None:
    assert facts([ALICE]) == {"alice": ("crypto-user", "false", "full")}
    assert facts([ALICE], [ALICE], [ALICE]) == {"alice": ("crypto-user", "false", "full")}


def test_a_silent_hsm_or_one_without_the_user_is_not() -> None:
    partly = {"alice": ("crypto-user", "false", "inconsistent")}
    assert facts([ALICE], None) == partly
    assert facts([ALICE], []) == partly
    assert facts([], [ALICE]) == partly
    assert facts(None, None) == {}


def test_another_user_of_the_same_name_is_not() -> None:
    assert facts([ALICE], [User(8, "alice", Role.CRYPTO_USER, 0)]) == {
        "alice": ("crypto-user", "false", "inconsistent")
    }


def test_each_member_is_compared() -> None:
    admin = User(7, "alice", Role.ADMIN, 0)
    locked = User(7, "alice", Role.CRYPTO_USER, LOCKED_AFTER)
    assert facts([ALICE], [admin]) == {"alice": ("inconsistent", "false", "full")}
    assert facts([ALICE], [locked]) == {"alice": ("crypto-user", "inconsistent", "full")}
    assert facts([locked], [locked]) == {"alice": ("crypto-user", "true", "full")}
