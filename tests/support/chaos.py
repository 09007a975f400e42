"""A seeded rehearsal: clients make, change, share and destroy keys while HSMs die, stop, lose the network and the disk.

Each owner writes down what it was told: what a key must look like, and what it may look like where an answer was lost.
`check` compares every HSM with that, and with each other.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from sqlalchemy import func, select
from support.hsm import USERS, Client, Cluster, Hsm, eventually, patiently

from hsmsim import faults
from hsmsim.errors import CkrError
from hsmsim.faults import Cut, Disk, Faults
from hsmsim.hsm import messages as m
from hsmsim.hsm.cryptoki import CKA, CKR
from hsmsim.storage.database import Database
from hsmsim.storage.tables import AUDIT

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_S: Final = 2.0
"""More than the second in which a cut-off HSM stops to serve; a client goes elsewhere then."""
GONE: Final = frozenset({CKR.KEY_HANDLE_INVALID, CKR.OBJECT_HANDLE_INVALID})
BLOCK: Final = bytes(16)


@dataclass(slots=True)
class Key:
    """present: None where an answer was lost. ids, shared: what may be; one member each where it is certain."""

    handle: int
    present: bool | None = True
    ids: set[bytes] = field(default_factory=lambda: {b"0"})
    shared: dict[str, set[bool]] = field(default_factory=dict)


class Desk:
    """One user's connections to every HSM, made when they are needed."""

    def __init__(self, cluster: Cluster, user: str) -> None:
        self._cluster = cluster
        self._user = user
        self._clients: dict[int, Client] = {}

    def at(self, number: int) -> Client:
        """OSError, CkrError where that HSM does not let in."""
        if number not in self._clients:
            client = Client(self._cluster.hsms[number].address, seconds=PATIENCE_S)
            try:
                client.login(self._user)
            except BaseException:
                client.wire.close()
                raise
            self._clients[number] = client
        return self._clients[number]

    def leave(self, number: int) -> None:
        client = self._clients.pop(number, None)
        if client is not None:
            client.wire.close()

    def close(self) -> None:
        for number in list(self._clients):
            self.leave(number)


