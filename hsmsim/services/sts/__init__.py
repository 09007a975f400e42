"""STS: who a caller is, and temporary credentials."""
