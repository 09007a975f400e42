"""`hsmsim bench sign`, `cipher` and `hsms`: operations a second and the time of one, beside OpenSSL and SoftHSM2.

Clients are processes (SoftHSM2 once more with threads). One client is measured twice: anywhere, and on one processor
together with whoever serves it, which shows what an operation costs when nothing runs beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from hsmsim.bench.contenders import HSMSIM, P11_KIT, Client, Workload, field
from hsmsim.bench.measure import interleave, pinned, run_once
from hsmsim.bench.target import AES, Target, temporary_simulator
from hsmsim.errors import HsmsimError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from hsmsim.bench.contenders import Field
    from hsmsim.bench.measure import Contender, Measurement, Setting

SIGN: Final = "sign"
SIGN_ONE: Final = "sign on one processor"
GCM: Final = "AES-256-GCM encrypt"
GCM_KIND: Final = "aes256gcm"
HSMS: Final = "sign by number of HSMs"


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds of a run, rounds."""

    seconds: float = 1.0
    rounds: int = 5


@dataclass(frozen=True, slots=True)
class Done:
    """What was measured, and contenders that were not there, with what to install."""

    measurements: list[Measurement]
    missing: Mapping[str, str]


def sign(
    kinds: tuple[str, ...], crowds: tuple[int, ...], pace: Pace, folder: Path, step: Callable[[str], None]
) -> Done:
    """Signatures of each kind of key with so many clients."""
    measured: list[Measurement] = []
    with field(kinds, folder, step) as found:
        for kind in kinds:
            workload = Workload(kind, kind, pace.seconds)
            for clients in crowds:
                setting: Setting = {"key": kind, "clients": clients}
                measured += _turns(SIGN, found.contenders(workload, clients), setting, pace, step)
            if 1 in crowds:
                measured += _alone(found, SIGN_ONE, workload, {"key": kind, "clients": 1}, pace, step)
    return Done(measured, found.missing)


def cipher(sizes: tuple[int, ...], pace: Pace, folder: Path, step: Callable[[str], None]) -> Done:
    """AES-256-GCM encryptions of so many bytes by one client."""
    measured: list[Measurement] = []
    with field((AES,), folder, step) as whole:
        found = _carried(whole, Workload(GCM_KIND, AES, 0.01))
        for size in sizes:
            workload = Workload(GCM_KIND, AES, pace.seconds, ("--bytes", str(size)))
            setting: Setting = {"bytes": size, "clients": 1}
            measured += _turns(GCM, found.contenders(workload, 1), setting, pace, step)
    return Done(measured, found.missing)


def hsms(
    kinds: tuple[str, ...], most: int, clients: int, pace: Pace, folder: Path, step: Callable[[str], None]
) -> Done:
    """Signatures with 1 to `most` HSM processes in the clients' configuration, all of which run."""
    measured: list[Measurement] = []
    labels = {kind: kind for kind in kinds}
    with temporary_simulator(step, hsms=max(most, 2), labels=labels) as places:
        whole = Target.of(places)
        for kind in kinds:
            workload = Workload(kind, kind, pace.seconds)
            turns: list[tuple[Contender, Setting]] = []
            for number in range(1, most + 1):
                client = Client.of(whole.with_hsms(number, folder))
                setting: Setting = {"key": kind, "hsms": number, "clients": clients}
                turns.append((client.contender(HSMSIM, whole.tools, workload, clients), setting))
            measured += interleave(HSMS, turns, rounds=pace.rounds, seconds=pace.seconds, step=step)
    return Done(measured, {})


def _carried(found: Field, workload: Workload) -> Field:
    """Without p11-kit's server where that does not pass the mechanism on, as 0.24 does not pass GCM; it is named."""
    client = found.clients.get(P11_KIT)
    if client is None:
        return found
    try:
        run_once(client.contender(P11_KIT, found.tools, workload, 1), workload.seconds)
    except HsmsimError as error:
        others = {name: one for name, one in found.clients.items() if name != P11_KIT}
        return replace(found, clients=others, missing={**found.missing, P11_KIT: str(error)})
    return found


def _turns(
    workload: str, contenders: list[Contender], setting: Setting, pace: Pace, step: Callable[[str], None]
) -> list[Measurement]:
    turns = [(contender, setting) for contender in contenders]
    return interleave(workload, turns, rounds=pace.rounds, seconds=pace.seconds, step=step)


def _alone(
    found: Field, name: str, workload: Workload, setting: Setting, pace: Pace, step: Callable[[str], None]
) -> list[Measurement]:
    """One client on the processor of those who serve it."""
    with pinned(found.servers, 0):
        return _turns(name, found.contenders(workload, 1, processor=0), setting, pace, step)
