"""How an HSM becomes a member of its cluster and gets the masking key (DESIGN D6).

Rules: the masking key is made inside the first HSM; it leaves an HSM only sealed to a device key that the
manufacturer certified for exactly that HSM id. Who wants to join writes its certificate into the members' table and
asks the members that are there; nothing else of the request is believed. The row that carries the sealed key is one
of the cluster's own, with a version and a MAC.
"""

from __future__ import annotations

import logging
import secrets
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

from cryptography.hazmat.primitives.serialization import Encoding

from hsmsim.cluster import founding
from hsmsim.cluster.model import (
    FIRST_PARTITION,
    IDENTITY_ID,
    NON_FIPS,
    ROLE_ADMIN,
    ROLE_APPLIANCE_USER,
    UNINITIALIZED,
    AuditEntry,
    ClusterRow,
    IdentityRow,
    MemberRow,
    PartitionRow,
    UserRow,
    new_key,
)
from hsmsim.cluster.replica import Replica
from hsmsim.errors import CkrError, HsmsimError
from hsmsim.hsm import images
from hsmsim.hsm.cryptoki import CKR
from hsmsim.hsm.link import Link, LinkError
from hsmsim.hsm.messages import JoinRequest
from hsmsim.hsm.roots import devices
from hsmsim.ids import is_id
from hsmsim.storage.database import Database
from hsmsim.storage.migrate import migrate

if TYPE_CHECKING:
    from pathlib import Path

    from hsmsim.clock import Clock
    from hsmsim.cluster.model import Row

_LOG = logging.getLogger(__name__)

JOIN_SECONDS: Final = 30.0
JOIN_INTERVAL: Final = 0.25
MAX_MEMBERS: Final = 28
SEALED_BYTES: Final = 92  # engine.h: he_masking_seal


class Engine(Protocol):
    """What membership asks of the engine."""

    def mac(self, purpose: str, data: bytes) -> bytes:
        """MAC under the masking key."""

    def device_load(self, path: str) -> None:
        """Read the seed."""

    def device_public(self) -> bytes:
        """Return the device's X25519 public key."""

    def masking_create(self) -> None:
        """Make a masking key."""

    def masking_seal(self, peer: bytes, context: bytes) -> bytes:
        """Return the masking key sealed to a device."""

    def masking_open(self, sealed: bytes, context: bytes) -> None:
        """Take the masking key that was sealed to this device."""


@dataclass(frozen=True, slots=True)
class Restore:
    """The image that the cluster's rows come from, once per incarnation. sealed: its masking key, for this device."""

    image: Path
    incarnation: str
    sealed: bytes


@dataclass(frozen=True, slots=True)
class Place:
    """Which HSM this is, of which cluster, and where.

    socket: where others reach it, see `address`; folder: HOME/hsms/<id>; mode: of a cluster whose first HSM this is.
    """

    database_url: str
    cluster_id: str
    hsm_id: str
    socket: str
    folder: Path
    mode: str = NON_FIPS
    restore: Restore | None = None


def bootstrap(engine: Engine, place: Place, *, clock: Clock | None = None) -> Replica:
    """Make or get the masking key and return the cluster's rows; HsmsimError says what to do where that fails."""
    migrate(place.database_url)
    engine.device_load(str(place.folder / devices.SEED))
    certificate = _own_certificate(engine, place)
    database = Database(place.database_url)
    try:
        if not _first(engine, place, certificate, database):
            _enter(engine, place, certificate, database)
    finally:
        database.close()
    replica = Replica(place.database_url, place.cluster_id, place.hsm_id, engine, clock=clock)
    _renew_row(replica, place)
    return replica


def admit(engine: Engine, replica: Replica, folder: Path, hsm_id: str) -> None:
    """Seal the masking key to a candidate that the manufacturer certified, and make it a member."""
    if not is_id(hsm_id, "hsm"):
        raise CkrError(CKR.ARGUMENTS_BAD, "this is no HSM's id")
    candidate = founding.read_member(replica.database, hsm_id)
    if candidate is None or candidate.deleted:
        raise CkrError(CKR.ARGUMENTS_BAD, f"{hsm_id} has no row among the members")
    if hsm_id in replica.members:
        return
    if len(replica.members) >= MAX_MEMBERS:
        raise CkrError(CKR.DEVICE_MEMORY, f"a cluster has at most {MAX_MEMBERS} HSMs")
    root = devices.read_certificate(folder / devices.MANUFACTURER_CERTIFICATE)
    public = devices.certified_key(candidate.certificate, hsm_id, root)
    sealed = engine.masking_seal(public, _context(replica.cluster_id, hsm_id))
    member = MemberRow(hsm_id, candidate.socket, candidate.certificate, sealed)
    replica.write(lambda _: [] if hsm_id in replica.members else [member], AuditEntry("JOIN", "", 0, 0, 0, hsm_id))
    _LOG.info("%s is a member now.", hsm_id)


def _context(cluster_id: str, hsm_id: str) -> bytes:
    """What a sealed key is good for. Ids have no '/'."""
    return f"{cluster_id}/{hsm_id}".encode()


def _own_certificate(engine: Engine, place: Place) -> bytes:
    root = devices.read_certificate(place.folder / devices.MANUFACTURER_CERTIFICATE)
    certificate = devices.read_certificate(place.folder / devices.DEVICE_CERTIFICATE).public_bytes(Encoding.DER)
    if devices.certified_key(certificate, place.hsm_id, root) != engine.device_public():
        raise HsmsimError(f"{place.folder}: the certificate is not for this seed. Delete the HSM and make a new one.")
    return certificate


