"""Sealing and formats of what is encrypted at rest."""
