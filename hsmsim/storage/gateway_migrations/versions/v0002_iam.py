"""IAM: accounts, users, groups, roles, access keys, policies and tags."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "iam_accounts",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("created", sa.Float, nullable=False),
    )
    _entities()
    _policies()
    op.create_table(
        "iam_keys",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False, index=True),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("active", sa.Boolean, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
    )
    op.create_table(
        "iam_tags",
        sa.Column("owner", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )


def _entities() -> None:
    op.create_table(
        "iam_entities",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("boundary", sa.Text, nullable=False),
        sa.Column("trust", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("max_session", sa.Integer, nullable=False),
        sa.Column("service", sa.Text, nullable=False),
        sa.UniqueConstraint("account", "kind", "key"),
    )
    op.create_table(
        "iam_members",
        sa.Column("group_id", sa.Text, sa.ForeignKey("iam_entities.id"), primary_key=True),
        sa.Column("user_id", sa.Text, sa.ForeignKey("iam_entities.id"), primary_key=True),
    )


def _policies() -> None:
    op.create_table(
        "iam_inline",
        sa.Column("entity", sa.Text, sa.ForeignKey("iam_entities.id"), primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("document", sa.Text, nullable=False),
    )
    op.create_table(
        "iam_policies",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("updated", sa.Float, nullable=False),
        sa.Column("default", sa.Integer, nullable=False),
        sa.Column("next", sa.Integer, nullable=False),
        sa.UniqueConstraint("account", "key"),
    )
    op.create_table(
        "iam_versions",
        sa.Column("policy", sa.Text, sa.ForeignKey("iam_policies.id"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("document", sa.Text, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
    )
    op.create_table(
        "iam_attached",
        sa.Column("entity", sa.Text, sa.ForeignKey("iam_entities.id"), primary_key=True),
        sa.Column("policy_arn", sa.Text, primary_key=True, index=True),
    )
