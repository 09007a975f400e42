"""The seed corpora of the fuzz targets are what native/fuzz/seeds.py makes, and no target is without one."""

from __future__ import annotations

import importlib.util
from pathlib import Path

FUZZ = Path(__file__).resolve().parents[2] / "native" / "fuzz"
CORPUS_MAX, FILE_MAX = 128, 4096


def test_seeds_are_as_generated() -> None:
    spec = importlib.util.spec_from_file_location("seeds", FUZZ / "seeds.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = dict(module.seeds())
    assert made == {path: path.read_bytes() for path in FUZZ.glob("corpus/*/seed-*")}, "run native/fuzz/seeds.py"


def test_every_target_has_a_small_corpus() -> None:
    targets = {path.stem for path in FUZZ.glob("fuzz_*.c")}
    assert targets == {path.name for path in (FUZZ / "corpus").iterdir()}
    for target in targets:
        files = list((FUZZ / "corpus" / target).iterdir())
        assert 0 < len(files) <= CORPUS_MAX
        assert all(path.stat().st_size <= FILE_MAX and path.name.startswith(("seed-", "found-")) for path in files)
