"""What the commands that write clients' configurations share: which cluster, which file; and `hsmsim configure-cli`."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from hsmsim.cli import login
from hsmsim.cli.cloudhsm import config
from hsmsim.cli.cloudhsm.tls import require_private
from hsmsim.config import SYSTEM_CONFIG, Places, user_config
from hsmsim.errors import HsmsimError
from hsmsim.fleet import customer, describe, locate, modulecfg, operations, state, tcp

if TYPE_CHECKING:
    from collections.abc import Callable

    Command = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Target:
    """The cluster that a configuration is for; the first one here if nothing is said."""

    addresses: tuple[str, ...] = ()
    cluster_id: str = ""
    endpoint: str = ""
    region: str = ""

    @property
    def named(self) -> bool:
        """Whether anything was said."""
        return bool(self.addresses or self.cluster_id)

    def where(self, places: Places) -> locate.Where:
        """Find its HSMs: by the API if there is an endpoint to ask, else in the fleet of the state folder."""
        api = describe.Api(self.endpoint, self.region) if self.endpoint else None
        if self.addresses:
            return describe.of_addresses(places, api, self.addresses)
        if self.cluster_id and api is not None:
            return describe.of_api(places, api, self.cluster_id)
        fleet = state.load(places)
        cluster = fleet.cluster(self.cluster_id) if self.cluster_id else fleet.only_cluster()
        return locate.of_fleet(places, fleet, cluster)


def target_options(command: Command) -> Command:
    """Add the options that say which cluster; the command gets them as `target`."""

    @click.option(
        "-a", "addresses", multiple=True, metavar="ADDRESS", help="An HSM's id, or its IP address; repeat it."
    )
    @click.option("--cluster-id", default="", help="The cluster; the first one here if not given.")
    @click.option(
        "--endpoint",
        envvar=["AWS_ENDPOINT_URL_CLOUDHSM_V2", "AWS_ENDPOINT_URL"],
        default="",
        show_envvar=True,
        help="URL to ask DescribeClusters at, with AWS credentials as for the AWS CLI. Else the state folder is read.",
    )
    @click.option("--region", default="", help=f"The cluster's; that of AWS_DEFAULT_REGION or {describe.REGION}.")
    @wraps(command)
    def wrapped(addresses: tuple[str, ...], cluster_id: str, endpoint: str, region: str, **others: Any) -> None:  # noqa: ANN401
        if addresses and cluster_id:
            raise click.UsageError("-a and --cluster-id exclude each other.")
        if region and not endpoint:
            raise click.UsageError("--region goes with --endpoint.")
        command(target=Target(addresses, cluster_id, endpoint, region), **others)

    return wrapped


def file_options(name: str, variable: str) -> Callable[[Command], Command]:
    """Add the options that say which file; the command gets it as `path`."""

    def wrap(command: Command) -> Command:
        @click.option("--system", is_flag=True, help=f"Write {SYSTEM_CONFIG / name}, for every user of this machine.")
        @click.option("--output", type=click.Path(path_type=Path), help=f"Write this file; name it in {variable}.")
        @click.option("--add-cluster", is_flag=True, help="Add a cluster to the file instead of writing it anew.")
        @wraps(command)
        def wrapped(*, system: bool, output: Path | None, **others: Any) -> None:  # noqa: ANN401
            command(path=output or (SYSTEM_CONFIG if system else user_config()) / name, **others)

        return wrapped

    return wrap


@dataclass(frozen=True, slots=True)
class Tls:
    """How HSMs are reached by TCP, if they are, and the files that this takes."""

    by_tcp: bool
    ca: Path | None
    certificate: Path | None
    key: Path | None

    def reached(self, places: Places, where: locate.Where, path: Path) -> tuple[locate.Where, modulecfg.Options]:
        """Return where the HSMs are, and the files as options; the cluster's trust anchor is written beside `path`."""
        if not self.by_tcp:
            self.require_tcp(by_tcp=False)
            return where, self.options(self.ca)
        reached = tcp.reach(places, where)
        return reached, self.options(self.ca or write_authority(places, reached, path))

    def options(self, ca: Path | None) -> modulecfg.Options:
        """Return the options of files, the others as they are by default."""
        if bool(self.certificate) != bool(self.key):
            raise click.UsageError("--client-cert-hsm-tls-file and --client-key-hsm-tls-file belong together.")
        if self.key:
            require_private(self.key)
        return modulecfg.Options(
            hsm_ca_file=str(ca or ""), client_cert_file=str(self.certificate or ""), client_key_file=str(self.key or "")
        )

    def require_tcp(self, *, by_tcp: bool) -> None:
        """HsmsimError where a client certificate would never be shown."""
        if self.certificate and not by_tcp:
            raise HsmsimError("HSMs that are reached by their sockets ask for no client certificate. Add --tls.")


def _file_option(name: str, help_: str) -> Callable[[Command], Command]:
    kind = click.Path(path_type=Path, exists=True, dir_okay=False, resolve_path=True)
    return click.option(name, type=kind, help=help_)


