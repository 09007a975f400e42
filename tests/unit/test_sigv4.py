"""Signatures: botocore's signers, the documented examples, and what must be refused."""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import Any
from urllib.parse import quote, urlsplit

import botocore.auth
import pytest
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth, SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st
from support.gateway_parts import ROLE, SECRET, TOKEN, USER, Store

from hsmsim.clock import ManualClock
from hsmsim.errors import AwsError
from hsmsim.gateway import chunked, sigv4
from hsmsim.gateway.authenticate import Authenticator
from hsmsim.gateway.codec.wire import HttpRequest, join_headers

NOW = 1_700_000_000.0  # 2023-11-14T22:13:20Z
BODY = b"Action=GetCallerIdentity&Version=2011-06-15"


@pytest.fixture(autouse=True)
def signer_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """botocore signs at NOW."""
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: dt.datetime.fromtimestamp(NOW, dt.UTC))


def authenticator(clock: ManualClock | None = None, *, accept_any: bool = False) -> Authenticator:
    return Authenticator(Store(), clock or ManualClock(NOW), sigv4.KeyCache(), "123456789012", accept_any)


def signed(
    signer: Any = SigV4Auth,
    *,
    method: str = "POST",
    url: str = "https://sts.eu-central-1.amazonaws.com/",
    headers: dict[str, str] | None = None,
    body: bytes = BODY,
    key: str = USER.access_key_id,
    secret: str = SECRET,
    token: str | None = None,
    service: str = "sts",
    region: str = "eu-central-1",
    **more: Any,
) -> HttpRequest:
    request = AWSRequest(method, url, data=body, headers=headers or {})
    signer(Credentials(key, secret, token), service, region, **more).add_auth(request)
    return received(request, body)


def received(request: AWSRequest, body: bytes) -> HttpRequest:
    url = urlsplit(request.url)
    pairs = [(name.lower().encode(), str(value).encode("latin-1")) for name, value in request.headers.items()]
    return HttpRequest(
        request.method, url.path or "/", url.query, join_headers([*pairs, (b"host", url.netloc.encode())]), body
    )


def refused(request: HttpRequest, *, service: str = "sts", clock: ManualClock | None = None) -> tuple[str, str]:
    with pytest.raises(AwsError) as caught:
        authenticator(clock).identify(request, service)
    return caught.value.code, str(caught.value)


def test_a_signed_request_names_its_caller_and_region() -> None:
    identity = authenticator().identify(signed(), "sts")
    assert (identity.caller, identity.region) == (USER, "eu-central-1")


def test_a_session_signs_with_its_token() -> None:
    request = signed(key=ROLE.access_key_id, token=TOKEN)
    assert authenticator().identify(request, "sts").caller == ROLE


@pytest.mark.parametrize(
    "path",
    ["/", "", "/a/b", "/a//b/../c/./d/", "/a%20b", "/%E1%88%B4", "/a%2Fb", "/tilde~", "/a+b=c:d@e", "/..", "//"],
)
@pytest.mark.parametrize("query", ["", "b=2&a=1", "a=2&a=1", "x=a%20b&y=%E1%88%B4", "acl", "a-b=1&a=2&ab=3"])
def test_paths_and_queries_are_canonical_as_botocore_has_them(path: str, query: str) -> None:
    url = f"https://sts.eu-central-1.amazonaws.com{path}" + (f"?{query}" if query else "")
    assert authenticator().identify(signed(method="GET", url=url, body=b""), "sts").caller == USER


@settings(max_examples=60)
@given(
    path=st.text(max_size=20),
    pairs=st.lists(st.tuples(st.text(min_size=1, max_size=6), st.text(max_size=6)), max_size=4),
    value=st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=12).map(lambda text: f" {text}  x "),
    body=st.binary(max_size=40),
)
def test_any_url_header_and_body_signed_by_botocore_is_accepted(
    path: str, pairs: list[tuple[str, str]], value: str, body: bytes
) -> None:
    query = "&".join(f"{quote(name, safe='-_.~')}={quote(text, safe='-_.~')}" for name, text in pairs)
    url = f"https://sts.eu-central-1.amazonaws.com/{quote(path, safe='/~')}" + (f"?{query}" if query else "")
    request = signed(url=url, body=body, headers={"X-Amz-Meta": value})
    assert authenticator().identify(request, "sts").caller == USER


