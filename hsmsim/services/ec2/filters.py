"""The filters and pages of EC2's Describe operations. Pure.

A filter's values are alternatives, filters must all hold. * stands for any characters, ? for one, a backslash makes
the next one plain; letters count with their case.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, TypeAlias, TypeVar

from hsmsim.errors import AwsError
from hsmsim.services.ec2.model import FILTER_VALUES, LEAST_RESULTS, MOST_RESULTS
from hsmsim.services.ec2.rules import bad, invalid, lacking

T = TypeVar("T")
Values: TypeAlias = Callable[[T], Iterable[object]]
_TAG: Final = "tag:"
_TOKEN: Final = b"\x01ec2:"


def text_of(value: object) -> str:
    """Write a value as filters are written."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def pattern(text: str) -> re.Pattern[str]:
    """Read a filter's value."""
    parts: list[str] = []
    signs = iter(text)
    for sign in signs:
        if sign == "\\":
            parts.append(re.escape(next(signs, "\\")))
        else:
            parts.append({"*": ".*", "?": "."}.get(sign) or re.escape(sign))
    return re.compile("".join(parts), re.DOTALL)


def chosen(
    found: Iterable[T],
    wanted: Sequence[tuple[str, Sequence[str]]],
    table: Mapping[str, Values[T]],
    tags: Callable[[T], Mapping[str, str]] | None = None,
) -> list[T]:
    """Return those that meet all filters (name, values); InvalidParameterValue for a filter that the table lacks.

    tags: where tag:KEY and tag-key are filters as well.
    """
    if sum(len(values) for _, values in wanted) > FILTER_VALUES:
        raise AwsError(
            "FilterLimitExceeded", f"The maximum number of filter values specified on a single call is {FILTER_VALUES}"
        )
    kept = list(found)
    for name, values in wanted:
        take = _values_of(name, table, tags)
        if not values:
            raise lacking(f"value of the filter '{name}'")
        patterns = [pattern(value) for value in values]
        kept = [one for one in kept if _meets(take(one), patterns)]
    return kept


def _values_of(name: str, table: Mapping[str, Values[T]], tags: Callable[[T], Mapping[str, str]] | None) -> Values[T]:
    if name in table:
        return table[name]
    if tags is not None and name == "tag-key":
        return tags
    if tags is not None and name.startswith(_TAG):
        key = name.removeprefix(_TAG)
        return lambda one: [tags(one)[key]] if key in tags(one) else []
    raise invalid(f"The filter '{name}' is invalid")


def _meets(values: Iterable[object], patterns: Sequence[re.Pattern[str]]) -> bool:
    texts = [text_of(value) for value in values]
    return any(one.fullmatch(text) for one in patterns for text in texts)


def page(
    found: Iterable[T], key: Callable[[T], str], token: str | None, most: int | None
) -> tuple[list[T], dict[str, str]]:
    """Return the items behind the token, in order of `key`, and the member NextToken if there are more."""
    if most is not None and most < LEAST_RESULTS:
        raise bad(f" {most} ", "maxResults", f"Expecting a value greater than {LEAST_RESULTS}.")
    if most is not None and most > MOST_RESULTS:
        raise bad(f" {most} ", "maxResults", f"Expecting a value less than {MOST_RESULTS}.")
    after = _read(token) if token else None
    rest = sorted((one for one in found if after is None or key(one) > after), key=key)
    taken = rest[: most or MOST_RESULTS]
    if len(rest) == len(taken):
        return taken, {}
    return taken, {"NextToken": base64.urlsafe_b64encode(_TOKEN + key(taken[-1]).encode()).decode()}


def _read(token: str) -> str:
    try:
        data = base64.b64decode(token, altchars=b"-_", validate=True)
        if data.startswith(_TOKEN):
            return data.removeprefix(_TOKEN).decode()
    except (binascii.Error, ValueError):
        pass
    raise AwsError("InvalidNextToken", f"The token '{token[:64]}' is invalid")
