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
from hsmsim.errors import HsmsimError
from hsmsim.fleet import operations, processes, quickstart, state
from hsmsim.gateway import launch, simulator
from hsmsim.gateway.config import DEFAULT_PORT, DEFAULT_TLS_PORT
from hsmsim.hsm.timing import PROFILES

if TYPE_CHECKING:
    from types import FrameType

LOOK_SECONDS = 0.5
PORT = click.IntRange(0, 65535)


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
@click.option(
    "--timing",
    type=click.Choice([*PROFILES, "none"]),
    help="Hold the HSMs to AWS's rates for this type, see `hsmsim hsm timing`.  [default: as the last time, else none]",
)
@click.option(
    "--port",
    type=PORT,
    envvar="HSMSIM_PORT",
    help=f"The gateway's port on 127.0.0.1, 0 for a free one.  [default: as the last time, else {DEFAULT_PORT}]",
)
@click.option(
    "--tls-port",
    type=PORT,
    envvar="HSMSIM_TLS_PORT",
    help=f"The same for HTTPS.  [default: as the last time, else {DEFAULT_TLS_PORT}]",
)
@click.option(
    "--host",
    type=click.Choice([launch.HOST, launch.EVERYWHERE]),
    help="Where the gateway listens: for this machine alone, or on all its addresses, as a container needs it.  "
    f"[default: {launch.HOST}]",
)
@click.option(
    "--hsm-host",
    metavar="ADDRESS",
    default="",
    help="Let HSMs be reached by TCP, with TLS, at this IP address too, on ports from 2223 up; 0.0.0.0: at all.  "
    "[default: as the last time, else not]",
)
@click.option("--no-gateway", is_flag=True, help="Start the HSMs only, without AWS's APIs.")
@click.option(
    "--accept-any-credentials",
    is_flag=True,
    help="Let requests in whose access key is unknown, without a look at their signature: as root of the account whose "
    "twelve digits the key is, else of the first one. The keys that there are work as always.",
)
@click.option(
    "--time-scale",
    type=click.FloatRange(0, 1000),
    help="How much of AWS's time a transition takes: 1 all of it.  [default: as the last time, else 0]",
)
@click.option(
    "--database",
    metavar="URL|local",
    default="",
    help="Where the rows of a new simulator are: a PostgreSQL database, or `local`, a server of its own.  "
    "[default: SQLite files in HSMSIM_HOME]",
)
def up(
    *,
    detach: bool,
    hsms: int,
    engine: str,
    timing: str | None,
    port: int | None,
    tls_port: int | None,
    host: str | None,
    hsm_host: str,
    no_gateway: bool,
    accept_any_credentials: bool,
    time_scale: float | None,
    database: str,
) -> None:
    """Start the simulator: the gateway to AWS's APIs, and a cluster of two HSMs with an admin and a crypto user.

    The cluster is made with those APIs, in the default VPC, with a CA of its own (HSMSIM_HOME/customer). What exists is
    kept: keys, users and passwords are those of the last time. Without --detach it stays in the foreground until
    Ctrl-C, which stops everything.
    """
    places = Places.resolve()
    options = launch.Options(port, tls_port, accept_any_credentials or None, time_scale, host)
    try:
        with show.progress() as say:
            gateway = None if no_gateway else options
            running = simulator.bring_up(
                places, say, gateway, hsms=hsms, engine=engine, database=database, hsm_host=hsm_host
            )
            if timing is not None:
                operations.set_timing(places, running.hsms.cluster_id, "" if timing == "none" else timing)
    except KeyboardInterrupt:
        simulator.take_down(places)
        raise
    _introduce(places, running.hsms)
    _introduce_gateway(places, running)
    _suggest(places, running.hsms)
    click.echo(f"It runs in the background. To stop it: {_own_command()} down" if detach else "Ctrl-C stops it.")
    if not detach:
        _stay(places, running)


def _introduce(places: Places, ready: quickstart.Ready) -> None:
    fleet = state.load(places)
    account = fleet.account
    click.echo(f"\n{ready.cluster_id} is ACTIVE with {len(ready.hsm_ids)} HSMs: {', '.join(ready.hsm_ids)}")
    click.echo(f"  module  {ready.module}\n  token   {ready.token}\n  PIN     {ready.pin}\n  state   {places.home}")
    if fleet.host:
        ports = ", ".join(str(hsm.port) for hsm in fleet.cluster(ready.cluster_id).hsms)
        click.echo(f"  TCP     {fleet.host}, ports {ports}: hsmsim configure-pkcs11 --tls")
    if os.geteuid() == 0 and not account:
        click.echo("  note    the HSMs run as root: there is no system user hsmsim, or it cannot reach the folders")


def _introduce_gateway(places: Places, running: simulator.Running) -> None:
    if running.gateway is None:
        return
    click.echo(f"  AWS     {running.gateway.url} or {running.gateway.secure_url}, with AWS_CA_BUNDLE for HTTPS:")
    click.echo(f"          {places.authority_certificate}")
    if running.outside:
        click.echo(f"  note    AWS's API does not show {running.outside}: it was made without it")
    if os.geteuid() == 0 and not launch.account_of(places):
        click.echo(
            f"  note    the gateway runs as root: there is no system user {launch.ACCOUNT}, or it cannot reach the "
            "folders or Python"
        )
    if running.new_key is None:
        click.echo(f"  key     the root user's access key is in {places.of_gateway().root_key_file}")
        return
    key = running.new_key
    click.echo(f"  key     of the root user of account {key.account}, shown this once:")
    click.echo(f"          {key.access_key_id} {key.secret_access_key}")


