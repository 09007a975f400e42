"""Leases in the database: how an HSM that does not hear all others shows that it is up to date.

Rules: a lease is renewed only at the version that the HSM has applied, under the write lock, so that no commit can
fall between the two. The row holds a counter; who wants to know whether the lease is over watches the counter stand
still by its own monotonic clock, so no two clocks are compared. A lost renewal costs a second, so commits need not
reach the disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from hsmsim.storage.database import Database
from hsmsim.storage.tables import CLUSTER, LEASES

if TYPE_CHECKING:
    from hsmsim.cluster.model import ClusterRow


class Leases:
    """The leases of a cluster's members, this one's to be renewed."""

    def __init__(self, database_url: str, hsm_id: str) -> None:
        self._database = Database(database_url, durable=False)
        self._hsm_id = hsm_id

    def renew(self, applied: ClusterRow) -> bool:
        """Renew this HSM's lease; False, and nothing done, where `applied` is not the cluster's latest version."""
        table = LEASES.c
        with self._database.write() as connection:
            latest = connection.execute(
                select(CLUSTER.c.incarnation, CLUSTER.c.version).with_for_update(read=True)
            ).first()
            if latest is None or tuple(latest) != (applied.incarnation, applied.version):
                return False
            ours = table.hsm_id == self._hsm_id
            done = connection.execute(LEASES.update().where(ours).values(renewal=table.renewal + 1))
            if done.rowcount == 0:
                connection.execute(LEASES.insert().values(hsm_id=self._hsm_id, renewal=1))
        return True

    def renewals(self) -> dict[str, int]:
        """Return every HSM's counter."""
        with self._database.read() as connection:
            return {row.hsm_id: row.renewal for row in connection.execute(select(LEASES))}

    def close(self) -> None:
        """Close the connections to the database."""
        self._database.close()
