"""`cluster mtls`: trust anchors of clients' certificates, and whether such a certificate is wanted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hsmsim.cli.cloudhsm import coverage
from hsmsim.cli.cloudhsm.tree import Command, Group, cluster_option
from hsmsim.fleet import mtls as anchors
from hsmsim.fleet.mtls import Level, reference_text

if TYPE_CHECKING:
    from hsmsim.cli.cloudhsm.members import Members
    from hsmsim.cli.cloudhsm.session import Session

_APPROVAL = ("--approval",)


def _reference(_ctx: click.Context, _param: click.Parameter, value: str) -> int:
    """A small number, decimal or hexadecimal."""
    text = value.lower()
    try:
        number = int(text, 16) if text.startswith("0x") else int(text)
    except ValueError:
        number = -1
    if not 0 <= number <= 0xFF:  # noqa: PLR2004 - a byte on the wire
        raise click.BadParameter(f"{value!r} is no reference, such as 0x01")
    return number


@click.group(cls=Group)
def mtls() -> None:
    """Client certificates where HSMs are reached by TCP."""


def _documents(members: Members) -> list[dict[str, object]]:
    clients = members.connect().values()
    return coverage.anchors([None if client is None else anchors.anchors(client) for client in clients])


@mtls.command("register-trust-anchor", cls=Command, not_built=_APPROVAL)
@cluster_option
@click.option("--path", type=click.Path(path_type=Path), required=True, help="The certificate, PEM.")
@click.pass_obj
def register(held: Session, cluster_id: str, path: Path) -> dict[str, object]:
    """Let clients with a certificate that this one issued in, as an admin. There are at most two trust anchors.

    One that is not self-signed is followed by those above it in order; together they have at most 6980 bytes.
    """
    members = held.as_user(cluster_id)
    reference = reference_text(anchors.register(members.first(), path))
    found = (one for one in _documents(members) if one["certificate-reference"] == reference)
    return {"trust_anchor": next(found, {"certificate-reference": reference})}


@mtls.command("deregister-trust-anchor", cls=Command, not_built=_APPROVAL)
@cluster_option
@click.option("--certificate-reference", callback=_reference, required=True, help="As list-trust-anchors shows it.")
@click.pass_obj
def deregister(held: Session, cluster_id: str, certificate_reference: int) -> dict[str, str]:
    """Remove a trust anchor, as an admin. Connections with a certificate that it issued are closed."""
    anchors.deregister(held.as_user(cluster_id).first(), certificate_reference)
    return {"message": f"Trust anchor with reference {reference_text(certificate_reference)} deregistered successfully"}


@mtls.command("list-trust-anchors", cls=Command)
@cluster_option
@click.pass_obj
def list_(held: Session, cluster_id: str) -> dict[str, object]:
    """List the trust anchors, as every HSM of the cluster knows them. No login is needed."""
    return {"trust_anchors": _documents(held.members(cluster_id))}


@mtls.command("get-enforcement", cls=Command)
@cluster_option
@click.pass_obj
def get_enforcement(held: Session, cluster_id: str) -> dict[str, str]:
    """Say whether a client certificate is wanted. Any login will do."""
    return {"mtls-enforcement-level": str(anchors.level(held.as_user(cluster_id).first()))}


@mtls.command("set-enforcement", cls=Command, not_built=_APPROVAL)
@cluster_option
@click.option(
    "--level",
    type=click.Choice([level.value for level in Level]),
    required=True,
    help="cluster: nobody is let in by TCP without a client certificate, and connections without one are closed.",
)
@click.pass_obj
def set_enforcement(held: Session, cluster_id: str, level: str) -> dict[str, str]:
    """Say whether a client certificate is wanted, as the user admin, over a connection that shows one."""
    anchors.enforce(held.as_user(cluster_id).first(), Level(level))
    return {"message": f"Mtls enforcement level set to {level.capitalize()} successfully"}
