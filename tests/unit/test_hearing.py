"""Whoever starts HSMs waits until they hear each other: who is waited for, and what is said of those who do not."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from hsmsim import faults
from hsmsim.config import Places
from hsmsim.errors import HsmsimError
from hsmsim.fleet import launch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Says = Callable[[dict[str, list[int]]], None]

A, B, C = "hsm-aaaaaaaaaaa", "hsm-bbbbbbbbbbb", "hsm-ccccccccccc"


@pytest.fixture
def places(tmp_path: Path) -> Places:
    made = Places(tmp_path / "home", tmp_path / "run")
    for hsm_id in (A, B, C):
        made.hsm_folder(hsm_id).mkdir(parents=True)
    return made


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Says:
    """Have HSMs say how many they hear: one number after the other, the last one for ever; others do not answer."""

    def install(live: dict[str, list[int]]) -> None:
        def info(_: Places, hsm_id: str, seconds: float) -> SimpleNamespace | None:
            assert seconds < launch.LOOK_SECONDS
            left = live.get(hsm_id)
            return left and SimpleNamespace(live=left.pop(0) if len(left) > 1 else left[0])

        monkeypatch.setattr(launch, "info", info)

    return install


def test_it_waits_until_all_hear_all(places: Places, says: Says) -> None:
    live = {A: [1, 2, 3], B: [1, 1, 1, 3], C: [3]}
    says(live)
    launch.wait_heard(places, (A, B, C))
    assert live == {A: [3], B: [3], C: [3]}


def test_what_does_not_answer_or_is_cut_off_is_not_waited_for(places: Places, says: Says) -> None:
    faults.store(places.hsm_folder(C) / faults.FILE, faults.Faults(cut=faults.Cut.PEERS))
    says({A: [1], C: [1]})
    start = time.monotonic()
    launch.wait_heard(places, (A, B, C))
    assert time.monotonic() - start < launch.HEARD_SECONDS


def test_who_hears_too_few_is_named_when_the_time_is_up(places: Places, says: Says) -> None:
    says({A: [2], B: [1]})
    with pytest.raises(
        HsmsimError, match=rf"{B} hears 1 of 2, itself included.*hsmsim fault list.*{B}/hsm.log"
    ) as told:
        launch.wait_heard(places, (A, B), seconds=0.1)
    assert A not in str(told.value)
