"""`hsmsim quickstart`."""

from __future__ import annotations

import click

from hsmsim.cli import show
from hsmsim.config import Places
from hsmsim.fleet import quickstart as defaults
from hsmsim.gateway import simulator


@click.command()
@click.option("--hsms", type=click.IntRange(1, 28), default=defaults.HSMS, show_default=True, help="HSMs to have.")
def quickstart(*, hsms: int) -> None:
    """Make the cluster that `hsmsim up` makes, in a gateway that runs; what is there of it is kept.

    It goes the way of every customer: CreateCluster in the default VPC, CreateHsm, a CA that signs the cluster's CSR,
    InitializeCluster, the admin's first password, a crypto user, more HSMs.
    """
    places = Places.resolve()
    with show.progress() as say:
        ready = simulator.make_cluster(places, say, hsms)
    click.echo(f"{ready.cluster_id} is ACTIVE with {len(ready.hsm_ids)} HSMs: {', '.join(ready.hsm_ids)}")
