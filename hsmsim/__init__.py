"""A CloudHSM-style cluster on your own machine: HSM processes, replicated state, and the commands that run them."""

__version__ = "0.1.0"