def _first(engine: Engine, place: Place, certificate: bytes, database: Database) -> bool:
    """Be the cluster's first HSM, if it has had none, or none since an image was to be restored."""
    if place.restore is not None:
        done = founding.incarnation_of(database) == place.restore.incarnation
        return not done and _restore(engine, place, place.restore, certificate, database)
    return not founding.is_founded(database) and _found(engine, place, certificate, database)


def _restore(engine: Engine, place: Place, restore: Restore, certificate: bytes, database: Database) -> bool:
    """Take masking key and rows out of an image. False: another HSM was faster, and has the same masking key."""
    context = _context(place.cluster_id, place.hsm_id)
    engine.masking_open(restore.sealed, context)
    snapshot = images.read(restore.image, engine)
    identity = snapshot.identity or IdentityRow(IDENTITY_ID, NON_FIPS)
    if identity.mode != place.mode:
        raise HsmsimError(f"The image is of a cluster in mode {identity.mode}; this one is in mode {place.mode}.")
    own = MemberRow(place.hsm_id, place.socket, certificate, engine.masking_seal(engine.device_public(), context))
    rows = [replace(row, limited_write=False) if isinstance(row, IdentityRow) else row for row in snapshot.rows]
    cluster = replace(snapshot.cluster, cluster_id=place.cluster_id, incarnation=restore.incarnation)
    done = founding.restore(database, cluster, [*rows, own], engine)
    if done:
        _LOG.info("%s is restored from %s at version %d.", place.cluster_id, restore.image.name, cluster.version)
    return done


def _found(engine: Engine, place: Place, certificate: bytes, database: Database) -> bool:
    """Be the first HSM: make the masking key and the first rows. False: another one was faster."""

    def first() -> tuple[Row, ...]:
        engine.masking_create()
        sealed = engine.masking_seal(engine.device_public(), _context(place.cluster_id, place.hsm_id))
        return (
            IdentityRow(IDENTITY_ID, place.mode),
            PartitionRow(FIRST_PARTITION, ""),
            UserRow(new_key(1, 1), FIRST_PARTITION, "admin", ROLE_ADMIN, b"", b"", 0),
            UserRow(new_key(1, 2), FIRST_PARTITION, "app_user", ROLE_APPLIANCE_USER, b"", b"", 0),
            MemberRow(place.hsm_id, place.socket, certificate, sealed),
        )

    cluster = ClusterRow(place.cluster_id, secrets.token_hex(16), 1, UNINITIALIZED)
    founded = founding.found(database, cluster, first, engine)
    if founded:
        _LOG.info("%s is the first HSM of %s.", place.hsm_id, place.cluster_id)
    return founded


def _enter(engine: Engine, place: Place, certificate: bytes, database: Database) -> None:
    """Take the masking key out of this member's row, after asking for it if this HSM is new."""
    row = founding.read_member(database, place.hsm_id)
    if row is None or row.version == 0:
        row = _join(place, certificate, database)
    try:
        if not isinstance(row.sealed, bytes) or len(row.sealed) != SEALED_BYTES:
            raise CkrError(CKR.ENCRYPTED_DATA_LEN_RANGE)  # noqa: TRY301 - what the engine says of other wrong bytes
        engine.masking_open(row.sealed, _context(place.cluster_id, place.hsm_id))
    except CkrError as error:
        raise HsmsimError(
            f"The masking key in the members' table is not sealed to this HSM: the row of {place.hsm_id} or "
            f"{place.folder / devices.SEED} was changed. Restore it, or delete the HSM and make a new one."
        ) from error


def _join(place: Place, certificate: bytes, database: Database) -> MemberRow:
    """Ask the members to be let in until one has done so; return this member's row."""
    founding.put_candidate(database, MemberRow(place.hsm_id, place.socket, certificate, b""))
    deadline = time.monotonic() + JOIN_SECONDS
    while time.monotonic() < deadline:
        _ask(database, place)
        row = founding.read_member(database, place.hsm_id)
        if row is not None and row.version != 0:
            return row
        time.sleep(JOIN_INTERVAL)
    raise HsmsimError(
        f"No HSM of {place.cluster_id} gave {place.hsm_id} the masking key. Start one that has it: hsmsim hsm start ID"
    )


def _ask(database: Database, place: Place) -> None:
    """Send JOIN to members until one takes it.

    By TCP this HSM cannot tell yet who answers. It says nothing secret, and believes no answer but the sealed key.
    """
    for member in founding.read_members(database):
        try:
            with Link(member.socket, JOIN_SECONDS / 6, here=place.socket) as link:
                link.call(JoinRequest(place.hsm_id.encode()))
                return
        except (LinkError, CkrError) as error:
            _LOG.info("%s does not let %s in: %s", member.hsm_id, place.hsm_id, error)


def _renew_row(replica: Replica, place: Place) -> None:
    """Tell the others where this HSM answers now."""
    row = replica.members.get(place.hsm_id)
    if row is None:
        raise HsmsimError(f"The members' row of {place.hsm_id} was changed: restore it, or make a new HSM.")
    if row.socket != place.socket:
        moved = replace(row, socket=place.socket)
        replica.write(lambda _: [moved], AuditEntry("JOIN", "", 0, 0, 0, f"{place.hsm_id} answers at {place.socket}"))
