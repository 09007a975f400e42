"""The simulated clock that all processes share."""

from __future__ import annotations

import multiprocessing
import stat
import time
from typing import TYPE_CHECKING

import pytest

from hsmsim.clock import SharedClock, set_offset
from hsmsim.config import Places
from hsmsim.errors import HsmsimError
from hsmsim.fleet import simclock

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from pathlib import Path


def follow(path: Path, pipe: Connection) -> None:
    clock = SharedClock(path)
    pipe.send(clock.offset())
    while pipe.recv():
        pipe.send((clock.offset(), clock.time() - clock.real()))


def test_another_process_follows_at_once(tmp_path: Path) -> None:
    path = tmp_path / "clock"
    set_offset(path, 0)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=follow, args=(path, theirs))
    process.start()
    assert ours.recv() == 0
    for seconds in (34_560_000, 0, 2**40, 7):
        set_offset(path, seconds)
        ours.send("go on")
        offset, ahead = ours.recv()
        assert offset == seconds
        assert ahead == pytest.approx(seconds, abs=1)
    ours.send("")
    process.join()
    assert process.exitcode == 0


def test_leases_and_signatures_do_not_follow(tmp_path: Path) -> None:
    set_offset(tmp_path / "clock", 1_000_000)
    clock = SharedClock(tmp_path / "clock")
    assert clock.real() == pytest.approx(time.time(), abs=5)
    assert clock.monotonic_ns() == pytest.approx(time.monotonic_ns(), abs=5e9)
    assert clock.time() == pytest.approx(time.time() + 1_000_000, abs=5)


def test_a_file_that_is_no_clock_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"1234567", b"123456789"):
        (tmp_path / "clock").write_bytes(content)
        with pytest.raises(HsmsimError, match="is not the simulated clock"):
            SharedClock(tmp_path / "clock")
    (tmp_path / "link").symlink_to(tmp_path / "clock")
    with pytest.raises(HsmsimError, match="cannot be opened"):
        set_offset(tmp_path / "link", 1)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("36h", 129_600), ("400d", 34_560_000), ("2w", 1_209_600)]
)
def test_spans_are_read(text: str, seconds: int) -> None:
    assert simclock.seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "d", "-1d", "1.5h", "1 d", "1y", "9999999999s"])
def test_what_is_no_span_is_refused(text: str) -> None:
    with pytest.raises(HsmsimError, match="is no span of time"):
        simclock.seconds_of(text)


def test_the_offset_is_kept_when_the_run_folder_goes(tmp_path: Path) -> None:
    places = Places(tmp_path / "home", tmp_path / "run")
    simclock.advance(places, 100)
    simclock.advance(places, 50)
    clock = SharedClock(places.clock_file)
    assert (simclock.offset(places), clock.offset()) == (150, 150)
    places.clock_file.unlink()
    simclock.advance(places, 1)
    assert SharedClock(places.clock_file).offset() == 151
    with pytest.raises(HsmsimError, match="100 years"):
        simclock.advance(places, simclock.LIMIT)
    simclock.reset(places)
    assert (simclock.offset(places), SharedClock(places.clock_file).offset()) == (0, 0)
