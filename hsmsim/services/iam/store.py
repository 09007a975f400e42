"""IAM's rows. Names are unique whatever their case: `key` is the name in lower case."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
    delete,
    func,
    insert,
    select,
    update,
)

from hsmsim.services.iam.model import AccessKey, Change, Entity, EntityKind, ManagedPolicy, Thing, Version
from hsmsim.storage.gateway import GATEWAY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.engine import Connection, Row
    from sqlalchemy.sql import ColumnElement

ACCOUNTS: Final = Table(
    "iam_accounts",
    GATEWAY,
    Column("id", Text, primary_key=True),
    Column("created", Float, nullable=False),
)
ENTITIES: Final = Table(
    "iam_entities",
    GATEWAY,
    Column("id", Text, primary_key=True),
    Column("account", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("boundary", Text, nullable=False),
    Column("trust", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("max_session", Integer, nullable=False),
    Column("service", Text, nullable=False),
    UniqueConstraint("account", "kind", "key"),
)
MEMBERS: Final = Table(
    "iam_members",
    GATEWAY,
    Column("group_id", Text, ForeignKey("iam_entities.id"), primary_key=True),
    Column("user_id", Text, ForeignKey("iam_entities.id"), primary_key=True),
)
KEYS: Final = Table(
    "iam_keys",
    GATEWAY,
    Column("id", Text, primary_key=True),
    Column("account", Text, nullable=False),
    Column("owner", Text, nullable=False, index=True),
    Column("sealed", LargeBinary, nullable=False),
    Column("active", Boolean, nullable=False),
    Column("created", Float, nullable=False),
)
INLINE: Final = Table(
    "iam_inline",
    GATEWAY,
    Column("entity", Text, ForeignKey("iam_entities.id"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("document", Text, nullable=False),
)
POLICIES: Final = Table(
    "iam_policies",
    GATEWAY,
    Column("id", Text, primary_key=True),
    Column("account", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("updated", Float, nullable=False),
    Column("default", Integer, nullable=False),
    Column("next", Integer, nullable=False),
    UniqueConstraint("account", "key"),
)
VERSIONS: Final = Table(
    "iam_versions",
    GATEWAY,
    Column("policy", Text, ForeignKey("iam_policies.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("document", Text, nullable=False),
    Column("created", Float, nullable=False),
)
ATTACHED: Final = Table(
    "iam_attached",
    GATEWAY,
    Column("entity", Text, ForeignKey("iam_entities.id"), primary_key=True),
    Column("policy_arn", Text, primary_key=True, index=True),
)
TAGS: Final = Table(
    "iam_tags",
    GATEWAY,
    Column("owner", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
CHANGES: Final = Table(
    "iam_changes",
    GATEWAY,
    Column("sequence", Integer, primary_key=True),
    Column("thing", Text, nullable=False),
    Column("name", Text, nullable=False),
)
"""What other gateways read again: the last changes, KEPT of them at least."""
KEPT: Final = 10_000
NEWEST_CHANGE: Final = "SELECT coalesce(max(sequence), 0) FROM iam_changes"


# ---- accounts ----------------------------------------------------------------------------------------------------


def accounts(tx: Connection) -> dict[str, float]:
    """Account ids and when they were made."""
    return {row.id: row.created for row in tx.execute(select(ACCOUNTS))}


def add_account(tx: Connection, account: str, created: float) -> None:
    """A new account."""
    tx.execute(insert(ACCOUNTS).values(id=account, created=created))


# ---- users, groups, roles ----------------------------------------------------------------------------------------


def _entity(row: Row[Any]) -> Entity:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's documented name
    del values["key"]
    return Entity(**values | {"kind": EntityKind(values["kind"])})


def entities(tx: Connection, *where: ColumnElement[bool]) -> list[Entity]:
    """Those that meet all of the clauses."""
    return [_entity(row) for row in tx.execute(select(ENTITIES).where(*where))]


def entity(tx: Connection, account: str, kind: EntityKind, name: str) -> Entity | None:
    """The one of this name, in any case."""
    found = entities(tx, *_of(account, kind), ENTITIES.c.key == name.lower())
    return found[0] if found else None


def count_entities(tx: Connection, account: str, kind: EntityKind) -> int:
    """How many the account has."""
    return tx.execute(select(func.count()).select_from(ENTITIES).where(*_of(account, kind))).scalar_one()


def _of(account: str, kind: EntityKind) -> list[ColumnElement[bool]]:
    return [ENTITIES.c.account == account, ENTITIES.c.kind == kind.value]


def add_entity(tx: Connection, new: Entity) -> None:
    """A new one."""
    names = [column.name for column in ENTITIES.columns if column.name != "key"]
    values = {name: getattr(new, name) for name in names} | {"kind": new.kind.value, "key": new.name.lower()}
    tx.execute(insert(ENTITIES).values(values))


def change_entity(tx: Connection, id_: str, **values: object) -> None:
    """Set columns."""
    tx.execute(update(ENTITIES).where(ENTITIES.c.id == id_).values(values))


def remove_entity(tx: Connection, id_: str) -> None:
    """Delete it and its tags; what else refers to it must be gone."""
    tx.execute(delete(TAGS).where(TAGS.c.owner == id_))
    tx.execute(delete(ENTITIES).where(ENTITIES.c.id == id_))


def groups_of(tx: Connection, user_id: str) -> list[Entity]:
    """The groups of a user."""
    return entities(tx, ENTITIES.c.id.in_(select(MEMBERS.c.group_id).where(MEMBERS.c.user_id == user_id)))


def members_of(tx: Connection, group_id: str) -> list[Entity]:
    """The users of a group."""
    return entities(tx, ENTITIES.c.id.in_(select(MEMBERS.c.user_id).where(MEMBERS.c.group_id == group_id)))


def join(tx: Connection, group_id: str, user_id: str) -> None:
    """Make a user a member."""
    tx.execute(insert(MEMBERS).values(group_id=group_id, user_id=user_id))


def leave(tx: Connection, group_id: str, user_id: str) -> bool:
    """End a membership; False if there was none."""
    gone = tx.execute(delete(MEMBERS).where(MEMBERS.c.group_id == group_id, MEMBERS.c.user_id == user_id))
    return gone.rowcount > 0


# ---- access keys -------------------------------------------------------------------------------------------------


def keys(tx: Connection, *where: ColumnElement[bool]) -> list[AccessKey]:
    """Those that meet all of the clauses."""
    return [AccessKey(**row._mapping) for row in tx.execute(select(KEYS).where(*where))]  # noqa: SLF001 - its name


def keys_of(tx: Connection, owner: str) -> list[AccessKey]:
    """The keys of a user, or of an account's root."""
    return keys(tx, KEYS.c.owner == owner)


