"""AWS's wire: one port for all services, accounts and regions (DESIGN D9, D16)."""
