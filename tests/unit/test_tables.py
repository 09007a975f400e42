"""The tables, and what is generated from them."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from hsmsim.hsm import (
    codec,
    cryptoki,
    messages,  # noqa: F401 - fills the codec's table
)
from hsmsim.hsm.cryptoki import (
    ATTRIBUTES,
    CKA,
    CKF,
    CKK,
    CKM,
    CKO,
    CKR,
    ERROR_TEXT,
    MECHANISMS,
    OBJECTS,
    Change,
    Kind,
    Operation,
    Presence,
    Profile,
    rule_for,
)

ROOT = Path(__file__).resolve().parents[2]
HEADER = (ROOT / "native/include/pkcs11_values.h").read_text()


def defined(name: str) -> int:
    match = re.search(rf"^#define {name} (0x[0-9A-F]+)UL$", HEADER, re.MULTILINE)
    assert match, name
    return int(match[1], 0)


def test_the_generated_files_are_those_of_the_tables() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/gen-tables", "--check"], capture_output=True, text=True, check=False
    )
    assert done.stdout == ""
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        # PKCS #11 2.40, "Cryptographic Token Interface Base Specification", appendix B
        ("CKO_SECRET_KEY", 4),
        ("CKK_AES", 0x1F),
        ("CKM_SHA256_RSA_PKCS", 0x40),
        ("CKM_SHA224_RSA_PKCS_PSS", 0x47),
        ("CKM_AES_GCM", 0x1087),
        ("CKM_ECDH1_DERIVE", 0x1050),
        ("CKM_AES_KEY_WRAP_PAD", 0x210A),
        ("CKM_RSA_AES_KEY_WRAP", 0x1054),
        ("CKA_ALLOWED_MECHANISMS", 0x40000600),
        ("CKA_WRAP_WITH_TRUSTED", 0x210),
        ("CKF_DERIVE", 0x80000),
        ("CKF_EC_NAMEDCURVE", 0x800000),
        ("CKR_CRYPTOKI_NOT_INITIALIZED", 0x190),
        ("CKR_FUNCTION_REJECTED", 0x200),
        # 3.0
        ("CKA_UNIQUE_ID", 4),
        ("CKM_EDDSA", 0x1057),
        ("CKM_HKDF_DERIVE", 0x402A),
        ("CKM_SP800_108_COUNTER_KDF", 0x3AC),
        ("CKR_AEAD_DECRYPT_FAILED", 0x42),
        # AWS's published header
        ("CKM_CLOUDHSM_AES_GCM", 0x80001087),
        ("CKM_CLOUDHSM_AES_KEY_WRAP_ZERO_PAD", 0x8000216F),
        ("CKM_CLOUDHSM_VENDOR_SP800_108_COUNTER_KDF", 0x80000001),
    ],
)
def test_numbers_are_those_of_the_specification(name: str, value: int) -> None:
    assert defined(name) == value
    prefix, _, rest = name.partition("_")
    assert getattr(cryptoki, prefix)[rest] == value if prefix != "CKF" else getattr(CKF, rest) == value


def test_every_number_of_a_table_is_in_the_c_header() -> None:
    for info in MECHANISMS.values():
        assert defined(f"CKM_{info.type.name}") == info.type
    for kept in ATTRIBUTES.values():
        assert defined(f"CKA_{kept.type.name}") == kept.type
    for code in CKR:
        assert defined(f"CKR_{code.name}") == code


def test_every_error_has_one_line_of_text() -> None:
    assert set(ERROR_TEXT) == set(CKR)
    assert all(text and "\n" not in text for text in ERROR_TEXT.values())


def test_the_function_list_has_the_length_of_the_specification() -> None:
    tables = tomllib.loads((ROOT / "native/tables/functions.toml").read_text())
    assert {version: len(table) for version, table in tables.items()} == {"2.40": 68, "3.0": 24}
    assert sum(entry["cloudhsm"] for entry in tables["2.40"].values()) == 47


def test_a_mechanisms_parameter_kinds_are_on_the_wire() -> None:
    names = {kind.NAME for kind in codec.PARAMS.values()}
    assert {name for info in MECHANISMS.values() for name in info.params} <= names
    assert [kind.KIND for kind in codec.PARAMS.values()] == list(codec.PARAMS)


def test_the_cloudhsm_profile_advertises_what_aws_lists_and_the_hsm_has() -> None:
    offered = {info.type.name for info in MECHANISMS.values() if info.available(Profile.CLOUDHSM)}
    assert "AES_KEY_WRAP" not in offered
    assert "SP800_108_COUNTER_KDF" not in offered
    assert not [name for name in offered if "DES3" in name or "ML_DSA" in name]
    assert {"RSA_X9_31_KEY_PAIR_GEN", "CLOUDHSM_AES_GCM", "CLOUDHSM_AES_KEY_WRAP_NO_PAD", "AES_CTR"} <= offered
    assert len(offered) == 50


def test_fips_mode_keeps_pkcs1_signatures_and_refuses_pkcs1_encryption() -> None:
    rsa = MECHANISMS[CKM.RSA_PKCS]
    assert rsa.available(Profile.GENERAL, fips=True) == CKF.SIGN | CKF.SIGN_RECOVER | CKF.VERIFY | CKF.VERIFY_RECOVER
    assert rsa.available(Profile.CLOUDHSM) & CKF.VERIFY_RECOVER == 0


def test_key_material_is_marked_secret() -> None:
    secret = {info.type for info in ATTRIBUTES.values() if info.secret}
    factors = {CKA.PRIME_1, CKA.PRIME_2, CKA.EXPONENT_1, CKA.EXPONENT_2, CKA.COEFFICIENT}
    assert secret == {CKA.VALUE, CKA.PRIVATE_EXPONENT} | factors


def rows() -> list[tuple[CKO, CKK | None, Operation, Profile]]:
    return [
        (object_class, key_type, operation, profile)
        for object_class, objects in OBJECTS.items()
        for key_type in objects.key_types
        for operation in (*objects.operations, Operation.COPY, Operation.SET)
        for profile in objects.profiles
    ]


@pytest.mark.parametrize("row", rows(), ids=lambda row: "-".join(str(getattr(part, "name", part)) for part in row))
def test_a_row_of_the_rules_is_whole(row: tuple[CKO, CKK | None, Operation, Profile]) -> None:
    rules = rule_for(*row)
    assert {CKA.CLASS, CKA.TOKEN, CKA.PRIVATE, CKA.LABEL} <= set(rules)
    assert row[1] is None or {CKA.KEY_TYPE, CKA.ID, CKA.LOCAL} <= set(rules)
    types = {Kind.BOOL: bool, Kind.ULONG: int, Kind.BIGINT: bytes}
    for name, rule in rules.items():
        assert rule.default is None or type(rule.default) is types[ATTRIBUTES[name].kind]
        assert rule.presence is not Presence.FIXED or rule.default is not None


def test_a_row_that_does_not_exist_is_empty() -> None:
    assert rule_for(CKO.DATA, None, Operation.CREATE, Profile.CLOUDHSM) == {}
    assert rule_for(CKO.PUBLIC_KEY, CKK.RSA, Operation.UNWRAP, Profile.GENERAL) == {}
    assert rule_for(CKO.SECRET_KEY, CKK.DES3, Operation.GENERATE, Profile.GENERAL) == {}


def test_defaults_of_the_profiles() -> None:
    general = rule_for(CKO.PRIVATE_KEY, CKK.EC, Operation.GENERATE, Profile.GENERAL)
    assert {name.name: general[name].default for name in (CKA.SENSITIVE, CKA.EXTRACTABLE, CKA.SIGN, CKA.DERIVE)} == {
        "SENSITIVE": True,
        "EXTRACTABLE": False,
        "SIGN": True,
        "DERIVE": True,
    }
    aws = rule_for(CKO.SECRET_KEY, CKK.AES, Operation.GENERATE, Profile.CLOUDHSM)
    assert (aws[CKA.ENCRYPT].default, aws[CKA.SIGN].default, aws[CKA.EXTRACTABLE].default) == (False, True, True)
    assert CKA.COPYABLE not in aws
    assert aws[CKA.PRIVATE].presence is Presence.FIXED


def test_attributes_change_one_way() -> None:
    rules = rule_for(CKO.PRIVATE_KEY, CKK.RSA, Operation.SET, Profile.GENERAL)
    assert rules[CKA.SENSITIVE].change is Change.ONLY_TO_TRUE
    assert rules[CKA.WRAP_WITH_TRUSTED].change is Change.ONLY_TO_TRUE
    assert rules[CKA.EXTRACTABLE].change is Change.ONLY_TO_FALSE
    assert rules[CKA.MODULUS].presence is Presence.COMPUTED
    secret = rule_for(CKO.SECRET_KEY, CKK.AES, Operation.COPY, Profile.GENERAL)
    assert secret[CKA.VALUE].change is Change.NEVER
    assert secret[CKA.TRUSTED].change is Change.ADMIN_ONLY
    assert secret[CKA.TOKEN].change is Change.FREE
