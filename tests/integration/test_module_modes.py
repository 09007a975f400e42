"""What the cluster's mode forbids, as a program with the PKCS#11 module sees it; limited writes likewise."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING

import pytest
from support.hsm import CLUSTER, USERS, cluster
from support.p11 import Module, refused

from hsmsim.config import module_path
from hsmsim.fleet import modulecfg
from hsmsim.hsm import messages as m
from hsmsim.hsm.client import HsmClient
from hsmsim.hsm.cryptoki import CKA, CKF, CKM, CKR, MECHANISMS, Profile

if TYPE_CHECKING:
    from pathlib import Path

    from support.hsm import Cluster

ED25519 = bytes.fromhex("06032b6570")
PIN = f"alice:{USERS['alice']}"


def module(made: Cluster, folder: Path) -> Module:
    """The module, configured for a test's own HSMs."""
    servers = [{"hostname": hsm.hsm_id, "port": 2223, "enable": True, "socket": str(hsm.socket)} for hsm in made.hsms]
    options = {"disable_key_availability_check": True}
    slot = {
        "type": "hsm2m",
        "cluster": {"cluster_id": CLUSTER, "servers": servers, "options": options},
        "hsmsim": {"partition": "", "vantage": "", "uid": os.geteuid(), "label": "hsmsim"},
    }
    content = {
        "clusters": [slot],
        "logging": {"log_type": "term", "log_level": "warn"},
        "hsmsim": {"profile": "general", "timeout_ms": 5000},
    }
    path = folder / "pkcs11.cfg"
    path.write_bytes(modulecfg.encoded(content))
    return Module({"HSMSIM_MODULE": str(module_path()), "HSMSIM_PKCS11_CONFIG": str(path)})


def offered(one: Module) -> dict[int, int]:
    """C_GetMechanismList and C_GetMechanismInfo: functions by mechanism."""
    count = ctypes.c_ulong()
    one.call("C_GetMechanismList", one.slot, None, ctypes.byref(count))
    listed = (ctypes.c_ulong * count.value)()
    one.call("C_GetMechanismList", one.slot, listed, ctypes.byref(count))
    info = (ctypes.c_ulong * 3)()
    found = {}
    for kind in listed:
        one.call("C_GetMechanismInfo", one.slot, kind, ctypes.byref(info))
        found[kind] = info[2]
    return found


@pytest.mark.parametrize(("mode", "forbidden"), [("FIPS", True), ("NON_FIPS", False)])
def test_the_module_offers_what_the_mode_allows(tmp_path: Path, mode: str, *, forbidden: bool) -> None:
    with cluster(mode=mode) as made, module(made, tmp_path) as one:
        found = offered(one)
        expected = {
            info.type: functions
            for info in MECHANISMS.values()
            if (functions := info.available(Profile.GENERAL, fips=forbidden))
        }
        assert set(found) == set(expected)
        assert all(found[kind] & functions == functions for kind, functions in expected.items())
        assert (CKM.EC_EDWARDS_KEY_PAIR_GEN in found) != forbidden
        assert bool(found[CKM.RSA_PKCS] & CKF.ENCRYPT) != forbidden
        assert found[CKM.RSA_PKCS] & CKF.SIGN
        session = one.session(PIN)
        public, private = session.pair(
            CKM.RSA_PKCS_KEY_PAIR_GEN,
            {CKA.MODULUS_BITS: 2048, CKA.ENCRYPT: True},
            {CKA.SIGN: True, CKA.DECRYPT: True},
        )
        assert len(session.whole("Sign", CKM.RSA_PKCS, private, b"text")) == 256
        if forbidden:
            with refused(CKR.MECHANISM_INVALID):
                session.init("C_EncryptInit", CKM.RSA_PKCS, public)
            with refused(CKR.MECHANISM_INVALID):
                session.pair(CKM.EC_EDWARDS_KEY_PAIR_GEN, {CKA.EC_PARAMS: ED25519}, {CKA.SIGN: True})
        else:
            sealed = session.whole("Encrypt", CKM.RSA_PKCS, public, b"text")
            assert session.whole("Decrypt", CKM.RSA_PKCS, private, sealed) == b"text"
            assert session.pair(CKM.EC_EDWARDS_KEY_PAIR_GEN, {CKA.EC_PARAMS: ED25519}, {CKA.SIGN: True})


def test_limited_writes_reach_the_module_and_session_keys_go_on(tmp_path: Path) -> None:
    with cluster() as made, module(made, tmp_path) as one:
        session = one.session(PIN)
        curve = {CKA.EC_PARAMS: bytes.fromhex("06082a8648ce3d030107")}
        kept = session.pair(CKM.EC_KEY_PAIR_GEN, curve, {CKA.TOKEN: True, CKA.SIGN: True})[1]
        with HsmClient(made.hsms[0].socket) as service:
            service.call(m.LimitedWriteRequest(1))
        with refused(CKR.TOKEN_WRITE_PROTECTED):
            session.pair(CKM.EC_KEY_PAIR_GEN, curve, {CKA.TOKEN: True, CKA.SIGN: True})
        with refused(CKR.TOKEN_WRITE_PROTECTED):
            session.call("C_DestroyObject", kept)
        for key in (kept, session.pair(CKM.EC_KEY_PAIR_GEN, curve, {CKA.SIGN: True})[1]):
            assert len(session.whole("Sign", CKM.ECDSA, key, b"d" * 32)) == 64
