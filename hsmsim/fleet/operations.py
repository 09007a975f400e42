"""What is done with HSMs and clusters, for the daemon and the command line alike.

Rules: each function can be repeated after a kill at any point and ends in the same state; ids come from the caller.
What is done with the HSMs of one cluster is done one at a time, under the cluster's lock; what the fleet's files say
changes under the fleet's lock, which is taken after it and never held while an HSM is waited for: a cluster whose HSM
hangs holds up no other. Looking takes no lock.
"""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Final, TypeVar

from msgspec import structs

from hsmsim.cluster.model import FIPS, NON_FIPS
from hsmsim.errors import HsmsimError
from hsmsim.fleet import access, databases, launch, state, tcp
from hsmsim.fleet.protocol import CertificatesView, HsmView, ImageView
from hsmsim.hsm import imagefile
from hsmsim.hsm.client import HsmClient
from hsmsim.hsm.messages import (
    BackupRequest,
    CertificatesRequest,
    InitializeRequest,
    LimitedWriteRequest,
    RemoveMemberRequest,
)
from hsmsim.hsm.roots.process import Rewrap
from hsmsim.hsm.timing import PROFILES
from hsmsim.ids import is_id
from hsmsim.storage import files

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from hsmsim.config import Places
    from hsmsim.fleet.protocol import CreateHsm
    from hsmsim.hsm.codec import Request, Response
    from hsmsim.hsm.roots.process import Roots

_Answer = TypeVar("_Answer", bound="Response")
MODES_OF: Final = {"hsm1.medium": (FIPS,), "hsm2m.medium": (FIPS, NON_FIPS)}
"""AWS's guide, "AWS CloudHSM cluster modes": non-FIPS clusters are of hsm2m.medium only."""


@contextmanager
def alone(places: Places, cluster_ids: Iterable[str]) -> Iterator[None]:
    """Hold the locks of clusters; the fleet's lock is not held yet."""
    with ExitStack() as held:
        for cluster_id in sorted(
            set(cluster_ids)
        ):  # in one order: two that want the same ones do not wait for each other
            held.enter_context(state.lock(places, _lock_name(cluster_id)))
        yield


def _lock_name(cluster_id: str) -> str:
    return f".{cluster_id}.lock"


# ---- looking ---------------------------------------------------------------------------------------------------------


def describe(places: Places, hsm_id: str) -> HsmView:
    """Return what is known about an HSM, from itself if it answers."""
    fleet = state.load(places)
    hsm, cluster = fleet.hsm(hsm_id), fleet.cluster_of(hsm_id)
    view = HsmView(hsm_id, cluster.cluster_id, hsm.model, cluster.mode, "STOPPED")
    found = launch.info(places, hsm_id)
    if found is None:
        down = "DIED" if hsm.wanted else "STOPPED"
        return structs.replace(view, state="STARTING" if launch.is_running(places, hsm_id) else down)
    return structs.replace(
        view,
        state="RUNNING",
        cluster_state=found.state.decode(),
        limited_write=bool(found.limited_write),
        keys=found.keys,
        users=found.users,
        sessions=found.sessions,
        pid=found.pid,
    )


def list_hsms(places: Places, cluster_id: str = "") -> list[HsmView]:
    """Return all HSMs, or those of one cluster: none, where the fleet has not heard of it yet."""
    clusters = [one for one in state.load(places).clusters if cluster_id in {"", one.cluster_id}]
    return [describe(places, hsm.hsm_id) for cluster in clusters for hsm in cluster.hsms]


def certificates(places: Places, cluster_id: str) -> CertificatesView:
    """Return the certificates that a cluster shows now."""
    found = ask(places, cluster_id, CertificatesRequest())
    return CertificatesView(*(getattr(found, name) for name in CertificatesView.__struct_fields__))


def ask(places: Places, cluster_id: str, request: Request[_Answer]) -> _Answer:
    """Ask the first HSM of a cluster that answers."""
    cluster = state.load(places).cluster(cluster_id)
    for client in access.answering(places, cluster):
        with client, suppress(OSError):
            return client.call(request)
    raise access.silence(cluster)


# ---- HSMs ------------------------------------------------------------------------------------------------------------


