"""`python -m hsmsim.fleet`: the fleet's daemon."""

import gc
import sys

gc.disable()  # what is imported stays: to look through it again and again takes a sixth of the start

from hsmsim.fleet.daemon import main  # noqa: E402 - see above

gc.freeze()
gc.enable()

if __name__ == "__main__":
    sys.exit(main())
