"""Condition operators: what a policy's Condition block says about a request's condition keys.

Rules (IAM's "condition operators", "multivalued context keys"):
- Several operators and keys: all must hold. Several values of one key: one must match; of a negated operator: none may.
- A key that the request does not have: the condition is false, of a negated operator true, with ...IfExists true,
  with ForAllValues: true, with ForAnyValue: false. Null looks at nothing but whether the key is there.
- Variables work in string and ARN operators only. A variable without a value matches nothing.
- What cannot be read as the operator's type (a word where a number is compared) matches nothing.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import operator as compare
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from hsmsim.authz.patterns import ARN, Tokens, Wild, compiled, has_variables, plain, resolve, tokenise

if TYPE_CHECKING:
    from hsmsim.authz.patterns import Context

Test: TypeAlias = Callable[[str], bool]
"""Whether a value of the request matches one value of the policy."""


class Quantifier(Enum):
    """A set operator."""

    NONE = ""
    ALL = "ForAllValues"
    ANY = "ForAnyValue"


@dataclass(frozen=True, slots=True)
class Operator:
    """`prepare` turns a value of the policy into its test; ValueError says why it cannot."""

    prepare: Callable[[Tokens], Test]
    negated: bool = False
    variables: bool = False
    wild: bool = False


# ---- what the operators compare ----------------------------------------------------------------------------------


def _string(tokens: Tokens) -> Test:
    return plain(tokens).__eq__


def _caseless(tokens: Tokens) -> Test:
    wanted = plain(tokens).casefold()
    return lambda value: value.casefold() == wanted


def _like(tokens: Tokens) -> Test:
    pattern = compiled(tokens)
    return lambda value: pattern.fullmatch(value) is not None


def _arn(tokens: Tokens) -> Test:
    if tokens == (Wild.MANY,):
        return lambda value: value.startswith("arn:")
    pattern = compiled(tokens, ARN.PARTS)
    return lambda value: pattern.fullmatch(value) is not None


def _number(text: str) -> Decimal:
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise ValueError(f"{text!r} is no number") from None
    if not number.is_finite():
        raise ValueError(f"{text!r} is no number")
    return number


def _date(text: str) -> datetime:
    """ISO 8601 as W3C profiles it (2026-04-01, 2026-04-01T00:00:00Z), or seconds since the epoch; no zone: UTC."""
    try:
        if re.fullmatch(r"-?\d{5,}(\.\d+)?", text):
            return datetime.fromtimestamp(float(text), UTC)
        found = datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"{text!r} is no date: write 2026-04-01T00:00:00Z") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _compared(read: Callable[[str], Any], holds: Callable[[Any, Any], bool]) -> Callable[[Tokens], Test]:
    """An operator that reads both sides with `read` first."""

    def prepare(tokens: Tokens) -> Test:
        wanted = read(plain(tokens))

        def test(value: str) -> bool:
            try:
                return holds(read(value), wanted)
            except ValueError:
                return False

        return test

    return prepare


def _boolean(text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        raise ValueError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def _binary(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError(f"{text!r} is not base64") from None


_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


@lru_cache(maxsize=1024)
def _network(text: str) -> _Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is no address or CIDR range") from None


def _within(value: _Network, wanted: _Network) -> bool:
    if isinstance(value, ipaddress.IPv4Network) and isinstance(wanted, ipaddress.IPv4Network):
        return value.subnet_of(wanted)
    if isinstance(value, ipaddress.IPv6Network) and isinstance(wanted, ipaddress.IPv6Network):
        return value.subnet_of(wanted)
    return False


def _both(name: str, negated: str, **options: Any) -> dict[str, Operator]:  # noqa: ANN401 - Operator's own fields
    return {name: Operator(**options), negated: Operator(**options, negated=True)}


def _ordered(kind: str, read: Callable[[str], Any]) -> dict[str, Operator]:
    """Kind + Equals, NotEquals, LessThan, ..."""
    order = {
        "LessThan": compare.lt,
        "LessThanEquals": compare.le,
        "GreaterThan": compare.gt,
        "GreaterThanEquals": compare.ge,
    }
    equal = _both(f"{kind}Equals", f"{kind}NotEquals", prepare=_compared(read, compare.eq))
    return equal | {kind + name: Operator(_compared(read, holds)) for name, holds in order.items()}


NULL: Final = Operator(_compared(_boolean, compare.eq))
OPERATORS: Final[dict[str, Operator]] = {
    **_both("StringEquals", "StringNotEquals", prepare=_string, variables=True),
    **_both("StringEqualsIgnoreCase", "StringNotEqualsIgnoreCase", prepare=_caseless, variables=True),
    **_both("StringLike", "StringNotLike", prepare=_like, variables=True, wild=True),
    **_both("ArnEquals", "ArnNotEquals", prepare=_arn, variables=True, wild=True),
    **_both("ArnLike", "ArnNotLike", prepare=_arn, variables=True, wild=True),
    **_ordered("Numeric", _number),
    **_ordered("Date", _date),
    "Bool": Operator(_compared(_boolean, compare.eq)),
    "BinaryEquals": Operator(_compared(_binary, compare.eq)),
    **_both("IpAddress", "NotIpAddress", prepare=_compared(_network, _within)),
    "Null": NULL,
}
_NAMES: Final = {name.lower(): name for name in OPERATORS}


# ---- a condition -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Condition:
    """One key of one operator. `tests` are its values that are known beforehand, `open` those with variables.

    key: in lower case; name: as the policy writes it.
    """

    operator: Operator
    quantifier: Quantifier
    if_exists: bool
    key: str
    name: str
    tests: tuple[Test, ...]
    open: tuple[Tokens, ...] = ()

    def holds(self, context: Context) -> bool:
        """Whether the request meets it."""
        values = context.get(self.key, ())
        if self.operator is NULL:
            return any(test("false" if values else "true") for test in self.tests)
        if self.quantifier is not Quantifier.NONE:
            values = tuple(value for value in values if value)
        if not values:
            return self._without()
        tests = self.tests + tuple(self._opened(context)) if self.open else self.tests
        met = (any(test(value) for test in tests) != self.operator.negated for value in values)
        if self.quantifier is Quantifier.NONE:
            return all(met) if self.operator.negated else any(met)
        return all(met) if self.quantifier is Quantifier.ALL else any(met)

    def _without(self) -> bool:
        """What a request without the key gets."""
        if self.if_exists or self.quantifier is Quantifier.ALL:
            return True
        return self.operator.negated and self.quantifier is Quantifier.NONE

    def _opened(self, context: Context) -> list[Test]:
        found = (resolve(tokens, context) for tokens in self.open)
        return [self.operator.prepare(tokens) for tokens in found if tokens is not None]


def operator_named(name: str) -> tuple[Operator, Quantifier, bool]:
    """Read [ForAllValues:|ForAnyValue:]Operator[IfExists]; ValueError says what is wrong."""
    prefix, colon, rest = name.rpartition(":")
    found = [one for one in Quantifier if one.value.lower() == prefix.lower()] if colon else [Quantifier.NONE]
    base = rest.lower()
    if_exists = base.endswith("ifexists")
    known = _NAMES.get(base.removesuffix("ifexists"))
    if not found or known is None or (known == "Null" and (if_exists or colon)):
        raise ValueError(f"{name} is no condition operator")
    return OPERATORS[known], found[0], if_exists


def condition(name: str, key: str, values: list[str], *, variables: bool) -> Condition:
    """Build the condition of one operator and key; ValueError says what is wrong. variables: the version has them."""
    operator, quantifier, if_exists = operator_named(name)
    split = [tokenise(value, variables=variables and operator.variables, wild=operator.wild) for value in values]
    return Condition(
        operator,
        quantifier,
        if_exists,
        key.lower(),
        key,
        tuple(operator.prepare(tokens) for tokens in split if not has_variables(tokens)),
        tuple(tokens for tokens in split if has_variables(tokens)),
    )
