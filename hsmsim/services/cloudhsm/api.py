"""The service: importing this module registers every operation."""

from __future__ import annotations

from hsmsim.services.cloudhsm import backups, clusters, tags
from hsmsim.services.cloudhsm.desk import Desk
from hsmsim.services.cloudhsm.service import CloudHsm, build

__all__ = ["CloudHsm", "Desk", "backups", "build", "clusters", "tags"]
