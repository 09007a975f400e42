"""`hsmsim fault list|kill|pause|resume|slow|drop|partition|disk|clock|clear`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from msgspec import structs, to_builtins

from hsmsim.cli import show
from hsmsim.cli.hsm import kill
from hsmsim.config import Places
from hsmsim.fleet import faults, simclock

if TYPE_CHECKING:
    from typing import Any

    from hsmsim.fleet.protocol import FaultsView

hsm_id_argument = click.argument("hsm_id")


@click.group()
def fault() -> None:
    """Rehearse failures: what goes wrong with an HSM, and what its clients see.

    Each command sets one fault and leaves the others; `clear` takes all back. They last until then, over a restart of
    the HSM, but for `pause`, which ends with its process.
    """


fault.add_command(kill)


def _change(hsm_id: str, **members: Any) -> FaultsView:  # noqa: ANN401 - FaultsView's
    places = Places.resolve()
    wanted = structs.replace(faults.show(places, hsm_id), **members)
    faults.put(places, wanted)
    return wanted


def _cells(view: FaultsView) -> list[object]:
    return [
        view.hsm_id,
        "yes" if view.paused else "",
        f"{view.slow_ms:g} ms" if view.slow_ms else "",
        f"{view.drop_percent:g} %" if view.drop_percent else "",
        ", ".join(view.cut),
        view.disk if view.disk != "fine" else "",
        f"{view.clock_s:+d} s" if view.clock_s else "",
    ]


@fault.command("list")
@show.as_json
def list_(*, as_json: bool) -> None:
    """List the faults of every HSM."""
    found = faults.list_all(Places.resolve())
    if as_json:
        show.document([to_builtins(view) for view in found])
        return
    show.table(
        ["HSM", "PAUSED", "SLOW", "LOSES", "CUT OFF FROM", "DISK", "CLOCK"],
        [_cells(view) for view in found],
        empty="There is no HSM yet. Make a cluster: hsmsim up --detach",
    )


@fault.command()
@hsm_id_argument
def pause(hsm_id: str) -> None:
    """Stop an HSM's process where it stands. Clients go on with another HSM after their time-out."""
    _change(hsm_id, paused=True)
    click.echo(f"{hsm_id} is paused. To let it go on: hsmsim fault resume {hsm_id}")


@fault.command()
@hsm_id_argument
def resume(hsm_id: str) -> None:
    """Let a paused HSM go on."""
    _change(hsm_id, paused=False)
    click.echo(f"{hsm_id} goes on.")


@fault.command()
@hsm_id_argument
@click.argument("milliseconds", type=click.FloatRange(0, 10_000))
def slow(hsm_id: str, milliseconds: float) -> None:
    """Have each request wait so long before it is worked on; 0 as fast as it can."""
    _change(hsm_id, slow_ms=milliseconds)
    click.echo(f"{hsm_id} is {milliseconds:g} ms slower.")


@fault.command()
@hsm_id_argument
@click.argument("percent", type=click.FloatRange(0, 100))
def drop(hsm_id: str, percent: float) -> None:
    """Lose so many of a hundred requests on their way. The client waits for its time-out, then asks another HSM."""
    _change(hsm_id, drop_percent=percent)
    click.echo(f"{hsm_id} loses {percent:g} % of the requests.")


@fault.command()
@hsm_id_argument
@click.option(
    "--from",
    "cut",
    type=click.Choice(faults.CUTS),
    multiple=True,
    help="Whom it cannot reach; more than one may be given.  [default: clients, peers and database]",
)
@click.option("--heal", is_flag=True, help="It reaches everybody again.")
def partition(hsm_id: str, cut: tuple[str, ...], *, heal: bool) -> None:
    """Cut an HSM off: what is sent either way is lost without a word.

    From clients: they go on with the others. From peers: it goes on while the database answers. From the database:
    while all peers answer; what it should write fails. From both: it serves nothing after a second, so that no right
    that is revoked meanwhile is used.
    """
    if heal and cut:
        raise click.UsageError("Either --heal or --from.")
    wanted = () if heal else cut or faults.CUTS
    _change(hsm_id, cut=wanted)
    click.echo(f"{hsm_id} is cut off from {', '.join(wanted)}." if wanted else f"{hsm_id} reaches everybody.")


@fault.command()
@hsm_id_argument
@click.argument("state", type=click.Choice(faults.DISKS))
def disk(hsm_id: str, state: str) -> None:
    """Have an HSM's disk be full (no file of its process grows), read-only (for its rows), or fine again.

    Signing goes on; keys, users and logins, which have to be written, are refused with CKR_DEVICE_ERROR.
    """
    _change(hsm_id, disk=state)
    click.echo(f"The disk of {hsm_id} is {state}.")


@fault.command()
@hsm_id_argument
@click.argument("span")
def clock(hsm_id: str, span: str) -> None:
    """Have one HSM's simulated clock jump ahead of the others' by SPAN (90s, 10m, 36h, 400d); 0s: back with them.

    Its audit records are dated so. Leases, time-outs and lockouts are not: they follow clocks that do not jump.
    """
    seconds = simclock.seconds_of(span)
    _change(hsm_id, clock_s=seconds)
    click.echo(f"The clock of {hsm_id} is {seconds} s ahead.")


@fault.command()
@click.argument("hsm_id", required=False)
def clear(hsm_id: str | None) -> None:
    """Take all faults back, of one HSM or of all."""
    places = Places.resolve()
    wanted = [hsm_id] if hsm_id else [view.hsm_id for view in faults.list_all(places) if view.any]
    for one in wanted:
        faults.clear(places, one)
    click.echo(f"No faults: {', '.join(wanted)}." if wanted else "There was no fault.")
