"""The OpenSSL inside PyPI's `cryptography`, which is newer than the system's, as hsmsim-signbench does the system's.

    python -m hsmsim.bench.pyca --kind rsa2048|p256|...|aes256gcm --processes N --seconds S [--warmup S] [--bytes N]

Python's part of a call is about 1 us. Prints one line of JSON: operations, per second, latency percentiles in
microseconds. Each process has a key of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from multiprocessing.synchronize import Barrier

    Call = Callable[[], object]

SAMPLES: Final = 1 << 17


def _rsa(bits: int) -> Call:
    key = rsa.generate_private_key(65537, bits)
    return lambda: key.sign(bytes(32), padding.PKCS1v15(), Prehashed(SHA256()))


def _ec(curve: ec.EllipticCurve, digest: SHA256 | SHA384 | SHA512) -> Call:
    key = ec.generate_private_key(curve)
    return lambda: key.sign(bytes(digest.digest_size), ec.ECDSA(Prehashed(digest)))


def _ed25519() -> Call:
    key = ed25519.Ed25519PrivateKey.generate()
    return lambda: key.sign(bytes(32))


def _gcm(size: int) -> Call:
    cipher, text = AESGCM(AESGCM.generate_key(256)), bytes(size)
    numbers = iter(range(1 << 62))
    return lambda: cipher.encrypt(next(numbers).to_bytes(12), text, None)


KINDS: Final[dict[str, Callable[[int], Call]]] = {
    "rsa2048": lambda _: _rsa(2048),
    "rsa3072": lambda _: _rsa(3072),
    "rsa4096": lambda _: _rsa(4096),
    "p256": lambda _: _ec(ec.SECP256R1(), SHA256()),
    "p384": lambda _: _ec(ec.SECP384R1(), SHA384()),
    "p521": lambda _: _ec(ec.SECP521R1(), SHA512()),
    "ed25519": lambda _: _ed25519(),
    "aes256gcm": _gcm,
}


def _run(call: Call, seconds: float) -> tuple[int, float, list[float]]:
    """Operations, seconds, and the times of the first SAMPLES operations."""
    times: list[float] = []
    start = before = after = time.perf_counter()
    count = 0
    while after - start < seconds:
        call()
        after = time.perf_counter()
        if count < SAMPLES:
            times.append(after - before)
        before = after
        count += 1
    return count, after - start, times


def _client(kind: str, size: int, plan: tuple[float, float], barrier: Barrier, answer: Connection) -> None:
    warmup, seconds = plan
    call = KINDS[kind](size)
    barrier.wait()
    _run(call, warmup)
    answer.send(_run(call, seconds))


def main() -> None:
    """Run the processes and print what they did."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind", choices=sorted(KINDS), required=True)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--warmup", type=float, default=0.2)
    parser.add_argument("--bytes", type=int, default=4096)
    given = parser.parse_args()
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(given.processes)
    pipes = [context.Pipe(duplex=False) for _ in range(given.processes)]
    plan = (given.warmup, given.seconds)
    clients = [context.Process(target=_client, args=(given.kind, given.bytes, plan, barrier, end)) for _, end in pipes]
    for client in clients:
        client.start()
    for _, theirs in pipes:
        theirs.close()  # so that a client that dies is an end of file here
    done = [mine.recv() for mine, _ in pipes]
    for client in clients:
        client.join()
    times = sorted(one * 1e6 for _, _, some in done for one in some)
    document = {
        "kind": given.kind,
        "processes": given.processes,
        "operations": sum(count for count, _, _ in done),
        "per_second": sum(count / seconds for count, seconds, _ in done),
        **{f"p{percent}_us": times[len(times) * percent // 100] for percent in (50, 90, 99)},
        "max_us": times[-1],
    }
    print(json.dumps(document))  # noqa: T201 - what the caller reads


if __name__ == "__main__":
    main()