def _suggest(places: Places, ready: quickstart.Ready) -> None:
    command = shlex.quote(_own_command())
    click.echo(f'\nIn a shell:  eval "$({command} env)"   which does')
    for name, value in {**ready.environment(), **launch.environment(places)}.items():
        shown = "..." if name == "AWS_SECRET_ACCESS_KEY" else shlex.quote(value)
        click.echo(f"  export {name}={shown}")
    click.echo(
        "\nThen try:\n"
        f"  {command} key generate ec --curve P-256 --label first\n"
        f"  {command} key list\n"
        f"  {_third_command(command, ready)}\n"
    )


def _third_command(command: str, ready: quickstart.Ready) -> str:
    if shutil.which("pkcs11-tool"):
        return 'pkcs11-tool --module "$HSMSIM_MODULE" --login --pin env:HSMSIM_PIN --list-objects'
    return f"{command} hsm kill {ready.hsm_ids[0]}    # and the keys are still there"


def _own_command() -> str:
    """Return how this command can be run again: the script beside the interpreter, if there is one."""
    script = Path(sys.executable).with_name("hsmsim")
    return str(script) if script.exists() else "hsmsim"


def _stay(places: Places, running: simulator.Running) -> None:
    """Wait for Ctrl-C (or SIGTERM, SIGHUP), say when a process ends by itself, and stop them all."""
    asked = False

    def ask(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked = True

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ask)
    told: list[tuple[str, str]] = []
    while not asked:
        time.sleep(LOOK_SECONDS)
        found = simulator.missing(places, running)
        for name, command in found:
            if (name, command) not in told:
                click.echo(f"{name} is not running any more. Start it again: {command}", err=True)
        told = found
    click.echo("Stopping everything ...", err=True)
    simulator.take_down(places)


@click.command()
def down() -> None:
    """Stop the gateways and every HSM. Keys, users and passwords stay in HSMSIM_HOME."""
    places = Places.resolve()
    with show.progress() as say:
        say("Stopping everything")
        stopped = simulator.take_down(places)
    click.echo(f"Stopped {', '.join(stopped)}." if stopped else "Nothing was running.")


@click.command()
@click.option("--https", is_flag=True, help="AWS's tools use HTTPS: AWS_ENDPOINT_URL and AWS_CA_BUNDLE say so.")
@click.option(
    "--gateway", metavar="NAME", default="", help="Which one AWS's tools call.  [default: the first that runs]"
)
@show.as_json
def env(*, https: bool, gateway: str, as_json: bool) -> None:
    """Print shell exports for the running simulator.

    Use it as: eval "$(hsmsim env)". The PIN and the access key of the account's root user are secrets of this
    simulator: they go to your shell's environment. Where the gateway runs and no HSM does, it is for AWS's tools alone.
    """
    places = Places.resolve()
    exports = launch.environment(places, secure=https, name=gateway)
    if gateway and not exports:
        raise HsmsimError(f"The gateway {gateway} does not run. Those that do: hsmsim gateway list")
    if not exports or quickstart.serves(places):
        exports = {**quickstart.ready(places).environment(), **exports}
    else:
        click.echo("No HSM runs: there is nothing for PKCS#11.", err=True)
    if as_json:
        show.document(exports)
        return
    for name, value in exports.items():
        click.echo(f"export {name}={shlex.quote(value)}")


def _summary(*, hsms: bool, daemons: list[bool]) -> str:
    """What `status` says of all of it; without the gateway (`up --no-gateway`) no daemon is missed."""
    if not hsms:
        return f"{'no HSM runs' if any(daemons) else 'not running'}; start it: hsmsim up --detach"
    return "running" if len(set(daemons)) == 1 else "not all of it runs; start it again: hsmsim up --detach"


@click.command()
@show.as_json
def status(*, as_json: bool) -> None:
    """Say what runs, where the state is, and what clients load. Exit status 3 if no HSM runs."""
    places = Places.resolve()
    fleet = state.load(places)
    hsms = [describe(places, one.hsm_id) for one in fleet.hsms()]
    running = any(one["state"] == "ACTIVE" for one in hsms)
    gateways = {name: launch.ready(places, name) for name in launch.names(places)}
    urls = {name: one.url if one else None for name, one in gateways.items()}
    fleet_pid = processes.pid_of(launch.daemon(places))
    if as_json:
        background = {"gateway": urls[launch.FIRST], "gateways": urls, "fleet": fleet_pid}
        found = {"running": running, "home": str(places.home), "run": str(places.run), "hsms": hsms, **background}
        show.document(found)
    else:
        click.echo(f"state folder  {places.home}\nrun folder    {places.run}\nmodule config {places.module_config}")
        for name, url in urls.items():
            click.echo(f"gateway       {url or 'not running'}{'' if name == launch.FIRST else f' ({name})'}")
        click.echo(f"fleet daemon  {'running' if fleet_pid else 'not running'}")
        click.echo(_summary(hsms=running, daemons=[found is not None for found in (*urls.values(), fleet_pid)]))
        show.table(
            ["HSM", "STATE", "KEYS", "CLIENTS", "SESSIONS"],
            [[one["hsm_id"], one["state"], one["keys"], one["clients"], one["sessions"]] for one in hsms],
            empty="There is no HSM yet.",
        )
    if not running:
        raise click.exceptions.Exit(3)
