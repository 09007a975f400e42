"""Which services the gateway has. A new one is added here, with what it needs, and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hsmsim.errors import AwsError
from hsmsim.gateway.ports import Parts, Ports

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.engine import Connection

    from hsmsim.authz.principal import Credential
    from hsmsim.services.kernel import Access, Call


class NoService:
    """Credentials, authorizer and recorder of a gateway that has no service: nobody is known, nothing is allowed."""

    def find(self, access_key_id: str, session_token: str | None) -> Credential:  # noqa: ARG002 - the port's
        """Know nobody."""
        raise AwsError("InvalidClientTokenId", "The security token included in the request is invalid.", 403)

    def authorize(self, call: Call, access: Access) -> None:
        """Allow nothing."""
        raise AwsError("AccessDenied", f"{call.caller.arn} is not authorized to perform: {access.action}", 403)

    def record(self, connection: Connection, *events: Mapping[str, Any]) -> None:
        """There is nobody whose calls would be recorded."""


def build(_ports: Ports) -> Parts:
    """All of them, connected."""
    nothing = NoService()
    return Parts(services=(), credentials=nothing, authorizer=nothing, recorder=nothing)
