"""Where the rows are: SQLite files in the state folder, or schemas of one PostgreSQL database.

Rules: chosen once, before there is anything; each cluster has a schema of its own, and so has the gateway. `LOCAL` is a
server of the simulator's own (`postgresql.LocalServer`), which starts and ends with it. A URL holds no password: libpq
finds it in a password file (`?passfile=`) or a service file, or the server takes the user by peer or certificate.
SQLAlchemy is imported for PostgreSQL only: where rows are in files, no command and no daemon waits for it.
"""

from __future__ import annotations

import os
import pwd
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from msgspec import structs

from hsmsim.errors import HsmsimError
from hsmsim.fleet import state
from hsmsim.fleet.postgresql import LocalServer

if TYPE_CHECKING:
    from hsmsim.config import Places

LOCAL: Final = "local"
GATEWAY_ACCOUNT: Final = "hsmsim-gateway"


def choose(places: Places, wanted: str) -> None:
    """Keep where the rows are to be: `LOCAL`, or the URL of a database. The caller holds the fleet's lock.

    HsmsimError where rows are elsewhere already, or the URL is none that can be kept.
    """
    fleet = state.load(places)
    if fleet.database == wanted:
        return
    if fleet.clusters or (places.gateway_home / "gateway.db").exists() or fleet.database:
        where = fleet.database or "files in the state folder"
        raise HsmsimError(f"The rows of this simulator are in {where} and stay there. For others: another HSMSIM_HOME.")
    if wanted != LOCAL:
        _check(wanted)
    state.save(places, structs.replace(fleet, database=wanted))


def _check(url: str) -> None:
    from sqlalchemy import make_url  # noqa: PLC0415 - see the module's docstring

    from hsmsim.storage.database import in_schema, is_sqlite  # noqa: PLC0415

    if is_sqlite(url):
        raise HsmsimError("SQLite's files are in the state folder; leave --database out for that.")
    if make_url(url).password:
        raise HsmsimError(
            "A password does not belong in the URL, which others can see: write it into a file of mode 0600 that the "
            "HSMs can read, in the form of PostgreSQL's .pgpass, and name that: postgresql://user@host/db?passfile=..."
        )
    in_schema(url, "hsmsim")


def url_of(places: Places, name: str) -> str:
    """The URL of what a cluster (its id) or `gateway` has in PostgreSQL; empty where rows are in SQLite."""
    chosen = state.load(places).database
    base = server(places).url if chosen == LOCAL else chosen
    if not base:
        return ""
    from hsmsim.storage.database import in_schema  # noqa: PLC0415 - see the module's docstring

    return in_schema(base, name.replace("-", "_"))


def drop(places: Places, cluster_id: str) -> None:
    """Remove a cluster's rows from PostgreSQL, if they are there."""
    url = url_of(places, cluster_id)
    if url:
        from hsmsim.storage.database import drop_schema  # noqa: PLC0415 - see the module's docstring

        drop_schema(url)


# ---- the server of one's own -------------------------------------------------------------------------------------


def server(places: Places) -> LocalServer:
    """The server, whether or not it was made."""
    return LocalServer(places.home / "postgresql", places.run, state.load(places).account)


def require_local(places: Places) -> LocalServer:
    """The server; HsmsimError where the rows are elsewhere."""
    if state.load(places).database != LOCAL:
        raise HsmsimError("This simulator has no PostgreSQL of its own. Start one that has: hsmsim up --database local")
    return server(places)


def start(places: Places) -> None:
    """Make and start the server, if there is to be one. The caller holds the fleet's lock."""
    if state.load(places).database != LOCAL:
        return
    local = server(places)
    local.make(_users())
    if local.pid is None:
        local.start()


def stop(places: Places) -> list[str]:
    """Stop the server, if there is one; its name if it ran."""
    if state.load(places).database != LOCAL or not server(places).made or server(places).pid is None:
        return []
    server(places).stop()
    return ["PostgreSQL"]


def _users() -> list[str]:
    users = [pwd.getpwuid(os.geteuid()).pw_name]
    with suppress(KeyError):
        users.append(pwd.getpwnam(GATEWAY_ACCOUNT).pw_name)
    return users
