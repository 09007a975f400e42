"""The engine (native/engine) as Python sees it: bytes in, bytes out, a CkrError for every CK_RV but CKR_OK.

Calls release the interpreter's lock. Nothing here holds a plaintext key, a password or a PIN: they are named by the
request and offset where they stand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from hsmsim.errors import CkrError, HsmsimError
from hsmsim.hsm import _engine
from hsmsim.hsm.cryptoki import CKR, ERROR_TEXT
from hsmsim.hsm.timing import UNLIMITED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hsmsim.hsm.messages import Mechanism
    from hsmsim.hsm.timing import Rates

_ffi: Any = _engine.ffi
_lib: Any = _engine.lib
_Raw = Any  # what cffi hands out has no types

CLIENT_GONE: Final = 0xFFFF
MATERIAL_MAX: Final = 8192
SEALED_BYTES: Final = 92
PUBLIC_BYTES: Final = 32
DIGEST_BYTES: Final = 32
KEY_PRIVATE: Final = 1
KEY_TOKEN: Final = 2


@dataclass(frozen=True, slots=True)
class Request:
    """A request that Python answers. payload has its secrets zeroed; miss: a hot operation on a key not loaded.

    party: who takes turns with others, a user of this machine or an address; certified: the connection has shown a
    client certificate of a trust anchor.
    """

    id: int
    client: int
    session: int
    op: int
    pid: int
    uid: int
    party: int
    miss: bool
    certified: bool
    payload: bytes


@dataclass(frozen=True, slots=True)
class Material:
    """A key for the engine: masked bytes of a secret or private key, SubjectPublicKeyInfo of a public one."""

    object_class: int
    key_type: int
    data: bytes


@dataclass(frozen=True, slots=True)
class TlsClients:
    """What the TCP port asks of its clients. anchors: PEM of those whose certificates are good; enforced: show one."""

    anchors: bytes = b""
    enforced: bool = False


@dataclass(frozen=True, slots=True)
class Key:
    """A key with the rights that the hot path checks; fields as he_key's."""

    handle: int
    partition: int
    client: int
    usage: int
    flags: int
    users: tuple[int, ...]
    allowed: tuple[int, ...]
    material: Material


@dataclass(frozen=True, slots=True)
class Splice:
    """Insert the value of an attribute of a key at an offset of a reply."""

    offset: int
    attribute: int
    material: Material


@dataclass(frozen=True, slots=True)
class Counts:
    """he_counts."""

    connections: int
    clients: int
    keys: int
    rings: int
    hot_operations: int
    misses: int
    refused_frames: int


def check(rv: int) -> None:
    """CkrError for anything but CKR_OK."""
    if rv != CKR.OK:
        text = ERROR_TEXT.get(rv, "")
        raise CkrError(rv, f"the engine answered 0x{rv:08X} {text}".rstrip())


