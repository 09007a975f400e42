"""This HSM's lease in the database, and what is seen there of the other members'."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hsmsim.cluster.leases import Leases

if TYPE_CHECKING:
    from hsmsim.clock import Clock
    from hsmsim.cluster.replica import Replica

TRIES: Final = 5


class DatabaseLease:
    """Times are nanoseconds of the monotonic clock. What reads or writes there may raise StorageError."""

    def __init__(self, replica: Replica, clock: Clock) -> None:
        self.renewed = 0
        """When the last renewal began."""
        self._replica = replica
        self._clock = clock
        self._leases = Leases(replica.database.url, replica.hsm_id)
        self._began = clock.monotonic_ns()
        self._stands: dict[str, tuple[int, int]] = {}  # a member's lease counter, and since when it stands there
        self._moved: dict[str, int] = {}  # when it was last seen to have moved

    def renew(self, start: int) -> bool:
        """Renew at the version applied; a few tries, because another HSM may write in between. start: when it began."""
        self.observe()
        for _ in range(TRIES):
            if self._leases.renew(self._replica.cluster):
                self.renewed = start
                return True
            self._replica.sync()
        return False

    def observe(self) -> None:
        """Note which lease counters stand still; a member without a row has had no lease."""
        renewals = self._leases.renewals()
        now = self._clock.monotonic_ns()
        for hsm_id, renewal in renewals.items():
            known = self._stands.get(hsm_id)
            if known is None or known[0] != renewal:
                self._stands[hsm_id] = (renewal, now)
            if known is not None and known[0] != renewal:
                self._moved[hsm_id] = now

    def moved(self, hsm_id: str, now: int, within: int) -> bool:
        """Whether a member has been seen to renew its lease lately."""
        return hsm_id in self._moved and now - self._moved[hsm_id] < within

    def still(self, hsm_id: str, now: int, within: int) -> bool:
        """Whether a member's counter has stood still longer than that."""
        return now - self._stands.get(hsm_id, (0, self._began))[1] > within
