"""`hsmsim up`, `down`, `env`, `status`."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hsmsim.cli import show
from hsmsim.cli.hsm import describe
from hsmsim.config import Places
from hsmsim.fleet import launch, quickstart, state

if TYPE_CHECKING:
    from types import FrameType

LOOK_SECONDS = 0.5


@click.command()
@click.option("--detach", is_flag=True, help="Leave the simulator running in the background; `hsmsim down` stops it.")
@click.option("--hsms", type=click.IntRange(1, 28), default=quickstart.HSMS, show_default=True, help="HSMs to have.")
@click.option(
    "--engine",
    type=click.Choice(state.ENGINES),
    default="fast",
    show_default=True,
    help="What new HSMs compute with: their own engine, the same without batches, or SoftHSM2 as the reference.",
)
def up(*, detach: bool, hsms: int, engine: str) -> None:
    """Start the simulator: a cluster of two HSMs, an admin, and a crypto user.

    What exists is kept: keys, users and passwords are those of the last time. Without --detach it stays in the
    foreground until Ctrl-C, which stops the HSMs.
    """
    places = Places.resolve()
    try:
        with show.progress() as say:
            ready = quickstart.bring_up(places, say, hsms=hsms, engine=engine)
    except KeyboardInterrupt:
        quickstart.take_down(places)
        raise
    _introduce(places, ready, detach=detach)
    if not detach:
        _stay(places, ready)


def _introduce(places: Places, ready: quickstart.Ready, *, detach: bool) -> None:
    account = state.load(places).account
    command = shlex.quote(_own_command())
    click.echo(f"\n{ready.cluster_id} is ACTIVE with {len(ready.hsm_ids)} HSMs: {', '.join(ready.hsm_ids)}")
    click.echo(f"  module  {ready.module}\n  token   {ready.token}\n  PIN     {ready.pin}\n  state   {places.home}")
    if os.geteuid() == 0 and not account:
        click.echo("  note    the HSMs run as root: there is no system user hsmsim, or it cannot reach the folders")
    click.echo(f'\nIn a shell:  eval "$({command} env)"   which does')
    for name, value in ready.environment().items():
        click.echo(f"  export {name}={shlex.quote(value)}")
    click.echo(
        "\nThen try:\n"
        f"  {command} key generate ec --curve P-256 --label first\n"
        f"  {command} key list\n"
        f"  {_third_command(command, ready)}\n"
    )
    click.echo(f"It runs in the background. To stop it: {command} down" if detach else "Ctrl-C stops it.")


def _third_command(command: str, ready: quickstart.Ready) -> str:
    if shutil.which("pkcs11-tool"):
        return 'pkcs11-tool --module "$HSMSIM_MODULE" --login --pin env:HSMSIM_PIN --list-objects'
    return f"{command} hsm kill {ready.hsm_ids[0]}    # and the keys are still there"


def _own_command() -> str:
    """Return how this command can be run again: the script beside the interpreter, if there is one."""
    script = Path(sys.executable).with_name("hsmsim")
    return str(script) if script.exists() else "hsmsim"


def _stay(places: Places, ready: quickstart.Ready) -> None:
    """Wait for Ctrl-C (or SIGTERM, SIGHUP), say when an HSM ends by itself, and stop them all."""
    asked = False

    def ask(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked = True

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ask)
    running = set(ready.hsm_ids)
    while not asked:
        time.sleep(LOOK_SECONDS)
        launch.reap()
        now = {hsm_id for hsm_id in ready.hsm_ids if launch.is_running(places, hsm_id)}
        for hsm_id in sorted(running - now):
            click.echo(f"{hsm_id} is not running any more. Start it again: hsmsim hsm start {hsm_id}", err=True)
        running = now
    click.echo("Stopping the HSMs ...", err=True)
    quickstart.take_down(places)


@click.command()
def down() -> None:
    """Stop every HSM. Keys, users and passwords stay in HSMSIM_HOME."""
    places = Places.resolve()
    with show.progress() as say:
        say("Stopping the HSMs")
        stopped = quickstart.take_down(places)
    click.echo(f"Stopped {', '.join(stopped)}." if stopped else "Nothing was running.")


@click.command()
@show.as_json
def env(*, as_json: bool) -> None:
    """Print shell exports for the running simulator.

    Use it as: eval "$(hsmsim env)". The PIN is a secret of this simulator: it goes to your shell's environment.
    """
    exports = quickstart.ready(Places.resolve()).environment()
    if as_json:
        show.document(exports)
        return
    for name, value in exports.items():
        click.echo(f"export {name}={shlex.quote(value)}")


@click.command()
@show.as_json
def status(*, as_json: bool) -> None:
    """Say what runs, where the state is, and what clients load. Exit status 3 if no HSM runs."""
    places = Places.resolve()
    fleet = state.load(places)
    hsms = [describe(places, one.hsm_id) for one in fleet.hsms()]
    running = any(one["state"] == "ACTIVE" for one in hsms)
    if as_json:
        show.document({"running": running, "home": str(places.home), "run": str(places.run), "hsms": hsms})
    else:
        click.echo(f"state folder  {places.home}\nrun folder    {places.run}\nmodule config {places.module_config}")
        click.echo("running" if running else "not running; start it: hsmsim up --detach")
        show.table(
            ["HSM", "STATE", "KEYS", "CLIENTS", "SESSIONS"],
            [[one["hsm_id"], one["state"], one["keys"], one["clients"], one["sessions"]] for one in hsms],
            empty="There is no HSM yet.",
        )
    if not running:
        raise click.exceptions.Exit(3)
