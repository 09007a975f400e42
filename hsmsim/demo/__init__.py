"""Demonstrations on real software: what an HSM does for a web server, shown and measured."""