def add_key(tx: Connection, new: AccessKey) -> None:
    """A new key."""
    tx.execute(insert(KEYS).values({column.name: getattr(new, column.name) for column in KEYS.columns}))


def set_key(tx: Connection, id_: str, *, active: bool) -> None:
    """Switch a key on or off."""
    tx.execute(update(KEYS).where(KEYS.c.id == id_).values(active=active))


def remove_key(tx: Connection, id_: str) -> None:
    """Delete a key."""
    tx.execute(delete(KEYS).where(KEYS.c.id == id_))


# ---- inline and attached policies --------------------------------------------------------------------------------


def inline(tx: Connection, entity_id: str) -> dict[str, str]:
    """The inline policies: name and document."""
    found = tx.execute(select(INLINE.c.name, INLINE.c.document).where(INLINE.c.entity == entity_id))
    return {row.name: row.document for row in found}


def put_inline(tx: Connection, entity_id: str, name: str, document: str) -> None:
    """Add or replace an inline policy."""
    drop_inline(tx, entity_id, name)
    tx.execute(insert(INLINE).values(entity=entity_id, name=name, document=document))


def drop_inline(tx: Connection, entity_id: str, name: str) -> bool:
    """Remove an inline policy; False if there was none."""
    return tx.execute(delete(INLINE).where(INLINE.c.entity == entity_id, INLINE.c.name == name)).rowcount > 0


def attached(tx: Connection, entity_id: str) -> list[str]:
    """The ARNs of the managed policies."""
    return list(tx.execute(select(ATTACHED.c.policy_arn).where(ATTACHED.c.entity == entity_id)).scalars())


def attach(tx: Connection, entity_id: str, arn: str) -> None:
    """Attach a managed policy that is not attached."""
    tx.execute(insert(ATTACHED).values(entity=entity_id, policy_arn=arn))


def detach(tx: Connection, entity_id: str, arn: str) -> bool:
    """Take a managed policy off; False if it was not attached."""
    return tx.execute(delete(ATTACHED).where(ATTACHED.c.entity == entity_id, ATTACHED.c.policy_arn == arn)).rowcount > 0


def users_of_policy(tx: Connection, account: str, arn: str) -> tuple[list[Entity], list[Entity]]:
    """The account's entities that have the policy attached, and those that have it as boundary."""
    mine = ENTITIES.c.account == account
    having = entities(tx, mine, ENTITIES.c.id.in_(select(ATTACHED.c.entity).where(ATTACHED.c.policy_arn == arn)))
    return having, entities(tx, mine, ENTITIES.c.boundary == arn)


def usage(tx: Connection, account: str) -> tuple[dict[str, int], dict[str, int]]:
    """How often each policy (by ARN) is attached in the account, and how often it is a boundary."""
    mine = select(ENTITIES.c.id).where(ENTITIES.c.account == account)
    per_policy = select(ATTACHED.c.policy_arn, func.count()).where(ATTACHED.c.entity.in_(mine))
    per_boundary = select(ENTITIES.c.boundary, func.count()).where(ENTITIES.c.account == account)
    attachments = {row[0]: row[1] for row in tx.execute(per_policy.group_by(ATTACHED.c.policy_arn))}
    boundaries = {row[0]: row[1] for row in tx.execute(per_boundary.group_by(ENTITIES.c.boundary))}
    return attachments, boundaries


