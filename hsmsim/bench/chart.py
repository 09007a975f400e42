"""Charts as SVG files that open anywhere: no script, nothing fetched."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING

import pygal
from pygal.style import CleanStyle

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

# pygal leaves a finder for its plugins behind, of a kind that Python warns of at every later import that finds nothing.
sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != "pygal"]


_STYLE = CleanStyle(value_colors=("#000",) * 16)  # a value beside a short bar stands on the background


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.1f}"  # noqa: PLR2004 - digits enough


def _decades(values: Sequence[float]) -> list[int]:
    """Powers of ten around all of these, which are above 1."""
    return [10**power for power in range(int(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)]


def bars(
    path: Path,
    title: str,
    labels: Sequence[str],
    series: Mapping[str, Sequence[float]],
    unit: str,
    *,
    logarithmic: bool = False,
) -> None:
    """Write horizontal bars: one group per label, the first on top, one bar per series, the value printed at each."""
    chart = pygal.HorizontalBar(
        style=_STYLE,
        js=[],
        print_values=True,
        logarithmic=logarithmic,
        value_formatter=_number,
        height=160 + 60 * len(labels) * len(series),
        legend_at_bottom=True,
        legend_at_bottom_columns=1,
        truncate_legend=-1,
    )
    chart.title = title
    chart.x_title = unit
    chart.x_labels = list(reversed(labels))  # drawn from below
    if logarithmic:
        chart.y_labels = _decades([value for values in series.values() for value in values])
        chart.zero = chart.y_labels[0]
    for name, values in series.items():
        chart.add(name, list(reversed(values)))
    path.write_bytes(chart.render(is_unicode=False))


def lines(
    path: Path, title: str, labels: Sequence[int], series: Mapping[str, Sequence[float | None]], axes: tuple[str, str]
) -> None:
    """Write a line per series over the labels, which stand at equal distances; None where there is no value."""
    chart = pygal.Line(
        style=_STYLE,
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
