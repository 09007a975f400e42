"""Which services the gateway has. A new one is added here, with what it needs, and nowhere else."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Final

from hsmsim.config import Places
from hsmsim.crypto.seal import SealBroken
from hsmsim.errors import HsmsimError
from hsmsim.gateway.ports import Parts, Ports
from hsmsim.services.cloudhsm import api as cloudhsm
from hsmsim.services.cloudhsm import rules as cloudhsm_rules
from hsmsim.services.cloudhsm.worker import Worker
from hsmsim.services.cloudtrail import api as cloudtrail
from hsmsim.services.cloudtrail import retention
from hsmsim.services.cloudtrail.store import History
from hsmsim.services.ec2 import api as ec2
from hsmsim.services.iam import api as iam
from hsmsim.services.iam import bootstrap
from hsmsim.services.iam.accounts import Accounts
from hsmsim.services.iam.authorizer import IamAuthorizer
from hsmsim.services.iam.directory import Directory
from hsmsim.services.iam.roles import LinkedRoles
from hsmsim.services.sts import api as sts

if TYPE_CHECKING:
    from hsmsim.services.kernel import Service

_LOG: Final = logging.getLogger("hsmsim.gateway")


def build(ports: Ports) -> Parts:
    """All of them, connected."""
    directory = open_directory(ports)
    hsm_service, hsm_worker, desk = build_cloudhsm(ports, directory)
    return Parts(
        services=(
            iam.build(directory),
            sts.build(directory),
            cloudtrail.build(),
            ec2.build(ports.database),
            hsm_service,
        ),
        credentials=directory,
        authorizer=IamAuthorizer(directory),
        recorder=History(lambda: ports.wake(retention.NAME)),
        reconcilers=(retention.Retention(ports.database, ports.led, ports.clock, ports.events), hsm_worker),
        memory=directory,
        routes=Accounts(ports.writer, directory, ports.ids, ports.clock).routes() | desk.routes(),
    )


def build_cloudhsm(ports: Ports, directory: Directory) -> tuple[Service, Worker, cloudhsm.Desk]:
    """CloudHSM, what makes HSM processes follow its rows, and the operator's calls about backups."""
    settings = cloudhsm_rules.settings(ports.time_scale, ports.quotas, ports.unverified)
    network = ec2.network(ports.clock, ports.ids)
    holds = cloudhsm.CloudHsm(network, LinkedRoles(directory), settings, ports.wake)
    worker = Worker(ports.database, ports.led, ports.clock, ports.ids, ports.fleet, network, settings)
    return cloudhsm.build(holds), worker, cloudhsm.Desk(ports.writer, holds)


def open_directory(ports: Ports) -> Directory:
    """IAM's memory; the default account and its root key are made at the first start."""
    places = Places.resolve({**os.environ, "HSMSIM_HOME": str(ports.home)})
    directory = Directory(bootstrap.load_seal(places), ports.clock, ports.forget_key)
    made = bootstrap.ensure_root(places, ports.writer, directory, ports.ids, ports.default_account, ports.clock.time())
    if made is not None:
        _LOG.info("Account %s is new; the key of its root user is in %s.", made.account, places.root_key_file)
    with ports.database.read() as connection:
        try:
            directory.catch_up(connection)
        except SealBroken as error:
            raise HsmsimError(
                f"The secrets in the gateway's database do not open with {places.gateway_key_file}. Gateways that "
                "share a database share their state folder: start this one there, or give it a database of its own."
            ) from error
    return directory
