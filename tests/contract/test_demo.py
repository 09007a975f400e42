"""`hsmsim demo tls-offload`, short: its pages, its servers and its plot; the speed is scripts/bench's to say."""

from __future__ import annotations

import json
from itertools import product
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from hsmsim.demo.tls_offload import FILE, HSM, SOFTHSM

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Simulator


def test_the_demonstration(simulator: Simulator, tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)  # nginx's workers may be somebody else
    out = tmp_path / "demo"
    options = ("--seconds", "0.3", "--rounds", "1", "--workers", "1", "--connections", "2", "--output", str(out))
    shown = json.loads(simulator.run("demo", "tls-offload", "--json", *options))
    wheres, kinds = (HSM, FILE, SOFTHSM), ("rsa2048", "p256")
    fetched = {(one["client"], one["tls"], one["key"], one["where"]): one["page"] for one in shown["fetches"]}
    assert set(fetched) == set(product(("curl", "openssl s_client"), ("1.2", "1.3"), kinds, wheres))
    names = {"rsa2048": "RSA-2048", "p256": "P-256"}
    for (_, _, kind, where), page in fetched.items():
        assert page == f"served by nginx, {names[kind]}, {where}"
    assert {(one["key"], one["where"]) for one in shown["handshakes"]} == set(product(kinds, wheres))
    assert all(one["per_second"] > 0 and len(one["rounds"]) == 1 for one in shown["handshakes"])
    assert shown["plot"] == str(out / "tls-offload.svg")
    assert ET.parse(shown["plot"]).getroot().tag.endswith("svg")
    assert json.loads(simulator.run("key", "list", "--json")) == []  # its keys went with it
    assert not list(out.glob("hsm/**/*.key"))
