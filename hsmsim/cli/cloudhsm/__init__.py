"""`cloudhsm-cli`: what AWS's tool of that name prints and takes, on the HSMs of the simulator."""
