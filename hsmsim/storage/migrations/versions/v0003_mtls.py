"""Trust anchors of clients' certificates, and whether such a certificate is wanted.

A new table, so that no seal of a row that is there changes. A cluster without a row in it has no trust anchor.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "mtls",
        sa.Column("id", NUMBER, primary_key=True, autoincrement=False),
        sa.Column("enforced", sa.SmallInteger, nullable=False),
        sa.Column("anchor_1", sa.LargeBinary, nullable=False),
        sa.Column("anchor_2", sa.LargeBinary, nullable=False),
        sa.Column("version", NUMBER, nullable=False),
        sa.Column("deleted", sa.SmallInteger, nullable=False),
        sa.Column("mac", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_mtls_version", "mtls", ["version"])
