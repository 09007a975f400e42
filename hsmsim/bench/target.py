"""The running simulator as the benchmarks and demos see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Target:
    """The module, the token's label, what its clients need in their environment (PIN in HSMSIM_PIN), and who serves."""

    module: Path
    token: str
    environment: Mapping[str, str]
    pids: tuple[int, ...]
    tools: Path  # folder of hsmsim-signbench and hsmsim-handshakes
