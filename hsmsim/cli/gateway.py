"""`hsmsim gateway list|start|stop|kill`."""

from __future__ import annotations

import click

from hsmsim.cli import show
from hsmsim.config import Places
from hsmsim.gateway import launch, manage

PORT = click.IntRange(0, 65535)
name_argument = click.argument("name")


@click.group()
def gateway() -> None:
    """More gateways to AWS's APIs, for when one is lost.

    `hsmsim up` starts the first one. Where the rows are in PostgreSQL (`hsmsim up --database local`) there can be
    others: each serves all that there is, and what one has answered the others know.
    """


@gateway.command("list")
@show.as_json
def list_(*, as_json: bool) -> None:
    """List the gateways, and which of them leads: it makes HSMs follow what all of them are asked for."""
    places = Places.resolve()
    found = [_row(places, name) for name in launch.names(places)]
    if as_json:
        show.document(found)
        return
    show.table(
        ["GATEWAY", "HTTP", "HTTPS", "PROCESS", "LEADS"],
        [[one["name"], one["http"], one["https"], one["pid"], "yes" if one["leads"] else ""] for one in found],
        empty="",
    )


def _row(places: Places, name: str) -> dict[str, object]:
    ready = launch.ready(places, name)
    return {
        "name": name,
        "http": ready and ready.url,
        "https": ready and ready.secure_url,
        "pid": ready and ready.pid,
        "leads": ready is not None and manage.leads(places.gateway(name).socket),
    }


@gateway.command()
@name_argument
@click.option("--port", type=PORT, help="Its port on 127.0.0.1, 0 for a free one.  [default: as the last time, else 0]")
@click.option("--tls-port", type=PORT, help="The same for HTTPS.")
def start(name: str, *, port: int | None, tls_port: int | None) -> None:
    """Start a gateway beside the first one, with the same options but for its ports.

    From then on `hsmsim up` starts it, too, until it is stopped by its name.
    """
    ready = launch.start_another(Places.resolve(), name, launch.Options(port, tls_port))
    click.echo(f'{name} listens on {ready.url} and {ready.secure_url}: eval "$(hsmsim env --gateway {name})"')


@gateway.command()
@name_argument
def stop(name: str) -> None:
    """Stop a gateway in order: what it was asked is answered. One beside the first is forgotten."""
    ran = launch.stop_one(Places.resolve(), name)
    click.echo(f"{name} is stopped." if ran else f"{name} was not running.")


@gateway.command()
@name_argument
def kill(name: str) -> None:
    """End a gateway as a crash would, to rehearse losing it. `hsmsim up --detach` starts it again."""
    ran = launch.kill(Places.resolve(), name)
    click.echo(f"{name} is killed." if ran else f"{name} was not running.")
