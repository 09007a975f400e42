"""CloudHSM: clusters, HSMs, backups and tags."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    texts = "account region state message hsm_type mode source_backup vpc group subnets certificates signed anchor"
    _make(
        "cloudhsm_clusters",
        f"{texts} target former former_image",
        "due created rollback_until ended",
        sa.Column("retention", sa.Integer, nullable=False),
    )
    _make(
        "cloudhsm_hsms",
        "state message hsm_type zone subnet eni ip backup image replaces",
        "due created",
        sa.Column("cluster", sa.Text, sa.ForeignKey("cloudhsm_clusters.id"), nullable=False, index=True),
    )
    _make(
        "cloudhsm_backups",
        "account region state hsm_type mode certificate policy",
        "due created delete_at",
        sa.Column("cluster", sa.Text, nullable=False, index=True),
        sa.Column("never_expires", sa.Boolean, nullable=False),
        sa.Column("image", sa.Boolean, nullable=False),
    )
    op.create_table(
        "cloudhsm_tags",
        sa.Column("resource", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )


def _make(name: str, texts: str, times: str, *more: sa.Column[Any]) -> None:
    """A table with an id, in which nothing is null."""
    columns = [sa.Column(column, sa.Text, nullable=False) for column in texts.split()]
    columns += [sa.Column(column, sa.Float, nullable=False) for column in times.split()]
    op.create_table(name, sa.Column("id", sa.Text, primary_key=True), *columns, *more)
