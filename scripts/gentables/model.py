"""The tables as values, checked while they are read."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FUNCTIONS = {
    "encrypt": 0x100,
    "decrypt": 0x200,
    "digest": 0x400,
    "sign": 0x800,
    "sign_recover": 0x1000,
    "verify": 0x2000,
    "verify_recover": 0x4000,
    "generate": 0x8000,
    "generate_key_pair": 0x10000,
    "wrap": 0x20000,
    "unwrap": 0x40000,
    "derive": 0x80000,
}
FIELD_TYPES = ("u8", "u32", "u64", "bytes", "secret", "mechanism", "template", "types", "handles", "strings")
ATTRIBUTE_KINDS = ("bool", "ulong", "bytes", "text", "date", "bigint", "template", "ulongs")
PATHS = ("hot", "firmware")
ACCESS = ("none", "open", "session", "user", "peer")
PROFILES = ("general", "cloudhsm")
PRESENCES = ("required", "optional", "fixed", "admin", "match", "computed", "forbidden")
RESPONSE = 0x8000
CHANGES = ("never", "free", "only-to-true", "only-to-false", "admin-only")
VALUELESS = ("required", "match", "forbidden")


class TableError(Exception):
    """A table contradicts itself or another one; the text names the entry."""


@dataclass(frozen=True, slots=True)
class Mechanism:
    """A mechanism with its family's values filled in; mechanisms.toml explains the fields."""

    name: str
    value: int
    family: str
    params: tuple[str, ...]
    hash: str
    mac: int
    key_types: tuple[str, ...]
    functions: tuple[str, ...]
    aws: tuple[str, ...]
    softhsm: tuple[str, ...]
    softhsm_note: str
    fips_forbids: tuple[str, ...]
    flags: tuple[str, ...]
    min: int
    max: int
    single_part: bool
    aws_single_part: bool
    general: bool
    cloudhsm: bool
    implemented: bool
    assumed: bool


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute that objects have."""

    name: str
    value: int
    kind: str
    secret: bool


@dataclass(frozen=True, slots=True)
class Function:
    """A Cryptoki function and its C parameters."""

    name: str
    since: str
    cloudhsm: bool
    args: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """Selectors (empty = any) and what they set: attribute -> (presence, value)."""

    classes: tuple[str, ...]
    key_types: tuple[str, ...]
    operations: tuple[str, ...]
    profiles: tuple[str, ...]
    set: Mapping[str, tuple[str, str]]

    def matches(self, object_class: str, key_type: str, operation: str, profile: str) -> bool:
        """Tell whether the rule speaks about this row."""
        pairs = ((self.classes, object_class), (self.key_types, key_type))
        more = ((self.operations, operation), (self.profiles, profile))
        return all(not allowed or value in allowed for allowed, value in (*pairs, *more))


@dataclass(frozen=True, slots=True)
class Objects:
    """A class of objects: its key types ("" where it has none) and how its objects come to be."""

    key_types: tuple[str, ...]
    operations: tuple[str, ...]
    profiles: tuple[str, ...]


Fields = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Params:
    """A kind of mechanism parameters."""

    name: str
    fields: Fields


@dataclass(frozen=True, slots=True)
class Op:
    """An operation of the wire."""

    name: str
    code: int
    path: str
    access: str
    request: Fields
    response: Fields
    doc: str


@dataclass(frozen=True, slots=True)
class Tables:
    """Everything in native/tables."""

    constants: Mapping[str, Mapping[str, int]]
    verified: Mapping[str, int]
    assumed: Mapping[str, int]
    errors: Mapping[str, tuple[int, str]]
    functions: tuple[Function, ...]
    mechanisms: tuple[Mechanism, ...]
    attributes: tuple[Attribute, ...]
    rules: tuple[Rule, ...]
    objects: Mapping[str, Objects]
    changes: Mapping[str, Mapping[str, str]]
    class_changes: Mapping[str, Mapping[str, str]]
    limits: Mapping[str, int]
    params: tuple[Params, ...]
    ops: tuple[Op, ...]


def need(condition: object, text: str) -> None:
    """Raise TableError unless condition is true."""
    if not condition:
        raise TableError(text)


def known(where: str, given: Iterable[str], allowed: Iterable[str]) -> None:
    """Raise TableError for a name that is not allowed."""
    stray = sorted(set(given) - set(allowed))
    need(not stray, f"{where}: unknown {', '.join(stray)}")


def unique(where: str, values: Iterable[object]) -> None:
    """Raise TableError for a value that stands twice."""
    listed = list(values)
    need(len(set(listed)) == len(listed), f"{where}: a value stands twice")


def hex_bytes(value: int) -> int:
    """Return how many bytes a number is shown with: 1, 2 or 4."""
    return next(size for size in (1, 2, 4) if value < 1 << 8 * size)


def load(folder: Path) -> Tables:
    """Read every table in `folder`; TableError where one is wrong."""
    raw = {path.stem: tomllib.loads(path.read_text()) for path in sorted(folder.glob("*.toml"))}
    constants: dict[str, Any] = dict(raw["constants"])
    vendor = constants.pop("vendor")
    wire = raw["wire"]
    params = tuple(Params(p["name"], _fields(p["name"], p["fields"])) for p in wire["params"])
    need(params[0] == Params("none", ()), "wire.toml: the first parameter kind is none")
    unique("wire.toml params", (p.name for p in params))
    vendored = {**vendor["verified"], **vendor["assumed"]}
    mechanisms = _mechanisms(raw["mechanisms"], vendored, vendor["assumed"], {p.name for p in params}, constants)
    attributes = tuple(
        Attribute(name, entry["value"], entry["kind"], entry.get("secret", False))
        for name, entry in raw["attributes"]["attributes"].items()
    )
    known("attributes.toml kinds", (a.kind for a in attributes), ATTRIBUTE_KINDS)
    unique("attributes.toml", (a.value for a in attributes))
    errors = {name: (entry["value"], entry["text"]) for name, entry in raw["errors"]["errors"].items()}
    unique("errors.toml", (value for value, _ in errors.values()))
    functions = tuple(
        Function(name, since, entry["cloudhsm"], tuple(entry["args"].split(", ")))
        for since, table in raw["functions"].items()
        for name, entry in table.items()
    )
    return Tables(
        constants=constants,
        verified=vendor["verified"],
        assumed=vendor["assumed"],
        errors=errors,
        functions=functions,
        mechanisms=mechanisms,
        attributes=attributes,
        rules=_rules(raw["attributes"]["rules"], {a.name for a in attributes}),
        objects=_objects(raw["attributes"]["objects"]),
        changes={name: raw["attributes"]["changes"][name] for name in ("set", "copy")},
        class_changes=raw["attributes"]["changes"]["class"],
        limits=wire["limits"],
        params=params,
        ops=_ops(wire["op"]),
    )


def _fields(where: str, raw: list[list[str]]) -> Fields:
    known(f"wire.toml {where}", (kind for _, kind in raw), FIELD_TYPES)
    unique(f"wire.toml {where}", (name for name, _ in raw))
    return tuple((name, kind) for name, kind in raw)


def _ops(raw: list[dict[str, Any]]) -> tuple[Op, ...]:
    ops = []
    for entry in raw:
        name = entry["name"]
        known(name, [entry["path"]], PATHS)
        known(name, [entry["access"]], ACCESS)
        need(0 < entry["code"] < RESPONSE, f"{name}: a code is between 1 and 0x7fff")
        request, response = _fields(name, entry["request"]), _fields(name, entry["response"])
        ops.append(Op(name, entry["code"], entry["path"], entry["access"], request, response, entry["doc"]))
    unique("wire.toml op names", (op.name for op in ops))
    unique("wire.toml op codes", (op.code for op in ops))
    return tuple(sorted(ops, key=lambda op: op.code))


def _mechanisms(
    raw: dict[str, Any],
    vendor: Mapping[str, int],
    assumed: Mapping[str, int],
    kinds: set[str],
    constants: Mapping[str, Mapping[str, int]],
) -> tuple[Mechanism, ...]:
    found = []
    for name, own in raw["mechanisms"].items():
        entry = {**raw["families"][own["family"]], **own}
        functions = tuple(sorted(entry["functions"], key=list(FUNCTIONS).index))
        subsets = {
            key: functions if entry.get(key) == ["all"] else tuple(entry.get(key, default))
            for key, default in (("aws", functions), ("softhsm", ()), ("fips_forbids", ()))
        }
        for key, subset in subsets.items():
            known(f"{name} {key}", subset, functions)
        params = tuple(entry.get("params", ["none"]))
        known(f"{name} params", params, kinds)
        known(f"{name} key_types", entry.get("key_types", []), constants["CKK"])
        known(f"{name} flags", entry.get("flags", []), constants["CKF"])
        found.append(
            Mechanism(
                name=name,
                value=vendor[name] if entry.get("vendor") else entry["value"],
                family=entry["family"],
                params=params,
                hash=entry.get("hash", ""),
                mac=entry.get("mac", 0),
                key_types=tuple(entry.get("key_types", [])),
                functions=functions,
                aws=subsets["aws"],
                softhsm=subsets["softhsm"],
                softhsm_note=entry.get("softhsm_note", ""),
                fips_forbids=subsets["fips_forbids"],
                flags=tuple(entry.get("flags", [])),
                min=entry.get("min", 0),
                max=entry.get("max", 0),
                single_part=entry.get("single_part", False),
                aws_single_part=entry.get("aws_single_part", entry.get("single_part", False)),
                general=entry.get("general", True) and entry.get("implemented", True) and name not in assumed,
                cloudhsm=entry.get("cloudhsm", False),
                implemented=entry.get("implemented", True),
                assumed=name in assumed,
            )
        )
    unique("mechanisms.toml", (m.value for m in found))
    known("mechanisms.toml hash", (f"CKM_{m.hash}" for m in found if m.hash), (m.name for m in found))
    return tuple(sorted(found, key=lambda m: m.value))


def _objects(raw: dict[str, Any]) -> dict[str, Objects]:
    return {
        name: Objects(
            tuple(entry.get("key_types", [""])),
            tuple(entry["operations"]),
            tuple(entry.get("profiles", PROFILES)),
        )
        for name, entry in raw.items()
    }


def _rules(raw: list[dict[str, Any]], names: set[str]) -> tuple[Rule, ...]:
    rules = []
    for entry in raw:
        known("attributes.toml rules", entry, ("class", "key_type", "operation", "profile", "set"))
        known("attributes.toml rules", entry["set"], names)
        specs = {}
        for name, spec in entry["set"].items():
            presence, _, value = spec.partition(" ")
            known(f"attributes.toml {name}", [presence], (*PRESENCES, "none"))
            need(not (value and presence in VALUELESS), f"attributes.toml {name}: {presence} takes no value")
            specs[name] = (presence, value)
        selectors = [tuple(entry.get(key, ())) for key in ("class", "key_type", "operation", "profile")]
        rules.append(Rule(selectors[0], selectors[1], selectors[2], selectors[3], specs))
    return tuple(rules)
