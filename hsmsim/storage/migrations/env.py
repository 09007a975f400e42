"""Alembic's entry: always online, on the one connection and inside the one transaction of migrate()."""

from __future__ import annotations

from alembic import context

from hsmsim.storage.tables import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
context.run_migrations()
