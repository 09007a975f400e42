"""`hsmsim demo tls-offload`."""

from __future__ import annotations

import secrets
from pathlib import Path

import click

from hsmsim.bench.target import Target, temporary_keys
from hsmsim.cli import show
from hsmsim.config import Places
from hsmsim.demo import tls_offload


@click.group()
def demo() -> None:
    """Show what an HSM does, with real software."""


@demo.command("tls-offload")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="New folder for certificates, configurations, logs and the plot. [default: ./tls-offload-XXXX]",
)
@click.option("--seconds", default=2.0, show_default=True, type=click.FloatRange(0.2), help="Length of one run.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1, 99), help="Rounds; medians are quoted.")
@click.option("--connections", default=8, show_default=True, type=click.IntRange(1, 64), help="Connections at a time.")
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1, 64), help="nginx worker processes.")
@show.as_json
def tls(*, output: Path | None, seconds: float, rounds: int, connections: int, workers: int, as_json: bool) -> None:
    """nginx serves TLS from keys that stay in the HSM: pages fetched, handshakes counted.

    An RSA-2048 and a P-256 key are made inside the HSM, with a certificate each. Three nginx servers differ only in
    where the key is: in the HSM, in a file, in SoftHSM2 used directly. curl and openssl s_client fetch a page from each
    over TLS 1.2 and 1.3 and check the certificate; then full handshakes are counted, the servers in turn.
    """
    places = Places.resolve()
    target = Target.of(places)
    folder = (output or Path(f"tls-offload-{secrets.token_hex(2)}")).absolute()
    if folder.exists():
        raise click.BadParameter(f"{folder} is there already; name a new folder", param_hint="--output")
    folder.mkdir(parents=True)
    plan = tls_offload.Plan(seconds, rounds, connections, workers)
    with (
        show.progress() as say,
        temporary_keys(places, tuple(tls_offload.KINDS), f"demo-{secrets.token_hex(4)}") as labels,
    ):
        outcome = tls_offload.run(target, labels, folder, plan, say)
    if as_json:
        show.document(_document(outcome))
        return
    fetched = {(fetch.kind, fetch.where): 0 for fetch in outcome.fetches}
    for fetch in outcome.fetches:
        fetched[fetch.kind, fetch.where] += 1
    click.echo(
        "Pages fetched by curl and openssl s_client over TLS 1.2 and 1.3, certificate checked; full TLS 1.3 handshakes:"
    )
    rows = []
    for (where, kind), figure in sorted(outcome.figures.items(), key=lambda item: item[0][1], reverse=True):
        low, high = figure.spread("per_second")
        file = outcome.figures[tls_offload.FILE, kind].median("per_second")
        rate = figure.median("per_second")
        rows.append(
            [
                tls_offload.KINDS[kind],
                where,
                fetched[kind, where],
                f"{rate:,.0f}",
                f"{low:,.0f} to {high:,.0f}",
                f"{rate / file:.2f}",
            ]
        )
    show.table(["KEY", "NGINX WITH", "PAGES", "HANDSHAKES/S", "SPREAD", "OVER A FILE"], rows, empty="")
    click.echo(f"\nPlot: {outcome.plot}\nThe client shares the processors with nginx and the HSM.")


def _document(outcome: tls_offload.Outcome) -> dict[str, object]:
    fetches = [
        {"client": one.client, "tls": one.version, "key": one.kind, "where": one.where, "page": one.text}
        for one in outcome.fetches
    ]
    figures = [
        {"key": kind, "where": where, "rounds": figure.rounds, "per_second": figure.median("per_second")}
        for (where, kind), figure in outcome.figures.items()
    ]
    return {"fetches": fetches, "handshakes": figures, "plot": str(outcome.plot)}
