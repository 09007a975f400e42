"""One HSM process from start to end.

Order: import everything (the interpreter may lie where only root can read), read the configuration, drop privileges,
claim the folder, harden (the engine does), get the masking key, open the vault, listen.
SIGTERM stops it in order. It always leaves by os._exit: SoftHSM2's destructors crash after OpenSSL's.
"""

from __future__ import annotations

import argparse
import base64
import codecs
import ctypes
import json
import logging
import os
import pwd
import secrets
import signal
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import sqlalchemy.dialects.sqlite

from hsmsim import faults
from hsmsim.clock import ClockAhead, SharedClock, SystemClock
from hsmsim.cluster.model import FIPS, NON_FIPS
from hsmsim.errors import HsmsimError, StorageError
from hsmsim.hsm import address, certify
from hsmsim.hsm.account import acting_as, become
from hsmsim.hsm.alone import claim
from hsmsim.hsm.engine import Engine
from hsmsim.hsm.firmware import dispatch
from hsmsim.hsm.firmware.follow import Follower
from hsmsim.hsm.firmware.index import Index
from hsmsim.hsm.firmware.state import Settings, State
from hsmsim.hsm.membership import Place, Restore, bootstrap
from hsmsim.hsm.peers import Links
from hsmsim.hsm.tcp import Port
from hsmsim.hsm.timing import PROFILES, UNLIMITED
from hsmsim.hsm.vault.vault import Vault
from hsmsim.storage.database import as_user, is_sqlite, obstruct
from hsmsim.storage.migrate import is_current, migrate

_LOG = logging.getLogger("hsmsim.hsm")
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # malloc.h
for _name in ("ascii", "latin-1", "idna"):  # loaded on first use otherwise, which may be after root is gone
    codecs.lookup(_name)


