"""What AWS's tool says of the hardware, by type and mode of an HSM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hsmsim.cluster.model import FIPS, NON_FIPS

if TYPE_CHECKING:
    from hsmsim.hsm.messages import HsmInfoResponse

_HARDWARE: Final = {
    # AWS's guide, "cluster hsm-info"
    "hsm1.medium": {
        "vendor": "Marvell Semiconductors, Inc.",
        "model": "NITROX-III CNN35XX-NFBE",
        "hardware-version-major": "5",
        "hardware-version-minor": "3",
        "firmware-version-major": "2",
        "firmware-version-minor": "6",
        "firmware-build-number": "16",
        "firmware-id": "CNN35XX-NFBE-FW-2.06-16",
    },
    # UNVERIFIED: no document shows what an hsm2m.medium says. The firmware's version is the simulator's, see _own().
    "hsm2m.medium": {
        "vendor": "Marvell Semiconductors, Inc.",
        "model": "LIQUIDSECURITY2",
        "hardware-version-major": "2",
        "hardware-version-minor": "0",
    },
}
_ORDER: Final = (
    "vendor",
    "model",
    "serial-number",
    "hardware-version-major",
    "hardware-version-minor",
    "firmware-version-major",
    "firmware-version-minor",
    "firmware-build-number",
    "firmware-id",
    "fips-state",
)
_FIPS_STATE: Final = {
    FIPS: "2 [FIPS mode with single factor authentication]",
    NON_FIPS: "0 [non-FIPS mode with single factor authentication]",
}


def document(found: HsmInfoResponse) -> dict[str, str]:
    """Return one entry of `cluster hsm-info`. The serial number is the HSM's id."""
    facts = _own(found.firmware.decode()) | _HARDWARE[found.model.decode()]
    facts |= {"serial-number": found.hsm_id.decode(), "fips-state": _FIPS_STATE[found.mode.decode()]}
    return {name: facts[name] for name in _ORDER}


def _own(version: str) -> dict[str, str]:
    major, minor, build = version.split(".")
    return {
        "firmware-version-major": major,
        "firmware-version-minor": minor,
        "firmware-build-number": build,
        "firmware-id": f"hsmsim-FW-{version}",
    }