def test_s3_encodes_the_path_once() -> None:
    request = signed(S3SigV4Auth, method="PUT", url="https://bucket.s3.amazonaws.com/a%20b//c", service="s3")
    assert authenticator().identify(request, "s3").caller == USER
    assert sigv4.canonical_path("/a%20b//c", sigv4.S3) == "/a%20b//c"
    assert sigv4.canonical_path("/a%20b//c", sigv4.GENERAL) == "/a%2520b/c"


def test_the_example_of_the_documentation() -> None:
    """AWS General Reference, "Examples of the complete Signature Version 4 signing process": the key derivation."""
    key = sigv4.derive("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "20150830", "us-east-1", "iam")
    assert key.hex() == "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9"
    request = HttpRequest(
        "GET",
        "/",
        "Action=ListUsers&Version=2010-05-08",
        {
            "content-type": "application/x-www-form-urlencoded; charset=utf-8",
            "host": "iam.amazonaws.com",
            "x-amz-date": "20150830T123600Z",
            "authorization": "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, "
            "SignedHeaders=content-type;host;x-amz-date, "
            "Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7",
        },
        b"",
    )
    presented = sigv4.present(request)
    canonical = sigv4.canonical_request(request, presented, sigv4.EMPTY_SHA256, sigv4.GENERAL)
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    assert digest == "f536975d06c0309214f805bb90ccff089219ecd68b2577efef23edd43b7e1a59"
    assert sigv4.sign(key, sigv4.string_to_sign(presented, canonical)) == presented.signature


def test_a_date_header_serves_too() -> None:
    request = signed(headers={"Date": "Tue, 14 Nov 2023 22:13:20 GMT"})
    assert "x-amz-date" not in request.headers
    assert authenticator().identify(request, "sts").caller == USER


def test_presigned_urls_last_as_long_as_they_say() -> None:
    request = signed(
        SigV4QueryAuth, method="GET", url="https://sts.amazonaws.com/?Action=GetCallerIdentity", body=b"", expires=3600
    )
    clock = ManualClock(NOW)
    assert authenticator(clock).identify(request, "sts").caller == USER
    clock.advance(3600)
    assert authenticator(clock).identify(request, "sts").caller == USER
    clock.advance(1)
    code, text = refused(request, clock=clock)
    assert code == "RequestExpired"
    assert text == (
        "Signature expired: 20231114T221320Z is now earlier than 20231114T221321Z (20231114T231321Z - 3600 sec.)"
    )


def test_a_presigned_url_of_s3_says_nothing_of_its_body() -> None:
    request = signed(S3SigV4QueryAuth, method="PUT", url="https://b.s3.amazonaws.com/k", body=b"", service="s3")
    request.body = b"whatever"
    assert authenticator().identify(request, "s3").caller == USER


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (901, "expired: 20231114T221320Z is now earlier than 20231114T221321Z (20231114T222821Z - 15 min.)"),
        (-901, "not yet current: 20231114T221320Z is still later than 20231114T221319Z (20231114T215819Z + 15 min.)"),
    ],
)
def test_clocks_may_differ_by_15_minutes(seconds: float, text: str) -> None:
    assert authenticator(ManualClock(NOW + seconds / 901 * 900)).identify(signed(), "sts").caller == USER
    assert refused(signed(), clock=ManualClock(NOW + seconds)) == ("RequestExpired", f"Signature {text}")


def changed(request: HttpRequest, **headers: str) -> HttpRequest:
    request.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return request


def edited(old: str, new: str) -> HttpRequest:
    request = signed()
    request.headers["authorization"] = request.headers["authorization"].replace(old, new)
    return request


def replaced(**parts: Any) -> HttpRequest:
    request = signed()
    for name, value in parts.items():
        setattr(request, name, value)
    return request


