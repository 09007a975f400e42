"""HSMs without the engine, for tests of the rows and of the links between HSMs.

Device keys, masking key and sockets are Python; the tests of the real engine are elsewhere.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hsmsim.errors import CkrError
from hsmsim.hsm import membership
from hsmsim.hsm.cryptoki import CKR
from hsmsim.hsm.messages import HelloResponse, Op
from hsmsim.hsm.peers import Links
from hsmsim.hsm.roots import devices
from hsmsim.hsm.roots.authority import manufacture
from hsmsim.hsm.wire import RESPONSE, Header

if TYPE_CHECKING:
    from hsmsim.cluster.replica import Replica

CLUSTER = "cluster-aaaaaaaaaaa"
NEVER = (1 << 64) - 1
"""Until when an engine serves that was told nothing."""


class PythonEngine:
    def __init__(self) -> None:
        self.deadline = NEVER
        self.peers: set[int] = set()
        self._masking = b""
        self._device = b""

    def mac(self, purpose: str, data: bytes) -> bytes:
        assert self._masking, "no masking key yet"
        derived = hmac.new(self._masking, purpose.encode(), hashlib.sha256).digest()
        return hmac.new(derived, data, hashlib.sha256).digest()

    def device_load(self, path: str) -> None:
        self._device = HKDF(hashes.SHA256(), 32, None, devices.DEVICE_INFO).derive(Path(path).read_bytes())

    def device_public(self) -> bytes:
        return X25519PrivateKey.from_private_bytes(self._device).public_key().public_bytes_raw()

    def masking_create(self) -> None:
        if self._masking:
            raise CkrError(CKR.FUNCTION_REJECTED)
        self._masking = os.urandom(32)

    def masking_seal(self, peer: bytes, context: bytes) -> bytes:
        ephemeral = X25519PrivateKey.generate()
        shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(peer))
        nonce = os.urandom(12)
        sealed = AESGCM(self._key(shared, context)).encrypt(nonce, self._masking, None)
        return ephemeral.public_key().public_bytes_raw() + nonce + sealed

    def masking_open(self, sealed: bytes, context: bytes) -> None:
        if self._masking:
            raise CkrError(CKR.FUNCTION_REJECTED)
        private = X25519PrivateKey.from_private_bytes(self._device)
        try:
            shared = private.exchange(X25519PublicKey.from_public_bytes(sealed[:32]))
            self._masking = AESGCM(self._key(shared, context)).decrypt(sealed[32:44], sealed[44:], None)
        except (InvalidTag, ValueError) as error:
            raise CkrError(CKR.FUNCTION_FAILED) from error

    @staticmethod
    def _key(shared: bytes, context: bytes) -> bytes:
        return HKDF(hashes.SHA256(), 32, None, context).derive(shared)

    def serve_until(self, deadline: int) -> None:
        self.deadline = deadline

    def client_peer(self, client: int) -> None:
        self.peers.add(client)


@dataclass(frozen=True, slots=True)
class Request:
    op: int
    client: int
    payload: bytes


class PythonHsm:
    """A member that answers on its socket what HSMs say to each other."""

    def __init__(self, home: Path, hsm_id: str, url: str) -> None:
        self.engine = PythonEngine()
        self.place = membership.Place(url, CLUSTER, hsm_id, str(home / f"{hsm_id}.sock"), home / "hsms" / hsm_id)
        if not self.place.folder.exists():
            manufacture(home, hsm_id)
        self.replica: Replica = membership.bootstrap(self.engine, self.place)
        self.links = Links(self.replica, self.engine, self.place.folder)
        self.paused = threading.Event()
        self.beats = 0
        self._connections: list[socket.socket] = []
        self._stopped = False
        self._listener = socket.socket(socket.AF_UNIX)
        Path(self.place.socket).unlink(missing_ok=True)
        self._listener.bind(self.place.socket)
        self._listener.listen(16)
        threading.Thread(target=self._accept, daemon=True).start()
        self.links.start()

    def _accept(self) -> None:
        while not self._stopped:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection, len(self._connections)), daemon=True).start()

    def _serve(self, connection: socket.socket, client: int) -> None:
        with suppress(OSError, EOFError), connection:
            while True:
                header = Header.decode(self._take(connection, Header.SIZE))
                payload = self._take(connection, header.length)
                while self.paused.is_set():
                    self.paused.wait(0.01)
                    threading.Event().wait(0.01)
                word, answer = self._answer(Request(header.op, client, payload))
                connection.sendall(Header(len(answer), header.op | RESPONSE, header.seq, word).encode() + answer)
        self.links.forget(client)

    def _answer(self, request: Request) -> tuple[int, bytes]:
        if request.op == Op.HELLO:
            return 0, HelloResponse(request.client, b"", self.place.hsm_id.encode(), CLUSTER.encode(), 1, 0).encode()
        if request.op in {Op.PEER_BEAT, Op.PEER_SYNC} and request.client not in self.engine.peers:
            return CKR.USER_NOT_LOGGED_IN, b""
        self.beats += request.op == Op.PEER_BEAT
        try:
            return 0, self.links.handle(request, self.engine)
        except CkrError as error:
            return error.rv, b""

    @staticmethod
    def _take(connection: socket.socket, length: int) -> bytes:
        data = b""
        while len(data) < length:
            part = connection.recv(length - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def kill(self) -> None:
        self._stopped = True
        self.links.stop()
        for end in (self._listener, *self._connections):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self.replica.close()
