"""Backups in the order in which they were made, which their times are not where the simulated clock was set back."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Number the backups that there are by their times: nothing else is known of them."""
    op.add_column("cloudhsm_backups", sa.Column("sequence", sa.Integer, nullable=False, server_default=sa.text("0")))
    backups = sa.table("cloudhsm_backups", sa.column("id"), sa.column("created"), sa.column("sequence"))
    connection = op.get_bind()
    ids = connection.execute(sa.select(backups.c.id).order_by(backups.c.created, backups.c.id)).scalars().all()
    for number, id_ in enumerate(ids, 1):
        connection.execute(sa.update(backups).where(backups.c.id == id_).values(sequence=number))
