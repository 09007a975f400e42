"""EC2: regions that were looked at, VPCs, subnets, security groups, network interfaces and tags."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "ec2_regions",
        sa.Column("account", sa.Text, primary_key=True),
        sa.Column("region", sa.Text, primary_key=True),
        sa.Column("dhcp", sa.Text, nullable=False),
    )
    _networks()
    _groups()
    _interfaces()
    op.create_table(
        "ec2_tags",
        sa.Column("resource", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
        *_owner(),
    )


def _owner() -> list[sa.Column[str]]:
    return [sa.Column("account", sa.Text, nullable=False), sa.Column("region", sa.Text, nullable=False)]


def _networks() -> None:
    op.create_table(
        "ec2_vpcs",
        sa.Column("id", sa.Text, primary_key=True),
        *_owner(),
        sa.Column("cidr", sa.Text, nullable=False),
        sa.Column("association", sa.Text, nullable=False),
        sa.Column("default", sa.Boolean, nullable=False),
        sa.Column("tenancy", sa.Text, nullable=False),
        sa.Column("dns_support", sa.Boolean, nullable=False),
        sa.Column("dns_hostnames", sa.Boolean, nullable=False),
        sa.Column("usage_metrics", sa.Boolean, nullable=False),
    )
    op.create_table(
        "ec2_subnets",
        sa.Column("id", sa.Text, primary_key=True),
        *_owner(),
        sa.Column("vpc", sa.Text, sa.ForeignKey("ec2_vpcs.id"), nullable=False, index=True),
        sa.Column("zone", sa.Text, nullable=False),
        sa.Column("cidr", sa.Text, nullable=False),
        sa.Column("default", sa.Boolean, nullable=False),
    )


def _groups() -> None:
    op.create_table(
        "ec2_groups",
        sa.Column("id", sa.Text, primary_key=True),
        *_owner(),
        sa.Column("vpc", sa.Text, sa.ForeignKey("ec2_vpcs.id"), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.UniqueConstraint("vpc", "name"),
    )
    op.create_table(
        "ec2_rules",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("group", sa.Text, sa.ForeignKey("ec2_groups.id"), nullable=False),
        sa.Column("egress", sa.Boolean, nullable=False),
        sa.Column("protocol", sa.Text, nullable=False),
        sa.Column("first", sa.Integer, nullable=False),
        sa.Column("last", sa.Integer, nullable=False),
        sa.Column("cidr4", sa.Text, nullable=False),
        sa.Column("cidr6", sa.Text, nullable=False),
        sa.Column("peer", sa.Text, nullable=False, index=True),
        sa.Column("description", sa.Text, nullable=False),
        sa.UniqueConstraint("group", "egress", "protocol", "first", "last", "cidr4", "cidr6", "peer"),
    )


def _interfaces() -> None:
    op.create_table(
        "ec2_interfaces",
        sa.Column("id", sa.Text, primary_key=True),
        *_owner(),
        sa.Column("subnet", sa.Text, sa.ForeignKey("ec2_subnets.id"), nullable=False),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("mac", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("requester", sa.Text, nullable=False),
        sa.Column("attachment", sa.Text, nullable=False),
        sa.Column("source_check", sa.Boolean, nullable=False),
        sa.Column("token", sa.Text),
        sa.Column("digest", sa.Text, nullable=False),
        sa.UniqueConstraint("subnet", "address"),
        sa.UniqueConstraint("account", "region", "token"),
    )
    op.create_table(
        "ec2_interface_groups",
        sa.Column("interface", sa.Text, sa.ForeignKey("ec2_interfaces.id"), primary_key=True),
        sa.Column("group", sa.Text, sa.ForeignKey("ec2_groups.id"), primary_key=True, index=True),
        sa.Column("place", sa.Integer, nullable=False),
    )
