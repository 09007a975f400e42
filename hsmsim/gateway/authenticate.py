"""Who signed a request: signature, time, payload and access key are checked here, in the order that AWS checks them."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hsmsim.authz.principal import Caller, Credential, Kind
from hsmsim.errors import AwsError
from hsmsim.gateway import chunked, sigv4

if TYPE_CHECKING:
    from hsmsim.clock import Clock
    from hsmsim.gateway.codec.wire import HttpRequest
    from hsmsim.gateway.ports import Credentials
    from hsmsim.gateway.sigv4 import Presented, Rules

SKEW_S: Final = 15 * 60
_SKEW_TEXT: Final = "15 min."
_REGION: Final = re.compile(r"[a-z]{2}(-[a-z]{2,12}){1,3}-\d{1,2}", re.ASCII)
_ACCOUNT: Final = re.compile(r"\d{12}", re.ASCII)
_CONTENT_HASH: Final = "x-amz-content-sha256"
# A session token may be added after a request was signed; everything else that begins so is signed.
_MAY_BE_UNSIGNED: Final = frozenset({"x-amz-security-token", "x-amz-user-agent"})


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls, from which region's point of view."""

    caller: Caller
    region: str


@dataclass(slots=True)
class Authenticator:
    """Checks signatures.

    accept_any: a key that is not known is the root of the default account, or of the account whose twelve digits it is,
    and its signature is not checked; keys that are known are checked as always.
    """

    credentials: Credentials
    clock: Clock
    keys: sigv4.KeyCache
    default_account: str
    accept_any: bool = False

    def identify(self, request: HttpRequest, signing: str) -> Identity:
        """Return who signed the request for the service `signing`; a body in chunks is replaced by what it carries."""
        presented = sigv4.present(request)
        rules = sigv4.rules_of(signing)
        credential = self._credential(presented)
        _check_scope(presented, signing)
        if credential is None:
            _plain_body(request, None)
            return Identity(_root(presented.key_id, self.default_account), presented.region)
        self._check_time(presented)
        self._check_signature(request, presented, credential, rules)
        return Identity(credential.caller, presented.region)

    def _credential(self, presented: Presented) -> Credential | None:
        try:
            return self.credentials.find(presented.key_id, presented.token or None)
        except AwsError as error:
            if self.accept_any and error.code == "InvalidClientTokenId":
                return None
            raise

    def _check_time(self, presented: Presented) -> None:
        now, signed = self.clock.real(), presented.time
        until = signed + (SKEW_S if presented.expires is None else presented.expires)
        stamp = presented.stamp
        if now > until:
            limit = SKEW_S if presented.expires is None else presented.expires
            margin = _SKEW_TEXT if presented.expires is None else f"{presented.expires} sec."
            raise AwsError(
                "RequestExpired",
                f"Signature expired: {stamp} is now earlier than {sigv4.stamp_of(now - limit)} "
                f"({sigv4.stamp_of(now)} - {margin})",
                403,
            )
        if signed > now + SKEW_S:
            raise AwsError(
                "RequestExpired",
                f"Signature not yet current: {stamp} is still later than {sigv4.stamp_of(now + SKEW_S)} "
                f"({sigv4.stamp_of(now)} + {_SKEW_TEXT})",
                403,
            )

    def _check_signature(
        self, request: HttpRequest, presented: Presented, credential: Credential, rules: Rules
    ) -> None:
        _check_signed_headers(request, presented)
        announced = _payload(request, presented, rules)
        key = self.keys.key(credential.secret, presented)
        canonical = sigv4.canonical_request(request, presented, announced, rules)
        text = sigv4.string_to_sign(presented, canonical)
        if not sigv4.matches(sigv4.sign(key, text), presented.signature):
            raise AwsError(sigv4.MISMATCH, _mismatch(canonical, text), 403)
        if announced in chunked.KINDS:
            seal = chunked.Seal(key, presented.stamp, presented.scope, presented.signature)
            _plain_body(request, seal)


def _root(key_id: str, default_account: str) -> Caller:
    account = key_id if _ACCOUNT.fullmatch(key_id) else default_account
    return Caller(Kind.ROOT, account, f"arn:aws:iam::{account}:root", account, access_key_id=key_id)


def _check_scope(presented: Presented, signing: str) -> None:
    if presented.service != signing:
        raise AwsError(sigv4.MISMATCH, f"Credential should be scoped to correct service: '{signing}'. ", 403)
    if not _REGION.fullmatch(presented.region):
        raise AwsError(sigv4.MISMATCH, "Credential should be scoped to a valid region. ", 403)


def _check_signed_headers(request: HttpRequest, presented: Presented) -> None:
    signed = presented.signed_headers
    if "host" not in signed:
        raise AwsError(sigv4.MISMATCH, "'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.", 403)
    for name in request.headers:
        if name.startswith("x-amz-") and name not in signed and name not in _MAY_BE_UNSIGNED:
            raise AwsError(sigv4.MISMATCH, f"'{name}' must be a 'SignedHeader' in the AWS Authorization.", 403)


def _payload(request: HttpRequest, presented: Presented, rules: Rules) -> str:
    """The payload's hash as it was signed. A hash that is announced must be true; only S3 takes other words for it."""
    announced = request.headers.get(_CONTENT_HASH)
    if rules.unsigned:
        if announced is None and presented.expires is not None:
            return sigv4.UNSIGNED
        if announced == sigv4.UNSIGNED or announced in chunked.KINDS:
            return announced or ""
        if announced is not None and announced.startswith("STREAMING-"):
            raise AwsError("InvalidRequest", f"hsmsim does not read bodies of the kind {announced[:64]}.")
    actual = hashlib.sha256(request.body).hexdigest() if request.body else sigv4.EMPTY_SHA256
    if announced is not None and announced != actual:
        if rules.unsigned:
            raise AwsError(
                "XAmzContentSHA256Mismatch",
                "The provided 'x-amz-content-sha256' header does not match what was computed.",
            )
        raise AwsError(
            sigv4.MISMATCH,
            f"The value of x-amz-content-sha256 ({announced[:64]!r}) is not the SHA-256 of the body ({actual}).",
            403,
        )
    return actual


def _plain_body(request: HttpRequest, seal: chunked.Seal | None) -> None:
    """Replace a body in chunks by what it carries; trailers become headers."""
    kind = request.headers.get(_CONTENT_HASH, "")
    if kind not in chunked.KINDS:
        return
    body = chunked.ChunkedBody(kind, seal)
    payload = body.feed(request.body)
    body.finish(request.headers.get("x-amz-decoded-content-length"), len(payload))
    request.body = payload
    request.headers.update(body.trailers)


def _mismatch(canonical: str, text: str) -> str:
    """AWS shows what it computed: neither text holds a secret."""
    return (
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access "
        "Key and signing method. Consult the service documentation for details.\n\n"
        f"The Canonical String for this request should have been\n'{canonical}'\n\n"
        f"The String-to-Sign should have been\n'{text}'\n"
    )
