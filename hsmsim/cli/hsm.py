"""`hsmsim hsm list|create|start|stop|kill|timing`, and for several hosts `request|certify|install|dismiss`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import msgspec

from hsmsim.cli import show
from hsmsim.config import Places
from hsmsim.fleet import elsewhere, launch, operations, state
from hsmsim.gateway import simulator
from hsmsim.hsm.address import joined
from hsmsim.hsm.roots.process import Roots
from hsmsim.hsm.timing import PROFILES

if TYPE_CHECKING:
    from typing import BinaryIO

    from hsmsim.hsm.messages import HsmInfoResponse

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
    if found is not None:
        one["state"] = found.state.decode()
    return one | _counts(found)


def _counts(found: HsmInfoResponse | None) -> dict[str, object]:
    names = ("live", "keys", "users", "clients", "sessions", "operations", "vault_objects", "vault_pending")
    return dict.fromkeys(names) if found is None else {name: getattr(found, name) for name in names}


def _describe_elsewhere(one: state.Elsewhere, cluster_id: str) -> dict[str, object]:
    """Return the same of an HSM on another host; AWAY: it does not answer."""
    found = elsewhere.info(one)
    return {
        "hsm_id": one.hsm_id,
        "cluster_id": cluster_id,
        "state": "AWAY" if found is None else found.state.decode(),
        "engine": None if found is None else found.engine.decode(),
        "pid": None,
        "address": joined(one.hostname, one.port),
        **_counts(found),
    }


@hsm.command("list")
@show.as_json
def list_(*, as_json: bool) -> None:
    """List the HSMs and what they say of themselves."""
    places = Places.resolve()
    fleet = state.load(places)
    hsms = [describe(places, one.hsm_id) for one in fleet.hsms()]
    for cluster in fleet.clusters:
        hsms += [_describe_elsewhere(one, cluster.cluster_id) for one in cluster.elsewhere]
    if as_json:
        show.document(hsms)
        return
    names = ("hsm_id", "state", "engine", "pid", "keys", "users", "clients", "sessions", "operations")
    show.table(
        ["HSM", "STATE", "ENGINE", "PID", "KEYS", "USERS", "CLIENTS", "SESSIONS", "OPERATIONS"],
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


# ---- several hosts ---------------------------------------------------------------------------------------------------


@hsm.command()
@click.option("--address", required=True, metavar="IP:PORT", help="Where the cluster's other HSMs will reach it.")
def request(address: str) -> None:
    """Make an HSM of another host's cluster here, and print what that host certifies.

    Its seed stays here. On this host, in one line:

    hsmsim hsm request --address IP:PORT | ssh OTHER hsmsim hsm certify | hsmsim hsm install --database URL
    """
    with show.progress() as say:
        say("Making an HSM")
        made = elsewhere.request(Places.resolve(), address)
    click.echo(msgspec.json.encode(made))


@hsm.command()
@click.argument("asked", type=click.File("rb"), default="-")
def certify(asked: BinaryIO) -> None:
    """Certify an HSM that was made on another host, and print what that host installs.

    ASKED is what `hsmsim hsm request` printed there; no secret is in it, nor in the answer.
    """
    places = Places.resolve()
    with show.progress() as say, Roots(places.home) as roots:
        wanted = elsewhere.read_request(asked.read())
        say(f"Certifying {wanted.hsm_id}")
        answer = elsewhere.certify(places, roots, wanted)
    click.echo(msgspec.json.encode(answer))


@hsm.command()
@click.argument("certified", type=click.File("rb"), default="-")
@click.option("--database", required=True, metavar="URL", help="The cluster's PostgreSQL, as this host reaches it.")
def install(certified: BinaryIO, database: str) -> None:
    """Start an HSM that was made here, with what `hsmsim hsm certify` printed on the cluster's host."""
    places = Places.resolve()
    with show.progress() as say:
        answer = elsewhere.read_certified(certified.read())
        say(f"Starting {answer.hsm_id}")
        elsewhere.install(places, answer, database)
    click.echo(f"{answer.hsm_id} serves {answer.cluster_id} at {answer.address}.")


@hsm.command()
@hsm_id_argument
def dismiss(hsm_id: str) -> None:
    """Take an HSM of another host out of the cluster, whether or not it runs."""
    with show.progress() as say:
        say(f"Dismissing {hsm_id}")
        elsewhere.dismiss(Places.resolve(), hsm_id)
    click.echo(f"{hsm_id} is no member any more. On its host: hsmsim down, and remove its HSMSIM_HOME.")
