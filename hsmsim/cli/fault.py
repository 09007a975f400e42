"""`hsmsim fault list|kill|pause|resume|slow|drop|partition|disk|clock|clear`."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any, TypeAlias

import click
from msgspec import structs, to_builtins

from hsmsim.cli import show
from hsmsim.cli.hsm import kill
from hsmsim.config import Places
from hsmsim.fleet import faults, simclock

if TYPE_CHECKING:
    from collections.abc import Callable

    from hsmsim.fleet.protocol import FaultsView

Decision: TypeAlias = tuple[dict[str, Any], str]
"""Members of FaultsView, and a sentence."""


@click.group()
def fault() -> None:
    """Rehearse failures: what goes wrong with an HSM, and what its clients see.

    Each command sets one fault and leaves the others; `clear` takes all back. They last until then, over a restart of
    the HSM, but for `pause`, which ends with its process.
    """


fault.add_command(kill)


def _sets(decide: Callable[..., Decision]) -> click.Command:
    """A command whose function decides which of FaultsView's members it sets, and what is said when that is done."""

    @wraps(decide)
    def command(hsm_id: str, **given: Any) -> None:  # noqa: ANN401 - the command's own parameters
        places = Places.resolve()
        members, told = decide(hsm_id, **given)
        faults.put(places, structs.replace(faults.show(places, hsm_id), **members))
        click.echo(told)

    return fault.command()(click.argument("hsm_id")(command))


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


@_sets
def pause(hsm_id: str) -> Decision:
    """Stop an HSM's process where it stands. Clients go on with another HSM after their time-out."""
    return {"paused": True}, f"{hsm_id} is paused. To let it go on: hsmsim fault resume {hsm_id}"


@_sets
def resume(hsm_id: str) -> Decision:
    """Let a paused HSM go on."""
    return {"paused": False}, f"{hsm_id} goes on."


@_sets
@click.argument("milliseconds", type=click.FloatRange(0, 10_000))
def slow(hsm_id: str, milliseconds: float) -> Decision:
    """Have each request wait so long before it is worked on; 0 as fast as it can."""
    return {"slow_ms": milliseconds}, f"{hsm_id} is {milliseconds:g} ms slower."


@_sets
@click.argument("percent", type=click.FloatRange(0, 100))
def drop(hsm_id: str, percent: float) -> Decision:
    """Lose so many of a hundred requests on their way. The client waits for its time-out, then asks another HSM."""
    return {"drop_percent": percent}, f"{hsm_id} loses {percent:g} % of the requests."


@_sets
@click.option(
    "--from",
    "cut",
    type=click.Choice(faults.CUTS),
    multiple=True,
    help="Whom it cannot reach; more than one may be given.  [default: clients, peers and database]",
)
@click.option("--heal", is_flag=True, help="It reaches everybody again.")
def partition(hsm_id: str, cut: tuple[str, ...], *, heal: bool) -> Decision:
    """Cut an HSM off: what is sent either way is lost without a word.

    From clients: they go on with the others. From peers: it goes on while the database answers. From the database:
    while all peers answer; what it should write fails. From both: it serves nothing after a second, so that no right
    that is revoked meanwhile is used.
    """
    if heal and cut:
        raise click.UsageError("Either --heal or --from.")
    wanted = () if heal else cut or faults.CUTS
    told = f"{hsm_id} is cut off from {', '.join(wanted)}." if wanted else f"{hsm_id} reaches everybody."
    return {"cut": wanted}, told


@_sets
@click.argument("state", type=click.Choice(faults.DISKS))
def disk(hsm_id: str, state: str) -> Decision:
    """Have an HSM's disk be full (no file of its process grows), read-only (for its rows), or fine again.

    Signing goes on; keys, users and logins, which have to be written, are refused with CKR_DEVICE_ERROR.
    """
    return {"disk": state}, f"The disk of {hsm_id} is {state}."


@_sets
@click.argument("span")
def clock(hsm_id: str, span: str) -> Decision:
    """Have one HSM's simulated clock jump ahead of the others' by SPAN (90s, 10m, 36h, 400d); 0s: back with them.

    Its audit records are dated so. Leases, time-outs and lockouts are not: they follow clocks that do not jump.
    """
    seconds = simclock.seconds_of(span)
    return {"clock_s": seconds}, f"The clock of {hsm_id} is {seconds} s ahead."


@fault.command()
@click.argument("hsm_id", required=False)
def clear(hsm_id: str | None) -> None:
    """Take all faults back, of one HSM or of all."""
    places = Places.resolve()
    wanted = [hsm_id] if hsm_id else [view.hsm_id for view in faults.list_all(places) if view.any]
    for one in wanted:
        faults.clear(places, one)
    click.echo(f"No faults: {', '.join(wanted)}." if wanted else "There was no fault.")
