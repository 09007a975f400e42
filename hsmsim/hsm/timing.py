"""How fast AWS's HSMs are: the rates that its guide publishes, for HSMs that are to be no faster.

The guide ("AWS CloudHSM performance") has signatures a second for clusters of two, three and six HSMs, with RSA-2048,
P-256 and, which this HSM does not sign with, ML-DSA-44. Half the figure of two HSMs is one HSM's. Nothing is published
for symmetric keys, random numbers and making keys: they have no limit. docs/how-to/timing-profiles.md has it all.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Rates:
    """Operations with private keys a second, of one HSM; 0: no limit."""

    rsa_2048: int
    p_256: int


UNLIMITED: Final = Rates(0, 0)
PROFILES: Final[Mapping[str, Rates]] = MappingProxyType(
    {"hsm1.medium": Rates(1000, 250), "hsm2m.medium": Rates(1000, 1500)}
)
