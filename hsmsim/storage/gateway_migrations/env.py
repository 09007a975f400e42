"""Alembic's entry: always online, on the one connection and inside the one transaction of migrate()."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"], target_metadata=None)
context.run_migrations()
