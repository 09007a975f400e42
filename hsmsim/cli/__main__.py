"""`python -m hsmsim.cli`."""

from hsmsim.cli.main import main

main(prog_name="hsmsim")
