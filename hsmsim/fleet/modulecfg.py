"""The module's configuration file: AWS's cloudhsm-pkcs11.cfg and a member `hsmsim` per cluster. No secret in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from hsmsim.fleet import state

if TYPE_CHECKING:
    from hsmsim.config import Places
    from hsmsim.fleet.state import Cluster

PORT = 2223
TRANSPORTS = ("auto", "socket")  # auto: shared memory where the HSM gives some
TOKEN = "hsmsim"  # noqa: S105 - a label


@dataclass(frozen=True, slots=True)
class Options:
    """What a person may choose; log_file empty: standard error."""

    partition: str = ""
    label: str = TOKEN
    profile: str = "general"
    key_availability_check: bool = True
    log_file: str = ""
    log_level: str = "warn"
    timeout_ms: int = 5000
    transport: str = TRANSPORTS[0]


def slot(places: Places, cluster: Cluster, account: str, options: Options) -> dict[str, object]:
    """Return one entry of `clusters`: one slot of the module."""
    servers = [
        {"hostname": hsm.hsm_id, "port": PORT, "enable": True, "socket": str(places.socket(hsm.hsm_id))}
        for hsm in cluster.hsms
    ]
    return {
        "type": "hsm2m",
        "cluster": {
            "cluster_id": cluster.cluster_id,
            "servers": servers,
            "options": {"disable_key_availability_check": not options.key_availability_check},
        },
        "hsmsim": {
            "partition": options.partition,
            "vantage": "",
            "uid": state.uid_of(account),
            "label": options.label,
        },
    }


def document(places: Places, cluster: Cluster, account: str, options: Options) -> dict[str, object]:
    """Return the whole file."""
    log: dict[str, object] = {"log_type": "term", "log_level": options.log_level}
    if options.log_file:
        log = {"log_type": "file", "log_file": options.log_file, "log_level": options.log_level}
    return {
        "clusters": [slot(places, cluster, account, options)],
        "logging": log,
        "hsmsim": {
            "profile": options.profile,
            "timeout_ms": options.timeout_ms,
            "transport": options.transport,
        },
    }


def encoded(content: dict[str, object]) -> bytes:
    """Return the file's bytes."""
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"
