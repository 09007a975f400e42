"""`python -m hsmsim.hsm --config FILE [--user NAME]`: one HSM process."""

import os

os.environ["OPENSSL_CONF"] = os.devnull  # before anything loads OpenSSL: the machine's configuration is not ours

from hsmsim.hsm.process import main

main()