# ---- managed policies --------------------------------------------------------------------------------------------


def _policy(row: Row[Any]) -> ManagedPolicy:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's documented name
    del values["key"], values["next"]
    return ManagedPolicy(**values)


def policies(tx: Connection, *where: ColumnElement[bool]) -> list[ManagedPolicy]:
    """Those that meet all of the clauses."""
    return [_policy(row) for row in tx.execute(select(POLICIES).where(*where))]


def policies_of(tx: Connection, account: str) -> list[ManagedPolicy]:
    """The customer's own."""
    return policies(tx, POLICIES.c.account == account)


def policy_named(tx: Connection, account: str, name: str) -> ManagedPolicy | None:
    """The one of this name, in any case."""
    found = policies(tx, POLICIES.c.account == account, POLICIES.c.key == name.lower())
    return found[0] if found else None


def add_policy(tx: Connection, new: ManagedPolicy, document: str) -> None:
    """A new policy with its first version."""
    names = [column.name for column in POLICIES.columns if column.name not in {"key", "next"}]
    values: dict[str, Any] = {name: getattr(new, name) for name in names}
    tx.execute(insert(POLICIES).values(values | {"key": new.name.lower(), "next": 2}))
    tx.execute(insert(VERSIONS).values(policy=new.id, number=1, document=document, created=new.created))


def remove_policy(tx: Connection, id_: str) -> None:
    """Delete a policy with its documents and tags."""
    tx.execute(delete(VERSIONS).where(VERSIONS.c.policy == id_))
    tx.execute(delete(TAGS).where(TAGS.c.owner == id_))
    tx.execute(delete(POLICIES).where(POLICIES.c.id == id_))


def versions(tx: Connection, policy_id: str) -> list[Version]:
    """The documents, oldest first."""
    found = tx.execute(select(VERSIONS).where(VERSIONS.c.policy == policy_id).order_by(VERSIONS.c.number))
    return [Version(row.number, row.document, row.created) for row in found]


def add_version(tx: Connection, policy_id: str, document: str, now: float) -> Version:
    """Add a document; numbers are never used again."""
    number = tx.execute(select(POLICIES.c.next).where(POLICIES.c.id == policy_id)).scalar_one()
    tx.execute(update(POLICIES).where(POLICIES.c.id == policy_id).values(next=number + 1, updated=now))
    tx.execute(insert(VERSIONS).values(policy=policy_id, number=number, document=document, created=now))
    return Version(number, document, now)


def set_default(tx: Connection, policy_id: str, number: int, now: float) -> None:
    """Choose the document that counts."""
    tx.execute(update(POLICIES).where(POLICIES.c.id == policy_id).values(default=number, updated=now))


def remove_version(tx: Connection, policy_id: str, number: int) -> None:
    """Delete a document."""
    tx.execute(delete(VERSIONS).where(VERSIONS.c.policy == policy_id, VERSIONS.c.number == number))


# ---- tags --------------------------------------------------------------------------------------------------------


def tags(tx: Connection, owner: str) -> dict[str, str]:
    """The tags of a user, role or policy."""
    return {row.key: row.value for row in tx.execute(select(TAGS).where(TAGS.c.owner == owner))}


def set_tags(tx: Connection, owner: str, wanted: Mapping[str, str]) -> None:
    """Replace all tags."""
    tx.execute(delete(TAGS).where(TAGS.c.owner == owner))
    if wanted:
        tx.execute(insert(TAGS), [{"owner": owner, "key": key, "value": value} for key, value in wanted.items()])


# ---- changes -----------------------------------------------------------------------------------------------------


def note_change(tx: Connection, thing: Thing, name: str) -> int:
    """Tell every gateway, once the transaction is durable, that its memory of a thing is old; the change's number."""
    (sequence,) = tx.execute(insert(CHANGES).values(thing=thing.value, name=name)).inserted_primary_key or (0,)
    if sequence % KEPT == 0:
        tx.execute(delete(CHANGES).where(CHANGES.c.sequence <= sequence - KEPT))
    return int(sequence)


def newest_change(tx: Connection) -> int:
    """The number of the last change, 0 before the first."""
    return int(tx.exec_driver_sql(NEWEST_CHANGE).scalar_one())


def changes(tx: Connection, after: int) -> list[Change] | None:
    """The changes behind a number, in order; None where the first of them may be forgotten already."""
    oldest = tx.execute(select(func.min(CHANGES.c.sequence))).scalar()
    if oldest is not None and oldest > after + 1:
        return None
    rows = tx.execute(select(CHANGES).where(CHANGES.c.sequence > after).order_by(CHANGES.c.sequence))
    return [Change(row.sequence, Thing(row.thing), row.name) for row in rows]
