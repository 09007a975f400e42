"""Clients of the module that are killed in the middle of their calls: doomed.py COUNT SEED.

So many processes, a few at a time, each at one kind of work over and over until its end comes at a random time, for
some in the middle of the login. Prints how many had come to their work.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from typing import TYPE_CHECKING, NoReturn

from support.p11 import Module, Session

from hsmsim.hsm.cryptoki import CKA, CKK, CKM, CKO

if TYPE_CHECKING:
    from collections.abc import Callable

AT_A_TIME = 8
LONGEST = 0.3
DATA = bytes(range(256)) * 200


def secret(session: Session, *, token: bool = False) -> int:
    values = {CKA.CLASS: CKO.SECRET_KEY, CKA.KEY_TYPE: CKK.GENERIC_SECRET, CKA.VALUE: DATA[:32], CKA.SIGN: True}
    return session.create({**values, CKA.TOKEN: token, CKA.LABEL: "doomed"})


def generate_rsa(session: Session) -> None:
    session.pair(CKM.RSA_PKCS_KEY_PAIR_GEN, {CKA.MODULUS_BITS: 2048}, {CKA.TOKEN: False})


def create_and_destroy(session: Session) -> None:
    session.call("C_DestroyObject", secret(session, token=True))


def sign(session: Session) -> None:
    key = secret(session)
    for _ in range(100):
        session.whole("Sign", CKM.SHA256_HMAC, key, DATA[:32])


def sign_in_parts(session: Session) -> None:
    key = secret(session)
    others = [session.module.session() for _ in range(20)]
    for one in others:
        one.init("C_SignInit", CKM.SHA256_HMAC, key)
        one.call("C_SignUpdate", DATA, len(DATA))
    for one in others:
        one.call("C_CloseSession")


def find(session: Session) -> None:
    session.call("C_FindObjectsInit", None, 0)
    session.call("C_FindObjectsFinal")


WORK: tuple[Callable[[Session], None], ...] = (generate_rsa, create_and_destroy, sign, sign_in_parts, find)


def die_in(seconds: float) -> None:
    """Be killed then, whatever call the main thread is in."""
    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()


def client(number: int, seconds: float, ready: int) -> NoReturn:
    if number % 10 == 0:
        die_in(seconds)  # perhaps in its login
    session = Module(os.environ).session(os.environ["HSMSIM_PIN"])
    os.write(ready, b".")
    die_in(seconds)
    while True:
        WORK[number % len(WORK)](session)


def main(count: int, seed: int) -> None:
    seeded = random.Random(seed)
    read, write = os.pipe()
    running = 0
    for number in range(count):
        seconds = seeded.uniform(0, LONGEST)
        if os.fork() == 0:
            client(number, seconds, write)
        running += 1
        while running == AT_A_TIME or (number == count - 1 and running):
            assert os.wait()[1] == signal.SIGKILL, "it ended before it was killed"
            running -= 1
    os.close(write)
    came = 0
    while part := os.read(read, 4096):
        came += len(part)
    print(came)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
