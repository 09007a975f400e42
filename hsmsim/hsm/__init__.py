"""One HSM: firmware, vault, the binding of the engine, the links to the other HSMs, and the client of all that."""
