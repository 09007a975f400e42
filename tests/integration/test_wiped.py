"""What an HSM process no longer needs is not in its memory any more."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.hsm import NONE, Hsm, cluster

from hsmsim.hsm.cryptoki import CKA, CKK, CKM, CKO

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def hsm() -> Iterator[Hsm]:
    with cluster() as made:
        yield made.hsms[0]


def occurrences(pid: int, wanted: bytes) -> list[str]:
    """The mappings of a process that have these bytes. As root: nobody else may look into an HSM."""
    found = []
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            if line.split()[1].startswith("r") and "[v" not in line:
                memory.seek(start)
                try:
                    content = memory.read(end - start)
                except OSError:
                    continue  # a guard page
                found += [line] * content.count(wanted)
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="the memory of an HSM is read by root alone")
def test_a_key_that_was_read_and_destroyed_is_nowhere(hsm: Hsm) -> None:
    value = secrets.token_bytes(32)
    known: dict[CKA, object] = {CKA.CLASS: CKO.SECRET_KEY, CKA.KEY_TYPE: CKK.AES, CKA.VALUE: value}
    pid = hsm.running.pid
    with hsm.user("alice") as alice:
        key = alice.create({**known, CKA.SENSITIVE: False, CKA.EXTRACTABLE: True, CKA.ENCRYPT: True, CKA.DECRYPT: True})
        assert alice.get(key, CKA.VALUE) == (value,)
        alice.encrypt(key, bytes(16), CKM.AES_ECB, NONE)  # the first use asks Python for the key: with no secret in it
        wrapped = alice.encrypt(key, value, CKM.AES_ECB, NONE)  # a key under a key, as C_Decrypt gives it back
        assert alice.decrypt(key, wrapped, CKM.AES_ECB, NONE) == value
        assert occurrences(pid, value), "the key is in use: this looks at the right place"
        alice.destroy(key)
        assert occurrences(pid, value) == []
