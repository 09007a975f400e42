"""Verify signatures with SoftHSM2: lines of JSON on standard input, the number of good ones on standard output.

A line: {"public": {attribute number: hex or number}, "mechanism": number, "parameter": hex or null, "data": hex,
"signature": hex}. A process of its own, which ends before SoftHSM2's destructors run.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any

from support.p11 import Module, Session

from hsmsim.config import softhsm_library
from hsmsim.hsm.cryptoki import CKA, CKU

PIN = b"verifier"


def token(folder: Path) -> Session:
    """A session in a new token."""
    (folder / "tokens").mkdir()
    config = folder / "softhsm2.conf"
    config.write_text(f"directories.tokendir = {folder / 'tokens'}\n", encoding="utf-8")
    os.environ["SOFTHSM2_CONF"] = str(config)
    module = Module({"HSMSIM_MODULE": str(softhsm_library())})
    module.call("C_InitToken", module.slot, PIN, len(PIN), b"verifier".ljust(32))
    session = module.session()
    session.login(PIN.decode(), CKU.SO)
    session.call("C_InitPIN", PIN, len(PIN))
    session.call("C_Logout")
    return session


def value(raw: Any) -> Any:
    return bytes.fromhex(raw) if isinstance(raw, str) else raw


def main(folder: Path) -> None:
    session = token(folder)
    session.login(PIN.decode())
    objects: dict[str, int] = {}
    good = 0
    for line in sys.stdin:
        job = json.loads(line)
        name = json.dumps(job["public"], sort_keys=True)
        if name not in objects:
            objects[name] = session.create({CKA(int(key)): value(raw) for key, raw in job["public"].items()})
        parameter = value(job["parameter"]) if job["parameter"] is not None else None
        data, signature = value(job["data"]), value(job["signature"])
        session.verify(job["mechanism"], objects[name], data, signature, parameter)
        good += 1
    print(good, flush=True)
    ctypes.CDLL(None)._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
