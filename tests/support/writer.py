"""A client of the module that makes and destroys keys until its standard input ends, whatever happens to the HSMs.

On standard output a line for each thing that is certain or not: `made LABEL POINT`, `unsure LABEL`, `destroying LABEL`,
`destroyed LABEL`. A signature that fails ends it: one HSM is always up.
"""

from __future__ import annotations

import os
import select
import sys
import time

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism
from pkcs11.exceptions import DeviceError, FunctionFailed, ObjectHandleInvalid
from pkcs11.util.ec import encode_named_curve_parameters

KEPT = 100


def main(name: str) -> None:
    token = pkcs11.lib(os.environ["HSMSIM_MODULE"]).get_token(token_label=os.environ["HSMSIM_TOKEN"])
    session = token.open(rw=True, user_pin=os.environ["HSMSIM_PIN"])
    curve = session.create_domain_parameters(
        KeyType.EC, {Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}, local=True
    )
    kept = []
    number = 0
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        number += 1
        label = f"{name}-{number}"
        try:
            public, private = curve.generate_keypair(store=True, label=label)
        except (DeviceError, FunctionFailed):  # the second HSM is not there: refused, or nobody knows
            print(f"unsure {label}", flush=True)
            time.sleep(0.02)
        else:
            print(f"made {label} {public[Attribute.EC_POINT].hex()}", flush=True)
            kept.append((label, public, private))
        if len(kept) > KEPT:
            destroy(*kept.pop(0))
        for label, public, private in kept[-1:]:
            signature = private.sign(bytes(32), mechanism=Mechanism.ECDSA)
            assert public.verify(bytes(32), signature, mechanism=Mechanism.ECDSA), label
    session.close()


def destroy(label: str, public: pkcs11.PublicKey, private: pkcs11.PrivateKey) -> None:
    print(f"destroying {label}", flush=True)
    for key in (private, public):
        while True:
            try:
                key.destroy()
            except ObjectHandleInvalid:  # it was destroyed by the call whose answer was lost
                break
            except DeviceError:
                time.sleep(0.02)
            else:
                break
    print(f"destroyed {label}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
