"""All of IAM that a request needs, in memory: keys, principals, policies. No row is read while a request waits.

Rules: an operation that changes something names it to `changed`, inside its transaction; the new state is read there
and takes effect when the transaction is durable, before the answer leaves. The change is a row, too, with a number:
`catch_up` reads again what other gateways have changed since. Should two states of one thing take effect in the wrong
order, the one of the lower number is dropped. Values are immutable, so readers need no lock.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from hsmsim.authz.document import Policy, parse
from hsmsim.authz.principal import Caller, Credential, Kind, Role
from hsmsim.authz.session import Session, read
from hsmsim.crypto.seal import SealBroken
from hsmsim.errors import AwsError
from hsmsim.services.iam import store
from hsmsim.services.iam.managed import AWS_POLICIES
from hsmsim.services.iam.model import EntityKind, Thing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy.engine import Connection

    from hsmsim.clock import Clock
    from hsmsim.crypto.seal import Seal
    from hsmsim.services.iam.model import AccessKey, Entity, ManagedPolicy
    from hsmsim.services.kernel import Call

_KEY_PURPOSE: Final = "access key"
_SESSIONS: Final = 1024
T = TypeVar("T")
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


@dataclass(frozen=True, slots=True)
class _Memory(Generic[T]):
    """What is held of one kind, how one is read from its rows, and how it takes effect (None: there is none)."""

    held: Mapping[str, T]
    read: Callable[[Connection, str], T | None]
    put: Callable[[str, T | None], None]


class Directory:
    """What is known now. Made empty; `catch_up` fills it. forget_key: called where a key was changed or deleted."""

    question = store.NEWEST_CHANGE

    def __init__(self, seal: Seal, clock: Clock, forget_key: Callable[[str], None] = lambda _: None) -> None:
        self.seal = seal
        self._clock = clock
        self._forget_key = forget_key
        self._entities: dict[str, Principal] = {}
        self._names: dict[tuple[str, EntityKind, str], str] = {}
        self._keys: dict[str, Key] = {}
        self._managed = {arn: Managed(one, v.document, parse(v.document), {}) for arn, (one, v) in AWS_POLICIES.items()}
        self._taking = threading.Lock()
        self._taken: dict[tuple[Thing, str], int] = {}
        self._known = 0
        self._things: Mapping[Thing, _Memory[Any]] = {
            Thing.ENTITY: _Memory(self._entities, self._read_entity, self._put_entity),
            Thing.POLICY: _Memory(self._managed, self._read_managed, self._put_managed),
            Thing.KEY: _Memory(self._keys, self._read_key, self._put_key),
        }
        self._session = lru_cache(maxsize=_SESSIONS)(self._read_session)

    # ---- filling -------------------------------------------------------------------------------------------------

    @property
    def known(self) -> int:
        """The number of the last change of which all before it have taken effect here, too."""
        return self._known

    def catch_up(self, tx: Connection) -> None:
        """Have all that is durable take effect: everything the first time, what was changed afterwards."""
        newest = store.newest_change(tx)
        noted = store.changes(tx, self._known) if self._taken else None
        names = self._all(tx) if noted is None else {(one.thing, one.name): one.sequence for one in noted}
        for (thing, name), sequence in names.items():
            if self._taken.get((thing, name), -1) < sequence:
                self._take(newest, thing, name, self._things[thing].read(tx, name))
        with self._taking:
            self._known = max(self._known, newest)

    def _all(self, tx: Connection) -> dict[tuple[Thing, str], int]:
        """Everything that there is, here or in the database; each may have been changed just now."""
        there = {
            Thing.ENTITY: [one.id for one in store.entities(tx)],
            Thing.POLICY: [one.arn for one in store.policies(tx)],
            Thing.KEY: [one.id for one in store.keys(tx)],
        }
        newest = store.newest_change(tx)
        return {(thing, name): newest for thing, names in there.items() for name in {*names, *self._things[thing].held}}

    def changed(self, call: Call, *, entity: str = "", policy: str = "", key: str = "") -> None:
        """Have a changed, new or deleted entity (by id), policy (by ARN) or key (by id) take effect with the commit."""
        for thing, name in ((Thing.ENTITY, entity), (Thing.POLICY, policy), (Thing.KEY, key)):
            if name:
                call.after(self.change(call.tx, thing, name))

    def change(self, tx: Connection, thing: Thing, name: str) -> Callable[[], None]:
        """Note a change in its transaction; what is returned has it take effect here, once that is durable."""
        sequence = store.note_change(tx, thing, name)
        return partial(self._take, sequence, thing, name, self._things[thing].read(tx, name))

    def _take(self, sequence: int, thing: Thing, name: str, value: object | None) -> None:
        with self._taking:
            if self._taken.get((thing, name), -1) < sequence:
                self._taken[thing, name] = sequence
                self._things[thing].put(name, value)
            if sequence == self._known + 1:
                self._known = sequence

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
        if arn in AWS_POLICIES:
            return self._managed[arn]
        _, _, _, _, account, tail = arn.split(":", 5)
        policy = store.policy_named(tx, account, tail.rpartition("/")[2])
        if policy is None or policy.arn != arn:
            return None
        document = next(one.document for one in store.versions(tx, policy.id) if one.number == policy.default)
        return Managed(policy, document, parse(document), store.tags(tx, policy.id))

    def _read_key(self, tx: Connection, id_: str) -> Key | None:
        found = store.keys(tx, store.KEYS.c.id == id_)
        return self._open_key(found[0]) if found else None

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
        if self._keys.get(id_) not in {None, key}:
            self._forget_key(id_)
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