TAMPERED = {
    "body": lambda: replaced(body=BODY + b"&X=1"),
    "query": lambda: replaced(query="X=1"),
    "path": lambda: replaced(path="/x"),
    "method": lambda: replaced(method="PUT"),
    "host": lambda: changed(signed(), host="evil.example"),
    "secret": lambda: signed(secret="wrong"),
    "signature": lambda: changed(signed(), authorization=signed().headers["authorization"][:-1] + "é"),
    "unsigned target": lambda: changed(signed(), x_amz_target="TrentService.Decrypt"),
    "content hash": lambda: signed(headers={"X-Amz-Content-SHA256": "0" * 64}),
    "unsigned payload": lambda: signed(headers={"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"}),
    "service": lambda: signed(service="iam"),
    "region": lambda: signed(region="nowhere"),
    "date of the scope": lambda: edited("20231114/", "20231113/"),
    "terminator": lambda: edited("aws4_request", "aws5_request"),
    "host not signed": lambda: edited("host;", ""),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_what_was_changed_does_not_match(what: str) -> None:
    assert refused(TAMPERED[what]())[0] == "SignatureDoesNotMatch"


def test_a_mismatch_shows_what_was_computed_and_never_the_key() -> None:
    _, text = refused(signed(secret="wrong"))
    assert "The Canonical String for this request should have been\n'POST\n/\n\n" in text
    assert (
        "The String-to-Sign should have been\n'AWS4-HMAC-SHA256\n20231114T221320Z\n20231114/eu-central-1/sts/" in text
    )
    assert SECRET not in text


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("Bearer x", "Unsupported AWS 'algorithm': 'Bearer'"),
        ("AWS4-HMAC-SHA256 nothing", "requires 'Credential' parameter. Authorization header requires 'Signature'"),
        ("AWS4-HMAC-SHA256 Credential=a/b/c, SignedHeaders=host, Signature=00", "exactly 5 slash-delimited elements"),
        ("AWS4-HMAC-SHA256 Credential=, SignedHeaders=host, Signature=00", "requires 'Credential' parameter."),
    ],
)
def test_half_a_signature_is_incomplete(header: str, words: str) -> None:
    code, text = refused(changed(signed(), authorization=header))
    assert code == "IncompleteSignature"
    assert words in text


@pytest.mark.parametrize("stamp", ["", "yesterday", "20231314T221320Z", "20231114T221320", "99999999999999999"])
def test_a_date_that_is_none_is_incomplete(stamp: str) -> None:
    request = changed(signed(), x_amz_date=stamp)
    request.headers["authorization"] = request.headers["authorization"].replace("20231114", stamp[:8] or "20231114")
    assert refused(request)[0] == "IncompleteSignature"


@given(
    st.one_of(
        st.text(st.characters(max_codepoint=255)),
        st.lists(
            st.sampled_from(["AWS4-HMAC-SHA256 ", "Credential=", "A/20231114/eu-west-1/sts/aws4_request", ","])
        ).map("".join),
    )
)
def test_any_authorization_header_is_answered_with_an_error_of_aws(header: str) -> None:
    with pytest.raises(AwsError):
        authenticator().identify(changed(signed(), authorization=header), "sts")


@given(st.sampled_from(["Algorithm", "Credential", "Date", "Expires", "SignedHeaders", "Signature"]), st.text())
def test_any_parameter_of_a_presigned_url_is_answered_with_an_error_of_aws(name: str, value: str) -> None:
    request = signed(SigV4QueryAuth, method="GET", url="https://sts.amazonaws.com/?Action=X", body=b"")
    kept = [part for part in request.query.split("&") if not part.startswith(f"X-Amz-{name}=")]
    request.query = "&".join([*kept, f"X-Amz-{name}={quote(value, safe='')}"])
    with pytest.raises(AwsError):
        authenticator().identify(request, "sts")


def test_nothing_is_missing_authentication() -> None:
    request = signed()
    del request.headers["authorization"]
    assert refused(request)[0] == "MissingAuthenticationToken"


def test_unknown_keys_and_expired_sessions() -> None:
    assert refused(signed(key="AKIANOBODY"))[0] == "InvalidClientTokenId"
    assert refused(signed(key=ROLE.access_key_id, token="expired"))[0] == "ExpiredToken"
    assert refused(signed(key=ROLE.access_key_id, token="foreign"))[0] == "InvalidClientTokenId"


def test_any_credentials_are_the_root_of_an_account_if_so_configured() -> None:
    anyone = authenticator(accept_any=True)
    root = anyone.identify(signed(key="test", secret="test"), "sts").caller
    assert (root.account, root.arn) == ("123456789012", "arn:aws:iam::123456789012:root")
    named = anyone.identify(signed(key="999988887777", secret="test"), "sts").caller
    assert named.arn == "arn:aws:iam::999988887777:root"
    with pytest.raises(AwsError, match="does not match the signature"):
        anyone.identify(signed(secret="wrong"), "sts")


def test_the_key_cache_is_bounded_and_forgets() -> None:
    cache = sigv4.KeyCache(2)
    first = sigv4.present(signed())
    key = cache.key("old", first)
    assert bytes(key) == sigv4.derive("old", "20231114", "eu-central-1", "sts")
    assert cache.key("old", first) is key
    assert bytes(cache.key("new", first)) == sigv4.derive("new", "20231114", "eu-central-1", "sts")
    assert bytes(key) == bytes(32)
    for region in ("eu-west-1", "eu-west-2", "eu-west-3"):
        cache.key("new", sigv4.present(signed(region=region)))
    assert len(cache) == 2
    cache.forget(USER.access_key_id)
    assert len(cache) == 0