class Owner:
    """One user who works on keys of its own and checks that what it took back is not used any more."""

    def __init__(self, cluster: Cluster, user: str, seed: int) -> None:
        self.user = user
        self.keys: dict[str, Key] = {}
        self.unsure: set[str] = set()
        self.acknowledged = 0
        self.trouble: list[str] = []
        self._cluster = cluster
        self._random = random.Random(f"{seed} {user}")
        self._own = Desk(cluster, user)
        self._others = {name: Desk(cluster, name) for name in USERS if name != user}
        self._count = 0

    def work(self, operations: int) -> None:
        """Do so many operations, whether or not they come to something."""
        acts: tuple[Callable[[int], None], ...] = (
            self._make,
            self._make,
            self._change,
            self._share,
            self._take_back,
            self._destroy,
        )
        try:
            for _ in range(operations):
                number = self._random.randrange(len(self._cluster.hsms))
                try:
                    self._random.choice(acts)(number)
                except OSError:
                    self._own.leave(number)
                    time.sleep(0.01)
                except CkrError:
                    time.sleep(0.01)
        finally:
            for desk in (self._own, *self._others.values()):
                desk.close()

    def _some(self) -> tuple[str, Key] | None:
        there = [(label, key) for label, key in self.keys.items() if key.present]
        return self._random.choice(there) if there else None

    def _make(self, number: int) -> None:
        client = self._own.at(number)
        self._count += 1
        label = f"{self.user}-{self._count}"
        try:
            self.keys[label] = Key(client.aes(token=True, label=label, id=b"0"))
            self.acknowledged += 1
        except CkrError as error:
            if error.rv != CKR.FUNCTION_FAILED:  # fewer than two HSMs: nothing is written
                self.unsure.add(label)
            raise
        except OSError:
            self.unsure.add(label)
            raise

    def _ask(
        self, number: int, call: Callable[[Client], object], told: Callable[[], None], lost: Callable[[], None]
    ) -> bool:
        """Make a call on a key that is there; whether it was acknowledged. told, lost: what is noted of it."""
        client = self._own.at(number)
        try:
            call(client)
        except CkrError as error:
            if error.rv not in GONE:  # an HSM that is behind does nothing
                lost()
            raise
        except OSError:
            lost()
            raise
        told()
        self.acknowledged += 1
        return True

    def _change(self, number: int) -> None:
        if (found := self._some()) is None:
            return
        _, key = found
        wanted = self._random.randbytes(4)
        self._ask(
            number,
            lambda client: client.set(key.handle, id=wanted),
            lambda: setattr(key, "ids", {wanted}),
            lambda: key.ids.add(wanted),
        )

    def _share(self, number: int) -> None:
        if (found := self._some()) is None:
            return
        _, key = found
        other = self._random.choice(list(self._others))
        shared = key.shared.setdefault(other, {False})
        if shared != {False}:
            return
        self._ask(
            number,
            lambda client: client.call(m.KeyShareRequest(key.handle, other.encode())),
            lambda: key.shared.update({other: {True}}),
            lambda: key.shared.update({other: {True, False}}),
        )

    def _take_back(self, number: int) -> None:
        mine = [
            (key, other)
            for key in self.keys.values()
            if key.present
            for other, now in key.shared.items()
            if now == {True}
        ]
        if not mine:
            return
        key, other = self._random.choice(mine)
        if self._ask(
            number,
            lambda client: client.call(m.KeyUnshareRequest(key.handle, other.encode())),
            lambda: key.shared.update({other: {False}}),
            lambda: key.shared.update({other: {True, False}}),
        ):
            self._require_unusable(self._others[other], key.handle, f"{other} after unshare")

    def _destroy(self, number: int) -> None:
        if (found := self._some()) is None:
            return
        _, key = found
        if self._ask(
            number,
            lambda client: client.destroy(key.handle),
            lambda: setattr(key, "present", False),
            lambda: setattr(key, "present", None),
        ):
            self._require_unusable(self._own, key.handle, f"{self.user} after destroy")

    def _require_unusable(self, desk: Desk, handle: int, who: str) -> None:
        """The right was taken back and that acknowledged: from now on no HSM uses it."""
        for number in range(len(self._cluster.hsms)):
            try:
                desk.at(number).encrypt(handle, BLOCK)
            except OSError:
                desk.leave(number)
            except CkrError:
                continue
            else:
                self.trouble.append(f"{who}: {self._cluster.hsms[number].hsm_id} used key {handle:x}")


# ---- what goes wrong -------------------------------------------------------------------------------------------------


ILLS: Final = (
    Faults(slow_us=30_000),
    Faults(drop_ppm=50_000),
    Faults(cut=Cut.CLIENTS),
    Faults(cut=Cut.PEERS),
    Faults(cut=Cut.DATABASE),
    Faults(cut=Cut.PEERS | Cut.DATABASE),
    Faults(disk=Disk.FULL),
)


