"""Temporary credentials that carry themselves: a session token is the session, sealed under the gateway's key.

Nothing about a session is stored, so tokens outlive a restart and cannot be listed. Expiry is real time: clients
compare it with their own clock (DESIGN D12).
"""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import TYPE_CHECKING, Final

import msgspec

from hsmsim.authz.principal import Caller, Kind
from hsmsim.crypto.seal import SealBroken

if TYPE_CHECKING:
    from hsmsim.crypto.seal import Seal

_PURPOSE: Final = "session token"
_MAX_TOKEN: Final = 16384
_MAX_PLAIN: Final = 65536


class Session(msgspec.Struct, frozen=True, array_like=True):
    """Who the session is, until when, and its secret. `policies`: its documents; `policy_arns`: managed ones beside.

    narrowed: it has session policies, so what none of them allows is not allowed. chained: made by another session.
    owner: id of the user or role that must still exist, empty for root.
    """

    access_key_id: str
    secret: str
    expires: float
    kind: Kind
    account: str
    arn: str
    user_id: str
    name: str
    issuer: str
    issuer_id: str
    issued: float
    owner: str = ""
    tags: dict[str, str] = {}
    transitive: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    policy_arns: tuple[str, ...] = ()
    source_identity: str = ""

    def caller(self, documents: tuple[str, ...] = ()) -> Caller:
        """Return the principal; documents: those that policy_arns name now."""
        return Caller(
            kind=self.kind,
            account=self.account,
            arn=self.arn,
            user_id=self.user_id,
            access_key_id=self.access_key_id,
            name=self.name,
            issuer=self.issuer,
            issuer_id=self.issuer_id,
            issued=self.issued,
            tags=self.tags,
            session_policies=self.policies + documents,
            transitive=self.transitive,
            source_identity=self.source_identity,
        )


def issue(seal: Seal, session: Session) -> str:
    """Return the session's token."""
    plain = zlib.compress(msgspec.msgpack.encode(session), 9)
    return base64.b64encode(seal.seal(_PURPOSE, plain)).decode()


def read(seal: Seal, token: str) -> Session:
    """Return the session of a token; SealBroken if it is none of ours. Expiry is the caller's to check."""
    if len(token) > _MAX_TOKEN:
        raise SealBroken("A session token is longer than any that was issued here.")
    try:
        sealed = base64.b64decode(token, validate=True)
    except (binascii.Error, ValueError):
        raise SealBroken("A session token is base64.") from None
    plain = zlib.decompressobj().decompress(seal.open(_PURPOSE, sealed), _MAX_PLAIN)
    return msgspec.msgpack.decode(plain, type=Session)
