"""What hsmsim wants to reach: ratios between two sides of one run, as data, and the verdict on each."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from hsmsim.bench import contenders as who
from hsmsim.bench.document import doubt
from hsmsim.bench.handshakes import (
    HANDSHAKES,
    HAPROXY_FILE,
    HAPROXY_PROVIDER,
    NGINX_ENGINE,
    NGINX_FILE,
    NGINX_PROVIDER,
    NGINX_SOFTHSM,
)
from hsmsim.bench.measure import find
from hsmsim.bench.signing import GCM, SIGN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hsmsim.bench.measure import Measurement, Setting

CROWD: Final = 16


class Relation(StrEnum):
    """How the two sides are compared."""

    AT_LEAST = "ratio at least"
    AT_MOST = "ratio at most"
    WITHIN = "microseconds more, below"


@dataclass(frozen=True, slots=True)
class Side:
    """A number of whoever of the contenders did best, in any setting that agrees with this one."""

    workload: str
    contenders: tuple[str, ...]
    setting: Setting = field(default_factory=dict)
    key: str = "per_second"
    least: bool = False  # the smallest number is the best

    def best(self, measured: Sequence[Measurement]) -> Measurement | None:
        """The best measurement, one without a doubt before any other; None where none was made."""
        found = [one for name in self.contenders for one in find(measured, self.workload, name, **self.setting)]
        sign = -1 if self.least else 1
        return max(found, key=lambda one: (not doubt(one), sign * one.median(self.key)), default=None)


@dataclass(frozen=True, slots=True)
class Bar:
    """One line of the table: our side, the other's, and the limit."""

    workload: str
    against: str
    ours: Side
    theirs: Side
    limit: float
    relation: Relation = Relation.AT_LEAST


@dataclass(frozen=True, slots=True)
class Verdict:
    """The figure, None where a side was not measured, and what it says: met, not met, void with the reason."""

    bar: Bar
    value: float | None
    text: str


def judge(bar: Bar, measured: Sequence[Measurement]) -> Verdict:
    """Compare the two sides."""
    ours, theirs = bar.ours.best(measured), bar.theirs.best(measured)
    if ours is None or theirs is None:
        return Verdict(bar, None, "not measured")
    mine, other = ours.median(bar.ours.key), theirs.median(bar.theirs.key)
    value = mine - other if bar.relation is Relation.WITHIN else mine / other
    met = value >= bar.limit if bar.relation is Relation.AT_LEAST else value <= bar.limit
    return Verdict(bar, value, doubt(ours) or doubt(theirs) or ("met" if met else "not met"))


def _signing(key: str, limit: float, ours: str = who.HSMSIM) -> Bar:
    at: Setting = {"key": key, "clients": CROWD}
    sides = Side(SIGN, (ours,), at), Side(SIGN, (who.OPENSSL,), at)
    name = f"{key} sign, {CROWD} client processes" + ("" if ours == who.HSMSIM else f" ({ours})")
    return Bar(name, "OpenSSL in process, a process for each processor", *sides, limit)


def _looped(key: str, limit: float) -> Bar:
    at: Setting = {"key": key, "clients": CROWD}
    sides = Side(SIGN, (who.HSMSIM,), at), Side(SIGN, (who.LANES,), {"key": key})
    return Bar(f"{key} sign, {CROWD} client processes", "crypto_mb in a loop on all processors", *sides, limit)


def _handshakes(key: str, tls: str, against: str, limit: float, *ours: str) -> Bar:
    at: Setting = {"key": key, "tls": tls}
    rate = "per_server_core_second"
    sides = Side(HANDSHAKES, ours, at, rate), Side(HANDSHAKES, (against,), at, rate)
    name = f"{ours[0].partition(',')[0]} full handshakes per server-core-second, {key}, TLS {tls}"
    return Bar(name, against, *sides, limit)


def _worker(tls: str) -> Bar:
    at: Setting = {"key": "rsa2048", "tls": tls}
    sides = (
        Side(HANDSHAKES, (NGINX_ENGINE, NGINX_PROVIDER), at, "worker_us", least=True),
        Side(HANDSHAKES, (NGINX_FILE,), at, "worker_us", least=True),
    )
    name = f"worker's processor time per rsa2048 handshake, TLS {tls}"
    return Bar(name, NGINX_FILE, *sides, 0.6, Relation.AT_MOST)


_ONE: Final[Setting] = {"key": "p256", "clients": 1}
_BLOCK: Final[Setting] = {"bytes": 4096, "clients": 1}
_TLS: Final = ("1.2", "1.3")

BARS: Final = (
    _signing("rsa2048", 2.4),
    _signing("rsa4096", 3.0),
    _signing("p256", 1.5),
    _signing("p384", 15),
    Bar(
        "p256 sign, 16 client processes",
        f"{who.SOFTHSM}, the best number of them",
        Side(SIGN, (who.HSMSIM,), {"key": "p256", "clients": CROWD}),
        Side(SIGN, (who.SOFTHSM,), {"key": "p256"}),
        6,
    ),
    Bar(
        "p256 sign, one client, median latency",
        who.OPENSSL,
        Side(SIGN, (who.HSMSIM,), _ONE, "p50_us", least=True),
        Side(SIGN, (who.OPENSSL,), _ONE, "p50_us", least=True),
        15,
        Relation.WITHIN,
    ),
    _looped("rsa2048", 0.85),
    _looped("p256", 0.4),
    *(_handshakes("rsa2048", tls, NGINX_FILE, 1.25, NGINX_ENGINE, NGINX_PROVIDER) for tls in _TLS),
    *(_handshakes("p256", tls, NGINX_FILE, 0.95, NGINX_ENGINE, NGINX_PROVIDER) for tls in _TLS),
    *(_handshakes("rsa2048", tls, NGINX_SOFTHSM, 2, NGINX_ENGINE) for tls in _TLS),
    *(_handshakes("rsa2048", tls, HAPROXY_FILE, 1.25, HAPROXY_PROVIDER) for tls in _TLS),
    *(_worker(tls) for tls in _TLS),
    Bar(
        "AES-256-GCM 4 KiB encrypt, one client",
        who.SOFTHSM,
        Side(GCM, (who.HSMSIM,), _BLOCK),
        Side(GCM, (who.SOFTHSM, who.SOFTHSM_PROCESSES), _BLOCK),
        2,
    ),
    _signing("rsa2048", 0.9, who.PLAIN),
    _signing("p256", 0.7, who.PLAIN),
)
