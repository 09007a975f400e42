"""A client that means harm: logged in like any other, it writes into its shared memory whatever comes to its mind.

Usage: python -m support.hostile_ring SOCKET KEY SEED, with user:password on standard input. Runs until it is killed;
prints a line for each thousand deeds. An HSM that lets it change the segment's size or write the board ends it with
status 1.
"""

from __future__ import annotations

import array
import mmap
import os
import random
import select
import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hsmsim.hsm.client import VERSION, HsmClient
from hsmsim.hsm.cryptoki import CKF, CKM, CKU
from hsmsim.hsm.messages import (
    HelloRequest,
    Mechanism,
    NoneParams,
    Op,
    OpenSessionsRequest,
    RingRequest,
    SignRequest,
)
from hsmsim.hsm.wire import Header

if TYPE_CHECKING:
    from collections.abc import Callable

# native/wire/ring.h
HEAD, SLOTS, SLOT, FRAME = 64, 16, 8192 - 64, 8192 - 128
SIZE: Final = HEAD + SLOTS * SLOT
WAITING, PROCESSOR = 0, 4
FILES: Final = 4
REQUEST: Final = 1
SESSION: Final = 1
LENGTHS = (0, 1, 31, FRAME - 32, FRAME - 31, FRAME, 1 << 16, (1 << 31) - 1, (1 << 32) - 33, (1 << 32) - 1)


@dataclass(slots=True)
class Ring:
    """One connection of the client, and its memory."""

    client: HsmClient
    segment: mmap.mmap
    beds: mmap.mmap
    files: tuple[int, ...]  # segment, board, beds, bell

    @classmethod
    def open(cls, path: str, cookie: bytes) -> Ring:
        client = HsmClient(path)
        client.call(HelloRequest(VERSION, 0, b"", b"", cookie))
        payload = RingRequest(SLOTS).encode()
        client._socket.sendall(Header(len(payload), Op.RING, 99).encode() + payload)
        _, rights, _, _ = client._socket.recvmsg(256, socket.CMSG_SPACE(4 * FILES))
        files = array.array("i")
        for _, _, data in rights:
            files.frombytes(data[: len(data) - len(data) % 4])
        if len(files) != FILES:
            raise ConnectionError("no ring")
        return cls(client, mmap.mmap(files[0], SIZE), mmap.mmap(files[2], 0), tuple(files))

    def close(self) -> None:
        self.segment.close()
        self.beds.close()
        for one in self.files:
            os.close(one)
        self.client.close()

    def ended(self) -> bool:
        return bool(select.select([self.client._socket], [], [], 0)[0])


