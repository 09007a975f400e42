"""The tables of the gateway's database are registered here by the services that own them, each in its store.py.

Migrations (`gateway_migrations`) build the same tables; a test compares the two. Times are seconds since the epoch as
floats, documents are JSON text, ids are AWS's.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Column, LargeBinary, MetaData, Table, Text

GATEWAY: Final = MetaData()

# What the gateway keeps for itself: keys that it made, counters.
SETTINGS: Final = Table(
    "settings", GATEWAY, Column("name", Text, primary_key=True), Column("value", LargeBinary, nullable=False)
)
