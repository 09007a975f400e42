"""Backup images with real keys: whatever else than what was written is in one, no HSM of any simulator opens it."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.test_images import snapshot

from hsmsim.config import Places
from hsmsim.errors import HsmsimError
from hsmsim.fleet import custody, operations, state
from hsmsim.hsm import imagefile, images
from hsmsim.hsm.engine import Engine
from hsmsim.hsm.roots import devices
from hsmsim.hsm.roots.process import Reseal, Rewrap, Roots
from hsmsim.storage import files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

REGION, FAR = "eu-west-1", "us-west-2"
FIRST, SECOND, COPY = (f"backup-{letter * 11}" for letter in "abc")
CLUSTER, HSM = "cluster-bbbbbbbbbbb", "hsm-aaaaaaaaaaa"
DIGEST = 32


@dataclass(frozen=True, slots=True)
class Site:
    """A simulator's roots, its images, and a new HSM of it."""

    places: Places
    roots: Roots
    hsm: Engine

    def path(self, backup_id: str) -> Path:
        return imagefile.path_of(self.places.images_folder, backup_id)

    def write(self, backup_id: str, engine: Engine, rows: int = 2) -> None:
        """An image as an HSM with this masking key writes it."""
        root = devices.read_certificate(self.places.home / "roots" / devices.MANUFACTURER_CERTIFICATE)
        public = devices.certified_key(self.roots.region(REGION), devices.region_name(REGION), root)
        content = snapshot(rows)
        header = images.header_of(content, backup_id, "FIPS", "hsm2m.medium", 1_700_000_000)
        sealed = engine.masking_seal(public, imagefile.context(backup_id, backup_id))
        images.write(self.path(backup_id), header, content, imagefile.Envelope(REGION, sealed), engine)

    def restore(self, path: Path, backup_id: str) -> images.Snapshot:
        """As the fleet, the roots and a new HSM do it; HsmsimError where one of them refuses."""
        header, envelope = imagefile.heads(path)
        context = imagefile.context(backup_id, header.image_id)
        sealed = self.roots.reseal(Reseal(envelope.region, envelope.sealed, context, HSM, CLUSTER))
        self.hsm.masking_open(sealed, f"{CLUSTER}/{HSM}".encode())
        return images.read(path, self.hsm)


def site(folder: Path) -> Site:
    places = Places.resolve({"HSMSIM_HOME": str(folder / "home"), "HSMSIM_RUN": str(folder / "run")})
    state.make_home(places)
    state.make_images(places, "")
    roots = Roots(places.home)
    roots.manufacture(HSM)
    hsm = Engine(workers=1, boot=1)
    hsm.device_load(str(places.hsm_folder(HSM) / devices.SEED))
    return Site(places, roots, hsm)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The HSM that the images are of: it has the masking key."""
    seed = tmp_path_factory.mktemp("source") / "seed"
    files.write_new(seed, random.Random(1).randbytes(devices.SEED_BYTES))
    engine = Engine(workers=1, boot=2)
    engine.device_load(str(seed))
    engine.masking_create()
    yield engine
    engine.stop()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, source: Engine) -> Iterator[Site]:
    """The simulator that the images are of: two of one cluster."""
    made = site(tmp_path_factory.mktemp("home"))
    made.write(FIRST, source)
    made.write(SECOND, source, rows=3)
    yield made
    made.hsm.stop()
    made.roots.close()


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Another simulator."""
    made = site(tmp_path_factory.mktemp("elsewhere"))
    yield made
    made.hsm.stop()
    made.roots.close()


def redigested(data: bytes) -> bytes:
    """What one who knows the format does to the digest."""
    return data[:-DIGEST] + hashlib.sha256(data[:-DIGEST]).digest()


