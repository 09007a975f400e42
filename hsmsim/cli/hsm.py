"""`hsmsim hsm list|create|start|stop|kill`."""

from __future__ import annotations

import click

from hsmsim.cli import show
from hsmsim.config import Places
from hsmsim.fleet import launch, operations, state
from hsmsim.gateway import simulator
from hsmsim.hsm.timing import PROFILES

hsm_id_argument = click.argument("hsm_id")


@click.group()
def hsm() -> None:
    """The HSMs of the cluster, one process each.

    Kill one while a client works, and the client goes on with another.
    """


def describe(places: Places, hsm_id: str) -> dict[str, object]:
    """Return what is known about an HSM, from itself if it answers.

    state: as it says, else STARTING or STOPPED; live: how many HSMs of the cluster it hears, itself included.
    """
    fleet = state.load(places)
    found = launch.info(places, hsm_id)
    pid = launch.pid_of(places, hsm_id)
    one: dict[str, object] = {
        "hsm_id": hsm_id,
        "cluster_id": fleet.cluster_of(hsm_id).cluster_id,
        "state": "STARTING" if pid else "STOPPED",
        "engine": fleet.hsm(hsm_id).engine,
        "pid": pid,
        "socket": str(places.socket(hsm_id)),
        "log": str(places.hsm_folder(hsm_id) / "hsm.log"),
    }
    counts: dict[str, object] = dict.fromkeys(
        ("live", "keys", "users", "clients", "sessions", "vault_objects", "vault_pending")
    )
    if found is not None:
        one["state"] = found.state.decode()
        counts = {name: getattr(found, name) for name in counts}
    return one | counts


@hsm.command("list")
@show.as_json
def list_(*, as_json: bool) -> None:
    """List the HSMs and what they say of themselves."""
    places = Places.resolve()
    hsms = [describe(places, one.hsm_id) for one in state.load(places).hsms()]
    if as_json:
        show.document(hsms)
        return
    names = ("hsm_id", "state", "engine", "pid", "keys", "users", "clients", "sessions")
    show.table(
        ["HSM", "STATE", "ENGINE", "PID", "KEYS", "USERS", "CLIENTS", "SESSIONS"],
        [[one[name] for name in names] for one in hsms],
        empty="There is no HSM yet. Make a cluster: hsmsim up --detach",
    )


@hsm.command()
@click.option("--engine", type=click.Choice(state.ENGINES), default="fast", show_default=True)
def create(engine: str) -> None:
    """Add an HSM to the cluster and start it. It gets every key and user of the cluster."""
    places = Places.resolve()
    with show.progress() as say:
        say("Making an HSM")
        made = simulator.add_hsm(places, engine)
    click.echo(made)


@hsm.command()
@hsm_id_argument
def start(hsm_id: str) -> None:
    """Start a stopped HSM and wait until it serves."""
    places = Places.resolve()
    with show.progress() as say:
        say(f"Starting {hsm_id}")
        started = operations.start(places, [hsm_id])
    click.echo(f"{hsm_id} {'serves' if started else 'was running already'}.")


@hsm.command()
@hsm_id_argument
def stop(hsm_id: str) -> None:
    """Stop an HSM in an orderly way."""
    places = Places.resolve()
    state.load(places).hsm(hsm_id)
    with show.progress() as say:
        say(f"Stopping {hsm_id}")
        stopped = operations.stop(places, [hsm_id])
    click.echo(f"{hsm_id} {'is stopped' if stopped else 'was not running'}.")


@hsm.command()
@hsm_id_argument
def kill(hsm_id: str) -> None:
    """Kill an HSM without a word, as a power failure would."""
    places = Places.resolve()
    killed = operations.kill(places, hsm_id)
    click.echo(f"{hsm_id} {'is killed' if killed else 'was not running'}.")


@hsm.command()
@click.argument("profile", type=click.Choice([*PROFILES, "none"]))
def timing(profile: str) -> None:
    """Hold the HSMs to the rates that AWS publishes for a type of HSM, or to none.

    The HSMs that run are started again one after the other. The profile stays until another one is set.
    """
    places = Places.resolve()
    cluster = state.load(places).only_cluster()
    with show.progress() as say:
        say("Starting the HSMs again")
        operations.set_timing(places, cluster.cluster_id, "" if profile == "none" else profile)
    click.echo(f"{cluster.cluster_id} has timing profile {profile}.")