class Engine:
    """One engine; the process has exactly one, for as long as it lives."""

    def __init__(
        self,
        *,
        workers: int = 0,
        reference: bool = False,
        batches: bool = True,
        boot: int = 0,
        max_keys: int = 0,
        rates: Rates = UNLIMITED,
    ) -> None:
        config = _ffi.new("he_config *")
        config.workers, config.reference, config.boot, config.max_keys = workers, int(reference), boot, max_keys
        config.unbatched = int(not batches)
        config.rsa_rate, config.ec_rate = rates.rsa_2048, rates.p_256
        error = _ffi.new("char[256]")
        self._engine = _lib.he_create(config, error, 256)
        if self._engine == _ffi.NULL:
            message = f"The engine did not start: {_ffi.string(error).decode()}"
            raise HsmsimError(message)

    def stop(self) -> None:
        """Stop threads and sockets, wipe keys."""
        _lib.he_stop(self._engine)

    @property
    def memory_locked(self) -> bool:
        """Whether all memory of the process is locked."""
        return bool(_lib.he_memory_locked(self._engine))

    # ---- device, masking key, vault ------------------------------------------------------------------------------

    def device_load(self, path: str) -> None:
        """Read the seed."""
        check(_lib.he_device_load(self._engine, path.encode()))

    def device_public(self) -> bytes:
        """X25519 public key of the device."""
        return self._fixed(32, _lib.he_device_public)

    def device_signer(self) -> bytes:
        """SubjectPublicKeyInfo of the hardware key."""
        return self._variable(lambda out, size: _lib.he_device_signer(self._engine, out, size))

    def device_sign(self, digest: bytes) -> bytes:
        """ECDSA signature (DER) of a SHA-256 digest with the hardware key."""
        if len(digest) != DIGEST_BYTES:
            raise CkrError(CKR.DATA_LEN_RANGE, f"a SHA-256 digest has {DIGEST_BYTES} bytes")
        return self._variable(lambda out, size: _lib.he_device_sign(self._engine, digest, out, size))

    def masking_create(self) -> None:
        """Make the cluster's masking key."""
        check(_lib.he_masking_create(self._engine))

    def masking_seal(self, peer: bytes, context: bytes) -> bytes:
        """The masking key sealed to a device."""
        out = _ffi.new("uint8_t[92]")
        check(_lib.he_masking_seal(self._engine, peer, context, len(context), out))
        return bytes(out)

    def masking_open(self, sealed: bytes, context: bytes) -> None:
        """Take the masking key sealed to this device."""
        if len(sealed) != SEALED_BYTES:
            raise CkrError(CKR.ARGUMENTS_BAD, f"a sealed masking key has {SEALED_BYTES} bytes")
        check(_lib.he_masking_open(self._engine, sealed, context, len(context)))

    def masking_reseal(self, sealed: bytes, context: bytes, peer: bytes, new_context: bytes) -> bytes:
        """A masking key that is sealed to this device, sealed anew to another."""
        if len(sealed) != SEALED_BYTES or len(peer) != PUBLIC_BYTES:
            raise CkrError(CKR.ARGUMENTS_BAD, f"a sealed masking key has {SEALED_BYTES} bytes")
        out = _ffi.new("uint8_t[92]")
        contexts = (context, len(context)), (new_context, len(new_context))
        check(_lib.he_masking_reseal(self._engine, sealed, *contexts[0], peer, *contexts[1], out))
        return bytes(out)

    def mac(self, purpose: str, data: bytes) -> bytes:
        """HMAC-SHA256 under a key derived from the masking key for this purpose."""
        out = _ffi.new("uint8_t[32]")
        check(_lib.he_mac(self._engine, purpose.encode(), data, len(data), out))
        return bytes(out)

    def vault_bind(self, library: str) -> None:
        """Use the SoftHSM2 that python-pkcs11 has loaded."""
        check(_lib.he_vault_bind(self._engine, library.encode()))

    def vault_init_token(self, slot: int, partition: int, label: str) -> None:
        """Initialise a token."""
        check(_lib.he_vault_init_token(self._engine, slot, partition, label.encode().ljust(32)[:32]))

    def vault_unlock(self, slot: int, partition: int) -> int:
        """Log in for life; the handle of the masking key."""
        out = _ffi.new("uint64_t *")
        check(_lib.he_vault_unlock(self._engine, slot, partition, out))
        return int(out[0])

    # ---- server --------------------------------------------------------------------------------------------------

    def listen(self, path: str) -> None:
        """Open the socket."""
        check(_lib.he_listen(self._engine, path.encode()))

    def clock(self, path: str) -> None:
        """Take simulated time, by which clients' certificates are judged, from the real one and this file."""
        check(_lib.he_clock(self._engine, path.encode()))

    def listen_tls(self, address: str, port: int, chain: bytes, key: Material, clients: TlsClients) -> None:
        """Open the TCP port with this certificate (PEM, then its issuers' but the root's); HsmsimError says why not."""
        keep: list[Any] = []
        material, wanted, error = self._material(key, keep), self._clients(clients, keep), _ffi.new("char[256]")
        rv = _lib.he_listen_tls(self._engine, address.encode(), port, chain, len(chain), material, wanted, error, 256)
        if rv != CKR.OK:
            reason = _ffi.string(error).decode(errors="replace") or ERROR_TEXT.get(rv, "")
            raise HsmsimError(f"This HSM cannot listen at {address}, port {port}: {reason}.")

    def tls_clients(self, clients: TlsClients) -> None:
        """Ask this from now on; connections that it would not let in are closed when this returns."""
        check(_lib.he_tls_clients(self._engine, self._clients(clients, [])))

    @staticmethod
    def _clients(clients: TlsClients, keep: list[Any]) -> _Raw:
        anchors = _ffi.from_buffer(clients.anchors)
        keep.append(anchors)
        return _ffi.new("he_clients *", (anchors, len(clients.anchors), int(clients.enforced)))

    def run(self) -> None:
        """Start the threads."""
        check(_lib.he_run(self._engine))

    def serve_until(self, deadline: int) -> None:
        """Let hot operations go on until this CLOCK_MONOTONIC time in nanoseconds."""
        _lib.he_serve_until(self._engine, deadline)

    def fips(self, *, on: bool) -> None:
        """FIPS mode: the hot path refuses what the mechanism table forbids there."""
        _lib.he_fips(self._engine, int(on))

    def suffer(self, path: str) -> None:
        """Suffer the faults that this file says, from now on."""
        check(_lib.he_faults(self._engine, path.encode()))

    def epoch_bump(self) -> None:
        """Make clients drop what they cached."""
        _lib.he_epoch_bump(self._engine)

    def next(self, timeout_ms: int) -> Request | None:
        """The next request, None after the timeout; EOFError when stopped."""
        out = _ffi.new("he_request *")
        got = _lib.he_next(self._engine, out, timeout_ms)
        if got < 0:
            raise EOFError
        if got == 0:
            return None
        payload = bytes(_ffi.buffer(out.payload, out.len)) if out.len else b""
        flags = bool(out.miss), bool(out.certified)
        return Request(out.id, out.client, out.session, out.op, out.pid, out.uid, out.party, *flags, payload)

    def reply(self, request: int, rv: int, payload: bytes = b"") -> None:
        """Answer a request."""
        check(_lib.he_reply(self._engine, request, rv, payload, len(payload)))

    def reply_spliced(self, request: int, rv: int, payload: bytes, splices: Sequence[Splice]) -> None:
        """Answer a request with values that only the engine may see in clear."""
        keep: list[Any] = []
        raw = _ffi.new("he_splice[]", max(len(splices), 1))
        for at, splice in zip(raw, splices, strict=False):
            at.offset, at.attribute = splice.offset, splice.attribute
            self._fill(at.material, splice.material, keep)
        check(_lib.he_reply_spliced(self._engine, request, rv, payload, len(payload), raw, len(splices)))

    def retry(self, request: int) -> None:
        """Run a hot operation again, now that its key is loaded."""
        check(_lib.he_retry(self._engine, request))

    # ---- clients -------------------------------------------------------------------------------------------------

    def client_bind(self, client: int, partition: int) -> None:
        """HELLO is accepted."""
        check(_lib.he_client_bind(self._engine, client, partition))

    def client_cookie(self, client: int) -> bytes:
        """What further connections of the client show."""
        out = _ffi.new("uint8_t[16]")
        check(_lib.he_client_cookie(self._engine, client, out))
        return bytes(out)

    def client_user(self, client: int, user: int, role: int) -> None:
        """Who is logged in; user 0 logs out."""
        check(_lib.he_client_user(self._engine, client, user, role))

    def client_peer(self, client: int) -> None:
        """The client is another HSM and has proved it."""
        check(_lib.he_client_peer(self._engine, client))

    def client_open_sessions(self, client: int, ids: Sequence[int]) -> None:
        """Sessions are open."""
        check(_lib.he_client_open_sessions(self._engine, client, list(ids), len(ids)))

    def client_close_sessions(self, client: int, ids: Sequence[int]) -> None:
        """Sessions are closed; none named: all."""
        check(_lib.he_client_close_sessions(self._engine, client, list(ids), len(ids)))

    def client_kick(self, client: int) -> None:
        """Close the client's connections."""
        check(_lib.he_client_kick(self._engine, client))

    # ---- keys ----------------------------------------------------------------------------------------------------

    @staticmethod
    def _fill(raw: _Raw, material: Material, keep: list[_Raw]) -> None:
        data = _ffi.from_buffer("uint8_t[]", material.data)
        keep.append(data)
        raw.object_class, raw.key_type, raw.data, raw.len = material.object_class, material.key_type, data, len(data)

    def _material(self, material: Material, keep: list[_Raw]) -> _Raw:
        raw = _ffi.new("he_material *")
        self._fill(raw, material, keep)
        return raw

    def key_load(self, key: Key) -> None:
        """Hold an unwrapped key, or replace it."""
        keep: list[Any] = []
        raw = _ffi.new("he_key *")
        users, allowed = _ffi.new("uint64_t[]", list(key.users)), _ffi.new("uint64_t[]", list(key.allowed))
        raw.handle, raw.partition, raw.client = key.handle, key.partition, key.client
        raw.usage, raw.flags = key.usage, key.flags
        raw.users, raw.user_count, raw.allowed, raw.allowed_count = users, len(users), allowed, len(allowed)
        self._fill(raw.material, key.material, keep)
        check(_lib.he_key_load(self._engine, raw))

    def key_drop(self, handle: int) -> None:
        """Forget a key."""
        check(_lib.he_key_drop(self._engine, handle))

    def password_hash(self, request: int, offset: int, length: int, salt: bytes) -> bytes:
        """Scrypt of a secret field."""
        out = _ffi.new("uint8_t[32]")
        check(_lib.he_password_hash(self._engine, request, offset, length, salt, out))
        return bytes(out)

    def secret_contains(self, request: int, offset: int, length: int, byte: int) -> bool:
        """Whether a secret field has this byte."""
        found = _ffi.new("int *")
        check(_lib.he_secret_contains(self._engine, request, offset, length, byte, found))
        return bool(found[0])

    def import_key(self, request: int, offset: int, object_class: int, key_type: int) -> bytes:
        """Material from the template at `offset` of a held request."""
        return self._variable(
            lambda out, size: _lib.he_import(self._engine, request, offset, object_class, key_type, out, size)
        )

    def generate(self, key_type: int, parameters: bytes) -> bytes:
        """Masked material of a new key that SoftHSM2 cannot make."""
        return self._variable(
            lambda out, size: _lib.he_generate(self._engine, key_type, parameters, len(parameters), out, size)
        )

    def public(self, material: Material) -> bytes:
        """SubjectPublicKeyInfo of a private key."""
        keep: list[Any] = []
        raw = self._material(material, keep)
        return self._variable(lambda out, size: _lib.he_public(self._engine, raw, out, size))

    def sign(self, material: Material, mechanism: int, data: bytes) -> bytes:
        """Signature with a key of the cluster's own; a mechanism without parameters."""
        keep: list[Any] = []
        raw = self._material(material, keep)
        return self._variable(lambda out, size: _lib.he_sign(self._engine, raw, mechanism, data, len(data), out, size))

    def inspect(self, material: Material) -> tuple[int, bytes]:
        """Bits of the key, and CKA_CHECK_VALUE of a secret key."""
        keep: list[Any] = []
        bits, digest, size = _ffi.new("uint32_t *"), _ffi.new("uint8_t[3]"), _ffi.new("size_t *")
        check(_lib.he_inspect(self._engine, self._material(material, keep), bits, digest, size))
        return int(bits[0]), bytes(digest)[: size[0]]

    def wrap(self, wrapping: Material, mechanism: Mechanism, key: Material) -> tuple[bytes, bytes]:
        """The wrapped key, and the IV that was made for it."""
        keep: list[Any] = []
        outer, inner, how = self._material(wrapping, keep), self._material(key, keep), mechanism.encode()
        iv, iv_size = _ffi.new("uint8_t[16]"), _ffi.new("size_t *", 16)

        def call(out: _Raw, size: _Raw) -> int:
            iv_size[0] = 16
            return int(_lib.he_wrap(self._engine, outer, how, len(how), inner, out, size, iv, iv_size))

        wrapped = self._variable(call)
        return wrapped, bytes(iv)[: iv_size[0]]

    def unwrap(
        self, unwrapping: Material, mechanism: Mechanism, wrapped: bytes, object_class: int, key_type: int
    ) -> bytes:
        """Masked material of a wrapped key."""
        keep: list[Any] = []
        outer, how = self._material(unwrapping, keep), mechanism.encode()
        return self._variable(
            lambda out, size: _lib.he_unwrap(
                self._engine, outer, how, len(how), wrapped, len(wrapped), object_class, key_type, out, size
            )
        )

    def derive(self, base: Material, mechanism: Mechanism, salt: Material | None, key_type: int, length: int) -> bytes:
        """Masked material of a derived secret key."""
        keep: list[Any] = []
        raw, how = self._material(base, keep), mechanism.encode()
        salted = _ffi.NULL if salt is None else self._material(salt, keep)
        return self._variable(
            lambda out, size: _lib.he_derive(self._engine, raw, how, len(how), salted, key_type, length, out, size)
        )

    def counts(self) -> Counts:
        """Counters."""
        out = _ffi.new("he_counts *")
        _lib.he_counters(self._engine, out)
        return Counts(*(int(getattr(out, name)) for name in Counts.__slots__))

    def _fixed(self, size: int, function: Callable[[Any, Any], int]) -> bytes:
        out = _ffi.new("uint8_t[]", size)
        check(function(self._engine, out))
        return bytes(out)

    @staticmethod
    def _variable(function: Callable[[Any, Any], int]) -> bytes:
        size = _ffi.new("size_t *", MATERIAL_MAX)
        out = _ffi.new("uint8_t[]", MATERIAL_MAX)
        rv = function(out, size)
        if rv == CKR.BUFFER_TOO_SMALL:
            out = _ffi.new("uint8_t[]", size[0])
            rv = function(out, size)
        check(rv)
        return bytes(_ffi.buffer(out, size[0]))


def create_seed(path: str) -> None:
    """Write a new device seed."""
    check(_lib.he_device_create(path.encode()))