def boundaries(data: bytes) -> list[int]:
    """Where the parts of an image begin: after the magic, lengths and bodies of both heads, then of every chunk."""
    places = [0, len(imagefile.MAGIC)]
    while places[-1] < len(data) - DIGEST:
        length = int.from_bytes(data[places[-1] : places[-1] + 4], "little")
        places += [places[-1] + 4, places[-1] + 4 + length]
    assert places[-1] == len(data) - DIGEST
    return places


# ---- changes ---------------------------------------------------------------------------------------------------------


def test_a_changed_byte_is_refused_wherever_it_is(home: Site, tmp_path: Path) -> None:
    """Every byte up to the rows and at every boundary, and every 53rd of the rows; the digest as it was, and mended."""
    good, path, rng = home.path(FIRST).read_bytes(), tmp_path / f"{FIRST}.image", random.Random(3)
    places = boundaries(good)
    near = {at + more for at in places for more in range(-4, 5) if 0 <= at + more < len(good)}
    for at in sorted(near | {*range(places[6]), *range(0, len(good), 53)}):
        bad = bytearray(good)
        bad[at] ^= 1 << rng.randrange(8)
        path.write_bytes(bad)
        with pytest.raises(imagefile.ImageError, match=r"no image of hsmsim|its digest is another one"):
            imagefile.heads(path)
        if at < len(good) - DIGEST:
            path.write_bytes(redigested(bytes(bad)))
            with pytest.raises(HsmsimError):
                home.restore(path, FIRST)
    path.write_bytes(good)
    assert len(home.restore(path, FIRST).rows) == imagefile.heads(path)[0].rows


def test_two_bytes_that_change_places_are_refused(home: Site, tmp_path: Path) -> None:
    """Neighbours, and any two."""
    good, path, rng = home.path(FIRST).read_bytes(), tmp_path / f"{FIRST}.image", random.Random(4)
    end = len(good) - DIGEST
    pairs = [(at, at + 1) for at in range(0, end - 1, 17)] + [tuple(rng.sample(range(end), 2)) for _ in range(200)]
    for one, other in pairs:
        if good[one] == good[other]:
            continue
        bad = bytearray(good)
        bad[one], bad[other] = good[other], good[one]
        path.write_bytes(redigested(bytes(bad)))
        with pytest.raises(HsmsimError):
            home.restore(path, FIRST)


def test_an_image_cut_anywhere_is_refused(home: Site, tmp_path: Path) -> None:
    good, path = home.path(FIRST).read_bytes(), tmp_path / f"{FIRST}.image"
    places = boundaries(good)
    for end in sorted(
        {at + more for at in places for more in (-1, 0, 1) if at + more >= 0} | {*range(0, len(good), 97)}
    ):
        path.write_bytes(good[:end])
        with pytest.raises(imagefile.ImageError, match=r"no image of hsmsim|its digest is another one"):
            imagefile.heads(path)
        path.write_bytes(redigested(good[:end] + bytes(DIGEST)))
        if path.read_bytes() == good:
            continue
        with pytest.raises(HsmsimError):
            home.restore(path, FIRST)


edits = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True), st.integers(0, 40), st.one_of(st.binary(max_size=40), st.floats(0, 1))
    ),
    min_size=1,
    max_size=3,
)


@given(changes=edits)
@settings(max_examples=300)
def test_an_edited_image_is_refused(home: Site, changes: list[tuple[float, int, bytes | float]]) -> None:
    """At some place some bytes give way to others, or to bytes of another place; the digest is mended."""
    good, path = home.path(FIRST).read_bytes(), home.places.home / f"{FIRST}.image"
    data = good[:-DIGEST]
    for where, length, new in changes:
        at = int(where * len(data))
        other = int(new * len(data)) if isinstance(new, float) else 0
        piece = new if isinstance(new, bytes) else data[other : other + length]
        data = data[:at] + piece + data[at + length :]
    path.write_bytes(redigested(data + bytes(DIGEST)))
    if data == good[:-DIGEST]:
        assert home.restore(path, FIRST).rows
        return
    with pytest.raises(HsmsimError):
        home.restore(path, FIRST)


