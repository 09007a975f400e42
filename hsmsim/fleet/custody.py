"""Backup images that leave the simulator as files, and come back, each with a manifest beside it.

Rules: an image is believed when its digest is right and the backup root of its region, in the process of the roots,
opens the key in it; so only the simulator whose roots it was made under takes it back. Its rows are checked where they
are opened: in the HSM that is restored from it. What the manifest says beside the image is told to people, no more. All
files are 0600.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

import msgspec
from cryptography.hazmat.primitives import hashes

from hsmsim.errors import HsmsimError
from hsmsim.fleet import operations, state
from hsmsim.hsm import imagefile
from hsmsim.hsm.roots import devices
from hsmsim.hsm.roots.process import Rewrap
from hsmsim.ids import is_id
from hsmsim.storage import files

if TYPE_CHECKING:
    from pathlib import Path

    from hsmsim.config import Places
    from hsmsim.fleet.protocol import ImageView
    from hsmsim.hsm.roots.process import Roots

FORMAT: Final = 1
MANIFEST_MAX: Final = 1 << 20
SUFFIX: Final = ".image"


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What lies beside an exported image.

    sha256: of the image's file. roots: the fingerprint of the simulator that made it. backup: as the gateway shows it.
    """

    format: int
    sha256: str
    roots: str
    backup: dict[str, Any]


def fingerprint(places: Places) -> str:
    """Return what tells this simulator's roots from others': SHA-256 of the manufacturer's certificate."""
    path = places.home / "roots" / devices.MANUFACTURER_CERTIFICATE
    return devices.read_certificate(path).fingerprint(hashes.SHA256()).hex()


def verify(roots: Roots, path: Path, backup_id: str) -> ImageView:
    """Return what an image is of; ImageError where it was changed, HsmsimError where its region's root is not here."""
    header, envelope = imagefile.heads(path)
    context = imagefile.context(backup_id, header.image_id)
    roots.rewrap(Rewrap(envelope.region, envelope.sealed, context, envelope.region, context))
    return operations.view_image(path, backup_id)


def id_of(path: Path) -> str:
    """Return the backup that an image's file is named after."""
    backup_id = path.name.removesuffix(SUFFIX)
    if path.suffix != SUFFIX or not is_id(backup_id, "backup"):
        raise HsmsimError(f"{path} is no exported image: those are named backup-...{SUFFIX}.")
    return backup_id


def export(places: Places, roots: Roots, backup: dict[str, Any], folder: Path) -> Path:
    """Write image and manifest of a backup into a folder; return the image's path."""
    backup_id = str(backup["backup_id"])
    source, target = imagefile.path_of(places.images_folder, backup_id), folder / f"{backup_id}{SUFFIX}"
    if target.exists() or not folder.is_dir():
        raise HsmsimError(f"{target} is there already." if target.exists() else f"{folder} is no folder.")
    view = verify(roots, source, backup_id)
    _copy(source, target)
    made = Manifest(FORMAT, _sha256(target), fingerprint(places), backup | {"region": view.region})
    files.replace(_manifest(target), msgspec.json.format(msgspec.json.encode(made), indent=2) + b"\n")
    return target


def read_manifest(places: Places, path: Path) -> Manifest:
    """Return the manifest beside an image that this simulator's roots are of; HsmsimError."""
    beside = _manifest(path)
    try:
        with beside.open("rb") as file:
            found = msgspec.json.decode(file.read(MANIFEST_MAX), type=Manifest)
    except FileNotFoundError:
        raise HsmsimError(f"{beside} is missing: an image is imported with the manifest that was exported.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise HsmsimError(f"{beside} is no manifest: {error}.") from error
    if found.format != FORMAT:
        raise HsmsimError(f"{beside} has format {found.format}; this hsmsim reads format {FORMAT}.")
    if found.backup.get("backup_id") != id_of(path):
        raise HsmsimError(f"{beside} is of another backup: {found.backup.get('backup_id')}.")
    own = fingerprint(places)
    if found.roots != own:
        raise HsmsimError(
            f"{path.name} is of another simulator: it was made under the roots {found.roots[:16]}, those here are "
            f"{own[:16]}. An image opens only where its region's root is."
        )
    return found


def take_in(places: Places, roots: Roots, path: Path, manifest: Manifest) -> dict[str, Any]:
    """Put an exported image among this simulator's; return the backup to register, as the image itself says."""
    backup_id = id_of(path)
    if _sha256(path) != manifest.sha256:
        raise HsmsimError(f"{path.name} is not the image that its manifest is of: its digest is another one.")
    view = verify(roots, path, backup_id)
    with state.lock(places):
        account = state.load(places).account
        state.make_images(places, account)
        target = imagefile.path_of(places.images_folder, backup_id)
        _copy(path, target)
        state.give(target, account)
    own = {"region": view.region, "cluster_id": view.cluster_id, "mode": view.mode, "hsm_type": view.model}
    return manifest.backup | own | {"state": "READY", "never_expires": False, "delete_at": 0.0, "shared": False}


def _copy(source: Path, target: Path) -> None:
    imagefile.copy(source, target, imagefile.heads(source)[1])


def _manifest(path: Path) -> Path:
    return path.with_suffix(".json")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
