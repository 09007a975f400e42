"""The report of a folder of runs: bars met or not, every figure with its spread, plots; Markdown and SVG."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hsmsim.bench import chart, document, fill, handshakes, signing
from hsmsim.bench.bars import BARS, Relation, judge
from hsmsim.errors import HsmsimError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from hsmsim.bench.bars import Verdict
    from hsmsim.bench.measure import Measurement

REPORT: Final = "report.md"
PREFACE: Final = (
    "Medians of interleaved rounds; the spread is the smallest and the largest round. `others`: processors that other "
    "programs used meanwhile."
)
PERCENTILES: Final = ("p50_us", "p90_us", "p99_us")
Row = list[str]


def verdicts(measured: Sequence[Measurement]) -> list[Verdict]:
    """Return the verdict on every bar."""
    return [judge(bar, measured) for bar in BARS]


def bar_row(verdict: Verdict) -> Row:
    """Workload, against, wanted, measured, verdict."""
    bar = verdict.bar
    unit = " us" if bar.relation is Relation.WITHIN else ""
    value = "-" if verdict.value is None else f"{verdict.value:.2f}{unit}"
    return [bar.workload, bar.against, f"{bar.relation} {bar.limit:g}", value, verdict.text]


BAR_COLUMNS: Final = ("workload", "against", "wanted", "measured", "met?")


def _setting(one: Measurement) -> str:
    return ", ".join(f"{name} {value}" for name, value in one.setting.items())


def _range(one: Measurement, key: str, digits: int = 0) -> Row:
    low, high = one.spread(key)
    return [f"{one.median(key):,.{digits}f}", f"{low:,.{digits}f} to {high:,.{digits}f}"]


def _operations(one: Measurement) -> Row:
    percentiles = [f"{one.median(key):,.1f}" for key in PERCENTILES]
    return [_setting(one), one.contender, *_range(one, "per_second"), *percentiles, f"{one.median('others_cpu'):.2f}"]


def _handshakes(one: Measurement) -> Row:
    return [
        *(_setting(one), one.contender, *_range(one, "per_server_core_second")),
        *(f"{one.median(key):,.0f}" for key in ("per_second", "worker_us", "hsm_us", "p50_us", "p99_us")),
        *(f"{one.median(key):.2f}" for key in ("busy", "client_cpu", "others_cpu")),
        document.doubt(one) or "valid",
    ]


def _keys(one: Measurement) -> Row:
    return [
        _setting(one),
        *(f"{one.median(key):,.2f}" for key in ("create_per_s", "find_ms", "start_s", "resident_mib")),
    ]


_OPERATION_COLUMNS = ("setting", "contender", "per second", "spread", "p50 us", "p90 us", "p99 us", "others")
_HANDSHAKE_COLUMNS = (
    *("setting", "contender", "per server-core-second", "spread", "per second", "worker us", "HSM us", "p50 us"),
    *("p99 us", "busy", "client", "others", "round"),
)
TABLES: Final[dict[str, tuple[Sequence[str], Callable[[Measurement], Row]]]] = {
    signing.SIGN: (_OPERATION_COLUMNS, _operations),
    signing.SIGN_ONE: (_OPERATION_COLUMNS, _operations),
    signing.GCM: (_OPERATION_COLUMNS, _operations),
    signing.HSMS: (_OPERATION_COLUMNS, _operations),
    handshakes.HANDSHAKES: (_HANDSHAKE_COLUMNS, _handshakes),
    fill.KEYS: (("setting", "made a second", "find by label ms", "start s", "idle MiB"), _keys),
}


def tables(measured: Sequence[Measurement]) -> list[tuple[str, Sequence[str], list[Row]]]:
    """Return title, columns and rows of every workload that was measured."""
    found = []
    for workload, (columns, row) in TABLES.items():
        rows = [row(one) for one in measured if one.workload == workload]
        if rows:
            found.append((workload, columns, rows))
    return found


def write(folder: Path) -> Path:
    """Write report.md and plots from the JSON files of the folder; return the report's path."""
    documents = [document.read(path) for path in sorted(folder.glob("*.json"))]
    if not documents:
        raise HsmsimError(f"{folder} has no JSON of a run; make one: hsmsim bench all --output {folder}")
    measured = [one for content in documents for one in document.decoded(content).measurements]
    plots = _plots(folder, measured)
    path = folder / REPORT
    path.write_text(_markdown(documents, measured, plots), encoding="utf-8")
    return path


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _markdown(documents: list[dict[str, Any]], measured: list[Measurement], plots: list[Path]) -> str:
    machine = documents[0]["machine"]
    runs = [
        [
            content["command"],
            str(content["rounds"]),
            f"{content['seconds']:g}",
            content["machine"]["load_at_start"],
            "; ".join(f"{name}: {how}" for name, how in content["missing"].items()) or "nobody",
        ]
        for content in documents
    ]
    parts = [
        "# hsmsim bench",
        PREFACE,
        _table(("machine", ""), ([name, value] for name, value in machine.items() if name != "load_at_start")),
        _table(("command", "rounds", "seconds", "load at start", "missing"), runs),
        "## Bars",
        _table(BAR_COLUMNS, (bar_row(verdict) for verdict in verdicts(measured))),
    ]
    for title, columns, rows in tables(measured):
        parts += [f"## {title}", _table(columns, rows)]
    parts += ["## Plots", "\n\n".join(f"![{path.stem}]({path.name})" for path in plots)]
    return "\n\n".join(parts) + "\n"


