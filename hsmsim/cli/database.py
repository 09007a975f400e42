"""`hsmsim database show|start|stop|kill`."""

from __future__ import annotations

import click

from hsmsim.cli import show
from hsmsim.config import Places
from hsmsim.fleet import databases, state


@click.group()
def database() -> None:
    """Where the rows are, and the PostgreSQL server of this simulator, to rehearse losing it.

    `hsmsim up --database local` makes a simulator whose rows are in a server of its own. Without it HSMs that see each
    other go on signing; what would have to be written fails, and works again when it is back.
    """


@database.command("show")
@show.as_json
def show_(*, as_json: bool) -> None:
    """Say where the rows are, and whether the server of one's own runs."""
    places = Places.resolve()
    chosen = state.load(places).database
    local = databases.server(places) if chosen == databases.LOCAL else None
    found = {
        "kind": "postgresql" if chosen else "sqlite",
        "url": local.url if local else chosen,
        "pid": local and local.pid,
    }
    if as_json:
        show.document(found)
        return
    click.echo(f"rows    {found['url'] or f'SQLite files in {places.home}'}")
    if local is not None:
        click.echo(f"server  {f'runs, process {local.pid}' if local.pid else 'is stopped: hsmsim database start'}")


@database.command()
def start() -> None:
    """Start this simulator's PostgreSQL."""
    places = Places.resolve()
    with state.lock(places):
        databases.require_local(places)
        databases.start(places)
    click.echo("PostgreSQL runs.")


def _stop(mode: str, told: str) -> None:
    local = databases.require_local(Places.resolve())
    if local.pid is None:
        click.echo("PostgreSQL was not running.")
        return
    local.stop(mode)
    click.echo(told)


@database.command()
def stop() -> None:
    """Stop this simulator's PostgreSQL in order."""
    _stop("fast", "PostgreSQL is stopped.")


@database.command()
def kill() -> None:
    """End this simulator's PostgreSQL as a crash would."""
    _stop("immediate", "PostgreSQL is killed.")
