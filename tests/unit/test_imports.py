"""Imports go one way: each layer may import those below it, in Python and in C."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# From the top down. Packages in one layer do not import each other, but for the pairs in BESIDE.
LAYERS = [
    {"cli", "pytest_plugin"},
    {"demo", "bench"},
    {"gateway"},
    {"services"},
    {"authz", "fleet", "native"},
    {"hsm", "cluster"},
    {"crypto", "storage"},
    {"clock", "frames", "ids", "errors", "config", "faults", "words", "__init__"},
]
BESIDE = {
    ("hsm", "cluster"),
    ("demo", "bench"),
    ("config", "errors"),
    ("frames", "errors"),
    ("clock", "words"),
    ("faults", "words"),
    ("words", "errors"),
}
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

C_MAY_INCLUDE = {
    "wire": {"wire", "include"},
    "module": {"module", "wire", "include"},
    "engine": {"engine", "wire", "include"},
    "binding": {"binding", "module", "wire", "include"},
    "provider": {"provider", "module", "include"},
}


def package(dotted: str) -> str:
    """The part below hsmsim that a module belongs to."""
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the direction"
            for alias in node.names:
                deeper = f"{node.module}.{alias.name}"
                names.add(deeper if node.module == "hsmsim" else str(node.module))
    return {name for name in names if name.split(".")[0] == "hsmsim"}


def allowed(importer: str, target: str) -> bool:
    if target in {importer, "__init__"} or (importer, target) in BESIDE:
        return True
    return RANK[importer] < RANK[target]


@pytest.mark.parametrize("path", sorted((ROOT / "hsmsim").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_python_imports_point_down(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    importer = package(module.removesuffix(".__init__"))
    wrong = {
        name
        for name in imported(path)
        if not allowed(importer, package(name if name != "hsmsim.__version__" else "hsmsim"))
    }
    assert not wrong, f"{path.relative_to(ROOT)} ({importer}) may not import {sorted(wrong)}"


@pytest.mark.parametrize("folder", C_MAY_INCLUDE)
def test_c_includes_point_down(folder: str) -> None:
    owner = {header.name: header.parent.name for header in (ROOT / "native").rglob("*.h")}
    for path in sorted((ROOT / "native" / folder).glob("*.[ch]")):
        for name in re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text(encoding="utf-8"), re.MULTILINE):
            home = owner.get(Path(name).name)
            assert home in C_MAY_INCLUDE[folder], f"{path.relative_to(ROOT)} may not include {name} (from {home})"


def test_every_package_has_a_layer() -> None:
    found = {path.stem if path.is_file() else path.name for path in (ROOT / "hsmsim").iterdir() if _is_code(path)}
    assert found <= set(RANK)


def _is_code(path: Path) -> bool:
    return path.suffix == ".py" or (path.is_dir() and any(path.glob("*.py")))
