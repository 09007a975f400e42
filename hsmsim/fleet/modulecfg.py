"""The module's configuration file: AWS's cloudhsm-pkcs11.cfg and a member `hsmsim` per cluster. No secret in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from hsmsim.fleet.locate import Server, Where

PORT = 2223
TRANSPORTS = ("auto", "socket")  # auto: shared memory where the HSM gives some
RETRY_MODES = ("standard", "off")  # of what a throttled HSM refuses
TOKEN = "hsmsim"  # noqa: S105 - a label


@dataclass(frozen=True, slots=True)
class Options:
    """What a person may choose. log_file empty: standard error.

    hsm_ca_file: the customer's CA, which TCP needs; client_cert_file and client_key_file: what is shown to HSMs there.
    """

    partition: str = ""
    label: str = TOKEN
    profile: str = "general"
    key_availability_check: bool = True
    log_file: str = ""
    log_level: str = "warn"
    timeout_ms: int = 5000
    transport: str = TRANSPORTS[0]
    hsm_ca_file: str = ""
    client_cert_file: str = ""
    client_key_file: str = ""
    retry_mode: str = RETRY_MODES[0]


def _server(server: Server) -> dict[str, object]:
    """The module takes one with a socket for this machine's; by TCP it is as in AWS's file."""
    if server.port:
        return {"hostname": server.hostname, "port": server.port, "enable": True}
    return {"hostname": server.hostname, "port": PORT, "enable": True, "socket": str(server.socket)}


def files(options: Options) -> dict[str, str]:
    """Return the members that name files of TLS, without those that name none."""
    named = {
        "hsm_ca_file": options.hsm_ca_file,
        "client_cert_hsm_tls_path": options.client_cert_file,
        "client_key_hsm_tls_path": options.client_key_file,
    }
    return {member: path for member, path in named.items() if path}


def slot(where: Where, options: Options) -> dict[str, object]:
    """Return one entry of `clusters`: one slot of the module."""
    servers = [_server(server) for server in where.servers]
    cluster: dict[str, object] = {
        "cluster_id": where.cluster_id,
        "servers": servers,
        "options": {"disable_key_availability_check": not options.key_availability_check},
    }
    cluster |= files(options)
    return {
        "type": where.hsm_type.partition(".")[0],
        "cluster": cluster,
        "hsmsim": {"partition": options.partition, "vantage": "", "uid": where.uid, "label": options.label},
    }


def document(where: Where, options: Options) -> dict[str, object]:
    """Return the whole file."""
    log: dict[str, object] = {"log_type": "term", "log_level": options.log_level}
    if options.log_file:
        log = {"log_type": "file", "log_file": options.log_file, "log_level": options.log_level}
    return {
        "clusters": [slot(where, options)],
        "logging": log,
        "hsmsim": {
            "profile": options.profile,
            "timeout_ms": options.timeout_ms,
            "transport": options.transport,
            "retry_mode": options.retry_mode,
        },
    }


def encoded(content: dict[str, object]) -> bytes:
    """Return the file's bytes."""
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"
