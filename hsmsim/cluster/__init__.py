"""The replicated state of a cluster: versioned rows in SQL, each with a MAC, and a copy in memory (DESIGN D6)."""
