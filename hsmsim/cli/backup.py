"""`hsmsim backup list|show|verify|export|import`."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hsmsim.cli import show
from hsmsim.config import Places
from hsmsim.errors import HsmsimError
from hsmsim.fleet import custody
from hsmsim.gateway import launch, manage
from hsmsim.hsm import imagefile
from hsmsim.hsm.roots.process import Roots
from hsmsim.ids import is_id
from hsmsim.services.cloudhsm import desk
from hsmsim.services.iam import accounts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hsmsim.fleet.protocol import ImageView

backup_argument = click.argument("backup_id")
account_option = click.option("--account", help="Only of this account.")
region_option = click.option("--region", help="Only in this region.")
_SHOWN = (
    ("backup_id", "backup"),
    ("state", "state"),
    ("account", "account"),
    ("region", "region"),
    ("cluster_id", "cluster"),
    ("created", "created"),
    ("hsm_type", "HSM type"),
    ("mode", "mode"),
    ("never_expires", "never expires"),
    ("delete_at", "deleted at"),
    ("shared", "shared by policy"),
    ("source_backup", "copy of"),
    ("source_region", "from region"),
    ("copied", "copied"),
    ("tags", "tags"),
)
_TIMES = frozenset({"created", "delete_at", "copied"})


@click.group()
def backup() -> None:
    """Backups of clusters: of all accounts and regions, as images on the disk.

    A backup is made when a cluster is activated, when an HSM comes or goes, and every day of simulated time; AWS's API
    (`aws cloudhsmv2 ...`) copies, shares, deletes and restores it. Here one looks at the images, and takes them away
    and back. An image has the users and keys of its cluster, sealed to the backup root of its region: it is of no use
    to anybody but the simulator that made it.
    """


def _all() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = manage.call(launch.a_socket(Places.resolve()), "GET", desk.PATH)["backups"]
    return found


def _one(backup_id: str) -> dict[str, Any]:
    for one in _all():
        if one["backup_id"] == backup_id:
            return one
    raise HsmsimError(f"There is no backup {backup_id}. List them: hsmsim backup list")


def _size(backup_id: str) -> int | None:
    path = imagefile.path_of(Places.resolve().images_folder, backup_id)
    return path.stat().st_size if path.exists() else None


def _time(seconds: float) -> str:
    return f"{dt.datetime.fromtimestamp(seconds, dt.UTC):%Y-%m-%dT%H:%M:%SZ}"


@backup.command("list")
@account_option
@region_option
@show.as_json
def list_(account: str | None, region: str | None, *, as_json: bool) -> None:
    """List backups, the oldest first. SIZE: of the image in bytes; COPY OF: the backup in another region."""
    found = [
        one | {"size": _size(one["backup_id"])}
        for one in _all()
        if account in {None, one["account"]} and region in {None, one["region"]}
    ]
    if as_json:
        show.document(found)
        return
    names = ("backup_id", "state", "account", "region", "cluster_id")
    rows = [
        [*(one[name] for name in names), _time(one["created"]), one["size"], one["source_backup"] or None]
        for one in found
    ]
    headings = ["BACKUP", "STATE", "ACCOUNT", "REGION", "CLUSTER", "CREATED", "SIZE", "COPY OF"]
    show.table(headings, rows, empty="There is no backup. Activate a cluster: hsmsim up --detach")


@backup.command("show")
@backup_argument
@show.as_json
def show_(backup_id: str, *, as_json: bool) -> None:
    """Show all that is known about a backup."""
    found = _one(backup_id) | {"size": _size(backup_id)}
    if as_json:
        show.document(found)
        return
    lines: list[tuple[str, object]] = [(label, _readable(name, found[name])) for name, label in _SHOWN]
    lines.append(("image", "none" if found["size"] is None else f"{found['size']} bytes"))
    _print([(label, value) for label, value in lines if value not in {"", None}])


def _readable(name: str, value: Any) -> object:  # noqa: ANN401 - whatever JSON can say
    if name in _TIMES:
        return _time(value) if value else None
    if isinstance(value, bool):
        return "yes" if value else None
    if isinstance(value, dict):
        return ", ".join(f"{key}={text}" for key, text in value.items())
    return str(value)


def _print(lines: Sequence[tuple[str, object]]) -> None:
    for label, value in lines:
        click.echo(f"{label:<17} {value}")


@backup.command()
@click.argument("what", metavar="BACKUP_ID|FILE")
@show.as_json
def verify(what: str, *, as_json: bool) -> None:
    """Check an image: of a backup here, or a FILE that was exported.

    Every byte is checked against the image's digest, its parts are read, and the key in it is opened by this
    simulator's backup root of its region, in the process that has the roots. The rows are opened, and checked once
    more, only in an HSM that is restored from the image.
    """
    places = Places.resolve()
    path = imagefile.path_of(places.images_folder, what) if is_id(what, "backup") else Path(what)
    with Roots(places.home) as roots:
        view = custody.verify(roots, path, custody.id_of(path))
    if as_json:
        show.document(_document(view))
        return
    _print([(name.replace("_", " "), value) for name, value in _document(view).items()])
    click.echo(f"The image is whole, and this simulator's backup root of {view.region} opens its key.")


def _document(view: ImageView) -> dict[str, object]:
    found: dict[str, object] = {name: getattr(view, name) for name in view.__struct_fields__}
    return found | {"digest": view.digest.hex(), "time": _time(view.time)}


@backup.command("export")
@backup_argument
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=".",
    show_default=True,
    help="The folder to write to.",
)
def export(backup_id: str, output: Path) -> None:
    """Write a backup's image, and a manifest beside it: BACKUP_ID.image and BACKUP_ID.json, both 0600.

    Both can be imported again into this simulator, when the backup is gone from it, and into a simulator that has the
    same roots: one that was made from a copy of this state folder.
    """
    places = Places.resolve()
    with Roots(places.home) as roots:
        made = custody.export(places, roots, _one(backup_id), output)
    click.echo(made)


@backup.command("import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def import_(file: Path) -> None:
    """Register an exported image, whose manifest lies beside FILE: the backup is READY in its account and region.

    An image of a simulator with other roots is refused: nothing here could open it. No cluster's retention takes an
    imported backup away; delete it with `aws cloudhsmv2 delete-backup`.
    """
    places = Places.resolve()
    manifest = custody.read_manifest(places, file)
    backup_id, account = custody.id_of(file), str(manifest.backup.get("account"))
    there = next((one for one in _all() if one["backup_id"] == backup_id), None)
    if there is not None and (there["state"] != "DELETED" or _size(backup_id) is not None):
        raise HsmsimError(f"{backup_id} is here already, {there['state']}: hsmsim backup show {backup_id}")
    known = manage.call(launch.a_socket(places), "GET", accounts.PATH)["accounts"]
    if account not in {one["account"] for one in known}:
        raise HsmsimError(f"There is no account {account} here. Make it: hsmsim account create {account}")
    with Roots(places.home) as roots:
        entry = custody.take_in(places, roots, file, manifest)
    manage.call(launch.a_socket(places), "POST", desk.PATH, entry)
    click.echo(f"{backup_id} is READY in {entry['region']}, account {account}.")
