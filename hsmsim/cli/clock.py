"""`hsmsim clock advance|show|reset`."""

from __future__ import annotations

import datetime as dt
import time

import click

from hsmsim.cli import show
from hsmsim.config import Places
from hsmsim.errors import HsmsimError
from hsmsim.fleet import simclock
from hsmsim.gateway import simulator


@click.group()
def clock() -> None:
    """The simulated clock: audit records, schedules and waiting periods follow it, in every process at once.

    Real time stays what it is for everything that clients check against their own clock: signatures of requests,
    TLS, time-outs, leases, lockouts.
    """


def _tell(places: Places) -> None:
    offset = simclock.offset(places)
    now = dt.datetime.fromtimestamp(time.time() + offset, dt.UTC)
    click.echo(f"{now:%Y-%m-%dT%H:%M:%SZ}, {dt.timedelta(seconds=offset)} ahead of real time")


def _move(seconds: int | None) -> None:
    places = Places.resolve()
    late = simulator.move_clock(places, seconds)
    _tell(places)
    if late:
        raise HsmsimError(
            f"The gateway has not done all that is due yet: {', '.join(late)}. It goes on; its log says why."
        )


@clock.command()
@click.argument("span")
def advance(span: str) -> None:
    """Move simulated time on by SPAN: 90s, 10m, 36h, 400d, 2w.

    When this returns every process follows, and the gateway has done what is due by then.
    """
    _move(simclock.seconds_of(span))


@clock.command("show")
@show.as_json
def show_(*, as_json: bool) -> None:
    """Say what simulated time it is."""
    places = Places.resolve()
    if as_json:
        offset = simclock.offset(places)
        show.document({"offset": offset, "time": time.time() + offset})
        return
    _tell(places)


@clock.command()
def reset() -> None:
    """Go back to real time. What happened in simulated time stays as it is recorded."""
    _move(None)
