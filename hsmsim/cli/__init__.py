"""The `hsmsim` command: reads arguments, asks, shows; what it does is done by `hsmsim.fleet`."""
