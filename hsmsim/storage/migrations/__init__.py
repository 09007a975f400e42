"""Alembic's scripts: env.py runs them on the connection that hsmsim.storage.migrate opened."""
