"""The other HSMs of the cluster: who lives, what they have applied, and whether this HSM may serve (DESIGN D6).

Rules:
- A thread per member keeps a connection to it; both ends prove with a MAC over ids and nonces that they have the
  masking key; by TCP the one that answers shows the cluster's certificate before that. The thread sends PEER_BEAT
  every 250 ms and PEER_SYNC as soon as there is a version to tell.
- Beats of all to all grow with the square of the members: 3,024 a second among 28. In a crowd the lease is hence
  renewed in the database, twice a second and HSM, and beats are rare. While the database does not renew it, the beats
  are those of few members.
- The lease: this HSM may serve until one second after the *start* of the last exchange in which it was shown to be up
  to date: either with every other member of the last membership (their version at the answer was applied here before
  it counts), or with the database (cluster.leases). So whatever commits, an HSM that has not applied it stops within
  a second.
- announce(need="all") hence never waits longer than that second. It waits less for a member that has acknowledged,
  and for one whose lease is seen to be over: it had no answer from here for a second, and its lease row stands still
  as long.
- A side notes that it answers before it reads the version that it answers with: the answer to an exchange that an
  announcement did not see carries the announced version.
"""

from __future__ import annotations

import hmac
import logging
import secrets
import threading
from typing import TYPE_CHECKING, Final, Literal, Protocol

from hsmsim.clock import SystemClock
from hsmsim.errors import CkrError, HsmsimError, StorageError
from hsmsim.hsm import membership
from hsmsim.hsm.cryptoki import CKR
from hsmsim.hsm.lease import DatabaseLease
from hsmsim.hsm.messages import (
    JoinRequest,
    JoinResponse,
    Op,
    PeerBeatRequest,
    PeerBeatResponse,
    PeerHelloRequest,
    PeerHelloResponse,
    PeerProveRequest,
    PeerProveResponse,
    PeerSyncRequest,
    PeerSyncResponse,
)
from hsmsim.hsm.peer import BEAT_NS, NONCE_BYTES, Peer, proof

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hsmsim.clock import Clock
    from hsmsim.cluster.replica import Replica
    from hsmsim.hsm.codec import Response

_LOG = logging.getLogger(__name__)

LEASE_NS: Final = 1_000_000_000
CENSUS_NS: Final = 2_000_000_000
PURGE_NS: Final = 60_000_000_000
CROWD: Final = 8
"""Other members from which on the lease is the database's; below, beats cost less than its writes."""
SPARSE_NS: Final = 5_000_000_000
LATE_NS: Final = 3 * BEAT_NS
"""How old the lease in the database may get before a crowd beats as few do, with the rest of a second to do it in."""
ONE_NS: Final = 3_000_000_000
"""How long a live HSM may take to apply a new key before the key counts as not replicated."""
_PENDING: Final = 256
_NS: Final = 1e-9

Need = Literal["none", "one", "all"]


class Engine(membership.Engine, Protocol):
    """What the links ask of the engine."""

    def serve_until(self, deadline: int) -> None:
        """Allow hot operations until a time of CLOCK_MONOTONIC in nanoseconds."""

    def client_peer(self, client: int) -> None:
        """Give a client `peer` access."""


class Request(Protocol):
    """What the links read of a request."""

    @property
    def op(self) -> int:
        """The operation's code."""

    @property
    def client(self) -> int:
        """The client that sent it."""

    @property
    def payload(self) -> bytes:
        """The payload."""


