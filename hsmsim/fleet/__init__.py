"""Which HSMs there are, and their processes: places, starts, stops and prepares them. Decides nothing inside an HSM."""