def tls_options(command: Command) -> Command:
    """Add the options of TLS; the command gets them as `tls`."""

    @click.option("--tls", is_flag=True, help="Reach the HSMs by TCP with TLS 1.3; see `hsmsim up --hsm-host`.")
    @_file_option("--hsm-ca-cert", "The root or chain that signed the cluster's CSR: customerCA.crt.")
    @_file_option("--client-cert-hsm-tls-file", "With --tls: a client certificate and those above it, PEM.")
    @_file_option("--client-key-hsm-tls-file", "Its key, PEM without a passphrase, which others may not read.")
    @wraps(command)
    def wrapped(
        *,
        tls: bool,
        hsm_ca_cert: Path | None,
        client_cert_hsm_tls_file: Path | None,
        client_key_hsm_tls_file: Path | None,
        **others: Any,  # noqa: ANN401
    ) -> None:
        command(tls=Tls(tls, hsm_ca_cert, client_cert_hsm_tls_file, client_key_hsm_tls_file), **others)

    return wrapped


def amended(path: Path, tls: Tls) -> bool:
    """Put files of TLS into a configuration that is there, as AWS's tools do where nothing else is given."""
    ctx = click.get_current_context()
    given = {name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    files = {"hsm_ca_cert", "client_cert_hsm_tls_file", "client_key_hsm_tls_file"}
    if not path.exists() or not given & files or given - files - {"system", "output"}:
        return False
    content, clusters = clusters_of(path)
    if len(clusters) != 1 or not isinstance(clusters[0], dict) or not isinstance(clusters[0].get("cluster"), dict):
        raise HsmsimError(f"{path} has not one cluster: say which one this is of with --cluster-id.")
    servers = clusters[0]["cluster"].get("servers", [])
    tls.require_tcp(by_tcp=not any("socket" in server for server in servers))
    inner = clusters[0]["cluster"] | modulecfg.files(tls.options(tls.ca))
    write(path, content | {"clusters": [clusters[0] | {"cluster": inner}]})
    return True


def write(path: Path, content: dict[str, object]) -> None:
    """Write the file, which everybody may read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state.write_private(path, modulecfg.encoded(content), mode=0o644)
    click.echo(f"Wrote {path}.")


def write_authority(places: Places, where: locate.Where, path: Path) -> Path:
    """Write a cluster's trust anchor beside a configuration, which everybody may read, too; return its place."""
    fleet = state.load(places)
    cluster_id = where.cluster_id or fleet.cluster_of(where.servers[0].socket.stem).cluster_id
    anchor = operations.certificates(places, cluster_id).trust_anchor
    if not anchor:
        raise HsmsimError(f"{cluster_id} has no certificate yet: initialize it first.")
    authority = path.absolute().with_name(customer.ROOT_CERTIFICATE)
    authority.parent.mkdir(parents=True, exist_ok=True)
    state.write_private(authority, anchor, mode=0o644)
    click.echo(f"Wrote {authority}.")
    return authority


def clusters_of(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a file that is there, and its clusters."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        clusters = content["clusters"]
    except (ValueError, KeyError, TypeError) as error:
        raise HsmsimError(f"{path} is not a configuration ({error}). Leave out --add-cluster.") from error
    if not isinstance(clusters, list):
        raise HsmsimError(f"{path}: `clusters` is not a list. Leave out --add-cluster to write the file anew.")
    return content, clusters


def added(path: Path, slot: dict[str, object]) -> dict[str, object]:
    """Return the file with one more cluster."""
    content, clusters = clusters_of(path)
    return content | {"clusters": [*clusters, slot]}


@click.command("configure-cli")
@target_options
@file_options(config.NAME, "HSMSIM_CLOUDHSM_CLI_CONFIG")
@tls_options
@login.partition_option
@click.option("--log-file", type=click.Path(path_type=Path, resolve_path=True), help="The log; else standard error.")
@click.option(
    "--log-level", type=click.Choice(["error", "warn", "info", "debug", "trace"]), default="warn", show_default=True
)
def configure(
    *,
    target: Target,
    path: Path,
    add_cluster: bool,
    tls: Tls,
    partition: str,
    log_file: Path | None,
    log_level: str,
) -> None:
    """Write the configuration of cloudhsm-cli.

    With nothing but --hsm-ca-cert, or the two options of a client certificate, these are put into a file that is
    there, as AWS's configure-cli does it. With --tls and without --hsm-ca-cert, the trust anchor that the cluster was
    initialized with is written beside it.
    """
    if amended(path, tls):
        return
    places = Places.resolve()
    where, files = tls.reached(places, target.where(places), path)
    options = replace(files, partition=partition, log_file=str(log_file or ""), log_level=log_level)
    if add_cluster and path.exists():
        write(path, added(path, modulecfg.slot(where, options)))
    else:
        write(path, modulecfg.document(where, options))
