"""The fleet's daemon: the one process that starts HSMs and talks to the roots, for a gateway that may be another user.

Rules: it answers on RUN/fleet.sock to its own user, root, and the gateway's user, and to nobody else. HSMs are not its
children in spirit: they go on when it ends, and it finds them again by what the state folder says. An HSM that ends
unasked is reported, not started again: only a person knows whether that was a rehearsal.
"""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import pwd
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec

from hsmsim import frames
from hsmsim.config import Places
from hsmsim.errors import CkrError, HsmsimError
from hsmsim.fleet import faults, launch, operations, protocol, state
from hsmsim.fleet.protocol import Answer, Request
from hsmsim.hsm.client import peer_uid
from hsmsim.hsm.roots.process import Roots

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOG = logging.getLogger("hsmsim.fleet")
CONNECTIONS: Final = 32
LOOK_SECONDS: Final = 0.5


Operation = Callable[[Places, Roots, Any], Any]

OPERATIONS: Final[dict[type[Any], Operation]] = {
    protocol.CreateHsm: operations.create,
    protocol.StartHsm: lambda places, _, one: bool(operations.start(places, [one.hsm_id])),
    protocol.StopHsm: lambda places, _, one: bool(operations.stop(places, [one.hsm_id])),
    protocol.KillHsm: lambda places, _, one: operations.kill(places, one.hsm_id),
    protocol.DeleteHsm: lambda places, _, one: operations.delete(places, one.hsm_id),
    protocol.DeleteCluster: lambda places, _, one: operations.delete_cluster(places, one.cluster_id),
    protocol.Describe: lambda places, _, one: operations.describe(places, one.hsm_id),
    protocol.ListHsms: lambda places, _, one: operations.list_hsms(places, one.cluster_id),
    protocol.Certificates: lambda places, _, one: operations.certificates(places, one.cluster_id),
    protocol.Initialize: lambda places, _, one: operations.initialize(
        places, one.cluster_id, one.signed_certificate, one.trust_anchor
    ),
    protocol.LimitedWrite: lambda places, _, one: operations.limited_write(places, one.cluster_id, on=one.on),
    protocol.Backup: lambda places, roots, one: operations.backup(
        places, roots, one.cluster_id, one.image_id, one.region
    ),
    protocol.CopyImage: lambda places, roots, one: operations.copy_image(
        places, roots, one.source_id, one.image_id, one.region
    ),
    protocol.DescribeImage: lambda places, _, one: operations.describe_image(places, one.image_id),
    protocol.DeleteImage: lambda places, _, one: operations.delete_image(places, one.image_id),
    protocol.ListFaults: lambda places, _, __: faults.list_all(places),
    protocol.PutFaults: lambda places, _, one: faults.put(places, one.faults),
}


class Daemon:
    """Serves one state folder."""

    def __init__(self, places: Places, uids: frozenset[int]) -> None:
        self._places = places
        self._uids = uids
        self._roots = Roots(places.home)
        self._decoder: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
        self._stop = threading.Event()
        self._slots = threading.BoundedSemaphore(CONNECTIONS)
        self._told: set[str] = set()

    def serve(self, listener: socket.socket) -> None:
        """Answer until stop()."""
        self._roots.begin()
        threading.Thread(target=self._watch, name="watch", daemon=True).start()
        while not self._stop.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                break
            self._take(connection)
        self._roots.close()

    def stop(self) -> None:
        """Take no more connections."""
        self._stop.set()

    def _take(self, connection: socket.socket) -> None:
        uid = peer_uid(connection)
        if uid not in self._uids or not self._slots.acquire(blocking=False):
            _LOG.warning("A connection of uid %d is refused.", uid)
            connection.close()
            return
        threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rwb") as file:
                while (message := frames.read(file)) is not None:
                    frames.write(file, msgspec.msgpack.encode(self._answer(message)))
        except (OSError, frames.FrameError) as error:
            _LOG.info("A connection ended: %s", error)
        finally:
            self._slots.release()

    def _answer(self, message: bytes) -> Answer:
        try:
            request = self._decoder.decode(message)
            result = OPERATIONS[type(request)](self._places, self._roots, request)
            return Answer(msgspec.msgpack.encode(result))
        except CkrError as error:
            return Answer(error=str(error), rv=error.rv)
        except (HsmsimError, msgspec.DecodeError, OSError) as error:
            return Answer(error=str(error))
        except Exception:  # noqa: BLE001 - the last edge: a defect costs one answer, not the daemon
            _LOG.exception("A request failed because of a defect.")
            return Answer(error="The fleet's daemon has a defect; its log says which.")

    def _watch(self) -> None:
        """Say once that an HSM ended unasked; `describe` says DIED of it from then on."""
        while not self._stop.wait(LOOK_SECONDS):
            launch.reap()
            try:
                hsms = state.load(self._places).hsms()
            except HsmsimError as error:
                _LOG.error("%s", error)
                continue
            dead = {hsm.hsm_id for hsm in hsms if hsm.wanted and not launch.is_running(self._places, hsm.hsm_id)}
            for hsm_id in sorted(dead - self._told):
                _LOG.warning("%s does not run. Start it: hsmsim hsm start %s", hsm_id, hsm_id)
            self._told = dead


@contextmanager
def listening(places: Places, gateway: str) -> Iterator[socket.socket]:
    """The socket, which only its owner may connect to: the gateway's user, else ours."""
    with state.lock(places):
        state.make_run(places, state.load(places).account)
    lock = os.open(places.home / "fleet.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise HsmsimError(f"A fleet daemon of {places.home} runs already.") from None
    places.fleet_socket.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        former = os.umask(0o177)
        listener.bind(str(places.fleet_socket))
        os.umask(former)
        if gateway:
            os.chown(places.fleet_socket, pwd.getpwnam(gateway).pw_uid, -1, follow_symlinks=False)
        listener.listen(CONNECTIONS)
        yield listener
    finally:
        listener.close()
        places.fleet_socket.unlink(missing_ok=True)
        os.close(lock)


def main() -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m hsmsim.fleet", description="Starts and watches HSMs.")
    parser.add_argument("--gateway-user", default="", help="the user that the gateway runs as, if it is another one")
    arguments = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    places = Places.resolve()
    try:
        uids = {0, os.geteuid()} | ({pwd.getpwnam(arguments.gateway_user).pw_uid} if arguments.gateway_user else set())
        with listening(places, arguments.gateway_user) as listener:
            daemon = Daemon(places, frozenset(uids))

            def end(*_: object) -> None:
                daemon.stop()
                listener.shutdown(socket.SHUT_RDWR)

            signal.signal(signal.SIGTERM, end)
            signal.signal(signal.SIGINT, end)
            _LOG.info("The fleet of %s answers at %s.", places.home, places.fleet_socket)
            daemon.serve(listener)
    except KeyError:
        _LOG.error("There is no user %s.", arguments.gateway_user)
        return 1
    except HsmsimError as error:
        _LOG.error("%s", error)
        return 1
    return 0
