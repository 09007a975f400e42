"""What an HSM decides: users, sessions, objects, keys, rights. Handlers by operation code are in dispatch.py."""