class Chaos:
    """One thing after another goes wrong with one HSM or two, until it is told to stop; then all are well again."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.done: dict[str, int] = {}
        self.seed = seed
        self.failed: Exception | None = None
        self._cluster = cluster
        self.random = random.Random(f"{seed} chaos")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self.failed is not None:
            raise self.failed

    def _run(self) -> None:
        try:
            while not self._stop.wait(self.random.uniform(0.1, 0.8)):
                victims = self.random.sample(self._cluster.hsms, self.random.choice((1, 1, 1, 2)))
                self.random.choice(self.ills())(victims)
        except Exception as error:  # noqa: BLE001 - raised where the test waits
            self.failed = error

    def ills(self) -> tuple[Callable[[list[Hsm]], None], ...]:
        """What may happen; twice what is to happen twice as often."""
        return (self._kill, self._pause, self._fault, self._fault)

    def note(self, what: str) -> None:
        self.done[what] = self.done.get(what, 0) + 1

    def _kill(self, victims: list[Hsm]) -> None:
        for hsm in victims:
            hsm.end(signal.SIGKILL)
            self.note("killed")
        time.sleep(self.random.uniform(0, 1))
        for hsm in victims:
            hsm.start()

    def _pause(self, victims: list[Hsm]) -> None:
        for hsm in victims:
            hsm.running.send_signal(signal.SIGSTOP)
            self.note("paused")
        time.sleep(self.random.uniform(0.05, 2.5))
        for hsm in victims:
            hsm.running.send_signal(signal.SIGCONT)

    def _fault(self, victims: list[Hsm]) -> None:
        ill = self.random.choice(ILLS)
        for hsm in victims:
            faults.store(hsm.folder / faults.FILE, ill)
            self.note("ill")
        time.sleep(self.random.uniform(0.3, 2))
        for hsm in victims:
            faults.store(hsm.folder / faults.FILE, Faults())


def rehearse(cluster: Cluster, chaos: Chaos, operations: int, tell: Callable[[str], None]) -> None:
    """Have every user work while things go wrong; then all are well, and nothing is lost."""
    owners = [Owner(cluster, user, chaos.seed) for user in USERS]
    with chaos, ThreadPoolExecutor(len(owners)) as pool:
        for done in [pool.submit(owner.work, operations // len(owners)) for owner in owners]:
            done.result()
    check(cluster, owners)
    acknowledged = sum(owner.acknowledged for owner in owners)
    assert acknowledged > operations // 10
    unsure = sum(len(owner.unsure) for owner in owners)
    did = f"{operations} operations, {acknowledged} acknowledged, {unsure} keys unsure, HSMs {chaos.done}"
    tell(f"seed {chaos.seed}: {did}")


# ---- afterwards ------------------------------------------------------------------------------------------------------


def check(cluster: Cluster, owners: list[Owner]) -> None:
    """Every HSM has what was acknowledged and nothing half, all the same; vaults and audit logs are whole."""
    for owner in owners:
        assert not owner.trouble, owner.trouble
    with cluster.hsms[0].user("alice") as client:
        client.destroy(patiently(lambda: client.aes(token=True)))  # they see each other
    version = max(hsm.info().version for hsm in cluster.hsms)
    for hsm in cluster.hsms:
        eventually(lambda hsm=hsm: hsm.info().version >= version, 20)
    views = [_view(hsm) for hsm in cluster.hsms]
    for view in views[1:]:
        assert view == views[0]
    for owner in owners:
        _compare(owner, views[0])
    for hsm in cluster.hsms:
        info = hsm.settled(120)
        usable = len({handle for handle, _, _ in views[0].values()})
        assert (info.keys, info.vault_objects) == (usable, usable), f"{hsm.hsm_id}: {info}, {usable} usable\n{hsm.log}"
        for word in ("Traceback", "ALARM", "Segmentation"):
            assert word not in hsm.log, hsm.log
    _check_audit(cluster)


def _view(hsm: Hsm) -> dict[tuple[str, str], tuple[int, bytes | None, bytes]]:
    """Every key that every user can use on this HSM, by user and label: its handle, id, what it makes of a block."""
    found = {}
    for user in USERS:
        with hsm.user(user) as client:
            for handle in client.find():
                label, id_ = client.get(handle, CKA.LABEL, CKA.ID)
                found[user, (label or b"").decode()] = (handle, id_, client.encrypt(handle, BLOCK))
    return found


def _compare(owner: Owner, view: dict[tuple[str, str], tuple[int, bytes | None, bytes]]) -> None:
    own = {label for user, label in view if user == owner.user and label.startswith(f"{owner.user}-")}
    assert own <= owner.keys.keys() | owner.unsure, "a key that nobody asked for"
    for label, key in owner.keys.items():
        if key.present is not None:
            assert (label in own) == key.present, f"{label} should be {'there' if key.present else 'gone'}"
        if label in own:
            handle, id_, _ = view[owner.user, label]
            assert handle == key.handle
            assert id_ in key.ids
        for other, may in key.shared.items():
            assert ((other, label) in view) in (may if label in own else {False}), f"{label} shared with {other}: {may}"


def _check_audit(cluster: Cluster) -> None:
    database = Database(cluster.database_url)
    with database.read() as connection:
        query = select(AUDIT.c.hsm_id, func.count(), func.min(AUDIT.c.sequence), func.max(AUDIT.c.sequence))
        rows = connection.execute(query.group_by(AUDIT.c.hsm_id)).all()
    database.close()
    assert {row[0] for row in rows} == {hsm.hsm_id for hsm in cluster.hsms}
    for hsm_id, count, first, last in rows:
        assert (first, last) == (1, count), f"the audit log of {hsm_id} has a gap"
