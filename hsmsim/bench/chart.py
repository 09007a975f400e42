"""Charts as SVG files that open anywhere: no script, nothing fetched."""

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


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"  # noqa: PLR2004 - digits enough


def bars(path: Path, title: str, labels: Sequence[str], series: Mapping[str, Sequence[float]], unit: str) -> None:
    """Write horizontal bars: one group per label, one bar per series, the value printed at each."""
    chart = pygal.HorizontalBar(
        style=CleanStyle,
        js=[],
        print_values=True,
        value_formatter=_number,
        height=160 + 60 * len(labels) * len(series),
        legend_at_bottom=True,
        legend_at_bottom_columns=1,
        truncate_legend=-1,
    )
    chart.title = title
    chart.x_title = unit
    chart.x_labels = list(labels)
    for name, values in series.items():
        chart.add(name, list(values))
    path.write_bytes(chart.render(is_unicode=False))


def lines(
    path: Path, title: str, labels: Sequence[int], series: Mapping[str, Sequence[float | None]], axes: tuple[str, str]
) -> None:
    """Write a line per series over the labels, which stand at equal distances; None where there is no value."""
    chart = pygal.Line(
        style=CleanStyle,
        js=[],
        value_formatter=_number,
        height=480 + 24 * len(series),
        legend_at_bottom=True,
        legend_at_bottom_columns=1,
        truncate_legend=-1,
        include_x_axis=True,
    )
    chart.title = title
    chart.x_title, chart.y_title = axes
    chart.x_labels = [f"{label:,}" for label in labels]
    for name, values in series.items():
        chart.add(name, list(values))
    path.write_bytes(chart.render(is_unicode=False))
