"""The JSON that a run leaves, docs/reference/bench.md: written by each command, read again by the report."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from hsmsim.bench import handshakes
from hsmsim.bench.machine import machine
from hsmsim.bench.measure import Measurement
from hsmsim.bench.signing import Done
from hsmsim.errors import HsmsimError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from hsmsim.bench.signing import Pace

SCHEMA: Final = 1


def doubt(one: Measurement) -> str:
    """Why a measurement proves nothing, empty if it does."""
    return handshakes.doubt(one) if one.workload == handshakes.HANDSHAKES else ""


def encoded(command: str, pace: Pace, done: Done) -> dict[str, Any]:
    """Return the document of one command's run."""
    return {
        "schema": SCHEMA,
        "command": command,
        "machine": machine(),
        "seconds": pace.seconds,
        "rounds": pace.rounds,
        "measurements": [_measurement(one) for one in done.measurements],
        "missing": dict(done.missing),
    }


def _measurement(one: Measurement) -> dict[str, Any]:
    names = one.rounds[0]
    return {
        "workload": one.workload,
        "contender": one.contender,
        "setting": one.setting,
        "median": {name: one.median(name) for name in names},
        "spread": {name: one.spread(name) for name in names},
        "rounds": one.rounds,
        "doubt": doubt(one),
    }


def decoded(document: Mapping[str, Any]) -> Done:
    """Return what was measured; the medians are computed again."""
    measurements = [
        Measurement(one["workload"], one["contender"], one["setting"], tuple(one["rounds"]))
        for one in document["measurements"]
    ]
    return Done(measurements, document["missing"])


def read(path: Path) -> dict[str, Any]:
    """Read a document; HsmsimError where the file is none of ours."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise HsmsimError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise HsmsimError(f"{path} was not written by this version of hsmsim bench (schema {SCHEMA}); measure again.")
    return content
