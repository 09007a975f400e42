"""Backup images: what was written comes back, and whatever else is in the file is refused by name."""

from __future__ import annotations

import hashlib
import hmac
import random
import stat
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
from unit.replicas import CLUSTER, HSM_A, HmacKeyring, first_rows, make_database, new_object, open_replica

from hsmsim.cluster import founding
from hsmsim.cluster.model import ACTIVE, ClusterRow, MemberRow
from hsmsim.cluster.replica import Replica
from hsmsim.crypto import chunked
from hsmsim.hsm import imagefile, images
from hsmsim.storage.database import Database
from hsmsim.storage.migrate import migrate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

IMAGE = "backup-aaaaaaaaaaa"
ENVELOPE = imagefile.Envelope("us-east-1", bytes(92))


@dataclass(frozen=True, slots=True)
class Keys(HmacKeyring):
    def masking_seal(self, peer: bytes, context: bytes) -> bytes:
        return hmac.new(peer, context, hashlib.sha256).digest()


def snapshot(rows: int = 40) -> images.Snapshot:
    dated = [replace(row, version=1) for row in first_rows()]  # type: ignore[type-var]
    many = [replace(new_object(version, material=bytes(5000)), version=version) for version in range(2, 2 + rows)]
    return images.Snapshot(ClusterRow(CLUSTER, "one", 2 + rows, ACTIVE), (*dated, *many))


def write(path: Path, content: images.Snapshot) -> imagefile.Written:
    header = images.header_of(content, IMAGE, "FIPS", "hsm2m.medium", 1_700_000_000.9)
    return images.write(path, header, content, ENVELOPE, Keys())


def test_an_image_gives_back_the_rows_but_not_the_members(tmp_path: Path) -> None:
    path, content = tmp_path / "image", snapshot()
    done = write(path, content)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["image"]
    assert done == imagefile.written(path)
    assert (done.version, done.size) == (42, path.stat().st_size)
    assert done.digest == hashlib.sha256(path.read_bytes()[:-32]).digest()
    header, envelope = imagefile.heads(path)
    assert (header.image_id, header.cluster_id, header.mode, header.time) == (IMAGE, CLUSTER, "FIPS", 1_700_000_000)
    assert envelope == ENVELOPE
    back = images.read(path, Keys())
    assert back.cluster == content.cluster
    assert list(back.rows) == [row for row in content.rows if not isinstance(row, MemberRow)]


def test_two_images_of_the_same_rows_share_no_ciphertext(tmp_path: Path) -> None:
    contents = []
    for name in ("one", "two"):
        write(tmp_path / name, snapshot())
        contents.append((tmp_path / name).read_bytes())
    middle = len(contents[0]) // 2
    assert contents[0][middle : middle + 16] not in contents[1]


def test_another_masking_key_opens_nothing(tmp_path: Path) -> None:
    write(tmp_path / "image", snapshot())
    with pytest.raises(imagefile.ImageError, match="Chunk 0 was changed"):
        images.read(tmp_path / "image", Keys(b"another masking key"))


def sealed_again(data: bytes) -> bytes:
    """What one who knows the format does to the digest."""
    return data[:-32] + hashlib.sha256(data[:-32]).digest()


def flipped(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) - 32)
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def swapped(rng: random.Random, data: bytes) -> bytes:
    """One piece in the place of another."""
    size = rng.randrange(1, 70_000)
    one, other = rng.randrange(len(data) - size), rng.randrange(len(data) - size)
    return data[:other] + data[one : one + size] + data[other + size :]


DAMAGES: list[Callable[[random.Random, bytes], bytes]] = [
    lambda rng, data: data[: rng.randrange(len(data))],
    lambda rng, data: sealed_again(data[: rng.randrange(32, len(data))] + bytes(32)),
    lambda rng, data: data + rng.randbytes(rng.randrange(1, 100)),
    flipped,
    lambda rng, data: sealed_again(flipped(rng, data)),
    lambda rng, data: sealed_again(swapped(rng, data)),
]


