"""Bar charts as SVG files that open anywhere: no script, nothing fetched."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pygal
from pygal.style import CleanStyle

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

# pygal leaves a finder for its plugins behind, of a kind that Python warns of at every later import that finds nothing.
sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != "pygal"]


def bars(path: Path, title: str, labels: Sequence[str], series: Mapping[str, Sequence[float]], unit: str) -> None:
    """Write horizontal bars: one group per label, one bar per series, the value printed at each."""
    chart = pygal.HorizontalBar(
        style=CleanStyle,
        js=[],
        print_values=True,
        value_formatter=lambda value: f"{value:,.0f}",
        height=160 + 60 * len(labels) * len(series),
        legend_at_bottom=True,
    )
    chart.title = title
    chart.x_title = unit
    chart.x_labels = list(labels)
    for name, values in series.items():
        chart.add(name, list(values))
    path.write_bytes(chart.render(is_unicode=False))
