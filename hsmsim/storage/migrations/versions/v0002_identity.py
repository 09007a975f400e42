"""What a cluster is to the outside: mode, certificates, limited writes.

A new table, so that no row that is there gets other columns and no seal changes. An older cluster has no row in it:
it is NON_FIPS, as nothing was forbidden to it, and has no certificate.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
BLOBS = ("key", "csr", "hsm_certificate", "aws_hardware", "manufacturer_hardware", "certificate", "trust_anchor")


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "identity",
        sa.Column("id", NUMBER, primary_key=True, autoincrement=False),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("limited_write", sa.SmallInteger, nullable=False),
        *(sa.Column(name, sa.LargeBinary, nullable=False) for name in BLOBS),
        sa.Column("version", NUMBER, nullable=False),
        sa.Column("deleted", sa.SmallInteger, nullable=False),
        sa.Column("mac", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_identity_version", "identity", ["version"])
