"""Find objects without looking at all of them: by label, by id, by class, per partition; by flags without decoding.

Holds token objects (kept in step with the replica) and this HSM's session objects. Reading and changing take one lock,
both are short.
"""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hsmsim.cluster.model import ObjectRow
from hsmsim.hsm.cryptoki import ATTRIBUTES, CKA, Kind
from hsmsim.hsm.wire import decode_template

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hsmsim.cluster.model import Change
    from hsmsim.cluster.replica import Replica
    from hsmsim.hsm.firmware.values import Attributes

_INDEXED: Final = (CKA.LABEL, CKA.ID)
_FLAGS: Final = {
    name: 1 << bit for bit, name in enumerate(name for name, info in ATTRIBUTES.items() if info.kind is Kind.BOOL)
}
ANSWERED: Final = frozenset({*_INDEXED, CKA.CLASS, *map(CKA, _FLAGS)})
"""What candidates() has compared already."""
SESSION_BIT: Final = 1 << 62
_FIRST_BITS: Final = 60


@dataclass(frozen=True, slots=True)
class SessionObject:
    """An object that lives in one client's session on this HSM."""

    row: ObjectRow
    client: int
    session: int


class Index:
    """Handles of objects by what people search for."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._lock = threading.Lock()
        self._by: dict[tuple[int, CKA, bytes], set[int]] = {}
        self._all: dict[tuple[int, int], set[int]] = {}  # partition, class
        self._keys: dict[int, tuple[tuple[int, CKA, bytes], ...]] = {}
        self._classes: dict[int, tuple[int, int]] = {}
        self._flags: dict[int, tuple[int, int]] = {}  # which flags an object has, and which of them are true
        self.session_objects: dict[int, SessionObject] = {}
        self._next = secrets.randbits(_FIRST_BITS)
        for row in list(replica.objects.values()):
            self._put(row)

    def on_change(self, change: Change) -> None:
        """Follow the replica."""
        with self._lock:
            for row in change.rows:
                if isinstance(row, ObjectRow):
                    self._drop(row.handle)
                    if not row.deleted:
                        self._put(row)

    def _put(self, row: ObjectRow) -> None:
        attributes = decode_template(row.attributes)
        keys = tuple(
            (row.partition_id, CKA(attr.type), attr.value or b"") for attr in attributes if attr.type in _INDEXED
        )
        for key in keys:
            self._by.setdefault(key, set()).add(row.handle)
        has = sum(_FLAGS[attr.type] for attr in attributes if attr.type in _FLAGS)
        true = sum(_FLAGS[attr.type] for attr in attributes if attr.type in _FLAGS and attr.value == b"\1")
        self._flags[row.handle] = has, true
        self._keys[row.handle] = keys
        self._classes[row.handle] = (row.partition_id, row.object_class)
        self._all.setdefault((row.partition_id, row.object_class), set()).add(row.handle)

    def _drop(self, handle: int) -> None:
        for key in self._keys.pop(handle, ()):
            handles = self._by.get(key)
            if handles is not None:
                handles.discard(handle)
                if not handles:
                    del self._by[key]
        self._flags.pop(handle, None)
        where = self._classes.pop(handle, None)
        if where is not None:
            self._all[where].discard(handle)

    def new_session_handle(self) -> int:
        """A handle for a session object: never a token object's, never used again by this process.

        Nor by another HSM: a client may still have the handle of an object that was lost with the HSM before, and on
        this one it must be nothing, not another key.
        """
        with self._lock:
            self._next += 1
            return SESSION_BIT | self._next

    def add_session_object(self, added: SessionObject) -> None:
        """A session object is born, or has new attributes."""
        with self._lock:
            self._drop(added.row.handle)
            self.session_objects[added.row.handle] = added
            self._put(added.row)

    def drop_session_object(self, handle: int) -> None:
        """A session object is gone."""
        with self._lock:
            self._drop(handle)
            self.session_objects.pop(handle, None)

    def get(self, handle: int) -> tuple[ObjectRow, int] | None:
        """The object and the client it belongs to (0: a token object)."""
        if handle & SESSION_BIT:
            found = self.session_objects.get(handle)
            return None if found is None else (found.row, found.client)
        row = self._replica.objects.get(handle)
        return None if row is None else (row, 0)

    def candidates(self, partition: int, wanted: Attributes) -> list[int]:
        """Handles that match in label, id, class and flags, in order."""
        flags = [(_FLAGS[name], value) for name, value in wanted.items() if name in _FLAGS]
        asked, true = sum(flag for flag, _ in flags), sum(flag for flag, value in flags if value is True)
        with self._lock:
            found = self._narrowed(partition, wanted)
            if asked:
                found = (handle for handle in found if self._has(handle, asked, true))
            return sorted(found)

    def _narrowed(self, partition: int, wanted: Attributes) -> Iterable[int]:
        sets = [self._by.get((partition, name, bytes(wanted[name])), set()) for name in _INDEXED if name in wanted]
        if CKA.CLASS in wanted:
            sets.append(self._all.get((partition, int(wanted[CKA.CLASS])), set()))
        if sets:
            return set.intersection(*sets)
        return [handle for (where, _), handles in self._all.items() if where == partition for handle in handles]

    def _has(self, handle: int, asked: int, true: int) -> bool:
        has, is_true = self._flags[handle]
        return has & asked == asked and is_true & asked == true

    def knows(self, handle: int) -> bool:
        """Whether the object was there before the change that is being followed."""
        return handle in self._keys

    def count(self) -> int:
        """Token objects."""
        return len(self._replica.objects)
