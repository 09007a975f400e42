"""fleet.json: the clusters and HSMs of this state folder, and the folders that belong to them.

Rules: one writer at a time (`edit` holds a lock and writes by rename); what an HSM process must read is owned by the
account it runs as, everything else by us; nobody else gets into the state folder. Under root the HSMs run as the system
user `hsmsim`, whose group may pass through the state folder (0710), not list it; else the folder is 0700.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import secrets
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import msgspec
from msgspec import structs

from hsmsim import ids
from hsmsim.cluster.model import NON_FIPS
from hsmsim.errors import HsmsimError
from hsmsim.hsm import imagefile
from hsmsim.hsm.roots import AWS_ROOT, MANUFACTURER_ROOT
from hsmsim.hsm.roots.devices import SEED
from hsmsim.hsm.roots.process import Reseal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hsmsim.config import Places
    from hsmsim.hsm.roots.process import Roots

ACCOUNT = "hsmsim"
MODEL = "hsm2m.medium"
SOCKET_PATH_LIMIT = 107  # sun_path is 108 bytes with its NUL


ENGINES = ("fast", "plain", "softhsm")


class Hsm(msgspec.Struct, frozen=True):
    """One HSM: `engine` is "fast", "plain" (each operation alone, no batches) or "softhsm" (the reference).

    wanted: it should run; sealed: the masking key of the image that its cluster is restored from, for this device;
    port: where it listens by TCP, see `tcp`.
    """

    hsm_id: str
    engine: str = "fast"
    model: str = MODEL
    wanted: bool = True
    sealed: bytes = b""
    port: int = 0


class Elsewhere(msgspec.Struct, frozen=True):
    """An HSM on another host, whose process is not ours; see `elsewhere`."""

    hsm_id: str
    hostname: str
    port: int


class Restore(msgspec.Struct, frozen=True):
    """The image that the cluster's rows come from; `incarnation` is new each time."""

    image_id: str
    incarnation: str


class Cluster(msgspec.Struct, frozen=True):
    """One cluster and its HSMs in order of making. timing: a profile of hsmsim.hsm.timing, empty for none.

    elsewhere: its HSMs on other hosts; guest: the cluster is another host's, and these are its HSMs here.
    """

    cluster_id: str
    hsms: tuple[Hsm, ...] = ()
    availability_check: bool = True
    mode: str = NON_FIPS
    restore: Restore | None = None
    timing: str = ""
    elsewhere: tuple[Elsewhere, ...] = ()
    guest: bool = False


class Fleet(msgspec.Struct, frozen=True):
    """All of it. `account`: whom the HSM processes run as, empty for whoever starts them.

    database: where the rows are, see `databases`; empty for SQLite. quickstart: the cluster of `hsmsim up`.
    host: the address of the HSMs' TCP ports, if any.
    """

    account: str = ""
    clusters: tuple[Cluster, ...] = ()
    database: str = ""
    quickstart: str = ""
    host: str = ""

    def cluster_of(self, hsm_id: str) -> Cluster:
        """Return the cluster that has this HSM; HsmsimError if none has."""
        for cluster in self.clusters:
            if any(hsm.hsm_id == hsm_id for hsm in cluster.hsms):
                return cluster
        known = ", ".join(hsm.hsm_id for hsm in self.hsms()) or "none"
        raise HsmsimError(f"There is no HSM {hsm_id}. The HSMs here are: {known}.")

    def hsm(self, hsm_id: str) -> Hsm:
        """Return the HSM of this id; HsmsimError if there is none."""
        return next(hsm for hsm in self.cluster_of(hsm_id).hsms if hsm.hsm_id == hsm_id)

    def hsms(self) -> tuple[Hsm, ...]:
        """Return the HSMs of all clusters."""
        return tuple(hsm for cluster in self.clusters for hsm in cluster.hsms)

    def cluster(self, cluster_id: str) -> Cluster:
        """Return the cluster of this id; HsmsimError if there is none."""
        for cluster in self.clusters:
            if cluster.cluster_id == cluster_id:
                return cluster
        known = ", ".join(cluster.cluster_id for cluster in self.clusters) or "none"
        raise HsmsimError(f"There is no cluster {cluster_id}. The clusters here are: {known}.")

    def with_cluster(self, changed: Cluster) -> Fleet:
        """Return the fleet with this cluster as it is now."""
        clusters = tuple(changed if one.cluster_id == changed.cluster_id else one for one in self.clusters)
        return structs.replace(self, clusters=clusters)

    def own_cluster(self) -> Cluster | None:
        """Return the cluster of `hsmsim up`; None before there is one, and when it was deleted beside others."""
        if not self.quickstart:  # nobody said which: an older version wrote this, or a customer was faster than `up`
            return self.clusters[0] if self.clusters else None
        return next((one for one in self.clusters if one.cluster_id == self.quickstart), None)

    def only_cluster(self) -> Cluster:
        """Return the same; HsmsimError where there is none."""
        own = self.own_cluster()
        if own is None:
            raise HsmsimError("There is no cluster of hsmsim up. Make it: hsmsim up --detach")
        return own


