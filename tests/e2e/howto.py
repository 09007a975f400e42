"""Run a how-to page as its reader would: every ``sh`` block of the page, in order, in one bash.

A fenced ``text`` block right after a ``sh`` block is what the reader is promised to see: its lines must
appear in the block's output in that order. In such a line ``…`` stands for anything.
Other fences (``nginx``, ``ini``, …) are for reading only; a page that needs a file writes it with a here-document.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Step:
    """One ``sh`` block and the lines promised after it."""

    script: str
    promised: tuple[str, ...]
    line: int


def steps(page: str) -> list[Step]:
    """The steps of a page, in order; a ``text`` fence belongs to the ``sh`` fence just before it."""
    found: list[Step] = []
    last_kind = ""
    for match in FENCE.finditer(page):
        kind, body = match.groups()
        if kind == "sh":
            found.append(Step(body, (), page.count("\n", 0, match.start()) + 2))
        elif kind == "text" and last_kind == "sh":
            step = found.pop()
            found.append(Step(step.script, tuple(line for line in body.splitlines() if line.strip()), step.line))
        last_kind = kind
    return found


def missing_line(promised: tuple[str, ...], output: str) -> str | None:
    """The first promised line that the output does not have (in order), or None."""
    lines = iter(output.splitlines())
    for promise in promised:
        pattern = re.compile(".*".join(re.escape(part.strip()) for part in promise.split("…")))
        if not any(pattern.search(line) for line in lines):
            return promise
    return None


def run_page(path: Path, folder: Path, environment: Mapping[str, str], *, seconds: float = 180) -> None:
    """Run all steps of a page in `folder`; AssertionError names the step that failed or broke its promise."""
    todo = steps(path.read_text(encoding="utf-8"))
    assert todo, f"{path.name} has no commands to run"
    mark = f"--{secrets.token_hex(8)}--"
    script = "set -euo pipefail\n" + "".join(f"{step.script}\necho '{mark}'\n" for step in todo)
    done = subprocess.run(
        ["/bin/bash", "-c", script],
        cwd=folder,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )
    outputs = done.stdout.split(mark + "\n")
    finished = len(outputs) - 1
    for step, output in zip(todo, outputs, strict=False):
        missing = missing_line(step.promised, output) if output is not outputs[-1] else None
        assert missing is None, f"{path.name}:{step.line} promises {missing!r}, but printed:\n{output}"
    assert done.returncode == 0, (
        f"{path.name}:{todo[min(finished, len(todo) - 1)].line} ended with {done.returncode}:\n{outputs[-1]}"
    )
