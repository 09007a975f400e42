"""AWS's wire: one port for all services, accounts and regions. Parses, verifies, runs, records, answers (DESIGN D9, D16)."""
