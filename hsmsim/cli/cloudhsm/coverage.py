"""What several HSMs say of the same users, put together as AWS's tool does.

AWS's guide, "user contains inconsistent values": whatever is not the same everywhere is shown as `inconsistent`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hsmsim.fleet.mtls import reference_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hsmsim.fleet.users import User

INCONSISTENT: Final = "inconsistent"


def users(answers: Sequence[Sequence[User] | None]) -> list[dict[str, object]]:
    """Return `data.users` of `user list`. answers: one for each configured HSM, None from one that is silent."""
    by_hsm = [{user.name: user for user in answer} for answer in answers if answer is not None]
    names = dict.fromkeys(name for one in by_hsm for name in one)
    return [_user(name, [one[name] for one in by_hsm if name in one], len(answers)) for name in names]


def anchors(answers: Sequence[Mapping[int, str] | None]) -> list[dict[str, object]]:
    """Return `data.trust_anchors` of `cluster mtls list-trust-anchors`; answers as above, PEM by reference."""
    found = [answer for answer in answers if answer is not None]
    known = sorted({pair for answer in found for pair in answer.items()})
    return [
        {
            "certificate-reference": reference_text(reference),
            "certificate": anchor,
            "cluster-coverage": "full"
            if len(found) == len(answers) and all(answer.get(reference) == anchor for answer in found)
            else INCONSISTENT,
        }
        for reference, anchor in known
    ]


def _user(name: str, found: Sequence[User], hsms: int) -> dict[str, object]:
    everywhere = len(found) == hsms and len({user.id for user in found}) == 1
    return {
        "username": name,
        "role": _same({str(user.role) for user in found}),
        "locked": _same({str(user.locked).lower() for user in found}),
        "mfa": [],
        "quorum": [],
        "cluster-coverage": "full" if everywhere else INCONSISTENT,
    }


def _same(values: set[str]) -> str:
    return next(iter(values)) if len(values) == 1 else INCONSISTENT
