"""The link to one other HSM: a thread that proves, beats and announces."""

from __future__ import annotations

import hmac
import logging
import secrets
import threading
from typing import TYPE_CHECKING, Final

from hsmsim.errors import CkrError, StorageError
from hsmsim.hsm.link import PROFILE_PEER, VERSION, Link, LinkError
from hsmsim.hsm.messages import HelloRequest, PeerBeatRequest, PeerHelloRequest, PeerProveRequest, PeerSyncRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from hsmsim.clock import Clock
    from hsmsim.cluster.model import Keyring, MemberRow
    from hsmsim.cluster.replica import Replica

_LOG = logging.getLogger(__name__)

BEAT_NS: Final = 250_000_000
NONCE_BYTES: Final = 32
TIMEOUT_S: Final = 1.0


def proof(
    keyring: Keyring, replica: Replica, role: str, initiator: str, responder: str, theirs: bytes, ours: bytes
) -> bytes:
    """Return the MAC that an end shows; `role` keeps one end's proof from being the other's. Fields have one length."""
    text = f"hsmsim peer 1|{role}|{replica.cluster_id}|{initiator}|{responder}|".encode()
    return keyring.mac("peer", text + theirs + ours)


class Peer:
    """One other member, as seen from here."""

    def __init__(
        self,
        row: MemberRow,
        replica: Replica,
        keyring: Keyring,
        clock: Clock,
        heard: Callable[[], None],
        cut: Callable[[], bool],
        beat: Callable[[], int],
    ) -> None:
        """heard: called after each answer; cut: whether a fault cuts this HSM off from the others.

        beat: nanoseconds from one beat to the next.
        """
        self.hsm_id = row.hsm_id
        self.socket = row.socket
        self.applied = 0  # the highest version that it says it has applied
        self.heard = 0  # start of the last exchange after which this HSM was up to date with it; monotonic ns
        self.linked = False
        self.made = clock.monotonic_ns()
        self._replica = replica
        self._keyring = keyring
        self._clock = clock
        self._on_heard = heard
        self._cut = cut
        self._beat = beat
        self._wanted = 0
        self._told_down = False
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=f"peer {row.hsm_id}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End soon."""
        with self._wake:
            self._stopping = True
            self._wake.notify()

    def nudge(self) -> None:
        """Try now: it has come up."""
        with self._wake:
            self._wake.notify()

    def want(self, version: int) -> None:
        """Have this version told as soon as possible."""
        with self._wake:
            if version > self._wanted:
                self._wanted = version
                self._wake.notify()

    def alive(self, now: int, within: int) -> bool:
        """Whether it answered within so many nanoseconds."""
        return now - self.heard < within

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._require_network()
                with self._link() as link:
                    self._prove(link)
                    self.linked = True
                    self._told_down = False
                    self._talk(link)
            except (LinkError, CkrError, StorageError) as error:
                if not self._told_down:
                    _LOG.info("No link to %s: %s", self.hsm_id, error)
                self._told_down = True
            finally:
                self.linked = False
            self._pause(BEAT_NS, told=True)

    def _link(self) -> Link:
        own = self._replica.members.get(self._replica.hsm_id)
        here = own.socket if own is not None else ""
        return Link(self.socket, TIMEOUT_S, here=here, certificate=self._replica.identity.certificate)

    def _require_network(self) -> None:
        if self._cut():
            raise LinkError("this HSM is cut off from the others, by a fault that was asked for")

    def _prove(self, link: Link) -> None:
        hello = link.call(HelloRequest(VERSION, PROFILE_PEER, b"", b"", b""))
        if hello.hsm_id.decode("ascii", "replace") != self.hsm_id:
            raise LinkError(f"another HSM listens at {self.socket}")
        nonce = secrets.token_bytes(NONCE_BYTES)
        ids = (self._replica.hsm_id, self.hsm_id)
        answer = link.call(PeerHelloRequest(self._replica.hsm_id.encode(), nonce))
        expected = proof(self._keyring, self._replica, "responder", *ids, nonce, answer.nonce)
        if len(answer.nonce) != NONCE_BYTES or not hmac.compare_digest(answer.proof, expected):
            raise LinkError(f"{self.socket} does not have the cluster's masking key")
        ours = proof(self._keyring, self._replica, "initiator", *ids, nonce, answer.nonce)
        link.call(PeerProveRequest(ours))

    def _talk(self, link: Link) -> None:
        while not self._stopping:
            start = self._clock.monotonic_ns()
            wanted = self._wanted
            self._require_network()
            if wanted > self.applied:
                applied = link.call(PeerSyncRequest(wanted)).applied
            else:
                applied = link.call(PeerBeatRequest(self._replica.version)).applied
            self.applied = applied
            if applied > self._replica.version:
                self._replica.sync()
            if self._replica.version >= applied:
                self.heard = start
            self._on_heard()
            if applied < wanted:
                self._pause(BEAT_NS, told=True)  # it cannot read that version now: no storm of questions
            else:
                self._pause(self._beat())

    def _pause(self, nanoseconds: int, *, told: bool = False) -> None:
        """Wait for the next beat, or for a version to tell if there is a link to tell it on."""
        with self._wake:
            if not self._stopping and (told or self._wanted <= self.applied):
                self._wake.wait(nanoseconds * 1e-9)
