"""The build names every C file: one that is forgotten is found here, not by a missing symbol."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("folder", "pattern"),
    [
        ("native/wire", "*.c"),
        ("native/engine", "*.c"),
        ("native/module", "*.c"),
        ("native/binding", "*.c"),
        ("tests/native", "test_*.c"),
    ],
)
def test_every_source_is_built(folder: str, pattern: str) -> None:
    named = set(re.findall(r"'([\w-]+\.c)'", (ROOT / folder / "meson.build").read_text(encoding="utf-8")))
    there = {path.name for path in (ROOT / folder).glob(pattern)}
    assert named >= there, f"{folder}/meson.build does not name {sorted(there - named)}"
    assert all((ROOT / folder / name).exists() for name in named - {"_engine.c", "_signer.c"})


def test_every_python_package_is_in_a_wheel() -> None:
    named = set(re.findall(r"'([\w./]+)'", (ROOT / "hsmsim" / "meson.build").read_text(encoding="utf-8")))
    packages = {str(path.parent.relative_to(ROOT / "hsmsim")) for path in (ROOT / "hsmsim").rglob("*.py")}
    assert packages <= named