@dataclass(frozen=True, slots=True)
class Config:
    """config.json, as the fleet writes it.

    listen: the address of the TCP port; advertise: where HSMs of other hosts reach that.
    """

    hsm_id: str
    cluster_id: str
    database_url: str
    socket: str
    folder: Path
    engine: str
    softhsm_library: str
    availability_check: bool
    model: str
    workers: int
    mode: str = NON_FIPS
    clock: str = ""
    images: str = ""
    timing: str = ""
    restore: dict[str, str] | None = None
    listen: str = ""
    advertise: str = ""

    @classmethod
    def read(cls, path: Path) -> Config:
        """HsmsimError names what is missing or wrong."""
        try:
            raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            config = cls(**{**raw, "folder": Path(raw["folder"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise HsmsimError(
                f"{path} is no configuration of an HSM: {error}. Start HSMs with: hsmsim hsm start"
            ) from error
        if config.engine not in ("fast", "plain", "softhsm"):
            raise HsmsimError(f"{path}: engine is 'fast', 'plain' or 'softhsm', not {config.engine!r}")
        if config.timing not in ("", *PROFILES) or (config.timing and config.engine == "softhsm"):
            raise HsmsimError(
                f"{path}: timing is one of {', '.join(PROFILES)} with another engine than softhsm, or empty."
            )
        if config.mode not in (FIPS, NON_FIPS):
            raise HsmsimError(f"{path}: mode is {FIPS} or {NON_FIPS}, not {config.mode!r}")
        if config.advertise and not config.listen:
            raise HsmsimError(f"{path}: an HSM that others are to reach at {config.advertise} has to listen somewhere.")
        return config


def _place(config: Config) -> Place:
    restore = None
    if config.restore is not None:
        try:
            sealed = base64.b64decode(config.restore["sealed"], validate=True)
            restore = Restore(Path(config.restore["image"]), config.restore["incarnation"], sealed)
        except (KeyError, ValueError) as error:
            raise HsmsimError(f"The configuration does not say what to restore: {error}.") from error
    where = address.place(config.socket, config.advertise)
    return Place(config.database_url, config.cluster_id, config.hsm_id, where, config.folder, config.mode, restore)


def _is_current(url: str, user: str) -> bool:
    """Look as the user: another HSM may open the WAL's files just when root has made them and not given them away."""
    try:
        with acting_as(user):
            return is_current(url)
    except StorageError:
        return False  # a start that was killed left files of root's, or it is no database: root sees to it, or says so


def prepare(config: Config, user: str) -> None:
    """What needs files that only root may be able to read: the migrations. The database is the user's afterwards."""
    if not is_sqlite(config.database_url):
        migrate(as_user(config.database_url, user))
        return
    if _is_current(config.database_url, user):
        return
    migrate(config.database_url)
    path = sqlalchemy.make_url(config.database_url).database
    entry = pwd.getpwnam(user)
    if path:
        for file in Path(path).parent.glob(Path(path).name + "*"):
            with suppress(FileNotFoundError):  # the WAL goes with the last who has it open: another HSM that starts
                os.chown(file, entry.pw_uid, entry.pw_gid)


def _frugal() -> None:
    """Have freed memory go back to the system.

    glibc keeps it per thread, and stops mapping large blocks one by one after the first is freed: a few password hashes
    of 16 MiB then stay for good (measured: 124 instead of 60 MiB).
    """
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, 1 << 20)
    libc.mallopt(_M_ARENA_MAX, 2)


def _environment(config: Config) -> None:
    """SoftHSM2 reads a configuration of our own, whatever the machine's says."""
    softhsm = config.folder / "softhsm2.conf"
    tokens = config.folder / "tokens"
    softhsm.write_text(
        f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n",
        encoding="utf-8",
    )
    softhsm.chmod(0o600)
    os.environ["SOFTHSM2_CONF"] = str(softhsm)


def _obstacle(suffering: faults.Suffering, writes: bool) -> None:  # noqa: FBT001 - as obstruct() calls it
    suffering.fill_disk()
    if suffering.cut_from(faults.Cut.DATABASE):
        raise StorageError("This HSM is cut off from the database, by a fault that was asked for.")
    if writes and suffering.read_only:
        raise StorageError("The disk is read-only, by a fault that was asked for.")


def build(config: Config) -> State:
    """All parts, connected; nothing listens yet."""
    reference = config.engine == "softhsm"
    engine = Engine(
        workers=config.workers,
        reference=reference,
        batches=config.engine == "fast",
        boot=secrets.randbits(32),
        rates=PROFILES.get(config.timing, UNLIMITED),
    )
    if not engine.memory_locked:
        _LOG.info("RLIMIT_MEMLOCK is small: only the arena of keys is locked in memory.")
    suffering = faults.Suffering(config.folder / faults.FILE)
    engine.suffer(str(suffering.path))
    obstruct(partial(_obstacle, suffering))
    shared = SharedClock(Path(config.clock)) if config.clock else SystemClock()
    if config.clock:
        engine.clock(config.clock)
    clock = ClockAhead(shared, lambda: suffering.clock_s)
    replica = bootstrap(engine, _place(config), clock=clock)
    if replica.identity.version == 0 and replica.alarms:
        raise HsmsimError("The row with the cluster's mode was changed or is gone: restore the database.")
    certify.ensure(engine, replica, config.folder, config.model)
    engine.fips(on=replica.identity.mode == FIPS)
    links = Links(replica, engine, config.folder, clock=clock, cut=lambda: suffering.cut_from(faults.Cut.PEERS))
    index = Index(replica)
    vault = Vault(engine, replica, config.folder, config.softhsm_library)
    settings = Settings(
        config.hsm_id,
        config.cluster_id,
        config.availability_check,
        reference,
        config.model,
        config.folder,
        Path(config.images) if config.images else config.folder,
    )
    state = State(settings, engine, replica, links, vault, index, clock)
    replica.on_change.append(Follower(state).on_change)
    vault.open()
    return state


def run(config: Config) -> None:
    """Serve until SIGTERM, which this thread alone takes: another one could have it without Python's noticing."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # threads begin with what this one blocks
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    claim(config.folder)
    _environment(config)
    state = build(config)
    state.engine.listen(config.socket)
    if config.listen and state.replica.mtls.version == 0 and state.replica.alarms:
        _LOG.error("No TCP port: rows were changed, and whom it is to let in may have been in them. See the alarms.")
    elif config.listen:
        port = Port(state.engine, config.listen)
        state.replica.on_change.append(port.on_change)
        port.open(state.replica.identity, state.replica.mtls)
    state.links.start()
    state.engine.run()
    dispatcher = dispatch.Dispatcher(state)
    dispatcher.start()
    _LOG.info("%s serves %s at version %d.", config.hsm_id, config.cluster_id, state.replica.version)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    stop.wait()
    _LOG.info("%s stops.", config.hsm_id)
    dispatcher.stop()
    state.links.stop()
    state.engine.stop()
    state.vault.stop()


def main() -> NoReturn:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m hsmsim.hsm", description="One simulated HSM.")
    parser.add_argument("--config", type=Path, required=True, help="config.json that the fleet wrote")
    parser.add_argument("--user", help="give up root and run as this user")
    arguments = parser.parse_args()
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(threadName)s %(name)s: %(message)s"
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
    os.umask(0o077)
    _frugal()
    code = 1
    try:
        config = Config.read(arguments.config)
        if arguments.user:
            prepare(config, arguments.user)
            become(arguments.user)
        run(config)
        code = 0
    except HsmsimError as error:
        _LOG.error("%s", error)
    except Exception:  # noqa: BLE001 - the last edge
        _LOG.exception("The HSM ends because of a defect.")
    sys.stderr.flush()
    os._exit(code)
