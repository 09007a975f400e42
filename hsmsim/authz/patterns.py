"""Wildcards and policy variables: text with `*`, `?` and `${...}`, and what it matches.

`*` stands for any run of characters, `?` for one. In the first five parts of an ARN neither crosses a colon. A
variable's value is plain text: a `*` in it is a star. `${*}`, `${?}` and `${$}` are those characters themselves.
Matching takes time linear in the text for each star (atomic groups), so no policy can make the gateway think for long.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Context: TypeAlias = "Mapping[str, tuple[str, ...]]"
"""Condition keys in lower case and their values."""


class Wild(Enum):
    """A wildcard."""

    MANY = "*"
    ONE = "?"


@dataclass(frozen=True, slots=True)
class Variable:
    """${key} or ${key, 'default'}; the key in lower case."""

    key: str
    default: str | None = None


Token: TypeAlias = str | Wild | Variable
Tokens: TypeAlias = tuple[Token, ...]

_TOKEN: Final = re.compile(r"\$\{(?P<inside>[^{}]*)\}|(?P<open>\$\{)|(?P<wild>[*?])|(?P<text>[^*?$]+|\$)", re.DOTALL)
_INSIDE: Final = re.compile(r"\s*(?P<key>[A-Za-z0-9-]+:[^,'{}]*?)\s*(?:,\s*'(?P<default>[^']*)'\s*)?")
_ESCAPES: Final = {"*", "?", "$"}


class ARN(Enum):
    """How a pattern deals with the colons of an ARN."""

    NO = 0
    """The text is no ARN: wildcards match any character."""
    PARTS = 1
    """Six parts, each matched for itself."""
    OPEN = 2
    """The same, but a `*` at the very end matches all that follows, further parts included."""


_ARN_COLONS: Final = 5


def tokenise(text: str, *, variables: bool, wild: bool = True) -> Tokens:
    """Split `text`; ValueError (with the reason) where a variable is not well formed. Neighbouring texts are joined."""
    if not variables:
        parts: list[Token] = [
            Wild(part) if wild and part in {"*", "?"} else part for part in re.split(r"([*?])", text) if part
        ]
        return _joined(parts)
    return _joined(_token(match, wild=wild) for match in _TOKEN.finditer(text))


def _token(match: re.Match[str], *, wild: bool) -> Token:
    if match["open"] is not None:
        raise ValueError("a variable is not closed: write ${key} or ${key, 'default'}")
    if match["inside"] is not None:
        return _variable(match["inside"])
    if match["wild"] is not None:
        return Wild(match["wild"]) if wild else match["wild"]
    return match["text"]


def _variable(inside: str) -> Token:
    if inside in _ESCAPES:
        return inside
    found = _INSIDE.fullmatch(inside)
    if found is None:
        raise ValueError(f"${{{inside}}} is no policy variable: write ${{key}} or ${{key, 'default'}}")
    return Variable(found["key"].lower(), found["default"])


def _joined(tokens: Iterable[Token]) -> Tokens:
    out: list[Token] = []
    for token in tokens:
        last = out[-1] if out else None
        if isinstance(token, str) and isinstance(last, str):
            out[-1] = last + token
        else:
            out.append(token)
    return tuple(out)


def has_variables(tokens: Tokens) -> bool:
    """Whether the request has a part in what the text means."""
    return any(isinstance(token, Variable) for token in tokens)


def resolve(tokens: Tokens, context: Context) -> Tokens | None:
    """Put the request's values in; None where a key has not exactly one value and there is no default."""
    out: list[Token] = []
    for token in tokens:
        if not isinstance(token, Variable):
            out.append(token)
            continue
        values = context.get(token.key, ())
        if len(values) == 1:
            out.append(values[0])
        elif not values and token.default is not None:
            out.append(token.default)
        else:
            return None
    return _joined(out)


def plain(tokens: Tokens) -> str:
    """Return the text of tokens without wildcards and variables."""
    return "".join(token for token in tokens if isinstance(token, str))


def compiled(tokens: Tokens, arn: ARN = ARN.NO, flags: re.RegexFlag = re.NOFLAG) -> re.Pattern[str]:
    """Return an expression whose fullmatch says whether a text matches; no variables may be left.

    What follows a star is taken at its first occurrence and not tried again (an atomic group): right for all but the
    last star, since a later occurrence leaves less room for the rest.
    """
    chunks: list[list[str]] = [[]]
    classes: list[str] = []
    colons = 0
    for index, token in enumerate(tokens):
        inner = arn is not ARN.NO and colons < _ARN_COLONS
        if isinstance(token, str):
            chunks[-1].append(re.escape(token))
            colons += token.count(":")
        elif token is Wild.ONE:
            chunks[-1].append("[^:]" if inner else ".")
        else:
            last = index == len(tokens) - 1
            classes.append("[^:]*" if inner and not (last and arn is ARN.OPEN) else ".*")
            chunks.append([])
    texts = ["".join(chunk) for chunk in chunks]
    body = texts[0]
    for number, (star, text) in enumerate(zip(classes, texts[1:], strict=True), 1):
        body += f"{star}{text}" if number == len(classes) else f"(?>{star}?{text})"
    return re.compile(body, re.DOTALL | flags)
