"""config.json, what an HSM process is started with; written at each start, so that a moved state folder works."""

from __future__ import annotations

import base64
from ipaddress import ip_address
from typing import TYPE_CHECKING

import msgspec

from hsmsim.config import softhsm_library
from hsmsim.fleet import databases, state
from hsmsim.hsm import imagefile
from hsmsim.hsm.address import joined

if TYPE_CHECKING:
    from hsmsim.config import Places
    from hsmsim.fleet.state import Fleet, Hsm


def write(places: Places, fleet: Fleet, hsm: Hsm) -> None:
    """Write it into the HSM's folder, for whom the HSMs run as."""
    folder, cluster = places.hsm_folder(hsm.hsm_id), fleet.cluster_of(hsm.hsm_id)
    rows = databases.url_of(places, cluster.cluster_id)
    config: dict[str, object] = {
        "hsm_id": hsm.hsm_id,
        "cluster_id": cluster.cluster_id,
        "database_url": rows or f"sqlite:///{places.cluster_folder(cluster.cluster_id) / 'cluster.db'}",
        "socket": str(places.socket(hsm.hsm_id)),
        "folder": str(folder),
        "engine": hsm.engine,
        "softhsm_library": str(softhsm_library()),
        "availability_check": cluster.availability_check,
        "model": hsm.model,
        "workers": 0,
        "mode": cluster.mode,
        "timing": cluster.timing,
        "clock": str(places.clock_file),
        "images": str(places.images_folder),
    }
    if fleet.host and hsm.port:
        config["listen"] = joined(fleet.host, hsm.port)
        if has_other_hosts(fleet):
            config["advertise"] = config["listen"]
    if cluster.restore is not None and hsm.sealed:
        config["restore"] = {
            "image": str(imagefile.path_of(places.images_folder, cluster.restore.image_id)),
            "incarnation": cluster.restore.incarnation,
            "sealed": base64.b64encode(hsm.sealed).decode(),
        }
    content = msgspec.json.format(msgspec.json.encode(config), indent=2)
    state.write_private(folder / "config.json", content, account=fleet.account)


def has_other_hosts(fleet: Fleet) -> bool:
    """Whether HSMs of other hosts may be there: those reach the database, and an address that is one host's."""
    if not fleet.host or fleet.database in {"", databases.LOCAL}:
        return False
    return not ip_address(fleet.host).is_unspecified
