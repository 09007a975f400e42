"""`hsmsim bench sign|keys`."""

from __future__ import annotations

import json
import secrets
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hsmsim.bench import chart, fill, signing
from hsmsim.bench.measure import machine
from hsmsim.bench.target import SIZES, Target, temporary_keys, temporary_simulator
from hsmsim.cli import show
from hsmsim.config import Places

if TYPE_CHECKING:
    from hsmsim.bench.signing import Result


@click.group()
def bench() -> None:
    """Measure the running simulator beside OpenSSL and SoftHSM2, on this machine, in one run."""


@bench.command()
@click.option("--kinds", default="rsa2048,p256", show_default=True, help=f"Of {', '.join(SIZES)}.")
@click.option("--processes", default=8, show_default=True, type=click.IntRange(1, 64), help="Client processes.")
@click.option("--seconds", default=2.0, show_default=True, type=click.FloatRange(0.2), help="Length of one run.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1, 99), help="Rounds; medians are quoted.")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), help="Folder for sign.json and sign.svg.")
@show.as_json
def sign(*, kinds: str, processes: int, seconds: float, rounds: int, output: Path | None, as_json: bool) -> None:
    """Signatures a second, and the time of one.

    Contenders take turns within each round: this simulator through its PKCS#11 module, another one that computes
    nothing together (made for the run), this one by the socket alone, SoftHSM2 in process, and OpenSSL in process with
    a process for each processor. "One processor" pins a single client and the HSMs together: what a signature costs
    by itself.
    """
    wanted = tuple(kinds.split(","))
    unknown = [kind for kind in wanted if kind not in SIZES]
    if unknown:
        raise click.BadParameter(f"{', '.join(unknown)}: choose of {', '.join(SIZES)}", param_hint="--kinds")
    places = Places.resolve()
    target = Target.of(places)
    plan = signing.Plan(wanted, processes, seconds, rounds)
    prefix = f"bench-{secrets.token_hex(4)}"
    with (
        tempfile.TemporaryDirectory(prefix="hsmsim-bench-") as folder,
        show.progress() as say,
        temporary_simulator(say, engine="plain") as plain,
        temporary_keys(places, wanted, prefix) as labels,
        temporary_keys(plain, wanted, prefix),
    ):
        results = signing.run(target, Target.of(plain), plan, labels, Path(folder), say)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        (output / "sign.json").write_text(json.dumps(_document(results), indent=2), encoding="utf-8")
        _plot(output / "sign.svg", results)
        click.echo(f"Written: {output / 'sign.json'}, {output / 'sign.svg'}", err=True)
    if as_json:
        show.document(_document(results))
    else:
        _tables(results, plan)


@bench.command("keys")
@click.option(
    "--count", default=10_000, show_default=True, type=click.IntRange(1, 16_000), help="AES token keys to make."
)
@show.as_json
def many(*, count: int, as_json: bool) -> None:
    """What many keys cost: a find by label, the start of an HSM, its memory.

    Runs in a simulator of its own in a temporary folder, which goes afterwards. Yours is not touched.
    """
    with show.progress() as say, temporary_simulator(say) as places:
        cost = fill.run(places, count, say)
    if as_json:
        show.document(asdict(cost))
        return
    row = [
        f"{cost.keys:,}",
        f"{cost.create_per_s:,.0f}/s",
        f"{cost.find_ms:.2f} ms",
        f"{cost.start_s:.2f} s",
        f"{cost.resident_mib:.0f} MiB",
    ]
    show.table(["KEYS", "MADE", "FIND BY LABEL", "START", "IDLE MEMORY"], [row], empty="")


def _document(results: list[Result]) -> dict[str, object]:
    def figures(result: Result) -> dict[str, object]:
        return {
            "throughput": {name: figure.rounds for name, figure in result.throughput.items()},
            "latency": {name: figure.rounds for name, figure in result.latency.items()},
            "rate_over_plain": result.rate_ratio(signing.PLAIN),
            "rate_over_socket": result.rate_ratio(signing.SOCKET),
            "rate_over_openssl": result.rate_ratio(signing.OPENSSL),
            "rate_over_softhsm2": result.rate_ratio(signing.SOFTHSM),
            "microseconds_beyond_openssl_on_one_processor": result.extra_latency(),
        }

    return {"machine": machine(), "kinds": {result.kind: figures(result) for result in results}}


def _tables(results: list[Result], plan: signing.Plan) -> None:
    rows: list[list[object]] = []
    for result in results:
        for name, figure in result.throughput.items():
            low, high = figure.spread("per_second")
            ratio = result.rate_ratio(name)
            rows.append(
                [result.kind, name, f"{figure.median('per_second'):,.0f}", f"{low:,.0f} to {high:,.0f}", f"{ratio:.2f}"]
            )
    click.echo(f"{plan.processes} client processes, {plan.rounds} rounds of {plan.seconds:g} s, medians")
    show.table(["KEY", "CONTENDER", "SIGNATURES/S", "SPREAD", "HSMSIM / THIS"], rows, empty="")
    rows = []
    for result in results:
        for name, figure in result.latency.items():
            rows.append([result.kind, name, *(f"{figure.median(key):,.1f}" for key in ("p50_us", "p90_us", "p99_us"))])
    click.echo("\nOne client: microseconds a signature")
    show.table(["KEY", "CONTENDER", "P50", "P90", "P99"], rows, empty="")
    for result in results:
        click.echo(f"{result.kind}: OpenSSL + {result.extra_latency():.1f} us on one processor")


def _plot(path: Path, results: list[Result]) -> None:
    names = list(results[0].throughput)
    series = {name: [result.throughput[name].median("per_second") for result in results] for name in names}
    chart.bars(path, "Signatures a second", [result.kind for result in results], series, "signatures a second")