class Links:
    """This HSM's links to all others; start() after the socket listens, and before anybody is served.

    Without a lease no hot operation runs, from the start on: an HSM that waits for the database with rows of before may
    be taken for dead by the others.
    """

    def __init__(
        self,
        replica: Replica,
        engine: Engine,
        folder: Path,
        *,
        clock: Clock | None = None,
        cut: Callable[[], bool] = lambda: False,
    ) -> None:
        """cut: whether a fault cuts this HSM off from the others."""
        self._replica = replica
        self._engine = engine
        self._folder = folder
        self._clock = clock or SystemClock()
        self._cut = cut
        self._lease = DatabaseLease(replica, self._clock)
        self._news = threading.Condition()  # something about a peer has changed
        self._stopping = threading.Event()
        self._wake = threading.Event()  # the poller has something to do
        self._peers: dict[str, Peer] = {}
        self._started = self._clock.monotonic_ns()
        self._answered: dict[str, int] = {}  # when a member's beat was last answered
        self._pending: dict[int, tuple[str, bytes, bytes]] = {}  # client -> id and nonces, between HELLO and PROVE
        self._proven: dict[int, str] = {}
        self._deadline = 0
        engine.serve_until(0)
        self._checked = self._purged = self._started
        self._database_down = False
        self._threads = (
            threading.Thread(target=self._poll, name="poller", daemon=True),
            threading.Thread(target=self._watch, name="watch", daemon=True),
        )
        self._handlers: dict[int, Callable[[int, bytes], Response]] = {
            Op.PEER_HELLO: self._on_hello,
            Op.PEER_PROVE: self._on_prove,
            Op.PEER_SYNC: self._on_sync,
            Op.PEER_BEAT: self._on_beat,
            Op.JOIN: self._on_join,
        }

    # ---- for the firmware -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Take the first lease if it is to be had, then go on in threads."""
        self._tick()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop beating; the lease runs out by itself."""
        self._stopping.set()
        self._wake.set()
        for peer in list(self._peers.values()):
            peer.stop()

    def live(self) -> int:
        """Return how many HSMs are up, this one included."""
        now = self._clock.monotonic_ns()
        return 1 + sum(self._alive(peer, now) for peer in list(self._peers.values()))

    def enough(self, count: int) -> bool:
        """Return whether so many HSMs are up; for one that is just being found it waits, no longer than a lease."""
        start = self._clock.monotonic_ns()
        self._meet()
        with self._news:
            while self.live() < count:
                now = self._clock.monotonic_ns()
                if now - start > LEASE_NS or not any(self._found(peer, now) for peer in self._peers.values()):
                    return False
                self._news.wait(0.05)
        return True

    def serving(self) -> bool:
        """Whether this HSM's lease holds."""
        return self._clock.monotonic_ns() < self._deadline

    def announce(self, version: int, need: Need = "none") -> bool:
        """Tell the others of a version that this replica has applied, and wait for what is needed.

        "none": do not wait. "one": another live HSM has applied it; False if none could. "all": every member has
        applied it or cannot serve; always True, within a second.
        """
        start = self._clock.monotonic_ns()
        self._meet()
        for peer in list(self._peers.values()):
            peer.want(version)
        match need:
            case "one":
                return self._wait_for_one(version, start)
            case "all":
                self._wait_for_all(version, start)
        return True

    def handle(self, request: Request, engine: Engine) -> bytes:
        """Answer a PEER_ or JOIN request: the payload, or a CkrError."""
        del engine  # the same one that the links were made with
        return self._handlers[request.op](request.client, request.payload).encode()

    def cease(self) -> None:
        """Serve nobody from now on: this HSM is no member any more, so no lease follows."""
        with self._news:
            self._deadline = 0
            self._engine.serve_until(0)

    def forget(self, client: int) -> None:
        """Drop what is known of a client that is gone."""
        self._pending.pop(client, None)
        self._proven.pop(client, None)

    def _alive(self, peer: Peer, now: int) -> bool:
        """Whether a member was heard, or renewed its lease in the database, within a lease."""
        return peer.alive(now, LEASE_NS) or self._lease.moved(peer.hsm_id, now, LEASE_NS)

    # ---- waiting --------------------------------------------------------------------------------------------------

    def _found(self, peer: Peer, now: int) -> bool:
        """Whether a member that was not heard may be in a moment: the link is new, or the member speaks to this HSM."""
        return now - max(peer.made, self._answered.get(peer.hsm_id, 0)) < LEASE_NS

    def _wait_for_one(self, version: int, start: int) -> bool:
        with self._news:
            while True:
                now = self._clock.monotonic_ns()
                peers = list(self._peers.values())
                if any(peer.applied >= version for peer in peers):
                    return True
                coming = any(self._alive(peer, now) or self._found(peer, now) for peer in peers)
                if now - start > ONE_NS or not coming:
                    return False
                self._news.wait(0.05)

    def _wait_for_all(self, version: int, start: int) -> None:
        """Wait until each member has applied the version or its lease is over, which it is a second after `start`."""
        while True:
            with self._news:
                behind = [peer for peer in self._peers.values() if peer.applied < version]
                if behind and all(peer.linked for peer in behind):
                    self._news.wait(0.02)
                    behind = [peer for peer in behind if peer.applied < version]
            now = self._clock.monotonic_ns()
            if not behind or now - start > LEASE_NS or self._over(behind, now):
                return
            with self._news:
                self._news.wait(0.02)

    def _over(self, peers: list[Peer], now: int) -> bool:
        """Whether none of these can hold a lease: each without an answer from here, and its row still, for a second."""
        if any(now - self._answered.get(peer.hsm_id, self._started) <= LEASE_NS for peer in peers):
            return False
        try:
            self._lease.observe()
        except StorageError:
            return False
        return all(self._lease.still(peer.hsm_id, now, LEASE_NS) for peer in peers)

    # ---- the poller -----------------------------------------------------------------------------------------------

    def _poll(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait((BEAT_NS if self._beat() == BEAT_NS else 2 * BEAT_NS) * _NS)
            self._wake.clear()
            self._tick()

    def _watch(self) -> None:
        """Have all beat at once when the database is late: the poller may be waiting for it."""
        while not self._stopping.wait(BEAT_NS * _NS):
            if self._crowded() and self._beat() == BEAT_NS:
                for peer in list(self._peers.values()):
                    peer.nudge()

    def _crowded(self) -> bool:
        return len(self._peers) >= CROWD

    def _beat(self) -> int:
        """Nanoseconds from one beat to the next."""
        late = self._clock.monotonic_ns() - self._lease.renewed > LATE_NS
        return SPARSE_NS if self._crowded() and not late else BEAT_NS

    def _tick(self) -> None:
        start = self._clock.monotonic_ns()
        try:
            self._with_database(start)
        except StorageError as error:
            if not self._database_down:
                _LOG.error("The database is away, polling goes on: %s", error)
            self._database_down = True
        else:
            if self._database_down:
                _LOG.info("The database is back.")
            self._database_down = False
        self._meet()
        self._extend(self._heard_until())

    def _with_database(self, start: int) -> None:
        """Follow, look for tampering now and then, and renew the lease there if the peers do not carry it."""
        due = start - self._checked > CENSUS_NS
        self._replica.sync(check=due)
        if due:
            self._checked = start
        wanted = self._crowded() or self._heard_until() < start + LEASE_NS - 2 * BEAT_NS
        if wanted and self._lease.renew(start):
            self._extend(start + LEASE_NS)
        if start - self._purged > PURGE_NS and self._peers_alive(start):
            self._purged = start
            self._replica.purge(min([self._replica.version, *(peer.applied for peer in self._peers.values())]))

    def _heard_until(self) -> int:
        """Until when the lease holds that all members' answers give; alone, there is nobody to be behind of."""
        now = self._clock.monotonic_ns()
        others = self._replica.members.keys() - {self._replica.hsm_id}
        heard = [self._peers[hsm_id].heard if hsm_id in self._peers else 0 for hsm_id in others]
        return min(heard, default=now) + LEASE_NS

    def _peers_alive(self, now: int) -> bool:
        return all(peer.alive(now, LEASE_NS + self._beat()) for peer in self._peers.values())

    def _extend(self, deadline: int) -> None:
        with self._news:
            if deadline > self._deadline and self._replica.hsm_id in self._replica.members:
                self._deadline = deadline
                self._engine.serve_until(deadline)

    def _meet(self) -> None:
        """Have a link to each member of the membership, and to no other."""
        members = {hsm_id: row for hsm_id, row in self._replica.members.items() if hsm_id != self._replica.hsm_id}
        with self._news:
            for hsm_id, peer in list(self._peers.items()):
                if hsm_id not in members or members[hsm_id].socket != peer.socket:
                    peer.stop()
                    del self._peers[hsm_id]
            new = [
                Peer(row, self._replica, self._engine, self._clock, self._heard, self._cut, self._beat)
                for hsm_id, row in members.items()
                if hsm_id not in self._peers
            ]
            self._peers.update({peer.hsm_id: peer for peer in new})
        for peer in new:
            if not self._stopping.is_set():
                peer.start()

    def _heard(self) -> None:
        """A peer has answered."""
        with self._news:
            self._news.notify_all()
        self._extend(self._heard_until())

    # ---- the other end --------------------------------------------------------------------------------------------

    def _on_hello(self, client: int, payload: bytes) -> Response:
        request = PeerHelloRequest.decode(payload)
        hsm_id = request.hsm_id.decode("ascii", "replace")
        if len(request.nonce) != NONCE_BYTES or hsm_id == self._replica.hsm_id:
            raise CkrError(CKR.ARGUMENTS_BAD, "PEER_HELLO without a nonce, or from oneself")
        self._require_member(hsm_id)
        nonce = secrets.token_bytes(NONCE_BYTES)
        while len(self._pending) >= _PENDING:
            self._pending.pop(next(iter(self._pending)), None)
        self._pending[client] = (hsm_id, request.nonce, nonce)
        ours = proof(self._engine, self._replica, "responder", hsm_id, self._replica.hsm_id, request.nonce, nonce)
        return PeerHelloResponse(nonce, ours)

    def _on_prove(self, client: int, payload: bytes) -> Response:
        request = PeerProveRequest.decode(payload)
        hsm_id, theirs, ours = self._pending.pop(client, ("", b"", b""))
        expected = proof(self._engine, self._replica, "initiator", hsm_id, self._replica.hsm_id, theirs, ours)
        if not hsm_id or not hmac.compare_digest(request.proof, expected):
            _LOG.warning("A client claims to be HSM %s and cannot prove it.", hsm_id or "?")
            raise CkrError(CKR.ARGUMENTS_BAD, "the proof is wrong")
        self._engine.client_peer(client)
        self._proven[client] = hsm_id
        self._meet()
        if hsm_id in self._peers:
            self._peers[hsm_id].nudge()
        return PeerProveResponse()

    def _require_member(self, hsm_id: str) -> None:
        if hsm_id not in self._replica.members and self._replica.sync() and hsm_id not in self._replica.members:
            raise CkrError(CKR.ARGUMENTS_BAD, f"{hsm_id} is no member of this cluster")

    def _on_sync(self, client: int, payload: bytes) -> Response:
        version = PeerSyncRequest.decode(payload).version
        self._answer(client)
        if version > self._replica.version:
            self._replica.sync()
        return PeerSyncResponse(self._replica.version)

    def _on_beat(self, client: int, payload: bytes) -> Response:
        version = PeerBeatRequest.decode(payload).version
        self._answer(client)
        applied = self._replica.version
        if version > applied:
            self._wake.set()
        return PeerBeatResponse(applied)

    def _answer(self, client: int) -> None:
        """Note that a member gets an answer, which counts for its lease; before the version is read."""
        hsm_id = self._proven.get(client, "")
        if hsm_id not in self._replica.members:
            raise CkrError(CKR.USER_NOT_LOGGED_IN, "not a peer")
        self._answered[hsm_id] = self._clock.monotonic_ns()

    def _on_join(self, _client: int, payload: bytes) -> Response:
        hsm_id = JoinRequest.decode(payload).hsm_id.decode("ascii", "replace")
        try:
            membership.admit(self._engine, self._replica, self._folder, hsm_id)
        except CkrError:
            raise
        except HsmsimError as error:
            _LOG.warning("%s is not let in: %s", hsm_id, error)
            raise CkrError(CKR.FUNCTION_REJECTED, str(error)) from error
        return JoinResponse()