# ---- bodies in chunks ------------------------------------------------------------------------------------------


def in_chunks(kind: str, parts: list[bytes], trailers: dict[str, str] | None = None) -> HttpRequest:
    """A streaming upload as the documentation describes it."""
    total = sum(map(len, parts))
    request = signed(
        SigV4Auth,
        method="PUT",
        url="https://b.s3.amazonaws.com/k",
        service="s3",
        body=b"",
        headers={"X-Amz-Content-SHA256": kind, "X-Amz-Decoded-Content-Length": str(total)},
    )
    presented = sigv4.present(request)
    key = sigv4.derive(SECRET, presented.date, presented.region, "s3")
    previous, body = presented.signature, b""
    for part in [*parts, b""]:
        text = f"AWS4-HMAC-SHA256-PAYLOAD\n{presented.stamp}\n{presented.scope}\n{previous}\n{sigv4.EMPTY_SHA256}\n"
        previous = sigv4.sign(key, text + hashlib.sha256(part).hexdigest())
        seal = "" if kind == chunked.UNSIGNED_TRAILER else f";chunk-signature={previous}"
        body += f"{len(part):x}{seal}\r\n".encode() + part + (b"\r\n" if part else b"")
    lines = "".join(f"{name}:{value}\n" for name, value in (trailers or {}).items())
    body += lines.replace("\n", "\r\n").encode()
    if kind == chunked.SIGNED_TRAILER:
        text = f"AWS4-HMAC-SHA256-TRAILER\n{presented.stamp}\n{presented.scope}\n{previous}\n"
        body += (
            f"x-amz-trailer-signature:{sigv4.sign(key, text + hashlib.sha256(lines.encode()).hexdigest())}\r\n".encode()
        )
    request.body = body + b"\r\n"
    return request


@pytest.mark.parametrize("kind", chunked.KINDS)
def test_chunks_are_joined_and_trailers_become_headers(kind: str) -> None:
    trailers = None if kind == chunked.SIGNED else {"x-amz-checksum-crc32": "NhCmhg=="}
    request = in_chunks(kind, [b"a" * 70_000, b"b"], trailers)
    assert authenticator().identify(request, "s3").caller == USER
    assert request.body == b"a" * 70_000 + b"b"
    assert request.headers.get("x-amz-checksum-crc32") == (trailers or {}).get("x-amz-checksum-crc32")


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        (b"aaaa", b"aaab", "SignatureDoesNotMatch"),
        (b"NhCmhg", b"NhCmhh", "SignatureDoesNotMatch"),
        (b"4;", b"5;", "IncompleteBody"),
        (b"4;", b"ffffffff;", "IncompleteBody"),
        (b"4;", b"x;", "IncompleteBody"),
        (b"4;chunk-signature=", b"4;chunk-signature=" + b"0" * 2000, "IncompleteBody"),
    ],
)
def test_a_changed_chunk_is_refused(old: bytes, new: bytes, code: str) -> None:
    request = in_chunks(chunked.SIGNED_TRAILER, [b"aaaa"], {"x-amz-checksum-crc32": "NhCmhg=="})
    request.body = request.body.replace(old, new, 1)
    assert refused(request, service="s3")[0] == code


def test_a_body_that_ends_early_or_late_is_refused() -> None:
    whole = in_chunks(chunked.SIGNED, [b"aaaa"]).body
    for body in (whole[:-1], whole[:40], b"", whole + b"x"):
        request = in_chunks(chunked.SIGNED, [b"aaaa"])
        request.body = body
        assert refused(request, service="s3")[0] == "IncompleteBody"
    request = in_chunks(chunked.SIGNED, [b"aaaa"])
    request.headers["x-amz-decoded-content-length"] = "5"
    assert refused(request, service="s3")[0] == "SignatureDoesNotMatch"  # it was signed


@given(cuts=st.lists(st.integers(1, 50), max_size=30))
def test_a_body_may_come_in_any_pieces(cuts: list[int]) -> None:
    data = b"5\r\nhello\r\n6\r\n world\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n"
    body, out, at = chunked.ChunkedBody(chunked.UNSIGNED_TRAILER), b"", 0
    for cut in cuts:
        out += body.feed(data[at : at + cut])
        at += cut
    out += body.feed(data[at:])
    body.finish("11", len(out))
    assert out == b"hello world"
    assert body.trailers == {"x-amz-checksum-crc32": "AAAAAA=="}
