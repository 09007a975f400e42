"""`python -m hsmsim.fleet`: the fleet's daemon."""

import sys

from hsmsim.fleet.daemon import main

if __name__ == "__main__":
    sys.exit(main())