class Villain:
    """Deeds, each on one ring."""

    def __init__(self, rng: random.Random, key: int) -> None:
        self.rng, self.key, self.seq = rng, key, 0
        self.deeds: tuple[Callable[[Ring], None], ...] = (
            self.scribble, self.scribble, self.sign, self.sign, self.change_while_read, self.lie, self.flags, self.ring,
            self.resize, self.toss,
        )  # fmt: skip

    def put(self, ring: Ring, at: int, data: bytes) -> None:
        data = data[: SIZE - at]
        ring.segment[at : at + len(data)] = data

    def number(self, ring: Ring, at: int, value: int) -> None:
        self.put(ring, at, (value & 0xFFFFFFFF).to_bytes(4, "little"))

    def wake(self, ring: Ring, bits: int) -> None:
        self.number(ring, WAITING, bits)
        self.toll(ring, 1)

    @staticmethod
    def toll(ring: Ring, value: int) -> None:
        try:
            os.eventfd_write(ring.files[3], value)
        except BlockingIOError:  # full: silent from now on, were it not emptied
            os.eventfd_read(ring.files[3])

    def request(self, slot: int) -> tuple[int, bytes]:
        self.seq += 1
        kind = self.rng.choice([CKM.ECDSA, CKM.ECDSA, CKM.RSA_PKCS, CKM.SHA256_RSA_PKCS_PSS, 0xFFFFFFFF])
        data = self.rng.randbytes(self.rng.choice([0, 20, 32, 64, 4000]))
        payload = SignRequest(self.rng.choice([self.key, 0, 1 << 63]), Mechanism(kind, NoneParams()), 0, data).encode()
        op = self.rng.choice([Op.SIGN, Op.SIGN, Op.SIGN, Op.RANDOM, Op.LOGIN, Op.RING, self.rng.randrange(1 << 16)])
        return HEAD + slot * SLOT, Header(len(payload), op, self.seq, SESSION).encode() + payload

    # ---- deeds

    def scribble(self, ring: Ring) -> None:
        """Anything anywhere, or next to the edges of a slot."""
        at = self.rng.choice(
            [self.rng.randrange(SIZE), HEAD + self.rng.randrange(SLOTS) * SLOT + self.rng.randrange(128)]
        )
        self.put(ring, at, self.rng.randbytes(self.rng.choice([1, 4, 32, 300, 9000])))

    def sign(self, ring: Ring) -> None:
        """What a good client sends, more or less; all slots at once."""
        for slot in range(SLOTS):
            at, frame = self.request(slot)
            self.put(ring, at + 64, frame)
            self.number(ring, at, REQUEST)
        self.wake(ring, self.rng.choice([0xFFFF, 1, 0xFFFFFFFF]))

    def change_while_read(self, ring: Ring) -> None:
        """A request whose length and bytes change after the bell."""
        at, frame = self.request(self.rng.randrange(SLOTS))
        self.put(ring, at + 64, frame)
        self.number(ring, at, REQUEST)
        self.wake(ring, 0xFFFF)
        for _ in range(50):
            self.number(ring, at + 64, self.rng.choice(LENGTHS))
            self.put(ring, at + 64 + self.rng.randrange(400), self.rng.randbytes(8))

    def lie(self, ring: Ring) -> None:
        """A length that is not so."""
        at, frame = self.request(self.rng.randrange(SLOTS))
        self.put(ring, at + 64, frame)
        self.number(ring, at + 64, self.rng.choice(LENGTHS))
        self.number(ring, at, REQUEST)
        self.wake(ring, 0xFFFF)

    def flags(self, ring: Ring) -> None:
        """Words that two sides write."""
        self.number(ring, WAITING, self.rng.getrandbits(32))
        self.number(ring, PROCESSOR, self.rng.getrandbits(32))
        for slot in range(SLOTS):
            self.number(ring, HEAD + slot * SLOT, self.rng.choice([0, 1, 2, 3, 4, 5, 0xFFFFFFFF]))

    def ring(self, ring: Ring) -> None:
        """The bell, until it can count no further."""
        for _ in range(20):
            self.toll(ring, self.rng.choice([1, (1 << 64) - 2]))

    def toss(self, ring: Ring) -> None:
        """Words on which the other clients of this user sleep."""
        for _ in range(20):
            at = self.rng.randrange(len(ring.beds) - 4)
            ring.beds[at : at + 4] = self.rng.randbytes(4)

    def resize(self, ring: Ring) -> None:
        """Take the memory away under the HSM, or write what is for reading."""
        for size in (0, SIZE // 2, SIZE * 2):
            refused(lambda size=size: os.ftruncate(ring.files[0], size))
            refused(lambda size=size: os.ftruncate(ring.files[1], size))
            refused(lambda size=size: os.ftruncate(ring.files[2], size))
        refused(lambda: mmap.mmap(ring.files[1], 0, prot=mmap.PROT_READ | mmap.PROT_WRITE).close())


def refused(deed: Callable[[], object]) -> None:
    try:
        deed()
    except PermissionError:
        return
    sys.exit("the HSM's seals let it through")


def main(path: str, key: int, seed: int) -> None:
    rng = random.Random(seed)
    user, _, password = sys.stdin.readline().strip().partition(":")
    keeper = HsmClient.connect(path)
    assert keeper.hello is not None
    keeper.call(OpenSessionsRequest((SESSION,), (CKF.SERIAL_SESSION | CKF.RW_SESSION,)))
    keeper.login(user, password, CKU.USER)
    villain, ring, done = Villain(rng, key), None, 0
    while True:
        try:
            ring = Ring.open(path, keeper.hello.cookie) if ring is None else ring
            for _ in range(20):
                rng.choice(villain.deeds)(ring)
                done += 1
                if done % 1000 == 0:
                    print(done, flush=True)
            if ring.ended() or rng.random() < 0.02:
                ring.close()
                ring = None
        except ConnectionError:  # expelled: again
            if ring is not None:
                ring.close()
                ring = None


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
