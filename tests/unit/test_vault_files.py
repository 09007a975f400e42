"""What is done about SoftHSM2's files before it sees them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from hsmsim.hsm.vault import files

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "11111111-2222-3333-4444-555555555555"


def attribute(name: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return struct.pack(">QQQ", name, 2, value)
    return struct.pack(">QQQ", name, 3, len(value)) + value


def key(value: bytes = b"encrypted", *, private_exponent: bool = False) -> bytes:
    name = 0x123 if private_exponent else 0x11
    allowed = struct.pack(">QQQ", 0x40000600, 5, 1) + bytes(8)
    return bytes(8) + attribute(0, 4) + TRUE + attribute(name, value) + allowed


TRUE = struct.pack(">QQ", 1, 1) + b"\1"  # CKA_TOKEN
TOKEN_FILE = bytes(8) + attribute(0x8000534A, b"label") + attribute(0x8000534D, b"user's PIN blob")


def test_a_whole_key_is_one() -> None:
    assert files.is_key(key())
    assert files.is_key(key(private_exponent=True))


def test_a_key_without_its_value_is_none() -> None:
    assert not files.is_key(key(b""))


@pytest.mark.parametrize("whole", [key(), TOKEN_FILE])
def test_no_cut_file_counts_as_whole(whole: bytes) -> None:
    for length in range(len(whole)):
        assert not files.is_key(whole[:length])
        assert not files.is_token(whole[:length])


def test_more_bytes_than_the_attributes_are_damage() -> None:
    assert not files.is_key(key() + b"\0")


def test_an_unknown_kind_is_damage() -> None:
    assert not files.is_key(key() + struct.pack(">QQQ", 0x40000601, 9, 0))


@pytest.fixture
def token(tmp_path: Path) -> Path:
    folder = tmp_path / "tokens" / TOKEN
    folder.mkdir(parents=True)
    (folder / "token.object").write_bytes(TOKEN_FILE)
    for name in ("token.lock", "generation", "key.lock"):
        (folder / name).write_bytes(b"")
    (folder / "key.object").write_bytes(key())
    files.keep(folder.parent, tmp_path / "shadow")
    return folder


def mend(token: Path) -> None:
    files.mend(token.parent, token.parent.parent / "shadow")


def test_what_is_whole_stays(token: Path) -> None:
    mend(token)
    assert (token / "token.object").read_bytes() == TOKEN_FILE
    assert (token / "key.object").read_bytes() == key()


@pytest.mark.parametrize("damage", [b"", TOKEN_FILE[:100], TOKEN_FILE[:-1] + b"?", None])
def test_a_damaged_token_gets_its_copy_back(token: Path, damage: bytes | None) -> None:
    if damage is None:
        (token / "token.object").unlink()
    else:
        (token / "token.object").write_bytes(damage)
    mend(token)
    assert (token / "token.object").read_bytes() == TOKEN_FILE


def test_a_damaged_token_without_a_copy_goes(token: Path) -> None:
    (token / "token.object").write_bytes(b"")
    (token.parent.parent / "shadow" / TOKEN).unlink()
    mend(token)
    assert not token.exists()


def test_a_cut_object_goes_with_its_lock(token: Path) -> None:
    (token / "key.object").write_bytes(key()[:-3])
    mend(token)
    assert sorted(path.name for path in token.iterdir()) == ["generation", "token.lock", "token.object"]


def test_a_broken_token_is_never_copied(token: Path) -> None:
    (token / "token.object").write_bytes(b"")
    shadow = token.parent.parent / "shadow"
    files.keep(token.parent, shadow)
    assert (shadow / TOKEN).read_bytes() == TOKEN_FILE


def test_copies_of_tokens_that_are_gone_go(token: Path) -> None:
    files.remove(token.parent, "4444555555555555")
    assert not token.exists()
    files.keep(token.parent, token.parent.parent / "shadow")
    assert list((token.parent.parent / "shadow").iterdir()) == []
