"""Policy documents: their grammar, read once into values that are quick to match.

IAM's policy grammar for the versions 2012-10-17 and 2008-10-17 (no variables there). What is wrong is told with its
place in the document: line and column for JSON itself, a path like Statement[0].Condition.Bool for what it means.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NoReturn

from hsmsim.authz.conditions import Condition, condition
from hsmsim.authz.patterns import ARN, Tokens, compiled, has_variables, resolve, tokenise
from hsmsim.errors import HsmsimError

if TYPE_CHECKING:
    from hsmsim.authz.patterns import Context

VERSIONS: Final = ("2008-10-17", "2012-10-17")
_ACTION: Final = re.compile(r"[A-Za-z0-9.-]+:[^:\s]+")
_ACCOUNT: Final = re.compile(r"\d{12}")
_UNIQUE_ID: Final = re.compile(r"A[A-Z]{3}[A-Z0-9]{12,28}")
_PRINCIPAL_ARN: Final = re.compile(r"arn:aws[a-z-]*:(iam|sts)::(\d{12}):(?:(root)|[a-z-]+/[^*?\s]+)")
_CONDITION_KEY: Final = re.compile(r"[A-Za-z0-9-]+:[^\s]+")
_PARTITION: Final = re.compile(r"aws[a-z-]*|\*")
_SID: Final = re.compile(r"[A-Za-z0-9]*")
_MAX_DEPTH: Final = 16
_NO_VENDOR: Final = "Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc."


class MalformedPolicy(HsmsimError):  # noqa: N818 - AWS's name of it
    """A document that is no policy. `where`: the path of what is wrong, empty for the whole."""

    def __init__(self, message: str, where: str = "") -> None:
        super().__init__(f"{message} (at {where})" if where else message)
        self.where = where


class Purpose(Enum):
    """What a document is for, which decides what its statements must and must not have."""

    IDENTITY = "identity-based policy"
    RESOURCE = "resource-based policy"
    TRUST = "role trust policy"


@dataclass(frozen=True, slots=True)
class Principals:
    """Whom a statement names. Accounts are account ids; a canonical user stands for its account."""

    everyone: bool = False
    accounts: frozenset[str] = frozenset()
    arns: frozenset[str] = frozenset()
    ids: frozenset[str] = frozenset()
    services: frozenset[str] = frozenset()
    federated: frozenset[str] = frozenset()
    canonical: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Resources:
    """ARN patterns: those known beforehand in one expression, those with variables apart."""

    fixed: tuple[re.Pattern[str], ...]
    open: tuple[Tokens, ...]

    def match(self, resource: str, context: Context) -> bool:
        """Whether one of them is the resource."""
        if any(pattern.fullmatch(resource) for pattern in self.fixed):
            return True
        found = (resolve(tokens, context) for tokens in self.open)
        return any(tokens is not None and compiled(tokens, ARN.OPEN).fullmatch(resource) for tokens in found)


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement. principals is None where the document's purpose has none, resources where every one is meant."""

    allow: bool
    sid: str
    actions: tuple[re.Pattern[str], ...]
    not_action: bool
    resources: Resources | None
    not_resource: bool
    principals: Principals | None
    not_principal: bool
    conditions: tuple[Condition, ...]

    def covers(self, action: str, resource: str, context: Context) -> bool:
        """Whether action, resource and conditions are met; principals are the evaluation's matter."""
        if any(pattern.fullmatch(action) for pattern in self.actions) == self.not_action:
            return False
        if self.resources is not None and self.resources.match(resource, context) == self.not_resource:
            return False
        return all(one.holds(context) for one in self.conditions)


@dataclass(frozen=True, slots=True)
class Policy:
    """A document that was read."""

    statements: tuple[Statement, ...]
    version: str = VERSIONS[0]
    id: str = ""


@lru_cache(maxsize=4096)
def parse(text: str, purpose: Purpose = Purpose.IDENTITY) -> Policy:
    """Read a document; MalformedPolicy says what is wrong and where. What was read is remembered."""
    document = _json(text)
    if not isinstance(document, dict):
        raise MalformedPolicy("Syntax errors in policy. The document is no JSON object.")
    unknown = document.keys() - {"Version", "Id", "Statement"}
    if unknown:
        raise MalformedPolicy("Syntax errors in policy. A policy has Version, Id and Statement only.", min(unknown))
    version = document.get("Version", VERSIONS[0])
    if version not in VERSIONS:
        raise MalformedPolicy("Syntax errors in policy. The version must be 2012-10-17 or 2008-10-17.", "Version")
    found = document.get("Statement")
    raw = [found] if isinstance(found, dict) else found
    if not isinstance(raw, list) or not raw:
        raise MalformedPolicy("Syntax errors in policy. Statement must be an object or a list of them.", "Statement")
    reader = _Reader(purpose, variables=version == VERSIONS[1])
    statements = tuple(reader.statement(one, f"Statement[{index}]") for index, one in enumerate(raw))
    sids = [one.sid for one in statements if one.sid]
    if len(sids) != len(set(sids)):
        raise MalformedPolicy("Statement IDs (SID) in a single policy must be unique.", "Statement")
    return Policy(statements, version, _text(document.get("Id", ""), "Id"))


