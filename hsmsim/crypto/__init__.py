"""Sealing and formats of what is encrypted at rest, certificates: apart from any HSM."""
