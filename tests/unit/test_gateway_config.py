"""What the gateway's configuration keeps from one start to the next, and refuses."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from hsmsim.config import Places
from hsmsim.errors import HsmsimError
from hsmsim.gateway import launch
from hsmsim.gateway.config import GatewayConfig

if TYPE_CHECKING:
    from pathlib import Path

WRITTEN = {"quotas": {"cloudhsm.hsms": 9}, "unverified": {"cloudhsm.shows_update": True, "cloudhsm.shown_s": 60}}


def test_what_a_user_wrote_into_it_stays(tmp_path: Path) -> None:
    places = Places(tmp_path / "home", tmp_path / "run")
    places.gateway().config.parent.mkdir(parents=True)
    places.gateway().config.write_text(json.dumps(WRITTEN))
    found = launch._config(places, launch.Options())
    assert {"quotas": found.quotas, "unverified": found.unverified} == WRITTEN


@pytest.mark.parametrize("members", [{"unverified": {"cloudhsm.quota": None}}, {"unverifed": {}}])
def test_what_it_cannot_have_is_refused(tmp_path: Path, members: dict[str, object]) -> None:
    path = tmp_path / "gateway.json"
    path.write_text(json.dumps({"home": str(tmp_path), **members}))
    with pytest.raises(HsmsimError, match=r"is no configuration of a gateway: .*unverif"):
        GatewayConfig.read(path)
