"""`hsmsim configure-pkcs11`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from hsmsim.cli import login
from hsmsim.config import Places
from hsmsim.errors import HsmsimError
from hsmsim.fleet import modulecfg, state

SYSTEM = Path("/etc/hsmsim/pkcs11.cfg")


def _user_file() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "hsmsim" / "pkcs11.cfg"


@click.command("configure-pkcs11")
@click.option("--system", is_flag=True, help=f"Write {SYSTEM}, for every user of this machine.")
@click.option("--output", type=click.Path(path_type=Path), help="Write this file; name it in HSMSIM_PKCS11_CONFIG.")
@login.partition_option
@click.option("--label", default=modulecfg.TOKEN, show_default=True, help="The token's label.")
@click.option("--profile", type=click.Choice(["general", "cloudhsm"]), default="general", show_default=True)
@click.option(
    "--disable-key-availability-check", is_flag=True, help="Let keys be made while only one HSM can keep them."
)
@click.option("--add-cluster", is_flag=True, help="Add a slot to the file instead of writing it anew.")
@click.option("--log-file", default="", help="The module's log; standard error if not given.")
@click.option(
    "--log-level", type=click.Choice(["error", "warn", "info", "debug", "trace"]), default="warn", show_default=True
)
@click.option("--timeout-ms", type=click.IntRange(100, 600_000), default=5000, show_default=True)
@click.option(
    "--transport",
    type=click.Choice(modulecfg.TRANSPORTS),
    default=modulecfg.TRANSPORTS[0],
    show_default=True,
    help="auto: signatures and ciphers go by shared memory where it can be had; socket: never.",
)
def configure(
    *,
    system: bool,
    output: Path | None,
    partition: str,
    label: str,
    profile: str,
    disable_key_availability_check: bool,
    add_cluster: bool,
    log_file: str,
    log_level: str,
    timeout_ms: int,
    transport: str,
) -> None:
    """Write the PKCS#11 module's configuration.

    It has the shape of AWS's cloudhsm-pkcs11.cfg. The module looks at $HSMSIM_PKCS11_CONFIG, then the user's file,
    then the system's, then at the one that a simulator run by root keeps in /run/hsmsim. `hsmsim env` sets the
    variable: use --output and export it to override.
    """
    places = Places.resolve()
    fleet = state.load(places)
    options = modulecfg.Options(
        partition=partition,
        label=label,
        profile=profile,
        key_availability_check=not disable_key_availability_check,
        log_file=log_file,
        log_level=log_level,
        timeout_ms=timeout_ms,
        transport=transport,
    )
    path = output or (SYSTEM if system else _user_file())
    content = modulecfg.document(places, fleet.only_cluster(), fleet.account, options)
    if add_cluster and path.exists():
        content = _added(path, modulecfg.slot(places, fleet.only_cluster(), fleet.account, options))
    path.parent.mkdir(parents=True, exist_ok=True)
    state.write_private(path, modulecfg.encoded(content), mode=0o644)
    click.echo(f"Wrote {path}.")


def _added(path: Path, slot: dict[str, object]) -> dict[str, object]:
    try:
        content: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
        clusters = content["clusters"]
    except (ValueError, KeyError, TypeError) as error:
        raise HsmsimError(f"{path} is not a configuration of the module ({error}). Leave out --add-cluster.") from error
    if not isinstance(clusters, list):
        raise HsmsimError(f"{path}: `clusters` is not a list. Leave out --add-cluster to write the file anew.")
    return content | {"clusters": [*clusters, slot]}
