"""The service: importing this module registers every operation."""

from __future__ import annotations

from hsmsim.services.iam import attachments, entities, keys, policies, roles, simulate
from hsmsim.services.iam.service import build

__all__ = ["attachments", "build", "entities", "keys", "policies", "roles", "simulate"]