def _plots(folder: Path, measured: list[Measurement]) -> list[Path]:
    paths = []
    signed = [one for one in measured if one.workload == signing.SIGN]
    for key in dict.fromkeys(str(one.setting["key"]) for one in signed):
        of_key = [one for one in signed if one.setting["key"] == key]
        paths.append(folder / f"throughput-{key}.svg")
        _over(paths[-1], f"{key}: signatures a second by clients", of_key, "clients", "clients")
        for clients in sorted({int(one.setting["clients"]) for one in of_key}):
            paths.append(folder / f"latency-{key}-{clients}.svg")
            _latencies(paths[-1], key, clients, of_key)
    for workload, name, axis, unit in (
        (signing.GCM, "aes-gcm", "bytes", "bytes a call"),
        (signing.HSMS, "hsms", "hsms", "HSM processes"),
    ):
        found = [one for one in measured if one.workload == workload]
        for key in dict.fromkeys(str(one.setting.get("key", "")) for one in found):
            of_key = [one for one in found if one.setting.get("key", "") == key]
            paths.append(folder / f"{name}{'-' if key else ''}{key}.svg")
            _over(paths[-1], f"{workload} {key}".strip(), of_key, axis, unit)
    shaken = [one for one in measured if one.workload == handshakes.HANDSHAKES]
    if shaken:
        paths.append(folder / "handshakes.svg")
        _shaken(paths[-1], shaken)
    return paths


def _over(path: Path, title: str, measured: list[Measurement], axis: str, unit: str) -> None:
    """Operations a second of each contender over a member of the setting."""
    points = sorted({int(one.setting[axis]) for one in measured})
    series: dict[str, list[float | None]] = {}
    for one in measured:
        values = series.setdefault(one.contender, [None] * len(points))
        values[points.index(int(one.setting[axis]))] = one.median("per_second")
    if len(points) == 1:
        only = {name: [value for value in values if value is not None] for name, values in series.items()}
        chart.bars(path, title, [f"{points[0]:,} {unit}"], only, "operations a second")
    else:
        chart.lines(path, title, points, series, (unit, "operations a second"))


def _latencies(path: Path, key: str, clients: int, measured: list[Measurement]) -> None:
    series = {
        one.contender: [one.median(name) for name in PERCENTILES]
        for one in measured
        if one.setting["clients"] == clients
    }
    title = f"{key}: latency with {clients} client{'' if clients == 1 else 's'}"
    chart.bars(path, title, ["p50", "p90", "p99"], series, "microseconds", logarithmic=True)


def _shaken(path: Path, measured: list[Measurement]) -> None:
    """The best number of workers of each contender."""
    groups = list(dict.fromkeys((str(one.setting["key"]), str(one.setting["tls"])) for one in measured))
    series: dict[str, list[float]] = {}
    for one in measured:
        values = series.setdefault(one.contender, [0.0] * len(groups))
        place = groups.index((str(one.setting["key"]), str(one.setting["tls"])))
        values[place] = max(values[place], one.median("per_server_core_second"))
    labels = [f"{key}, TLS {tls}" for key, tls in groups]
    chart.bars(path, "Full handshakes per server-core-second", labels, series, "handshakes / processor second")