def _json(text: str) -> Any:  # noqa: ANN401 - any JSON
    depth = deepest = 0
    for sign in re.findall(r"[\[\]{}]", text):
        depth += 1 if sign in "[{" else -1
        deepest = max(deepest, depth)
    if deepest > _MAX_DEPTH:
        raise MalformedPolicy("Syntax errors in policy. The document is nested too deeply.")
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise MalformedPolicy(f"This policy contains invalid Json: {error.msg}", place) from None
    except ValueError as error:
        raise MalformedPolicy(f"This policy contains invalid Json: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise MalformedPolicy("Syntax errors in policy. A key is given twice.", twice)
    return found


def _no_constant(name: str) -> NoReturn:
    raise MalformedPolicy(f"This policy contains invalid Json: {name} is no JSON value")


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise MalformedPolicy("Syntax errors in policy. A string is expected.", where)
    return value


def _texts(value: object, where: str) -> list[str]:
    """Read a string or a list of strings, one at least."""
    values = value if isinstance(value, list) else [value]
    if not values:
        raise MalformedPolicy("Syntax errors in policy. The list is empty.", where)
    return [_text(one, f"{where}[{index}]" if isinstance(value, list) else where) for index, one in enumerate(values)]


def _scalars(value: object, where: str) -> list[str]:
    """Read condition values: strings, numbers and booleans, as their text."""
    values = value if isinstance(value, list) else [value]
    out = []
    for one in values:
        if isinstance(one, bool):
            out.append("true" if one else "false")
        elif isinstance(one, str | int | float):
            out.append(str(one))
        else:
            raise MalformedPolicy("Syntax errors in policy. A condition compares strings, numbers and booleans.", where)
    return out


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads the statements of one document."""

    purpose: Purpose
    variables: bool

    def statement(self, raw: object, where: str) -> Statement:
        if not isinstance(raw, dict):
            raise MalformedPolicy("Syntax errors in policy. A statement is an object.", where)
        unknown = raw.keys() - _ELEMENTS
        if unknown:
            name = min(unknown)
            raise MalformedPolicy(f"Syntax errors in policy. A statement has no element {name}.", f"{where}.{name}")
        if raw.get("Effect") not in {"Allow", "Deny"}:
            raise MalformedPolicy("Syntax errors in policy. Effect must be Allow or Deny.", f"{where}.Effect")
        sid = _text(raw.get("Sid", ""), f"{where}.Sid")
        if self.purpose is Purpose.IDENTITY and not _SID.fullmatch(sid):
            raise MalformedPolicy("Statement IDs (SID) must be alpha-numeric.", f"{where}.Sid")
        action, actions = self._either(raw, "Action", where)
        resource, resources = self._resources(raw, where)
        principal, principals = self._principals(raw, where)
        return Statement(
            allow=raw["Effect"] == "Allow",
            sid=sid,
            actions=tuple(_action(one, f"{where}.{action}") for one in actions),
            not_action=action == "NotAction",
            resources=resources,
            not_resource=resource == "NotResource",
            principals=principals,
            not_principal=principal == "NotPrincipal",
            conditions=self._conditions(raw.get("Condition", {}), f"{where}.Condition"),
        )

    @staticmethod
    def _which(raw: dict[str, Any], name: str, where: str) -> str:
        """Return `name`, Not + `name`, or empty if neither is there."""
        both = [one for one in (name, f"Not{name}") if one in raw]
        if len(both) > 1:
            raise MalformedPolicy(f"Syntax errors in policy. {both[0]} and {both[1]} exclude each other.", where)
        return both[0] if both else ""

    def _either(self, raw: dict[str, Any], name: str, where: str) -> tuple[str, list[str]]:
        which = self._which(raw, name, where)
        if not which:
            raise MalformedPolicy(f"Policy statement must contain {name.lower()}s.", where)
        return which, _texts(raw[which], f"{where}.{which}")

    def _resources(self, raw: dict[str, Any], where: str) -> tuple[str, Resources | None]:
        which = self._which(raw, "Resource", where)
        if self.purpose is Purpose.TRUST:
            if which:
                raise MalformedPolicy("Has prohibited field Resource", f"{where}.{which}")
            return "", None
        if not which:
            if self.purpose is Purpose.RESOURCE:
                return "", None
            raise MalformedPolicy("Policy statement must contain resources.", where)
        place = f"{where}.{which}"
        split = [self._resource(one, place) for one in _texts(raw[which], place)]
        fixed = tuple(compiled(tokens, ARN.OPEN) for tokens in split if not has_variables(tokens))
        return which, Resources(fixed, tuple(tokens for tokens in split if has_variables(tokens)))

    def _resource(self, text: str, where: str) -> Tokens:
        parts = text.split(":", 3)
        if text != "*" and (parts[0] != "arn" or len(parts) == 1):
            raise MalformedPolicy(f'Resource {text} must be in ARN format or "*".', where)
        if text != "*" and (len(parts) < 4 or not re.fullmatch(r"[A-Za-z0-9-]+|\*", parts[2])):  # noqa: PLR2004 - an ARN's parts
            raise MalformedPolicy("Resource vendor must be fully qualified and cannot contain regexes.", where)
        if text != "*" and not _PARTITION.fullmatch(parts[1]):
            raise MalformedPolicy(f'Partition "{parts[1]}" is not valid for resource "{text}".', where)
        try:
            return tokenise(text, variables=self.variables)
        except ValueError as error:
            raise MalformedPolicy(f"Syntax errors in policy. {error}", where) from None

    def _principals(self, raw: dict[str, Any], where: str) -> tuple[str, Principals | None]:
        which = self._which(raw, "Principal", where)
        if self.purpose is Purpose.IDENTITY:
            if which:
                raise MalformedPolicy("Policy document should not specify a principal.", f"{where}.{which}")
            return "", None
        if not which:
            raise MalformedPolicy("Missing required field Principal", where)
        if which == "NotPrincipal" and self.purpose is Purpose.TRUST:
            raise MalformedPolicy("Has prohibited field NotPrincipal", f"{where}.{which}")
        return which, _principals(raw[which], f"{where}.{which}")

    def _conditions(self, raw: object, where: str) -> tuple[Condition, ...]:
        if not isinstance(raw, dict):
            raise MalformedPolicy("Syntax errors in policy. Condition is an object.", where)
        out = []
        for name, keys in raw.items():
            if not isinstance(keys, dict) or not keys:
                raise MalformedPolicy("Syntax errors in policy. An operator has keys and values.", f"{where}.{name}")
            for key, value in keys.items():
                place = f"{where}.{name}.{key}"
                if not _CONDITION_KEY.fullmatch(key):
                    raise MalformedPolicy(_NO_VENDOR, place)
                try:
                    out.append(condition(name, key, _scalars(value, place), variables=self.variables))
                except ValueError as error:
                    raise MalformedPolicy(f"Syntax errors in policy. {error}", place) from None
        return tuple(out)


_ELEMENTS: Final = {
    *("Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Resource", "NotResource", "Condition"),
}


def _action(text: str, where: str) -> re.Pattern[str]:
    if text != "*":
        if ":" not in text:
            raise MalformedPolicy(_NO_VENDOR, where)
        if text.count(":") > 1:
            raise MalformedPolicy("Actions/Condition can contain only one colon.", where)
        if not _ACTION.fullmatch(text):
            raise MalformedPolicy(f"Vendor {text.partition(':')[0]} is not valid", where)
    return compiled(tokenise(text, variables=False), flags=re.IGNORECASE)


# ---- principals --------------------------------------------------------------------------------------------------

_KINDS: Final = {"AWS", "Service", "Federated", "CanonicalUser"}


def _principals(raw: object, where: str) -> Principals:
    if raw == "*":
        return Principals(everyone=True)
    if not isinstance(raw, dict) or not raw:
        raise MalformedPolicy("Invalid principal in policy.", where)
    unknown = raw.keys() - _KINDS
    if unknown:
        raise MalformedPolicy(f"Invalid principal in policy: {min(unknown)} is no kind of principal.", where)
    named = {kind: _texts(raw[kind], f"{where}.{kind}") if kind in raw else [] for kind in _KINDS}
    for kind in _KINDS - {"AWS"}:
        for one in named[kind]:
            if not one or "*" in one or "?" in one:
                raise MalformedPolicy(f'Invalid principal in policy: "{kind}":"{one}"', f"{where}.{kind}")
    sorted_: dict[str, set[str]] = {"everyone": set(), "accounts": set(), "arns": set(), "ids": set()}
    for one in named["AWS"]:
        kind, value = _aws_principal(one, f"{where}.AWS")
        sorted_[kind].add(value)
    return Principals(
        everyone=bool(sorted_["everyone"]),
        accounts=frozenset(sorted_["accounts"]),
        arns=frozenset(sorted_["arns"]),
        ids=frozenset(sorted_["ids"]),
        services=frozenset(named["Service"]),
        federated=frozenset(named["Federated"]),
        canonical=frozenset(named["CanonicalUser"]),
    )


def _aws_principal(text: str, where: str) -> tuple[str, str]:
    """Return which of Principals' fields it belongs to, and as what."""
    if text == "*":
        return "everyone", text
    if _ACCOUNT.fullmatch(text):
        return "accounts", text
    found = _PRINCIPAL_ARN.fullmatch(text)
    if found:
        return ("accounts", found[2]) if found[3] else ("arns", text)
    if _UNIQUE_ID.fullmatch(text):
        return "ids", text
    raise MalformedPolicy(f'Invalid principal in policy: "AWS":"{text}"', where)
