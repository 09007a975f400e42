"""GetCallerIdentity, signed, over HTTP: the gateway against moto's server, one after the other in the same run.

The client is wrk with one thread and 16 connections. It sends one signed request again and again: a signature is good
for 15 minutes. The gateway, with all its services, checks it each time and records each call; moto does neither.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from support import postgres
from support.assembled import Gateway
from support.gateway import ROOT

from hsmsim.storage.database import in_schema

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.bench

MOTO = ROOT / "build" / "contenders" / "bin" / "moto_server"
BODY = "Action=GetCallerIdentity&Version=2011-06-15"
WARM_S, RUN_S, ROUNDS = 1, 3, 3


@dataclass(frozen=True, slots=True)
class Rates:
    """Requests a second: the best of the rounds, which alternate. shared: with the gateway's rows in PostgreSQL."""

    gateway: float
    shared: float
    moto: float


def script(folder: Path, url: str, keys: dict[str, str]) -> Path:
    """wrk's Lua for one signed request."""
    request = AWSRequest(
        "POST", url, data=BODY, headers={"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
    )
    SigV4Auth(Credentials(keys["AccessKeyId"], keys["SecretAccessKey"]), "sts", "us-east-1").add_auth(request)
    lines = ['wrk.method = "POST"', f'wrk.body = "{BODY}"']
    lines += [f'wrk.headers["{name}"] = "{value}"' for name, value in request.headers.items()]
    path = folder / "request.lua"
    path.write_text("\n".join(lines))
    return path


def rate(folder: Path, url: str, keys: dict[str, str], seconds: int) -> float:
    command = ["wrk", "-t1", "-c16", f"-d{seconds}s", "-s", str(script(folder, url, keys)), url]
    text = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "Non-2xx" not in text, text
    found = re.search(r"Requests/sec:\s+([\d.]+)", text)
    assert found, text
    return float(found.group(1))


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    assert MOTO.exists(), f"{MOTO} is missing: scripts/bench makes it"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [MOTO, "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def rates(moto: str, tmp_path_factory: pytest.TempPathFactory) -> Rates:
    assert shutil.which("wrk"), "wrk is missing; scripts/bench installs it"
    with ExitStack() as stack:
        server = stack.enter_context(postgres.server())
        targets = [(tmp_path_factory.mktemp("moto"), moto, {"AccessKeyId": "any", "SecretAccessKey": "any"})]
        for config in ({}, {"database": in_schema(server.url, "gateway")}):
            folder = tmp_path_factory.mktemp("bench")
            gateway = Gateway(folder, **config)
            stack.callback(gateway.stop)
            targets.append((folder, gateway.url + "/", gateway.root))
        for target in targets:
            rate(*target, WARM_S)
        theirs, ours, shared = (
            max(found) for found in zip(*([rate(*one, RUN_S) for one in targets] for _ in range(ROUNDS)), strict=True)
        )
    print(f"\nGetCallerIdentity: gateway {ours:,.0f}/s, on PostgreSQL {shared:,.0f}/s, moto {theirs:,.0f}/s")  # noqa: T201 - the figures
    return Rates(ours, shared, theirs)


def test_the_gateway_is_four_times_as_fast_as_moto(rates: Rates) -> None:
    assert rates.gateway >= 4 * rates.moto


def test_the_gateway_answers_5000_signed_calls_a_second(rates: Rates) -> None:
    """On two idle cores."""
    assert rates.gateway >= 5000


def test_to_ask_postgresql_before_each_request_costs_less_than_half(rates: Rates) -> None:
    """Where other gateways may have revoked a key."""
    assert rates.shared >= rates.gateway / 2
