"""Signature Version 4, read: what a request presents, its canonical form, and the keys to check it with.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html. Errors have the codes of the
query protocol; `faults` translates them for the others.
"""

from __future__ import annotations

import base64
import calendar
import datetime as dt
import hashlib
import hmac
import re
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote_to_bytes

from hsmsim.errors import AwsError
from hsmsim.gateway.codec.wire import parse_form

if TYPE_CHECKING:
    from hsmsim.gateway.codec.wire import HttpRequest

ALGORITHM: Final = "AWS4-HMAC-SHA256"
UNSIGNED: Final = "UNSIGNED-PAYLOAD"
EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest()
INCOMPLETE: Final = "IncompleteSignature"
MISMATCH: Final = "SignatureDoesNotMatch"
MAX_EXPIRES: Final = 7 * 86400
_SCOPE_PARTS: Final = 5
_TERMINATOR: Final = "aws4_request"
_STAMP: Final = re.compile(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z", re.ASCII)
_FIELD: Final = re.compile(r"\s*(Credential|SignedHeaders|Signature)=([^,\s]*)\s*(?:,|$)")


@dataclass(frozen=True, slots=True)
class Rules:
    """How a service reads signatures. S3 encodes the path once and takes payloads unsigned or in chunks."""

    encode_once: bool = False
    unsigned: bool = False


S3: Final = Rules(encode_once=True, unsigned=True)
GENERAL: Final = Rules()
RULES: Final = {"s3": S3, "s3express": S3, "s3-outposts": S3}


def rules_of(signing_name: str) -> Rules:
    """The rules of the service that a scope names."""
    return RULES.get(signing_name, GENERAL)


@dataclass(frozen=True, slots=True)
class Presented:
    """A signature as a request presents it. stamp: yyyymmddThhmmssZ. expires: seconds, presigned URLs only."""

    key_id: str
    date: str
    region: str
    service: str
    signed_headers: tuple[str, ...]
    signature: str
    stamp: str
    token: str
    expires: int | None = None

    @property
    def scope(self) -> str:
        """date/region/service/aws4_request."""
        return f"{self.date}/{self.region}/{self.service}/{_TERMINATOR}"

    @property
    def time(self) -> int:
        """When it was signed, seconds since the epoch."""
        return seconds(self.stamp)


def present(request: HttpRequest) -> Presented:
    """What the request presents; AwsError where it presents nothing, or not all of it."""
    header = request.headers.get("authorization")
    if header is not None:
        return _from_header(request, header)
    if "X-Amz-Signature=" in request.query or "X-Amz-Algorithm=" in request.query:
        return _from_query(request)
    raise AwsError("MissingAuthenticationToken", "Request is missing Authentication Token", 403)


def scope_of(request: HttpRequest) -> tuple[str, str] | None:
    """(region, service) of the scope, unverified: to find the service before anything is checked."""
    text = request.headers.get("authorization", "").partition("Credential=")[2].partition(",")[0]
    if not text and "X-Amz-Credential=" in request.query:
        text = dict(parse_form(request.query, INCOMPLETE)).get("X-Amz-Credential", "")
    parts = text.strip().rsplit("/", _SCOPE_PARTS - 1)
    return (parts[2], parts[3]) if len(parts) == _SCOPE_PARTS else None


def _from_header(request: HttpRequest, header: str) -> Presented:
    algorithm, _, rest = header.partition(" ")
    if algorithm != ALGORITHM:
        raise AwsError(INCOMPLETE, f"Unsupported AWS 'algorithm': '{algorithm[:64]}'")
    fields = dict(_FIELD.findall(rest))
    stamp = _stamp_of(request)
    missing = [
        f"Authorization header requires '{name}' parameter."
        for name in ("Credential", "Signature", "SignedHeaders")
        if not fields.get(name)
    ]
    if not stamp:
        missing.append("Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.")
    if missing:
        digest = base64.b64encode(hashlib.sha256(header.encode("latin-1")).digest()).decode()
        missing.append(f"(Hashed with SHA-256 and encoded with Base64) Authorization={digest}")
        raise AwsError(INCOMPLETE, " ".join(missing))
    token = request.headers.get("x-amz-security-token", "")
    return _presented(fields["Credential"], fields["SignedHeaders"], fields["Signature"], stamp, token, None)


def _from_query(request: HttpRequest) -> Presented:
    fields = dict(parse_form(request.query, INCOMPLETE))
    if fields.get("X-Amz-Algorithm") != ALGORITHM:
        raise AwsError(INCOMPLETE, f"Unsupported AWS 'algorithm': '{fields.get('X-Amz-Algorithm', '')[:64]}'")
    missing = [
        f"AWS query-string parameters must include '{name}'."
        for name in ("X-Amz-Credential", "X-Amz-Signature", "X-Amz-SignedHeaders", "X-Amz-Date")
        if not fields.get(name)
    ]
    if missing:
        raise AwsError(INCOMPLETE, f"{' '.join(missing)} Re-examine the query-string parameters.")
    expires = fields.get("X-Amz-Expires", "900")
    if not expires.isascii() or not expires.isdigit() or not 0 < int(expires[:7]) <= MAX_EXPIRES:
        raise AwsError(INCOMPLETE, "X-Amz-Expires must be a number of seconds from 1 to 604800 (a week).")
    return _presented(
        fields["X-Amz-Credential"],
        fields["X-Amz-SignedHeaders"],
        fields["X-Amz-Signature"],
        fields["X-Amz-Date"],
        fields.get("X-Amz-Security-Token", "") or request.headers.get("x-amz-security-token", ""),
        int(expires),
    )


def _presented(credential: str, headers: str, signature: str, stamp: str, token: str, expires: int | None) -> Presented:
    parts = credential.rsplit("/", _SCOPE_PARTS - 1)
    if len(parts) != _SCOPE_PARTS or not (credential.isascii() and headers.isascii()):
        raise AwsError(
            INCOMPLETE,
            "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, "
            f"got '{credential[:128]}'",
        )
    key_id, date, region, service, terminator = parts
    if terminator != _TERMINATOR:
        raise AwsError(MISMATCH, f"Credential should be scoped with a valid terminator: '{_TERMINATOR}'.")
    if not _STAMP.fullmatch(stamp):
        raise AwsError(INCOMPLETE, f"Date must be in ISO-8601 'basic format'. Got '{stamp[:64]}'.")
    if stamp[:8] != date:
        raise AwsError(
            MISMATCH,
            "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: "
            f"'{date[:16]}' != '{stamp[:8]}', from '{stamp}'.",
        )
    return Presented(key_id, date, region, service, tuple(headers.split(";")), signature, stamp, token, expires)


def _stamp_of(request: HttpRequest) -> str:
    """The date in ISO's basic format, whichever header it is in and however a Date header writes it."""
    stamp = request.headers.get("x-amz-date")
    if stamp is not None:
        return stamp
    date = request.headers.get("date", "")
    if not date or _STAMP.fullmatch(date):
        return date
    for layout in ("%a, %d %b %Y %H:%M:%S GMT", "%a, %d %b %Y %H:%M:%S -0000"):
        try:
            return f"{dt.datetime.strptime(date, layout).replace(tzinfo=dt.UTC):%Y%m%dT%H%M%SZ}"
        except ValueError:
            continue
    return date


@lru_cache(maxsize=256)
def seconds(stamp: str) -> int:
    """Seconds since the epoch of yyyymmddThhmmssZ; AwsError where no clock shows it."""
    found = _STAMP.fullmatch(stamp)
    try:
        parts = [int(part) for part in found.groups()] if found else []
        return calendar.timegm(dt.datetime(*parts, tzinfo=dt.UTC).timetuple())  # type: ignore[arg-type,misc]
    except (ValueError, TypeError) as error:
        raise AwsError(INCOMPLETE, f"Date must be in ISO-8601 'basic format'. Got '{stamp}'.") from error


def stamp_of(time: float) -> str:
    """yyyymmddThhmmssZ."""
    return f"{dt.datetime.fromtimestamp(time, dt.UTC):%Y%m%dT%H%M%SZ}"


# ---- the canonical request ---------------------------------------------------------------------------------------


def canonical_request(request: HttpRequest, presented: Presented, payload: str, rules: Rules) -> str:
    """The text that was signed, as the request has it."""
    headers = request.headers
    lines = [f"{name}:{' '.join(headers.get(name, '').split())}" for name in presented.signed_headers]
    query = canonical_query(request.query, presigned=presented.expires is not None) if request.query else ""
    return "\n".join(
        (
            request.method,
            canonical_path(request.path, rules),
            query,
            *lines,
            "",
            ";".join(presented.signed_headers),
            payload,
        )
    )


def canonical_path(path: str, rules: Rules) -> str:
    """The path, encoded once (S3) or, without dot segments and empty ones, twice (all others)."""
    if path in {"/", ""}:
        return "/"
    if rules.encode_once:
        return quote(unquote_to_bytes(path), safe="/-_.~")
    kept: list[str] = []
    for part in path.split("/"):
        if part == "..":
            kept = kept[:-1]
        elif part and part != ".":
            kept.append(part)
    end = "/" if path.endswith("/") and kept else ""
    return quote(f"/{'/'.join(kept)}{end}", safe="/-_.~")


def canonical_query(query: str, *, presigned: bool) -> str:
    """Parameters in the order of their encoded names, then values; the signature itself is not part of it."""
    pairs = []
    for part in query.split("&"):
        if part:
            name, _, value = part.partition("=")
            pairs.append((_encoded(name), _encoded(value)))
    if presigned:
        pairs = [pair for pair in pairs if pair[0] != "X-Amz-Signature"]
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


def _encoded(text: str) -> str:
    return quote(unquote_to_bytes(text), safe="-_.~")


def string_to_sign(presented: Presented, canonical: str) -> str:
    """What the HMAC is of."""
    digest = hashlib.sha256(canonical.encode("latin-1")).hexdigest()
    return f"{ALGORITHM}\n{presented.stamp}\n{presented.scope}\n{digest}"


# ---- keys --------------------------------------------------------------------------------------------------------


def derive(secret: str, date: str, region: str, service: str) -> bytes:
    """The signing key of a day, region and service."""
    key = b"AWS4" + secret.encode()
    for part in (date, region, service, _TERMINATOR):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


class KeyCache:
    """Signing keys that were used last. A key whose secret changed is derived anew; what leaves is overwritten."""

    def __init__(self, size: int = 1024) -> None:
        self._size = size
        self._keys: OrderedDict[tuple[str, str, str, str], tuple[str, bytearray]] = OrderedDict()

    def key(self, secret: str, presented: Presented) -> bytearray:
        """The signing key for this signature."""
        place = (presented.key_id, presented.date, presented.region, presented.service)
        found = self._keys.get(place)
        if found is not None:
            if hmac.compare_digest(found[0].encode(), secret.encode()):
                self._keys.move_to_end(place)
                return found[1]
            self._drop(place)
        key = bytearray(derive(secret, *place[1:]))
        self._keys[place] = (secret, key)
        if len(self._keys) > self._size:
            self._drop(next(iter(self._keys)))
        return key

    def forget(self, key_id: str) -> None:
        """Drop the keys of an access key that was deleted, deactivated or changed."""
        for place in [place for place in self._keys if place[0] == key_id]:
            self._drop(place)

    def __len__(self) -> int:
        return len(self._keys)

    def _drop(self, place: tuple[str, str, str, str]) -> None:
        key = self._keys.pop(place)[1]
        key[:] = bytes(len(key))


def sign(key: bytes | bytearray, text: str) -> str:
    """Hexadecimal HMAC-SHA256 of a string to sign."""
    return hmac.digest(key, text.encode("latin-1"), "sha256").hex()


def matches(expected: str, given: str) -> bool:
    """Compare in a time that tells nothing."""
    return hmac.compare_digest(expected.encode(), given.encode("latin-1", "replace"))
