"""`hsmsim bench all|sign|cipher|handshakes|hsms|keys|report`."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hsmsim.bench import document, fill, handshakes, report, signing
from hsmsim.bench.signing import Done, Pace
from hsmsim.bench.target import SIGNING, temporary_simulator
from hsmsim.cli import show

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Workload = Callable[..., Done]
    Command = Callable[..., None]

FULL, QUICK = Pace(), Pace(0.1, 1)


@dataclass(frozen=True, slots=True)
class Run:
    """What every workload is told: how long, whether it is only tried, a folder that goes afterwards, its progress."""

    pace: Pace
    quick: bool
    folder: Path
    say: Callable[[str], None]


class Choices(click.ParamType[tuple[str, ...]]):
    """Some of a list, with commas between."""

    name = "list"

    def __init__(self, known: tuple[str, ...]) -> None:
        self._known = known

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:  # noqa: ANN401
        """Read it."""
        given = tuple(str(value).split(","))
        unknown = [one for one in given if one not in self._known]
        if unknown:
            self.fail(f"{', '.join(unknown)}: choose of {', '.join(self._known)}", param, ctx)
        return given


class Numbers(click.ParamType[tuple[int, ...]]):
    """Numbers with commas between."""

    name = "numbers"

    def __init__(self, least: int, most: int) -> None:
        self._least, self._most = least, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:  # noqa: ANN401
        """Read them."""
        try:
            given = tuple(int(one) for one in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is no list of numbers", param, ctx)
        if not all(self._least <= one <= self._most for one in given):
            self.fail(f"{value}: between {self._least} and {self._most} each", param, ctx)
        return given


OUTPUT = click.option(
    "--output", type=click.Path(path_type=Path, file_okay=False), help="Folder for JSON, report.md and plots."
)
QUICK_ONLY = click.option("--quick", is_flag=True, help="Fractions of a second, one round: whether it works.")


def paced(workload: Workload) -> Command:
    """Add --seconds, --rounds, --quick, --output and --json; the workload gets a `Run`."""

    @click.option("--seconds", type=click.FloatRange(0.05, 60), help="Length of one run.  [default: 1]")
    @click.option("--rounds", type=click.IntRange(1, 99), help="Rounds; medians are quoted.  [default: 5]")
    @QUICK_ONLY
    @OUTPUT
    @show.as_json
    @wraps(workload)
    def wrapped(
        *,
        seconds: float | None,
        rounds: int | None,
        output: Path | None,
        quick: bool,
        as_json: bool,
        **others: object,
    ) -> None:
        usual = QUICK if quick else FULL
        pace = Pace(seconds or usual.seconds, rounds or usual.rounds)
        name = click.get_current_context().info_name or ""
        with _ended_in_order(), show.progress() as say, _folder() as folder:
            done = workload(Run(pace, quick, folder, say), **others)
        _tell(name, pace, done, output, as_json=as_json)

    return wrapped


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """SIGTERM stops what was started, as Ctrl-C does: HSMs and servers must not outlive the run."""
    before = signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hsmsim-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # an HSM's user and nginx's workers pass through
        yield folder


def _tell(name: str, pace: Pace, done: Done, output: Path | None, *, as_json: bool) -> None:
    content = document.encoded(name, pace, done)
    if output is not None:
        _keep(output, name, content)
        click.echo(f"Written: {report.write(output)}", err=True)
    if as_json:
        show.document(content)
        return
    for title, columns, rows in report.tables(done.measurements):
        click.echo(f"{title}: medians of {pace.rounds} rounds of {pace.seconds:g} s")
        show.table(columns, rows, empty="")
    _bars(done)
    for who, how in done.missing.items():
        click.echo(f"Missing: {who}: {how}", err=True)


def _keep(output: Path, name: str, content: dict[str, Any]) -> None:
    output.mkdir(parents=True, exist_ok=True)
    (output / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _bars(done: Done) -> None:
    judged = [verdict for verdict in report.verdicts(done.measurements) if verdict.value is not None]
    if judged:
        show.table(report.BAR_COLUMNS, [report.bar_row(verdict) for verdict in judged], empty="")


@click.group()
def bench() -> None:
    """Measure hsmsim beside OpenSSL and SoftHSM2, on this machine, in one run.

    All of it runs in simulators of its own in temporary folders, of one HSM process each; yours is not touched. The
    contenders take turns within each round; medians and the smallest and largest round are quoted. What else ran
    on the machine is told with each figure (`others`, in processors): above some tenths, measure again.
    """


# ---- workloads ---------------------------------------------------------------------------------------------------


@bench.command()
@click.option("--kinds", type=Choices(SIGNING), help=f"Of {', '.join(SIGNING)}.  [default: rsa2048,rsa4096,p256,p384]")
@click.option("--clients", type=Numbers(1, 64), help="Client processes.  [default: 1,4,16]")
@paced
def sign(run: Run, kinds: tuple[str, ...] | None, clients: tuple[int, ...] | None) -> Done:
    """Signatures a second by number of clients, and the time of one.

    Contenders: this module with shared memory, by the socket alone, over an HSM without batches and over one that
    computes with SoftHSM2; OpenSSL in process, the system's and the one inside `cryptography`, with no more processes
    than processors; SoftHSM2 in process, with threads and with processes, and through p11-kit's server.
    "On one processor" pins a single client together with whoever serves it.
    """
    usual = ("p256",) if run.quick else ("rsa2048", "rsa4096", "p256", "p384")
    return signing.sign(kinds or usual, clients or ((1,) if run.quick else (1, 4, 16)), run.pace, run.folder, run.say)


@bench.command()
@click.option("--sizes", type=Numbers(1, 1 << 16), help="Bytes of a message.  [default: 64,256,1024,4096,16384,65536]")
@paced
def cipher(run: Run, sizes: tuple[int, ...] | None) -> Done:
    """AES-256-GCM encryptions of one client by size of the message, with the contenders of `sign`."""
    usual = (4096,) if run.quick else (64, 256, 1024, 4096, 16384, 65536)
    return signing.cipher(sizes or usual, run.pace, run.folder, run.say)


@bench.command("handshakes")
@click.option("--kinds", type=Choices(handshakes.KINDS), help="Kinds of key.  [default: rsa2048,p256]")
@click.option("--tls", type=Choices(handshakes.VERSIONS), help="Versions.  [default: 1.2,1.3]")
@click.option("--workers", type=Numbers(1, 64), help="nginx workers; the best counts.  [default: 1,16]")
@click.option("--connections", default=32, show_default=True, type=click.IntRange(1, 64), help="At a time.")
@paced
def shakes(
    run: Run,
    kinds: tuple[str, ...] | None,
    tls: tuple[str, ...] | None,
    workers: tuple[int, ...] | None,
    connections: int,
) -> Done:
    """Full handshakes of nginx and HAProxy for each second of the server's processor.

    The client has one processor, the server and the HSM another. Counted is what servers and HSM used, user and system
    time; a measurement is void where the server's processor was less than 95 % busy or the client used more than
    90 % of its own.
    """
    plan = handshakes.Plan(
        kinds or (("p256",) if run.quick else handshakes.KINDS),
        tls or (("1.3",) if run.quick else handshakes.VERSIONS),
        workers or ((2,) if run.quick else (1, 16)),
        connections,
    )
    return handshakes.run(plan, run.pace, run.folder, run.say)


@bench.command()
@click.option("--kinds", type=Choices(SIGNING), help=f"Of {', '.join(SIGNING)}.  [default: rsa2048,p256]")
@click.option("--most", type=click.IntRange(1, 8), help="HSM processes, from one on.  [default: 3]")
@click.option("--clients", type=click.IntRange(1, 64), help="Client processes.  [default: 16]")
@paced
def hsms(run: Run, kinds: tuple[str, ...] | None, most: int | None, clients: int | None) -> Done:
    """Signatures a second by number of HSM processes in the clients' configuration."""
    usual = ("p256",) if run.quick else ("rsa2048", "p256")
    most, clients = most or (2 if run.quick else 3), clients or (2 if run.quick else 16)
    return signing.hsms(kinds or usual, most, clients, run.pace, run.folder, run.say)


@bench.command("keys")
@click.option("--count", type=click.IntRange(1, 16_000), help="AES token keys to make.  [default: 10000]")
@paced
def many(run: Run, count: int | None) -> Done:
    """What many keys cost: a find by label, the start of an HSM, its memory."""
    with temporary_simulator(run.say) as places:
        return Done([fill.run(places, count or (50 if run.quick else 10_000), run.say).measurement()], {})


# ---- all of them -------------------------------------------------------------------------------------------------

WORKLOADS = (sign, cipher, shakes, hsms, many)


@bench.command("all")
@QUICK_ONLY
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default="hsmsim-bench",
    show_default=True,
    help="Folder for JSON, report.md and plots.",
)
def every(output: Path, *, quick: bool) -> None:
    """Run all of the workloads as they are by default, half an hour, and write the report."""
    context = click.get_current_context()
    for command in WORKLOADS:
        arguments = ["--output", str(output), *(("--quick",) if quick else ())]
        with command.make_context(command.name, arguments, parent=context) as below:
            command.invoke(below)


@bench.command("report")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
def write(folder: Path) -> None:
    """Write report.md and the plots again from the JSON files in FOLDER."""
    click.echo(report.write(folder))
