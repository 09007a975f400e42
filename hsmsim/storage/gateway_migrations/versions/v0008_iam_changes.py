"""IAM: which things were changed, for the memory of other gateways on the same database."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "iam_changes",
        sa.Column("sequence", sa.Integer, primary_key=True),
        sa.Column("thing", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
    )
