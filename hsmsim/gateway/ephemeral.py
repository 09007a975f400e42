"""A simulator for as long as somebody holds a pipe: `python -m hsmsim.gateway.ephemeral`, what test runs start.

It makes a folder, starts everything in it on free ports, writes one line of JSON to standard output, and waits for the
end of its standard input: closed by who started it, or by the kernel when that one was killed. Then it stops all and
removes the folder. What goes wrong is a sentence on standard error and exit status 1.
"""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from hsmsim.config import Places
from hsmsim.errors import HsmsimError
from hsmsim.fleet import quickstart
from hsmsim.gateway import launch, simulator

if TYPE_CHECKING:
    from collections.abc import Iterator


class Told(msgspec.Struct, frozen=True):
    """The line. environment: what `hsmsim env` exports, and the two folders."""

    home: str
    cluster_id: str
    hsm_ids: tuple[str, ...]
    environment: dict[str, str]


@contextmanager
def running(hsms: int) -> Iterator[Told]:
    """Run a simulator; whatever happens, its processes and its folder are gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="hsmsim-"))
    try:
        folder.chmod(0o711)  # the HSMs' account passes through it to what is its own
        places = Places(folder / "home", folder / "run")
        try:
            yield _start(places, hsms)
        finally:
            if places.home.exists():
                simulator.take_down(places)
    finally:
        shutil.rmtree(folder)


def _start(places: Places, hsms: int) -> Told:
    found = simulator.bring_up(places, lambda _: None, launch.Options(port=0, tls_port=0), hsms=hsms)
    folders = {"HSMSIM_HOME": str(places.home), "HSMSIM_RUN": str(places.run)}
    environment = {**folders, **found.hsms.environment(), **launch.environment(places)}
    return Told(str(places.home), found.hsms.cluster_id, found.hsms.hsm_ids, environment)


@click.command()
@click.option("--hsms", type=click.IntRange(1, 28), default=quickstart.HSMS)
def main(hsms: int) -> None:
    """Run a simulator until standard input ends."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it, too, is an exception that `running` cleans up after
    try:
        with running(hsms) as told:
            sys.stdout.buffer.write(msgspec.json.encode(told) + b"\n")
            sys.stdout.buffer.flush()
            sys.stdin.buffer.read()
    except (HsmsimError, OSError) as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