def parts(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Header with its magic, envelope, rows."""
    _, _, _, header_end, _, envelope_end, *_ = boundaries(data)
    return data[:header_end], data[header_end:envelope_end], data[envelope_end:-DIGEST]


def test_parts_of_two_images_of_one_cluster_make_no_third(home: Site, tmp_path: Path) -> None:
    """Both have the same masking key; who writes files cannot bring yesterday back under today's name."""
    one, two = (parts(home.path(backup_id).read_bytes()) for backup_id in (FIRST, SECOND))
    path = tmp_path / "swapped.image"
    for header, envelope, rows in ((0, 0, 1), (0, 1, 0), (0, 1, 1), (1, 0, 0), (1, 0, 1), (1, 1, 0)):
        chosen = ((one, two)[header][0], (one, two)[envelope][1], (one, two)[rows][2])
        path.write_bytes(redigested(b"".join(chosen) + bytes(DIGEST)))
        for name in (FIRST, SECOND):
            with pytest.raises(HsmsimError):
                home.restore(path, name)
    with pytest.raises(HsmsimError, match="its file has another backup's name"):
        home.restore(home.path(FIRST), SECOND)


def test_heads_that_are_spelled_otherwise_are_refused(home: Site, tmp_path: Path) -> None:
    """JSON and base64 have several spellings of one value; an image has one."""
    header, envelope, rows = parts(home.path(FIRST).read_bytes())
    text = envelope[4:]
    path = tmp_path / f"{FIRST}.image"
    for other in (
        text.replace(b":", b": ", 1),
        text.replace(b'"region"', b'"regio\\u006e"'),
        text[:-3] + chr(text[-3] ^ 1).encode() + text[-2:] if text.endswith(b'="}') else text + b" ",
        json.dumps(dict(reversed(json.loads(text).items())), separators=(",", ":")).encode(),
    ):
        assert other != text
        path.write_bytes(redigested(header + len(other).to_bytes(4, "little") + other + rows + bytes(DIGEST)))
        with pytest.raises(imagefile.ImageError, match=r"envelope is not"):
            imagefile.heads(path)


# ---- roots -----------------------------------------------------------------------------------------------------------


def test_a_copy_opens_in_its_region_and_under_its_name_only(home: Site) -> None:
    view = operations.copy_image(home.places, home.roots, FIRST, COPY, FAR)
    assert (view.image_id, view.region) == (COPY, FAR)
    before = home.path(COPY).read_bytes()
    assert operations.copy_image(home.places, home.roots, FIRST, COPY, FAR) == view
    assert home.path(COPY).read_bytes() == before
    assert stat.S_IMODE(home.path(COPY).stat().st_mode) == 0o600
    original, copy = parts(home.path(FIRST).read_bytes()), parts(before)
    assert (original[0], original[2]) == (copy[0], copy[2])
    assert home.restore(home.path(COPY), COPY) == home.restore(home.path(FIRST), FIRST)
    for name in (FIRST, SECOND):
        with pytest.raises(HsmsimError, match="its file has another backup's name"):
            home.restore(home.path(COPY), name)
    header, envelope = imagefile.heads(home.path(COPY))
    for region in (REGION, "ap-south-1"):
        imagefile.copy(
            home.path(COPY), home.path(SECOND).with_name(f".{COPY}"), imagefile.Envelope(region, envelope.sealed)
        )
        with pytest.raises(HsmsimError, match=f"does not open under this simulator's backup root of {region}"):
            home.restore(home.path(SECOND).with_name(f".{COPY}"), COPY)
    with pytest.raises(HsmsimError, match="'nowhere' is no region"):
        home.roots.rewrap(
            Rewrap(FAR, envelope.sealed, imagefile.context(COPY, header.image_id), "nowhere", b"backup/nowhere")
        )
    home.path(COPY).unlink()


def test_an_image_is_of_no_use_where_its_region_s_root_is_not(home: Site, elsewhere: Site) -> None:
    shutil.copy(home.path(FIRST), elsewhere.path(FIRST))
    assert imagefile.heads(elsewhere.path(FIRST)) == imagefile.heads(home.path(FIRST))
    for attempt in (
        lambda: elsewhere.restore(elsewhere.path(FIRST), FIRST),
        lambda: operations.copy_image(elsewhere.places, elsewhere.roots, FIRST, COPY, FAR),
        lambda: custody.verify(elsewhere.roots, elsewhere.path(FIRST), FIRST),
    ):
        with pytest.raises(HsmsimError, match="the image is another simulator's"):
            attempt()
    assert not elsewhere.path(COPY).exists()


# ---- export and import -----------------------------------------------------------------------------------------------


def backup() -> dict[str, Any]:
    return {"backup_id": FIRST, "account": "123456789012", "region": REGION, "state": "READY", "tags": {"team": "blue"}}


def test_an_image_goes_out_and_comes_back(home: Site, tmp_path: Path) -> None:
    made = custody.export(home.places, home.roots, backup(), tmp_path)
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {
        f"{FIRST}.image": 0o600,
        f"{FIRST}.json": 0o600,
    }
    content = home.path(FIRST).read_bytes()
    assert made.read_bytes() == content
    with pytest.raises(HsmsimError, match="is there already"):
        custody.export(home.places, home.roots, backup(), tmp_path)
    home.path(FIRST).unlink()
    manifest = custody.read_manifest(home.places, made)
    entry = custody.take_in(home.places, home.roots, made, manifest)
    assert entry == backup() | {
        "cluster_id": imagefile.heads(made)[0].cluster_id,
        "mode": "FIPS",
        "hsm_type": "hsm2m.medium",
        "never_expires": False,
        "delete_at": 0.0,
        "shared": False,
    }
    assert home.path(FIRST).read_bytes() == content
    assert stat.S_IMODE(home.path(FIRST).stat().st_mode) == 0o600


def test_what_does_not_come_in_is_refused_by_name(home: Site, elsewhere: Site, tmp_path: Path) -> None:
    made = custody.export(home.places, home.roots, backup(), tmp_path)
    beside = made.with_suffix(".json")
    good = json.loads(beside.read_text())
    with pytest.raises(HsmsimError, match=f"{FIRST}.image is of another simulator: it was made under the roots"):
        custody.read_manifest(elsewhere.places, made)
    forged = good | {"roots": custody.fingerprint(elsewhere.places)}
    beside.write_text(json.dumps(forged))
    manifest = custody.read_manifest(elsewhere.places, made)
    there = set(elsewhere.places.images_folder.iterdir())
    with pytest.raises(HsmsimError, match="the image is another simulator's"):
        custody.take_in(elsewhere.places, elsewhere.roots, made, manifest)
    assert set(elsewhere.places.images_folder.iterdir()) == there
    for text, words in [
        (json.dumps(good | {"format": 2}), "has format 2; this hsmsim reads format 1"),
        (json.dumps(good | {"backup": good["backup"] | {"backup_id": SECOND}}), f"is of another backup: {SECOND}"),
        (json.dumps(good | {"more": 1}), "is no manifest: Object contains unknown field"),
        ("{", "is no manifest"),
        ("\udcff", "is no manifest"),
    ]:
        beside.write_text(text, errors="surrogateescape")
        with pytest.raises(HsmsimError, match=words):
            custody.read_manifest(home.places, made)
    beside.write_text(json.dumps(good | {"sha256": "0" * 64}))
    with pytest.raises(HsmsimError, match="is not the image that its manifest is of"):
        custody.take_in(home.places, home.roots, made, custody.read_manifest(home.places, made))
    beside.unlink()
    with pytest.raises(HsmsimError, match="is missing: an image is imported with the manifest"):
        custody.read_manifest(home.places, made)
    with pytest.raises(HsmsimError, match="is no exported image"):
        custody.id_of(tmp_path / "something.image")
