"""A client of the module that signs until its standard input ends; a signature that fails ends it at once.

On standard output `ready`, when it has a key, and at the end `signed COUNT longest SECONDS`. The key goes with it.
"""

from __future__ import annotations

import os
import select
import sys
import time

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism
from pkcs11.util.ec import encode_named_curve_parameters


def main() -> None:
    token = pkcs11.lib(os.environ["HSMSIM_MODULE"]).get_token(token_label=os.environ["HSMSIM_TOKEN"])
    session = token.open(rw=True, user_pin=os.environ["HSMSIM_PIN"])
    curve = session.create_domain_parameters(
        KeyType.EC, {Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}, local=True
    )
    public, private = curve.generate_keypair(store=True, label="going-on")
    print("ready", flush=True)
    signed, longest = 0, 0.0
    while not select.select([sys.stdin], [], [], 0)[0]:
        start = time.monotonic()
        signature = private.sign(bytes(32), mechanism=Mechanism.ECDSA)
        longest = max(longest, time.monotonic() - start)
        signed += 1
        if signed % 50 == 0:
            assert public.verify(bytes(32), signature, mechanism=Mechanism.ECDSA)
    private.destroy()
    public.destroy()
    print(f"signed {signed} longest {longest:.3f}", flush=True)


if __name__ == "__main__":
    main()