def create(places: Places, roots: Roots, wanted: CreateHsm) -> HsmView:
    """Make and start an HSM, and its cluster if that is new; return when it serves."""
    _check(wanted)
    with alone(places, [wanted.cluster_id]):
        with state.lock(places):
            _enter(places, roots, wanted)
        run(places, [wanted.hsm_id])
    return describe(places, wanted.hsm_id)


def _enter(places: Places, roots: Roots, wanted: CreateHsm) -> None:
    """Have the fleet's files say that there is such an HSM, and such a cluster."""
    fleet = state.load(places)
    if all(hsm.hsm_id != wanted.hsm_id for hsm in fleet.hsms()):
        _check_image(places, wanted)
    if all(cluster.cluster_id != wanted.cluster_id for cluster in fleet.clusters):
        state.create_cluster(places, wanted.cluster_id, availability_check=wanted.availability_check, mode=wanted.mode)
        fleet = state.load(places)
    cluster = fleet.cluster(wanted.cluster_id)
    if cluster.mode != wanted.mode:
        raise HsmsimError(f"{wanted.cluster_id} is in mode {cluster.mode} for ever; {wanted.mode} was asked for.")
    if all(hsm.hsm_id != wanted.hsm_id for hsm in cluster.hsms):
        _make(places, roots, cluster, wanted)


def _check(wanted: CreateHsm) -> None:
    if not is_id(wanted.cluster_id, "cluster") or not is_id(wanted.hsm_id, "hsm"):
        raise HsmsimError(f"{wanted.cluster_id!r} and {wanted.hsm_id!r} are not the ids of a cluster and an HSM.")
    if wanted.mode not in MODES_OF.get(wanted.model, ()):
        known = "; ".join(f"{model}: {', '.join(modes)}" for model, modes in MODES_OF.items())
        raise HsmsimError(f"There is no {wanted.model} in mode {wanted.mode}. There are {known}.")


def _check_image(places: Places, wanted: CreateHsm) -> None:
    """Look at the image, if there is one, before anything is made."""
    if not wanted.image_id:
        return
    header, _ = imagefile.heads(imagefile.path_of(places.images_folder, wanted.image_id))
    if header.mode != wanted.mode:
        raise HsmsimError(f"{wanted.image_id} is of a cluster in mode {header.mode}, not {wanted.mode}.")


def _make(places: Places, roots: Roots, cluster: state.Cluster, wanted: CreateHsm) -> None:
    restore = None
    hsm = state.Hsm(wanted.hsm_id, model=wanted.model)
    if not cluster.hsms and wanted.image_id:
        restore = state.Restore(wanted.image_id, secrets.token_hex(16))
    elif not cluster.hsms:
        cluster = _afresh(places, cluster)
    state.create_hsm(places, cluster.cluster_id, roots, hsm, restore, wanted.region if restore is not None else "")


def _afresh(places: Places, cluster: state.Cluster) -> state.Cluster:
    """Let a cluster that has no HSM begin again: nobody has the masking key of rows that an earlier one left."""
    for file in places.cluster_folder(cluster.cluster_id).glob("cluster.db*"):
        file.unlink()
    databases.drop(places, cluster.cluster_id)
    fresh = structs.replace(cluster, restore=None)
    state.save(places, state.load(places).with_cluster(fresh))
    return fresh


def run(places: Places, hsm_ids: list[str]) -> list[str]:
    """Start HSMs and wait until they serve; return those that did not run. The caller holds their cluster's lock."""
    with state.lock(places):
        started = begin(places, hsm_ids)
    wait_serving(places, hsm_ids)
    return started


def begin(places: Places, hsm_ids: list[str]) -> list[str]:
    """Start HSMs; return those that did not run. The caller holds the fleet's lock, and waits until they serve."""
    for hsm_id in hsm_ids:
        _want(places, hsm_id, wanted=True)
        tcp.assign(places, hsm_id)
    return [hsm_id for hsm_id in hsm_ids if launch.start(places, hsm_id)]


def wait_serving(places: Places, hsm_ids: list[str]) -> None:
    """Return when these HSMs answer, and those of their clusters hear each other."""
    launch.wait_ready(places, hsm_ids)
    fleet = state.load(places)
    for cluster in fleet.clusters:
        if any(_has(cluster, hsm_id) for hsm_id in hsm_ids):
            launch.wait_heard(places, [hsm.hsm_id for hsm in cluster.hsms])


