"""Backups that no cluster rules: copies from another region, imports; and those that were taken back from deletion."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

TABLE = "cloudhsm_backups"


def upgrade() -> None:
    """Add the columns; the backups that are there are of their clusters."""
    for name in ("source_backup", "source_region", "source_cluster"):
        op.add_column(TABLE, sa.Column(name, sa.Text, nullable=False, server_default=""))
    for name in ("copied", "restored"):
        op.add_column(TABLE, sa.Column(name, sa.Float, nullable=False, server_default="0"))
    op.add_column(TABLE, sa.Column("loose", sa.Boolean, nullable=False, server_default=sa.false()))
