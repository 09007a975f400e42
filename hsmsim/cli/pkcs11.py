"""`hsmsim configure-pkcs11`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from hsmsim.cli import configure as shared
from hsmsim.cli import login
from hsmsim.config import Places
from hsmsim.fleet import modulecfg

if TYPE_CHECKING:
    from pathlib import Path


@click.command("configure-pkcs11")
@shared.target_options
@shared.file_options("pkcs11.cfg", "HSMSIM_PKCS11_CONFIG")
@login.partition_option
@click.option("--label", default=modulecfg.TOKEN, show_default=True, help="The token's label.")
@click.option("--profile", type=click.Choice(["general", "cloudhsm"]), default="general", show_default=True)
@click.option(
    "--disable-key-availability-check", is_flag=True, help="Let keys be made while only one HSM can keep them."
)
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
@click.option(
    "--default-retry-mode",
    type=click.Choice(modulecfg.RETRY_MODES),
    default=modulecfg.RETRY_MODES[0],
    show_default=True,
    help="standard: what an HSM with a timing profile refuses is asked again for a second; off: it fails at once.",
)
@shared.tls_options
def configure(
    *,
    target: shared.Target,
    path: Path,
    partition: str,
    label: str,
    profile: str,
    disable_key_availability_check: bool,
    add_cluster: bool,
    log_file: str,
    log_level: str,
    timeout_ms: int,
    transport: str,
    default_retry_mode: str,
    tls: shared.Tls,
) -> None:
    """Write the PKCS#11 module's configuration.

    It has the shape of AWS's cloudhsm-pkcs11.cfg. The module looks at $HSMSIM_PKCS11_CONFIG, then the user's file,
    then the system's, then at the one that a simulator run by root keeps in /run/hsmsim. `hsmsim env` sets the
    variable: use --output and export it to override.

    With --tls and without --hsm-ca-cert, the trust anchor that the cluster was initialized with is written beside it.
    With nothing but --hsm-ca-cert, or the two options of a client certificate, these are put into a file that is there.
    """
    if shared.amended(path, tls):
        return
    places = Places.resolve()
    where, files = tls.reached(places, target.where(places), path)
    options = replace(
        files,
        partition=partition,
        label=label,
        profile=profile,
        key_availability_check=not disable_key_availability_check,
        log_file=log_file,
        log_level=log_level,
        timeout_ms=timeout_ms,
        transport=transport,
        retry_mode=default_retry_mode,
    )
    if add_cluster and path.exists():
        shared.write(path, shared.added(path, modulecfg.slot(where, options)))
    else:
        shared.write(path, modulecfg.document(where, options))
