"""The gateway's configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from hsmsim.config import FIRST_GATEWAY, GatewayFiles
from hsmsim.errors import HsmsimError

if TYPE_CHECKING:
    from typing import Self

DEFAULT_ACCOUNT: Final = "123456789012"
DEFAULT_PORT: Final = 4566
DEFAULT_TLS_PORT: Final = 4567


def _path(_type: type, value: object) -> Path:
    return Path(str(value))


class GatewayConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A JSON object with these members.

    home: the gateway's state folder; the database and the management socket are in it. name: which of several gateways
    that share the folder. database: the URL of a schema in PostgreSQL instead. port, tls_port: 0 takes a free
    one, null none. certificate, key: PEM files, for tls_port. ready: a file that is written, with the ports, when the
    gateway listens. clock: the simulated clock's file; without one simulated time is real time. fleet: the socket of
    the fleet's daemon. time_scale: how much of AWS's time a transition takes (0: none, 1: all of it). quotas: limits of
    an account that are other than AWS's defaults, by the names that the services document. unverified: decisions where
    nobody wrote down what AWS does, to be taken otherwise, by such names (services.cloudhsm.model.Unverified). events:
    CloudTrail events that are kept at most, the newest ones; a thousand take about 1.3 MB.
    """

    home: Path
    name: str = FIRST_GATEWAY
    database: str = ""
    host: str = "127.0.0.1"
    port: int | None = DEFAULT_PORT
    tls_port: int | None = None
    certificate: Path | None = None
    key: Path | None = None
    ready: Path | None = None
    accept_any_credentials: bool = False
    default_account: str = DEFAULT_ACCOUNT
    threads: int = 16
    events: int = 250_000
    clock: Path | None = None
    fleet: Path | None = None
    time_scale: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.0
    quotas: dict[str, Annotated[int, msgspec.Meta(ge=0)]] = {}
    unverified: dict[str, bool | float | str] = {}

    @classmethod
    def read(cls, path: Path) -> Self:
        """HsmsimError says what is wrong."""
        try:
            config = msgspec.json.decode(path.read_bytes(), type=cls, dec_hook=_path)
        except (OSError, msgspec.DecodeError) as error:
            raise HsmsimError(f"{path} is no configuration of a gateway: {error}.") from error
        if config.port is None and config.tls_port is None:
            raise HsmsimError(f"{path}: the gateway needs a port or a tls_port.")
        if config.tls_port is not None and not (config.certificate and config.key):
            raise HsmsimError(f"{path}: tls_port needs a certificate and a key.")
        if config.events < 1:
            raise HsmsimError(f"{path}: events must be at least 1, not {config.events}.")
        if not (len(config.default_account) == 12 and config.default_account.isdigit()):  # noqa: PLR2004 - AWS's length
            raise HsmsimError(f"{path}: an account id has twelve digits, not {config.default_account!r}.")
        return config

    @property
    def database_url(self) -> str:
        """The gateway's own database."""
        return self.database or f"sqlite:///{self.home / 'gateway.db'}"

    @property
    def socket(self) -> Path:
        """The management socket."""
        return GatewayFiles(self.home, self.name).socket
