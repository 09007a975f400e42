"""HTTP messages as values, and the limits that every foreign message is held to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

from hsmsim.errors import AwsError

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_DEPTH: Final = 64
"""Structures in structures; the deepest that a model of AWS's asks for and a client sends is below 20."""
MAX_NODES: Final = 100_000
"""Values in one request."""
MAX_FIELDS: Final = 10_000
"""Parameters of a query string or of a form."""
FORM: Final = "application/x-www-form-urlencoded"


@dataclass(slots=True)
class HttpRequest:
    """A request, whole. path and query are as they were sent, still percent-encoded.

    headers: names in lower case; a header that was sent more than once has its values joined by commas.
    """

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    source_ip: str = ""
    tls: tuple[str, str] | None = None
    """(version, cipher suite) where the connection is TLS."""


@dataclass(slots=True)
class HttpResponse:
    """A response. Content-Length is the server's to add."""

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""


def join_headers(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers as HttpRequest has them; values keep their bytes (latin-1)."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in pairs:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1").strip(" \t")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    return headers


def parse_form(text: str, code: str) -> list[tuple[str, str]]:
    """Names and values of a query string or form; AwsError(code) where there are too many or they are not UTF-8."""
    if text.count("&") >= MAX_FIELDS:
        raise AwsError(code, f"The request has more than {MAX_FIELDS} parameters.")
    pairs = []
    for part in text.split("&"):
        if part:
            name, _, value = part.partition("=")
            pairs.append((unquote(name, code), unquote(value, code)))
    return pairs


def unquote(text: str, code: str, *, plus: bool = True) -> str:
    """Percent-decode; a plus is a space in forms and query strings, itself in paths."""
    if "%" not in text and "+" not in text and text.isascii():
        return text
    try:
        return unquote_to_bytes(text.replace("+", " ") if plus else text).decode()
    except UnicodeDecodeError as error:
        raise AwsError(code, "The request contains characters that are not UTF-8.") from error
