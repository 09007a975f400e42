"""What STS needs to know and does not own: roles and managed policies, which are IAM's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from hsmsim.authz.principal import Role
    from hsmsim.crypto.seal import Seal

HOUR_S: Final = 3600
LEAST_S: Final = 900
USER_SESSION_S: Final = 43_200
USER_SESSION_MOST_S: Final = 129_600
POLICY_SIZE: Final = 2048
POLICY_ARNS: Final = 10
TAGS: Final = 50


class Roles(Protocol):
    """IAM, as STS sees it; from memory. seal: what session tokens are sealed with."""

    seal: Seal

    def role(self, arn: str) -> Role | None:
        """The role of this ARN."""

    def has_policy(self, arn: str) -> bool:
        """Whether there is such a managed policy."""
