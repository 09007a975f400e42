"""`python -m hsmsim.hsm --config FILE [--user NAME]`: one HSM process."""

import gc
import os

os.environ["OPENSSL_CONF"] = os.devnull  # before anything loads OpenSSL: the machine's configuration is not ours
gc.disable()  # what is imported stays: to look through it again and again takes a sixth of the start

from hsmsim.hsm.process import main  # noqa: E402 - see above

gc.freeze()
gc.enable()
main()
