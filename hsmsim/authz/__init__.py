"""Who may do what: principals, policy documents and their evaluation. Pure: no I/O, no clock, no service."""
