"""What `hsmsim bench` says of figures: bars, doubts, documents, the report; the figures here are made up."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from hsmsim.bench import contenders as who
from hsmsim.bench import document, handshakes, report
from hsmsim.bench.bars import BARS, Bar, Relation, Side, judge
from hsmsim.bench.measure import Contender, Measurement, find, interleave, run_once
from hsmsim.bench.signing import GCM, SIGN, Done, Pace
from hsmsim.errors import HsmsimError

if TYPE_CHECKING:
    from pathlib import Path

LATENCY = {"p50_us": 10.0, "p90_us": 20.0, "p99_us": 30.0, "others_cpu": 0.1}


def signed(contender: str, *rates: float, workload: str = SIGN, **setting: str | int) -> Measurement:
    return Measurement(workload, contender, setting, tuple({**LATENCY, "per_second": rate} for rate in rates))


def shaken(contender: str, rate: float, *, client: float = 0.5, busy: float = 0.99, workers: int = 1) -> Measurement:
    numbers = {"per_server_core_second": rate, "per_second": rate, "worker_us": 1e6 / rate, "hsm_us": 0.0}
    setting: dict[str, str | int] = {"key": "rsa2048", "tls": "1.3", "workers": workers}
    return Measurement("handshakes", contender, setting, ({**LATENCY, **numbers, "client_cpu": client, "busy": busy},))


def bar(workload: str, against: str) -> Bar:
    (found,) = [one for one in BARS if one.workload == workload and one.against == against]
    return found


CROWD = bar("rsa2048 sign, 16 client processes", "OpenSSL in process, a process for each processor")
NGINX = bar("nginx full handshakes per server-core-second, rsa2048, TLS 1.3", handshakes.NGINX_FILE)


def test_a_bar_compares_medians() -> None:
    ours = signed(who.HSMSIM, 100, 250, 900, key="rsa2048", clients=16)
    theirs = signed(who.OPENSSL, 100, key="rsa2048", clients=16)
    verdict = judge(CROWD, [ours, theirs])
    assert (verdict.value, verdict.text) == (2.5, "met")
    slower = signed(who.HSMSIM, 239, key="rsa2048", clients=16)
    assert judge(CROWD, [slower, theirs]).text == "not met"


@pytest.mark.parametrize("there", [[], [signed(who.HSMSIM, 1, key="rsa2048", clients=16)]])
def test_a_bar_without_both_sides_is_not_measured(there: list[Measurement]) -> None:
    verdict = judge(CROWD, there)
    assert (verdict.value, verdict.text) == (None, "not measured")


def test_clients_and_keys_of_another_bar_do_not_count() -> None:
    others = [signed(name, 1, key="rsa2048", clients=8) for name in (who.HSMSIM, who.OPENSSL)]
    assert judge(CROWD, others).value is None


def test_a_difference_of_latency_is_a_bar_from_above() -> None:
    one = Bar("x", "y", Side(SIGN, ("a",), {}, "p50_us"), Side(SIGN, ("b",), {}, "p50_us"), 15, Relation.WITHIN)
    slow = Measurement(SIGN, "a", {}, ({"p50_us": 29.5},))
    fast = Measurement(SIGN, "b", {}, ({"p50_us": 14.0},))
    verdict = judge(one, [slow, fast])
    assert (verdict.value, verdict.text) == (15.5, "not met")


def test_the_best_number_of_workers_counts_on_both_sides() -> None:
    measured = [
        shaken(handshakes.NGINX_FILE, 1000, workers=1),
        shaken(handshakes.NGINX_FILE, 800, workers=16),
        shaken(handshakes.NGINX_ENGINE, 1100, workers=1),
        shaken(handshakes.NGINX_PROVIDER, 1300, workers=16),
    ]
    assert judge(NGINX, measured).value == pytest.approx(1.3)


@pytest.mark.parametrize(
    ("client", "busy", "why"),
    [
        (0.93, 0.99, "void: the client used 93% of its processor"),
        (0.5, 0.8, "void: the server's processor was only 80% busy"),
    ],
)
def test_handshakes_that_prove_nothing_are_void(client: float, busy: float, why: str) -> None:
    measured = [
        shaken(handshakes.NGINX_FILE, 1000),
        shaken(handshakes.NGINX_ENGINE, 9000, client=client, busy=busy),
    ]
    assert judge(NGINX, measured).text == why
    assert judge(NGINX, [*measured, shaken(handshakes.NGINX_ENGINE, 1300, workers=16)]).text == "met"


def test_documents_are_read_as_they_were_written(tmp_path: Path) -> None:
    done = Done([signed(who.HSMSIM, 1, 2, 6, key="p256", clients=2)], {"HAProxy": "apt-get install haproxy"})
    path = tmp_path / "sign.json"
    path.write_text(json.dumps(document.encoded("sign", Pace(0.5, 3), done)))
    content = document.read(path)
    assert content["measurements"][0]["median"]["per_second"] == 2
    assert content["measurements"][0]["spread"]["per_second"] == [1, 6]
    assert document.decoded(content) == done
    path.write_text('{"schema": 0}')
    with pytest.raises(HsmsimError, match="measure again"):
        document.read(path)


def test_the_report_has_every_bar_every_figure_and_plots(tmp_path: Path) -> None:
    measured = [
        signed(name, rate, key="p256", clients=clients)
        for name, rate in ((who.HSMSIM, 150), (who.OPENSSL, 90))
        for clients in (1, 16)
    ]
    measured += [signed(who.HSMSIM, 70, workload=GCM, bytes=64, clients=1), shaken(handshakes.NGINX_FILE, 1000)]
    content = document.encoded("sign", Pace(), Done(measured, {"HAProxy": "apt-get install haproxy"}))
    (tmp_path / "sign.json").write_text(json.dumps(content))
    text = report.write(tmp_path).read_text()
    rows = [line for line in text.splitlines() if line.startswith("| p256 sign, 16 client processes")]
    assert [row.split(" | ")[-2:] for row in rows] == [
        ["1.67", "met |"],
        ["-", "not measured |"],
        ["-", "not measured |"],
        ["-", "not measured |"],
    ]
    assert "HAProxy: apt-get install haproxy" in text
    assert "| key p256, clients 16 | hsmsim | 150 |" in text
    names = ["throughput-p256", "latency-p256-1", "latency-p256-16", "aes-gcm", "handshakes"]
    for name in names:
        assert f"![{name}]({name}.svg)" in text
        assert ET.parse(tmp_path / f"{name}.svg").getroot().tag.endswith("svg")


def test_a_report_of_nothing_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(HsmsimError, match="hsmsim bench all"):
        report.write(tmp_path)


def test_contenders_take_turns() -> None:
    order: list[str] = []

    def run(contender: Contender, _seconds: float) -> dict[str, float]:
        order.append(contender.name)
        return {"per_second": float(len(order))}

    turns = [(Contender(name, ()), {"clients": 1}) for name in ("a", "b")]
    measured = interleave("w", turns, rounds=2, seconds=1, step=lambda _: None, run=run)
    assert order == ["a", "b", "a", "b"]
    assert [one.median("per_second") for one in find(measured, "w", "b", clients=1)] == [3]


def test_a_contender_that_fails_is_named() -> None:
    broken = Contender("SoftHSM2", ("/bin/sh", "-c", "echo no token >&2; exit 1"))
    with pytest.raises(HsmsimError, match="SoftHSM2 did not run: no token"):
        run_once(broken, 1)


def test_a_run_tells_its_processor_time() -> None:
    busy = 'import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass\nprint("{}")'
    numbers = run_once(Contender("busy", ("python3", "-c", busy), processors=frozenset({0})), 1)
    assert 0.15 <= numbers["clients_s"] <= numbers["elapsed_s"] + 0.05
    assert numbers["workers_s"] == numbers["hsms_s"] == 0
