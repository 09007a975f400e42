"""All of IAM that a request needs, in memory: keys, principals, policies. No SQL is read while a request waits.

Rules: an operation that changes something names it to `changed`, inside its transaction; the new state is read there
and takes effect when the transaction is durable, before the answer leaves. Should two changes of one thing take effect
in the wrong order, the older one is dropped. Values are immutable, so readers need no lock.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from hsmsim.authz.document import Policy, parse
from hsmsim.authz.principal import Caller, Credential, Kind, Role
from hsmsim.authz.session import Session, read
from hsmsim.crypto.seal import SealBroken
from hsmsim.errors import AwsError
from hsmsim.services.iam import store
from hsmsim.services.iam.managed import AWS_POLICIES
from hsmsim.services.iam.model import EntityKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy.engine import Connection

    from hsmsim.clock import Clock
    from hsmsim.crypto.seal import Seal
    from hsmsim.services.iam.model import AccessKey, Entity, ManagedPolicy
    from hsmsim.services.kernel import Call

_KEY_PURPOSE: Final = "access key"
_SESSIONS: Final = 1024
_INVALID: Final = "The security token included in the request is invalid."


@dataclass(frozen=True, slots=True)
class Principal:
    """An entity with what its rights come from."""

    entity: Entity
    tags: Mapping[str, str]
    inline: tuple[Policy, ...]
    attached: tuple[str, ...]
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Key:
    """A long-term key, its secret open."""

    secret: str = field(repr=False)
    account: str
    owner: str
    active: bool


@dataclass(frozen=True, slots=True)
class Managed:
    """A managed policy with the document that counts."""

    policy: ManagedPolicy
    text: str
    document: Policy
    tags: Mapping[str, str]


class Directory:
    """What is known now. Made empty; `load` fills it."""

    def __init__(self, seal: Seal, clock: Clock) -> None:
        self.seal = seal
        self._clock = clock
        self._entities: dict[str, Principal] = {}
        self._names: dict[tuple[str, EntityKind, str], str] = {}
        self._keys: dict[str, Key] = {}
        self._managed = {arn: Managed(one, v.document, parse(v.document), {}) for arn, (one, v) in AWS_POLICIES.items()}
        self._steps = itertools.count()
        self._taken: dict[str, int] = {}
        self._session = lru_cache(maxsize=_SESSIONS)(self._read_session)

    # ---- filling -------------------------------------------------------------------------------------------------

    def load(self, tx: Connection) -> None:
        """Read everything, at start."""
        for one in store.entities(tx):
            self._put_entity(one.id, self._read_entity(tx, one.id))
        for policy in store.policies(tx):
            self._put_managed(policy.arn, self._read_managed(tx, policy.arn))
        for key in store.keys(tx):
            self._put_key(key.id, self._open_key(key))

    def changed(self, call: Call, *, entity: str = "", policy: str = "", key: str = "") -> None:
        """Have a changed, new or deleted entity (by id), policy (by ARN) or key (by id) take effect with the commit."""
        if entity:
            principal = self._read_entity(call.tx, entity)
            self._later(call, entity, lambda: self._put_entity(entity, principal))
        if policy:
            managed = self._read_managed(call.tx, policy)
            self._later(call, policy, lambda: self._put_managed(policy, managed))
        if key:
            found = store.keys(call.tx, store.KEYS.c.id == key)
            opened = self._open_key(found[0]) if found else None
            self._later(call, key, lambda: self._put_key(key, opened))

    def learn(self, id_: str, secret: str, account: str) -> None:
        """Have the key of a new account's root user take effect; its row is durable."""
        self._put_key(id_, Key(secret, account, account, active=True))

    def _later(self, call: Call, name: str, put: Callable[[], None]) -> None:
        step = next(self._steps)

        def take() -> None:
            if self._taken.get(name, -1) < step:
                self._taken[name] = step
                put()

        call.after(take)

    def _read_entity(self, tx: Connection, id_: str) -> Principal | None:
        found = store.entities(tx, store.ENTITIES.c.id == id_)
        if not found:
            return None
        return Principal(
            found[0],
            store.tags(tx, id_),
            tuple(parse(text) for text in store.inline(tx, id_).values()),
            tuple(store.attached(tx, id_)),
            tuple(group.id for group in store.groups_of(tx, id_)),
        )

    def _read_managed(self, tx: Connection, arn: str) -> Managed | None:
        _, _, _, _, account, tail = arn.split(":", 5)
        policy = store.policy_named(tx, account, tail.rpartition("/")[2])
        if policy is None or policy.arn != arn:
            return None
        document = next(one.document for one in store.versions(tx, policy.id) if one.number == policy.default)
        return Managed(policy, document, parse(document), store.tags(tx, policy.id))

    def _open_key(self, key: AccessKey) -> Key:
        secret = self.seal.open(_KEY_PURPOSE, key.sealed, key.id.encode()).decode()
        return Key(secret, key.account, key.owner, key.active)

    def seal_secret(self, key_id: str, secret: str) -> bytes:
        """Seal a secret access key for its row."""
        return self.seal.seal(_KEY_PURPOSE, secret.encode(), key_id.encode())

    def _put_entity(self, id_: str, principal: Principal | None) -> None:
        before = self._entities.get(id_)
        if principal is None:
            self._entities.pop(id_, None)
        else:
            self._entities[id_] = principal
            self._names[_name(principal.entity)] = id_
        if before is None or (principal is not None and _name(before.entity) == _name(principal.entity)):
            return
        if self._names.get(_name(before.entity)) == id_:
            del self._names[_name(before.entity)]

    def _put_managed(self, arn: str, managed: Managed | None) -> None:
        if managed is None:
            self._managed.pop(arn, None)
        else:
            self._managed[arn] = managed

    def _put_key(self, id_: str, key: Key | None) -> None:
        if key is None:
            self._keys.pop(id_, None)
        else:
            self._keys[id_] = key

    # ---- asking --------------------------------------------------------------------------------------------------

    def principal(self, id_: str) -> Principal | None:
        """The entity of this id."""
        return self._entities.get(id_)

    def named(self, account: str, kind: EntityKind, name: str) -> Principal | None:
        """The entity of this name."""
        id_ = self._names.get((account, kind, name.lower()))
        return self._entities.get(id_) if id_ else None

    def managed(self, arn: str) -> Managed | None:
        """The managed policy of this ARN, AWS's or a customer's."""
        return self._managed.get(arn)

    def role(self, arn: str) -> Role | None:
        """The role of this ARN, for STS."""
        _, _, _, _, account, tail = arn.split(":", 5)
        known = self.named(account, EntityKind.ROLE, tail.rpartition("/")[2])
        if known is None or known.entity.arn != arn:
            return None
        one = known.entity
        return Role(one.id, one.account, one.name, one.arn, one.trust, one.max_session, known.tags)

    def has_policy(self, arn: str) -> bool:
        """Whether there is such a managed policy."""
        return arn in self._managed

    def find(self, access_key_id: str, session_token: str | None) -> Credential:
        """Say who signs with this key; AwsError InvalidClientTokenId or ExpiredToken, 403."""
        if session_token:
            return self._by_session(access_key_id, session_token)
        key = self._keys.get(access_key_id)
        if key is None or not key.active:
            raise AwsError("InvalidClientTokenId", _INVALID, 403)
        return Credential(key.secret, self._long_term(access_key_id, key))

    def _long_term(self, access_key_id: str, key: Key) -> Caller:
        if key.owner == key.account:
            return Caller(Kind.ROOT, key.account, f"arn:aws:iam::{key.account}:root", key.account, access_key_id)
        user = self._entities.get(key.owner)
        if user is None:
            raise AwsError("InvalidClientTokenId", _INVALID, 403)
        entity = user.entity
        return Caller(Kind.USER, key.account, entity.arn, entity.id, access_key_id, name=entity.name, tags=user.tags)

    def _read_session(self, token: str) -> Session | None:
        try:
            return read(self.seal, token)
        except SealBroken:
            return None

    def _by_session(self, access_key_id: str, token: str) -> Credential:
        session = self._session(token)
        if session is None or session.access_key_id != access_key_id:
            raise AwsError("InvalidClientTokenId", _INVALID, 403)
        if session.expires <= self._clock.real():
            raise AwsError("ExpiredToken", "The security token included in the request is expired", 403)
        if session.owner and session.owner not in self._entities:
            raise AwsError("InvalidClientTokenId", _INVALID, 403)
        documents = tuple(self._narrowing(arn) for arn in session.policy_arns)
        caller = session.caller(documents)
        if session.kind is Kind.USER:
            user = self._entities[session.owner]
            caller = replace(caller, arn=user.entity.arn, name=user.entity.name, tags=user.tags)
        return Credential(session.secret, caller)

    def _narrowing(self, arn: str) -> str:
        """The document of a managed session policy; one that is gone allows nothing."""
        managed = self._managed.get(arn)
        return managed.text if managed else AWS_POLICIES["arn:aws:iam::aws:policy/AWSDenyAll"][1].document


def _name(entity: Entity) -> tuple[str, EntityKind, str]:
    return entity.account, entity.kind, entity.name.lower()
