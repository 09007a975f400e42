"""AWS CloudHSM v2: clusters, HSMs and backups as rows, and the worker that makes HSM processes follow them."""