def start(places: Places, hsm_ids: list[str]) -> list[str]:
    """Start HSMs and wait until they serve; return those that did not run."""
    with alone(places, _clusters_of(places, hsm_ids)):
        return run(places, hsm_ids)


def stop(places: Places, hsm_ids: list[str]) -> list[str]:
    """Stop HSMs in order, all at once; return those that ran."""
    with alone(places, _clusters_of(places, hsm_ids)):
        with state.lock(places):
            for hsm_id in hsm_ids:
                _want(places, hsm_id, wanted=False)
        return launch.stop(places, hsm_ids)


def _clusters_of(places: Places, hsm_ids: list[str]) -> list[str]:
    fleet = state.load(places)
    return [fleet.cluster_of(hsm_id).cluster_id for hsm_id in hsm_ids]


def kill(places: Places, hsm_id: str) -> bool:
    """SIGKILL, as a power failure would; whether it ran."""
    return launch.kill(places, state.load(places).hsm(hsm_id).hsm_id)


def _want(places: Places, hsm_id: str, *, wanted: bool) -> None:
    fleet = state.load(places)
    if fleet.hsm(hsm_id).wanted == wanted:
        return
    cluster = fleet.cluster_of(hsm_id)
    hsms = tuple(structs.replace(hsm, wanted=wanted) if hsm.hsm_id == hsm_id else hsm for hsm in cluster.hsms)
    state.save(places, fleet.with_cluster(structs.replace(cluster, hsms=hsms)))


def delete(places: Places, hsm_id: str) -> None:
    """Have an HSM leave its cluster, stop it, and wipe it. One that is gone is no error."""
    if not is_id(hsm_id, "hsm"):
        raise HsmsimError(f"{hsm_id!r} is no HSM's id.")
    cluster_id = next((one.cluster_id for one in state.load(places).clusters if _has(one, hsm_id)), "")
    with alone(places, [cluster_id] if cluster_id else []):
        cluster = next((one for one in state.load(places).clusters if _has(one, hsm_id)), None)
        if cluster is not None:
            _leave(places, hsm_id, [hsm.hsm_id for hsm in cluster.hsms if hsm.hsm_id != hsm_id])
            launch.stop(places, [hsm_id])
            with state.lock(places):
                _forget(places, hsm_id)
        _wipe(places.hsm_folder(hsm_id))
        places.socket(hsm_id).unlink(missing_ok=True)


def _has(cluster: state.Cluster, hsm_id: str) -> bool:
    return any(hsm.hsm_id == hsm_id for hsm in cluster.hsms)


def _forget(places: Places, hsm_id: str) -> None:
    fleet = state.load(places)
    cluster = fleet.cluster_of(hsm_id)
    others = tuple(hsm for hsm in cluster.hsms if hsm.hsm_id != hsm_id)
    state.save(places, fleet.with_cluster(structs.replace(cluster, hsms=others)))


def _leave(places: Places, hsm_id: str, others: list[str]) -> None:
    """Have the HSM take itself out of the members, or another do it; the last one may simply go."""
    for asked in (hsm_id, *others):
        try:
            with HsmClient(places.socket(asked)) as client:
                client.call(RemoveMemberRequest(hsm_id.encode()))
                return
        except OSError:
            if asked == hsm_id:  # one that hangs must not serve on while another takes it out
                launch.kill(places, hsm_id)
    if others:
        raise HsmsimError(f"No HSM of the cluster answers, so none can take {hsm_id} out of it. Start one first.")


def _wipe(folder: Path) -> None:
    """Remove an HSM's folder, its seed first: without that nothing else in it opens."""
    seed = folder / "seed"
    if seed.exists():
        size = seed.stat().st_size
        with seed.open("r+b") as file:
            file.write(secrets.token_bytes(size))
            file.flush()
            os.fsync(file.fileno())
        seed.unlink()
    if folder.exists():
        shutil.rmtree(folder)
        files.sync_folder(folder.parent)