# ---- reading and writing -----------------------------------------------------------------------------------------


def load(places: Places) -> Fleet:
    """Read fleet.json; an empty fleet if there is none."""
    data = read_private(places.fleet_file)
    if data is None:
        return Fleet()
    try:
        return msgspec.json.decode(data, type=Fleet)
    except msgspec.DecodeError as error:
        raise HsmsimError(
            f"{places.fleet_file} is damaged ({error}). Mend it, or remove the folder to start afresh."
        ) from error


def save(places: Places, fleet: Fleet) -> None:
    """Write fleet.json; the caller holds `lock`."""
    write_private(places.fleet_file, msgspec.json.format(msgspec.json.encode(fleet), indent=2) + b"\n")


@contextmanager
def lock(places: Places, name: str = ".lock") -> Iterator[None]:
    """Only one command at a time makes, starts or stops HSMs (or what `name` stands for). Waits for the other."""
    make_home(places)
    descriptor = os.open(places.home / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def read_private(path: Path) -> bytes | None:
    """Read one of our files, None if there is none; HsmsimError if it is another user's."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HsmsimError(
            f"{path} cannot be read ({error.strerror}). Whose is it? HSMSIM_HOME names another state folder."
        ) from error
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
        return file.read()


def write_private(path: Path, data: bytes, *, mode: int = 0o600, account: str = "") -> None:
    """Write a whole file or nothing: a new file beside it, fsync, rename. It is the account's, if one is given."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
            os.fchmod(descriptor, mode)
            give(descriptor, account)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


# ---- accounts and folders ----------------------------------------------------------------------------------------


def choose_account(places: Places) -> str:
    """Return `hsmsim` where we are root, the account exists and can reach the folders; else empty."""
    if os.geteuid() != 0:
        return ""
    try:
        entry = pwd.getpwnam(ACCOUNT)
    except KeyError:
        return ""
    return ACCOUNT if reaches(entry, places.home) and reaches(entry, places.run) else ""


def reaches(entry: pwd.struct_passwd, path: Path) -> bool:
    """Return whether a user may pass through every folder above a path, as far as they exist."""
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    return all(_passable(folder, entry.pw_uid, groups) for folder in path.parents if folder.exists())


def _passable(folder: Path, uid: int, groups: list[int]) -> bool:
    found = folder.stat()
    if found.st_uid == uid:
        return bool(found.st_mode & stat.S_IXUSR)
    if found.st_gid in groups:
        return bool(found.st_mode & stat.S_IXGRP)
    return bool(found.st_mode & stat.S_IXOTH)


def uid_of(account: str) -> int:
    """Return the uid that the HSM processes have; empty: ours."""
    if not account:
        return os.geteuid()
    try:
        return pwd.getpwnam(account).pw_uid
    except KeyError:
        raise HsmsimError(
            f"The HSMs here belong to the system user {account}, which is gone. Make it: useradd --system {account}"
        ) from None


def give(path: Path | int, account: str) -> None:
    """Have a file belong to the account, if one is given."""
    if account:
        entry = pwd.getpwnam(account)
        os.chown(path, entry.pw_uid, entry.pw_gid, follow_symlinks=isinstance(path, int))


def make_home(places: Places, account: str = "") -> None:
    """Make the state folder; HsmsimError if it is somebody else's or open to others."""
    places.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = places.home.stat()
    if found.st_uid != os.geteuid():
        raise HsmsimError(f"{places.home} belongs to another user. Set HSMSIM_HOME to a folder of your own.")
    if account:
        os.chown(places.home, -1, pwd.getpwnam(account).pw_gid)
        places.home.chmod(0o710)
    elif stat.S_IMODE(found.st_mode) & ~0o710:
        raise HsmsimError(f"{places.home} is open to others. Close it: chmod 700 {places.home}")


def make_run(places: Places, account: str) -> None:
    """Make the folder of sockets; HsmsimError if another user made it or may write to it, or its name is too long."""
    longest = places.socket("hsm-" + "x" * 11)
    if len(os.fsencode(longest)) > SOCKET_PATH_LIMIT:
        raise HsmsimError(
            f"A socket's path has {SOCKET_PATH_LIMIT} bytes at most; {longest} has more. Shorten HSMSIM_RUN."
        )
    with suppress(FileExistsError):
        places.run.mkdir(parents=True)
        places.run.chmod(0o755)
        give(places.run, account)
    found = places.run.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in {os.geteuid(), uid_of(account)} or found.st_mode & 0o022:
        raise HsmsimError(
            f"{places.run} can be changed by another user, so no HSM may listen there. Remove it, or set HSMSIM_RUN."
        )
    if found.st_uid != uid_of(account):
        give(places.run, account)


def _make_parent(folder: Path, account: str) -> None:
    """Make the folder of all clusters or all HSMs; it stays ours, the account may pass through."""
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o711 if account else 0o700)


