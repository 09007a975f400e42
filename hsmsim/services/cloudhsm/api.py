"""The service: importing this module registers every operation. CopyBackupToRegion is refused by name: not built."""

from __future__ import annotations

from hsmsim.services.cloudhsm import backups, clusters, tags
from hsmsim.services.cloudhsm.service import CloudHsm, build

__all__ = ["CloudHsm", "backups", "build", "clusters", "tags"]