def delete_cluster(places: Places, cluster_id: str) -> None:
    """Forget a cluster without HSMs. Its images stay; one that is gone is no error."""
    if not is_id(cluster_id, "cluster"):
        raise HsmsimError(f"{cluster_id!r} is no cluster's id.")
    with alone(places, [cluster_id]), state.lock(places):
        fleet = state.load(places)
        left = tuple(cluster for cluster in fleet.clusters if cluster.cluster_id != cluster_id)
        if left != fleet.clusters:
            if fleet.cluster(cluster_id).hsms:
                raise HsmsimError(f"{cluster_id} has HSMs. Delete them first.")
            state.save(places, structs.replace(fleet, clusters=left))
        databases.drop(places, cluster_id)
        folder = places.cluster_folder(cluster_id)
        if folder.exists():
            shutil.rmtree(folder)
        (places.home / _lock_name(cluster_id)).unlink(missing_ok=True)  # no other cluster will have this id


# ---- clusters --------------------------------------------------------------------------------------------------------


def set_timing(places: Places, cluster_id: str, profile: str) -> list[str]:
    """Hold a cluster's HSMs to a timing profile, empty for none; return those that were started again for it.

    One after the other: the others serve meanwhile. HSMs that are made or started later have it, too.
    """
    if profile not in ("", *PROFILES):
        raise HsmsimError(f"{profile!r} is no timing profile. There are: {', '.join(PROFILES)}.")
    with state.lock(places):
        fleet = state.load(places)
        cluster = fleet.cluster(cluster_id)
        if profile and any(hsm.engine == "softhsm" for hsm in cluster.hsms):
            raise HsmsimError(
                "HSMs of the reference engine keep no timing profile. Make the cluster with another engine."
            )
        if cluster.timing == profile:
            return []
        state.save(places, fleet.with_cluster(structs.replace(cluster, timing=profile)))
    running = [hsm.hsm_id for hsm in cluster.hsms if launch.is_running(places, hsm.hsm_id)]
    for hsm_id in running:
        stop(places, [hsm_id])
        start(places, [hsm_id])
    return running


def initialize(places: Places, cluster_id: str, signed: bytes, anchor: bytes) -> None:
    """Give a cluster its certificate. CkrError: see INITIALIZE in docs/reference/wire.md."""
    ask(places, cluster_id, InitializeRequest(signed, anchor))


def limited_write(places: Places, cluster_id: str, *, on: bool) -> None:
    """Begin or end limited-write mode."""
    ask(places, cluster_id, LimitedWriteRequest(int(on)))


def backup(places: Places, roots: Roots, cluster_id: str, image_id: str, region: str) -> ImageView:
    """Write an image of a cluster's rows; one of this id that is there is left alone."""
    imagefile.path_of(places.images_folder, image_id)
    ask(places, cluster_id, BackupRequest(image_id.encode(), region.encode(), roots.region(region)))
    return describe_image(places, image_id)


def describe_image(places: Places, image_id: str) -> ImageView:
    """Return what an image says of itself; ImageError where it is damaged."""
    return view_image(imagefile.path_of(places.images_folder, image_id), image_id)


def view_image(path: Path, image_id: str) -> ImageView:
    """Return what the image in a file says of itself; ImageError."""
    header, envelope = imagefile.heads(path)
    written = imagefile.written(path)
    ids = (image_id, header.cluster_id, envelope.region, header.mode, header.model)
    return ImageView(*ids, header.version, header.time, written.size, written.digest)


def copy_image(places: Places, roots: Roots, source_id: str, image_id: str, region: str) -> ImageView:
    """Make a copy of an image that a region's backup root opens; one of this id that is there is left alone."""
    source, target = (imagefile.path_of(places.images_folder, one) for one in (source_id, image_id))
    if not target.exists():
        header, envelope = imagefile.heads(source)
        former, new = (imagefile.context(one, header.image_id) for one in (source_id, image_id))
        sealed = roots.rewrap(Rewrap(envelope.region, envelope.sealed, former, region, new))
        imagefile.copy(source, target, imagefile.Envelope(region, sealed))
    state.give(target, state.load(places).account)
    return describe_image(places, image_id)


def delete_image(places: Places, image_id: str) -> None:
    """Remove an image; one that is gone is no error."""
    imagefile.path_of(places.images_folder, image_id).unlink(missing_ok=True)