def make_hsms(places: Places, account: str) -> Path:
    """Make the folder that all HSMs have theirs in."""
    folder = places.hsm_folder("hsm").parent
    _make_parent(folder, account)
    return folder


def prepare(places: Places) -> None:
    """Make the state folder and the folder of sockets, for whom the HSMs run as. The caller holds `lock`."""
    fleet = load(places)
    account = fleet.account if fleet.clusters else choose_account(places)
    make_home(places, account)
    save(places, structs.replace(fleet, account=account))
    make_run(places, account)


# ---- making clusters and HSMs ------------------------------------------------------------------------------------


def create_cluster(
    places: Places, cluster_id: str = "", *, availability_check: bool = True, mode: str = NON_FIPS
) -> Cluster:
    """Make an empty cluster; its first HSM brings it to life. The caller holds `lock`."""
    fleet = load(places)
    account = fleet.account if fleet.clusters else choose_account(places)
    make_home(places, account)
    cluster = Cluster(cluster_id or ids.new_cluster_id(), availability_check=availability_check, mode=mode)
    folder = places.cluster_folder(cluster.cluster_id)
    _make_parent(folder.parent, account)
    folder.mkdir(mode=0o700, exist_ok=True)
    give(folder, account)
    save(places, structs.replace(fleet, account=account, clusters=(*fleet.clusters, cluster)))
    return cluster


def create_hsm(
    places: Places,
    cluster_id: str,
    roots: Roots,
    hsm: Hsm | None = None,
    restore: Restore | None = None,
    region: str = "",
) -> Hsm:
    """Make an HSM of a cluster: its seed and certificates. The caller holds `lock` and starts it.

    restore: the image that the cluster grows again from, sealed to the backup root of `region`.
    """
    fleet = load(places)
    cluster = fleet.cluster(cluster_id)
    if cluster.guest:
        raise HsmsimError(f"{cluster_id} is another host's cluster. An HSM of it is made with: hsmsim hsm request")
    restore = restore or cluster.restore
    hsm = hsm or Hsm(ids.new_hsm_id())
    folder = make_hsms(places, fleet.account) / hsm.hsm_id
    if not (folder / SEED).exists():  # else it was made before a crash
        roots.manufacture(hsm.hsm_id)
    for path in (*folder.iterdir(), folder):
        give(path, fleet.account)
    if restore is not None:
        hsm = structs.replace(hsm, sealed=_sealed(places, cluster_id, hsm.hsm_id, roots, restore.image_id, region))
    grown = structs.replace(cluster, hsms=(*cluster.hsms, hsm), restore=restore)
    save(places, fleet.with_cluster(grown))
    return hsm


def _sealed(places: Places, cluster_id: str, hsm_id: str, roots: Roots, image_id: str, region: str) -> bytes:
    """Return the masking key of an image for a new HSM."""
    path = imagefile.path_of(places.images_folder, image_id)
    if not path.exists():
        return b""  # the image is gone: this HSM joins those that were restored from it
    header, envelope = imagefile.heads(path)
    if region and envelope.region != region:
        raise HsmsimError(f"{image_id} is an image of {envelope.region}; copy it to {region} first.")
    return roots.reseal(
        Reseal(envelope.region, envelope.sealed, imagefile.context(image_id, header.image_id), hsm_id, cluster_id)
    )


def make_images(places: Places, account: str) -> None:
    """Make the folder of backup images, which HSMs write."""
    places.images_folder.mkdir(mode=0o700, exist_ok=True)
    give(places.images_folder, account)


def publish_roots(places: Places) -> None:
    """Put the roots' certificates where every user can read them, under the names that AWS's guide has for them."""
    for name in (AWS_ROOT, MANUFACTURER_ROOT):
        content = read_private(places.home / "roots" / name)
        if content is not None and not (places.run / name).exists():
            write_private(places.run / name, content, mode=0o644)
