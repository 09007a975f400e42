"""What exercises of mechanisms share: keys that both sides have, names of hashes, and the register of exercises."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import hashes
from support.p11 import Session, structure

from hsmsim.hsm.cryptoki import CKA, CKK, CKM, CKO

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa


HASHES = {"SHA1": hashes.SHA1(), "SHA224": hashes.SHA224(), "SHA256": hashes.SHA256()}
HASHES |= {"SHA384": hashes.SHA384(), "SHA512": hashes.SHA512()}
MGF = {"SHA1": 1, "SHA224": 5, "SHA256": 2, "SHA384": 3, "SHA512": 4}
DATA = b"seven times eight is fifty-six " * 9
AES, SECRET = bytes(range(32)), bytes(range(64, 128))
P256 = bytes.fromhex("06082a8648ce3d030107")
ED25519 = bytes.fromhex("06032b6570")
SESSION_KEY = {CKA.TOKEN: False}
OPEN = {CKA.SENSITIVE: False, CKA.EXTRACTABLE: True, CKA.TOKEN: False}
WRAPPED = bytes(range(100, 132))  # the key that travels


def hash_of(kind: CKM) -> str:
    """The hash in a mechanism's name, SHA256 if there is none."""
    name = kind.name.replace("SHA_1", "SHA1")
    return next((one for one in HASHES if one in name), "SHA256")


def digest_mechanism(name: str) -> CKM:
    return CKM.SHA_1 if name == "SHA1" else CKM[name]


def digest(name: str, data: bytes) -> bytes:
    made = hashes.Hash(HASHES[name])
    made.update(data)
    return made.finalize()


@dataclass(frozen=True)
class Keys:
    """Handles in the HSM beside the keys of `cryptography`."""

    session: Session
    rsa: rsa.RSAPrivateKey
    rsa_private: int
    rsa_public: int
    ec: ec.EllipticCurvePrivateKey
    ec_private: int
    ec_public: int
    ed: ed25519.Ed25519PrivateKey
    ed_private: int
    ed_public: int
    aes: int
    secret: int


def number(value: int) -> bytes:
    return value.to_bytes((value.bit_length() + 7) // 8)


def bring(session: Session, kind: CKO, key_type: CKK, uses: str, values: dict[CKA, Any]) -> int:
    use = {CKA[name]: True for name in uses.split()}
    return session.create({CKA.CLASS: kind, CKA.KEY_TYPE: key_type, CKA.TOKEN: False} | use | values)


def raw_block(keys: Keys) -> tuple[bytes, bytes]:
    """A block, and what the private key makes of it."""
    n = keys.rsa.private_numbers()
    block = b"\0\2" + os.urandom(254)
    return block, pow(int.from_bytes(block), n.d, n.public_numbers.n).to_bytes(256)


PREHASHED = structure(bytes([1]) + bytes(7), 0, None)


# ---- the register --------------------------------------------------------------------------------------------------

EXERCISES: dict[tuple[CKM, str], Callable[[Keys, CKM], None]] = {}


def exercises(kinds: str, flag: str) -> Callable[[Callable[[Keys, CKM], None]], Callable[[Keys, CKM], None]]:
    """Register a function as what exercises these mechanisms for one flag. `*` stands for every hash."""

    def register(function: Callable[[Keys, CKM], None]) -> Callable[[Keys, CKM], None]:
        for pattern in kinds.split():
            names = [pattern.replace("*", name) for name in HASHES] if "*" in pattern else [pattern]
            for name in names:
                kind = CKM[name.replace("SHA1_HMAC", "SHA_1_HMAC")] if name != "SHA1" else CKM.SHA_1
                assert (kind, flag) not in EXERCISES
                EXERCISES[kind, flag] = function
        return function

    return register
