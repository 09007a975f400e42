"""The commands. Each returns the `data` of its answer; main.py prints it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hsmsim.cli.cloudhsm import coverage, hardware, session
from hsmsim.cli.cloudhsm.mtls import mtls
from hsmsim.cli.cloudhsm.tree import Command, Group, cluster_option
from hsmsim.errors import CkrError, HsmsimError
from hsmsim.fleet import users
from hsmsim.fleet.access import Role, explain
from hsmsim.hsm.cryptoki import CKR
from hsmsim.hsm.messages import ActivateRequest, HsmInfoRequest

if TYPE_CHECKING:
    from hsmsim.cli.cloudhsm.session import Session
    from hsmsim.hsm.client import HsmClient

_TYPED_HELP = (
    "{}, in plain text: other users of this machine can read it while the command runs, and shells remember it. "
    "Asked for at the terminal if not given."
)
username_option = click.option("--username", required=True, help="Name of the user; upper and lower case are the same.")
role_option = click.option(
    "--role",
    required=True,
    type=click.Choice([role.value for role in session.ROLES]),
    help="A crypto-user has and uses keys; an admin manages users.",
)
new_password_option = click.option("--password", help=_TYPED_HELP.format("New password"))


# ---- cluster ---------------------------------------------------------------------------------------------------------


@click.group(cls=Group)
def cluster() -> None:
    """The cluster and its HSMs."""


cluster.add_command(mtls)


@cluster.command("hsm-info", cls=Command)
@cluster_option
@click.pass_obj
def hsm_info(held: Session, cluster_id: str) -> dict[str, Any]:
    """Say of each HSM what hardware it is. No login is needed."""
    clients = held.members(cluster_id).connect().values()
    return {"hsms": [hardware.document(client.call(HsmInfoRequest())) for client in clients if client is not None]}


_NOT_TO_ACTIVATE = {
    b"UNINITIALIZED": "The cluster is not initialized yet. Sign its CSR and call InitializeCluster first.",
    b"ACTIVE": "The cluster is active already: its admin has a password.",
}


@cluster.command("activate", cls=Command)
@cluster_option
@new_password_option
@click.pass_obj
def activate(held: Session, cluster_id: str, password: str | None) -> str:
    """Set the first admin's password, which makes an initialized cluster active. Once."""
    members = held.members(cluster_id)
    refused = _NOT_TO_ACTIVATE.get(members.info().state)
    if refused is not None:
        raise HsmsimError(refused)
    chosen = password if password is not None else session.ask(confirm=True)
    try:
        members.first().call(ActivateRequest(chosen.encode()))
    except CkrError as error:
        reasons = users.PASSWORD_REASONS | {CKR.FUNCTION_REJECTED: "somebody else was faster; the cluster is active"}
        raise explain(error, "Activating the cluster", reasons) from error
    return "Cluster activation successful"


# ---- login -----------------------------------------------------------------------------------------------------------


@click.command("login", cls=Command, not_built=("mfa-token-sign",))
@cluster_option
@username_option
@role_option
@click.option("--password", help=_TYPED_HELP.format("Password"))
@click.pass_obj
def login(held: Session, cluster_id: str, username: str, role: str, password: str | None) -> dict[str, str]:
    """Log in on every HSM of the cluster.

    In single-command mode the login ends with the command; set CLOUDHSM_ROLE and CLOUDHSM_PIN instead.
    """
    members = held.members(cluster_id)
    if members.user is not None:
        raise HsmsimError(f"{members.user[0]} ({members.user[1]}) is logged in already. First: logout")
    members.connect()
    session.login(members, username, Role(role), password if password is not None else session.ask(confirm=False))
    return _whom(username, role)


@click.command("logout", cls=Command)
@cluster_option
@click.pass_obj
def logout(held: Session, cluster_id: str) -> str:
    """Log out on every HSM of the cluster."""
    members = held.members(cluster_id)
    if members.user is None:
        raise HsmsimError("Nobody is logged in.")
    members.logout()
    return "Logout successful"


# ---- user ------------------------------------------------------------------------------------------------------------


@click.group(cls=Group, not_built=("change-mfa", "change-quorum", "replicate"))
def user() -> None:
    """Users of the cluster: admins and crypto users."""


def _whom(username: str, role: str) -> dict[str, str]:
    return {"username": username.lower(), "role": role}


@user.command("list", cls=Command)
@cluster_option
@click.pass_obj
def list_(held: Session, cluster_id: str) -> dict[str, Any]:
    """List the users, as every HSM of the cluster knows them. No login is needed."""

    def asked(client: HsmClient | None) -> list[users.User] | None:
        return None if client is None else users.users(client)

    return {"users": coverage.users([asked(client) for client in held.members(cluster_id).connect().values()])}


@user.command("create", cls=Command)
@cluster_option
@username_option
@role_option
@new_password_option
@click.pass_obj
def create(held: Session, cluster_id: str, username: str, role: str, password: str | None) -> dict[str, str]:
    """Make a user, as an admin.

    A name has up to 31 letters, digits and '_', a password 8 to 32 characters without ':'.
    """
    members = held.as_user(cluster_id)
    chosen = password if password is not None else session.ask(confirm=True)
    users.create(members.first(), username, Role(role), chosen)
    return _whom(username, role)


@user.command("delete", cls=Command)
@cluster_option
@username_option
@role_option
@click.pass_obj
def delete(held: Session, cluster_id: str, username: str, role: str) -> dict[str, str]:
    """Delete a user who has no keys and is not logged in, as an admin."""
    users.delete(held.as_user(cluster_id).first(), username, Role(role))
    return _whom(username, role)


@user.command("change-password", cls=Command)
@cluster_option
@username_option
@role_option
@new_password_option
@click.pass_obj
def change_password(held: Session, cluster_id: str, username: str, role: str, password: str | None) -> dict[str, str]:
    """Set a user's password: the own, or as an admin anybody's who is not logged in, which unlocks that user."""
    members = held.as_user(cluster_id)
    chosen = password if password is not None else session.ask(confirm=True)
    users.change_password(members.first(), username, Role(role), chosen)
    if members.user == (username.lower(), role):  # a new password ends the logins with the old one
        session.login(members, username, Role(role), chosen)
    return _whom(username, role)