def test_whatever_is_done_to_an_image_it_is_refused_or_says_the_same(tmp_path: Path) -> None:
    rng = random.Random(7)
    path, content = tmp_path / "image", snapshot()
    write(path, content)
    good = path.read_bytes()
    refused = 0
    for round_ in range(600):
        bad = DAMAGES[round_ % len(DAMAGES)](rng, good)
        path.write_bytes(bad)
        try:
            back = images.read(path, Keys())
        except imagefile.ImageError:
            refused += 1
        else:  # only the envelope, which a copy to another region changes, is not bound to the rows
            assert list(back.rows) == [row for row in content.rows if not isinstance(row, MemberRow)]
            header = good[: good.index(b'{"region"')]
            assert bad[: len(header)] == header
    assert refused > 580


def test_lengths_that_nothing_has_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "image"
    for head in (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\1\0"):
        path.write_bytes(sealed_again(imagefile.MAGIC + head + bytes(64)))
        with pytest.raises(imagefile.ImageError, match=r"length that none has|is not one"):
            imagefile.heads(path)
    path.write_bytes(b"")
    with pytest.raises(imagefile.ImageError, match="no image of hsmsim"):
        imagefile.heads(path)
    with pytest.raises(imagefile.ImageError, match="cannot be read"):
        imagefile.heads(tmp_path / "none")


@pytest.mark.parametrize("length", [0, 1, chunked.CHUNK - 1, chunked.CHUNK, chunked.CHUNK + 1, 3 * chunked.CHUNK])
def test_a_sealed_text_of_any_length_opens(tmp_path: Path, length: int) -> None:
    text = random.Random(length).randbytes(length)
    sealed = b"".join(chunked.seal(bytes(32), b"context", [text[:7], text[7:]]))
    path = tmp_path / "sealed"
    path.write_bytes(sealed)
    with path.open("rb") as file:
        assert b"".join(chunked.unseal(bytes(32), b"context", file, len(sealed))) == text
    with path.open("rb") as file, pytest.raises(chunked.ChunkError, match="was changed"):
        list(chunked.unseal(bytes(32), b"another", file, len(sealed)))


def restored(folder: Path, cluster_id: str, incarnation: str) -> Replica:
    folder.mkdir(exist_ok=True)
    write(folder / "image", snapshot(3))
    back = images.read(folder / "image", Keys())
    url = f"sqlite:///{folder}/cluster.db"
    migrate(url)
    cluster = replace(back.cluster, cluster_id=cluster_id, incarnation=incarnation)
    own = MemberRow(HSM_A, "/run/a.sock", b"certificate", b"sealed")
    assert founding.restore(Database(url), cluster, [*back.rows, own], HmacKeyring())
    assert not founding.restore(Database(url), cluster, [*back.rows, own], HmacKeyring())
    return Replica(url, cluster_id, HSM_A, HmacKeyring())


def test_a_restored_cluster_has_the_rows_under_its_own_name(tmp_path: Path) -> None:
    replica = restored(tmp_path / "new", "cluster-bbbbbbbbbbb", "two")
    assert (replica.alarms, replica.version, replica.cluster.incarnation) == (0, 6, "two")
    assert set(replica.objects) == {20, 32, 48, 64}
    assert set(replica.members) == {HSM_A}
    assert replica.identity.certificate == b"certificate"
    assert replica.mtls.anchors == {2: b"anchor"}


def test_a_restored_cluster_never_gives_a_handle_again_that_it_gave_after_the_backup(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    url = make_database(tmp_path / "old")
    former = open_replica(url)
    for _ in range(30):
        former.write(lambda version: [new_object(version)])
    replica = restored(tmp_path / "old", CLUSTER, "two")
    assert replica.version == former.version + 1
    assert set(replica.objects) == {20, 32, 48, 64}
    former.sync()
    assert (former.cluster.incarnation, set(former.objects), former.alarms) == ("two", {20, 32, 48, 64}, 0)
