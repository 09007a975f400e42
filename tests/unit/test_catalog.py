"""The catalog of operations is what the gateway does, and the page of it is up to date."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hsmsim.gateway import catalog
from hsmsim.gateway.codec import model

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def entries() -> dict[str, catalog.ServiceEntry]:
    return {one.name: one for one in catalog.catalog()}


def test_every_operation_of_the_models_is_there(entries: dict[str, catalog.ServiceEntry]) -> None:
    assert {"iam", "sts"} <= set(entries)
    for name, entry in entries.items():
        assert [one.name for one in entry.operations] == sorted(model.load(name).operation_names)
        assert any(one.works for one in entry.operations)


def test_what_works_is_what_is_registered(entries: dict[str, catalog.ServiceEntry]) -> None:
    with catalog._services() as services:
        for service in services:
            work = {one.name for one in entries[service.model].operations if one.works}
            assert work == set(service.operations)


def test_a_service_fails_by_an_error_of_its_model() -> None:
    with catalog._services() as services:
        named = {service.model: service.failure for service in services if service.failure}
    assert named == {"cloudhsmv2": "CloudHsmInternalFailureException", "iam": "ServiceFailure"}
    for name, code in named.items():
        shape = model.load(name).exception(code)
        assert shape
        assert shape.fault or shape.error_status == 500


def test_members_are_told_apart(entries: dict[str, catalog.ServiceEntry]) -> None:
    assume = next(one for one in entries["sts"].operations if one.name == "AssumeRole")
    assert {"RoleArn", "RoleSessionName", "DurationSeconds", "Tags", "Tags[].Key", "Tags[].Value"} <= set(
        assume.members
    )
    assert {"SerialNumber", "TokenCode"} <= set(assume.refused)
    assert not set(assume.members) & set(assume.refused)
    saml = next(one for one in entries["sts"].operations if one.name == "AssumeRoleWithSAML")
    assert saml == catalog.OperationEntry("AssumeRoleWithSAML", works=False)


def test_the_pages_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/gen-docs"), "--check"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")
