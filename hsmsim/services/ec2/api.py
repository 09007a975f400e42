"""The service: importing this module registers every operation."""

from __future__ import annotations

from hsmsim.services.ec2 import grouprules, groups, interfaces, regions, subnets, tags, vpcs
from hsmsim.services.ec2.ports import network
from hsmsim.services.ec2.service import build

__all__ = ["build", "grouprules", "groups", "interfaces", "network", "regions", "subnets", "tags", "vpcs"]
