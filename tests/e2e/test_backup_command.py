"""`hsmsim backup` as people use it, beside what the how-to page shows."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from support.whole import Whole, whole

from hsmsim.cli.main import main
from hsmsim.hsm.roots.process import Roots

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ACCOUNT = "123456789012"


def hsmsim(one: Whole, *arguments: str, status: int = 0) -> str:
    """`hsmsim backup`, in this process; what it says to either stream."""
    done = CliRunner().invoke(main, ["backup", *arguments], env=one.environment)
    assert done.exit_code == status, done.output
    return done.output


@pytest.fixture(scope="module")
def one() -> Iterator[Whole]:
    with whole() as made:
        made.up()
        yield made


@pytest.fixture(scope="module")
def first(one: Whole) -> str:
    """The backup of the activation."""
    return str(json.loads(hsmsim(one, "list", "--json"))[0]["backup_id"])


def test_backups_are_shown_as_they_are(one: Whole, first: str) -> None:
    (listed,) = (found for found in json.loads(hsmsim(one, "list", "--json")) if found["backup_id"] == first)
    image = one.places.images_folder / f"{first}.image"
    assert (listed["account"], listed["state"], listed["size"]) == (ACCOUNT, "READY", image.stat().st_size)
    assert json.loads(hsmsim(one, "show", first, "--json")) == listed
    assert listed["certificate"].startswith("-----BEGIN CERTIFICATE-----")
    for option, value, shown in (
        ("--account", ACCOUNT, True),
        ("--account", "1" * 12, False),
        ("--region", "x", False),
    ):
        assert (first in hsmsim(one, "list", option, value)) is shown
    lines = dict(line.split(maxsplit=1) for line in hsmsim(one, "show", first).splitlines())
    assert (lines["backup"], lines["state"], lines["region"]) == (first, "READY", listed["region"])
    assert "tags" not in lines
    verified = json.loads(hsmsim(one, "verify", first, "--json"))
    assert (verified["image_id"], verified["cluster_id"], verified["region"], verified["size"]) == (
        first,
        listed["cluster_id"],
        listed["region"],
        listed["size"],
    )


def test_a_backup_that_is_here_is_not_imported_and_one_of_nobody_neither(
    one: Whole, first: str, tmp_path: Path
) -> None:
    made = tmp_path / f"{first}.image"
    assert hsmsim(one, "export", first, "--output", str(tmp_path)) == f"{made}\n"
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    assert "is here already, READY: hsmsim backup show" in hsmsim(one, "import", str(made), status=1)
    assert "is there already" in hsmsim(one, "export", first, "--output", str(tmp_path), status=1)
    one.shell(f"aws cloudhsmv2 delete-backup --backup-id {first}")
    assert "is here already, PENDING_DELETION" in hsmsim(one, "import", str(made), status=1)
    one.run("clock", "advance", "8d")
    manifest = json.loads(made.with_suffix(".json").read_text())
    stranger = manifest | {"backup": manifest["backup"] | {"account": "1" * 12}}
    made.with_suffix(".json").write_text(json.dumps(stranger))
    told = hsmsim(one, "import", str(made), status=1)
    assert "There is no account 111111111111 here. Make it: hsmsim account create 111111111111" in told
    assert not (one.places.images_folder / made.name).exists()
    made.with_suffix(".json").write_text(json.dumps(manifest))
    assert f"{first} is READY" in hsmsim(one, "import", str(made))
    assert json.loads(hsmsim(one, "show", first, "--json"))["state"] == "READY"
    assert (one.places.images_folder / made.name).read_bytes() == made.read_bytes()


def test_what_is_not_there_is_said(one: Whole, tmp_path: Path) -> None:
    nobody = "backup-aaaaaaaaaaa"
    for arguments, words in [
        (("show", nobody), f"There is no backup {nobody}. List them: hsmsim backup list"),
        (("export", nobody), f"There is no backup {nobody}."),
        (("verify", nobody), f"The image {nobody}.image cannot be read: No such file or directory."),
        (("verify", "readme.txt"), "readme.txt is no exported image"),
        (("import", str(tmp_path / f"{nobody}.image")), f"{nobody}.json is missing"),
    ]:
        assert words in hsmsim(one, *arguments, status=1)


def test_another_simulator_has_no_use_for_an_image(one: Whole, tmp_path: Path) -> None:
    there = json.loads(hsmsim(one, "list", "--json"))
    first = str(there[0]["backup_id"])
    hsmsim(one, "export", first, "--output", str(tmp_path))
    with whole() as other:
        other.places.home.mkdir(mode=0o700, exist_ok=True)
        with Roots(other.places.home) as roots:
            roots.region("us-east-1")
        told = hsmsim(other, "import", str(tmp_path / f"{first}.image"), status=1)
        assert "is of another simulator" in told
        assert "opens only where its region's root is." in told
        told = hsmsim(other, "verify", str(tmp_path / f"{first}.image"), status=1)
        assert "does not open under this simulator's backup root of us-east-1" in told
        assert not other.places.images_folder.exists()
