"""`python -m hsmsim.cli.cloudhsm`."""

from hsmsim.cli.cloudhsm.main import main

main()
