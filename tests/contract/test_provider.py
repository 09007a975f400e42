"""hsmsim-provider.so under the real `openssl`: what it signs, checked by another implementation; what it refuses."""

from __future__ import annotations

import base64
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate
from support.provider import KINDS, OpenSsl, delete_keys, make_keys

from hsmsim.bench.serve import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Simulator

ROOT = Path(__file__).resolve().parents[2]
SANITIZED = ROOT / "build-asan/native/provider/hsmsim-provider.so"
MESSAGE = b"what is signed, once whole and once digested\n"
HASHES = {"sha1": hashes.SHA1, "sha224": hashes.SHA224, "sha256": hashes.SHA256}
HASHES |= {"sha384": hashes.SHA384, "sha512": hashes.SHA512}
PSS = ("-sigopt", "rsa_padding_mode:pss")


@pytest.fixture(scope="module")
def folder(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    one = tmp_path_factory.mktemp("provider")
    (one / "message").write_bytes(MESSAGE)
    make_keys(simulator, one, *KINDS)
    yield one
    delete_keys(simulator, *KINDS)


@pytest.fixture(scope="module")
def openssl(simulator: Simulator, folder: Path) -> OpenSsl:
    return OpenSsl.make(simulator, folder)


def public(openssl: OpenSsl, label: str) -> object:
    return load_pem_public_key(openssl.run("pkey", "-in", f"{label}.pem", "-pubout"))


@pytest.mark.parametrize("name", HASHES)
def test_rsa_pkcs1(openssl: OpenSsl, name: str) -> None:
    key = public(openssl, "provider-rsa")
    assert isinstance(key, rsa.RSAPublicKey)
    signature = openssl.run("dgst", f"-{name}", "-sign", "provider-rsa.pem", "message")
    key.verify(signature, MESSAGE, padding.PKCS1v15(), HASHES[name]())
    with pytest.raises(InvalidSignature):
        key.verify(signature, MESSAGE + b"x", padding.PKCS1v15(), HASHES[name]())


@pytest.mark.parametrize(
    ("name", "salt", "length"), [("sha256", "digest", 32), ("sha256", "20", 20), ("sha512", "max", 256 - 64 - 2)]
)
def test_rsa_pss(openssl: OpenSsl, name: str, salt: str, length: int) -> None:
    key = public(openssl, "provider-rsa")
    assert isinstance(key, rsa.RSAPublicKey)
    options = (*PSS, "-sigopt", f"rsa_pss_saltlen:{salt}")
    signature = openssl.run("dgst", f"-{name}", *options, "-sign", "provider-rsa.pem", "message")
    key.verify(signature, MESSAGE, padding.PSS(padding.MGF1(HASHES[name]()), length), HASHES[name]())


def test_pss_takes_no_salt_that_does_not_fit(openssl: OpenSsl) -> None:
    options = (*PSS, "-sigopt", "rsa_pss_saltlen:300")
    said = openssl.run("dgst", "-sha256", *options, "-sign", "provider-rsa.pem", "message", status=1)
    assert b"room for its salt" in said


@pytest.mark.parametrize(("label", "bits"), [("provider-p256", 256), ("provider-p384", 384), ("provider-p521", 521)])
def test_ecdsa(openssl: OpenSsl, label: str, bits: int) -> None:
    key = public(openssl, label)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.curve.key_size == bits
    for name in ("sha256", "sha512"):
        signature = openssl.run("dgst", f"-{name}", "-sign", f"{label}.pem", "message")
        key.verify(signature, MESSAGE, ec.ECDSA(HASHES[name]()))


def test_ed25519(openssl: OpenSsl) -> None:
    key = public(openssl, "provider-ed25519")
    assert isinstance(key, ed25519.Ed25519PublicKey)
    signature = openssl.run("pkeyutl", "-sign", "-rawin", "-inkey", "provider-ed25519.pem", "-in", "message")
    key.verify(signature, MESSAGE)


def test_a_digest_that_is_signed_raw(openssl: OpenSsl, folder: Path) -> None:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(MESSAGE)
    (folder / "digest").write_bytes(digest.finalize())
    key = public(openssl, "provider-rsa")
    assert isinstance(key, rsa.RSAPublicKey)
    options = ("-pkeyopt", "digest:sha256", "-inkey", "provider-rsa.pem")
    signature = openssl.run("pkeyutl", "-sign", *options, "-in", "digest")
    key.verify(signature, MESSAGE, padding.PKCS1v15(), hashes.SHA256())
    assert b"has 32 bytes, not 45" in openssl.run("pkeyutl", "-sign", *options, "-in", "message", status=1)


def test_keys_by_their_names(openssl: OpenSsl, simulator: Simulator) -> None:
    """The same key as PKCS#11 URI: private and public half, with and without a type."""
    expected = openssl.run("pkey", "-in", "provider-p256.pem", "-pubout")
    token = simulator.environment["HSMSIM_TOKEN"]
    for name in (f"token={token};object=provider-p256;type=private", "object=provider%2Dp256"):
        assert openssl.run("pkey", "-in", f"pkcs11:{name}", "-pubout") == expected
    public = "pkcs11:object=provider-p256;type=public"
    assert openssl.run("pkey", "-pubin", "-in", public, "-pubout") == expected
    signature = openssl.run("dgst", "-sha256", "-sign", "pkcs11:object=provider-p256;type=private", "message")
    (openssl.folder / "signature").write_bytes(signature)
    verified = openssl.run("dgst", "-sha256", "-verify", public, "-signature", "signature", "message")
    assert verified == b"Verified OK\n"


def test_certificates(openssl: OpenSsl, folder: Path) -> None:
    """An authority with a key in the HSM signs requests that other keys in the HSM have signed."""
    authority = ("req", "-new", "-x509", "-key", "provider-p384.pem", "-subj", "/CN=authority", "-days", "9")
    openssl.run(*authority, "-addext", "basicConstraints=critical,CA:TRUE", "-out", "ca.crt")
    for label in KINDS:
        openssl.run("req", "-new", "-key", f"{label}.pem", "-subj", "/CN=localhost", "-out", "one.csr")
        openssl.run("req", "-in", "one.csr", "-verify", "-noout")
        signing = ("-CA", "ca.crt", "-CAkey", "provider-p384.pem", "-days", "9")
        openssl.run("x509", "-req", "-in", "one.csr", *signing, "-out", "one.crt")
        assert openssl.run("verify", "-CAfile", "ca.crt", "one.crt") == b"one.crt: OK\n"
        leaf = load_pem_x509_certificate((folder / "one.crt").read_bytes())
        leaf.verify_directly_issued_by(load_pem_x509_certificate((folder / "ca.crt").read_bytes()))
        assert leaf.public_key() == public(openssl, label)


def test_a_certificate_signed_with_pss(openssl: OpenSsl, folder: Path) -> None:
    options = (*PSS, "-sigopt", "rsa_pss_saltlen:digest")
    self_signed = ("req", "-new", "-x509", "-key", "provider-rsa.pem", "-subj", "/CN=pss", "-days", "9")
    openssl.run(*self_signed, *options, "-out", "pss.crt")
    certificate = load_pem_x509_certificate((folder / "pss.crt").read_bytes())
    assert certificate.signature_algorithm_oid.dotted_string == "1.2.840.113549.1.1.10"
    assert openssl.run("verify", "-CAfile", "pss.crt", "pss.crt") == b"pss.crt: OK\n"
    certificate.verify_directly_issued_by(certificate)


# ---- what it refuses ---------------------------------------------------------------------------------------------


def test_the_private_half_stays_in_the_hsm(openssl: OpenSsl) -> None:
    for label in KINDS:
        said = openssl.run("pkey", "-in", f"{label}.pem", status=1)
        assert b"PRIVATE" not in said


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("pkcs11:object=nobody;type=private", "no key of that name"),
        ("pkcs11:token=other;object=provider-p256", "no token of that name"),
        ("pkcs11:object=provider-p256;colour=blue", "only token, manufacturer"),
        ("pkcs11:object=provider-p256;type=cert", "type is private or public"),
        ("pkcs11:object=a;object=b", "stands twice"),
        ("pkcs11:object=%zz", "a bad %xx"),
        ("pkcs11:object=provider-p256?module-path=/tmp/x", "only pin-value and pin-source"),
    ],
)
def test_a_name_that_is_none(openssl: OpenSsl, name: str, why: str) -> None:
    assert why in openssl.run("dgst", "-sha256", "-sign", name, "message", status=1).decode()


def test_no_pin_and_a_wrong_one(simulator: Simulator, folder: Path) -> None:
    sign = ("dgst", "-sha256", "-sign", "provider-p256.pem", "message")
    none = OpenSsl.make(simulator, folder, HSMSIM_PIN="")
    assert b"no PIN: set HSMSIM_PIN" in none.run(*sign, status=1)
    wrong = OpenSsl.make(simulator, folder, HSMSIM_PIN=f"{simulator.user}:wrong")
    assert b"the PIN is user:password" in wrong.run(*sign, status=1)
    assert OpenSsl.make(simulator, folder).run(*sign)


def test_the_pin_comes_from_a_file(simulator: Simulator, folder: Path) -> None:
    file = folder / "pin"
    file.write_text(simulator.ready.pin + "\n")
    file.chmod(0o600)
    sign = ("dgst", "-sha256", "-sign")
    named = OpenSsl.make(simulator, folder, options=f"pin-source = {file}", HSMSIM_PIN="")
    assert named.run(*sign, "provider-p256.pem", "message")
    in_name = OpenSsl.make(simulator, folder, HSMSIM_PIN="")
    assert in_name.run(*sign, f"pkcs11:object=provider-p256;type=private?pin-source=file:{file}", "message")


def test_two_keys_of_one_name_are_no_name_of_a_file(openssl: OpenSsl, folder: Path, simulator: Simulator) -> None:
    name = b"pkcs11:token=hsmsim;type=private"
    content = bytes([0x1A, 25]) + b"PKCS#11 Provider URI v1.0" + bytes([0x0C, len(name)]) + name
    encoded = base64.b64encode(bytes([0x30, len(content)]) + content).decode()
    label = "PKCS#11 PROVIDER URI"
    (folder / "any.pem").write_text(f"-----BEGIN {label}-----\n{encoded}\n-----END {label}-----\n")
    said = openssl.run("dgst", "-sha256", "-sign", "any.pem", "message", status=1).decode()
    assert re.search(r"\d+ keys have the name in the PEM", said)
    assert simulator.pid(0)


def test_spoilt_pems(openssl: OpenSsl, folder: Path) -> None:
    """Every fourth byte changed, and every fourth length: refused, and nothing crashes."""
    lines = (folder / "provider-p256.pem").read_text().splitlines()
    der = base64.b64decode("".join(lines[1:-1]))
    spoilt = [der[:at] for at in range(0, len(der), 4)]
    spoilt += [der[:at] + bytes([der[at] ^ 0x15]) + der[at + 1 :] for at in range(0, 30, 4)]
    spoilt += [b"\x30\x84\xff\xff\xff\xff" + der[2:]]
    for one in spoilt:
        text = base64.b64encode(one).decode()
        (folder / "spoilt.pem").write_text(f"{lines[0]}\n{text}\n{lines[-1]}\n")
        openssl.run("pkey", "-in", "spoilt.pem", "-pubout", status=1)


def _serve_asynchronously(openssl: OpenSsl, label: str, connections: int) -> str:
    """`s_server -async` for so many handshakes, each checked by `s_client`; what the server said."""
    openssl.certificate(label)
    port = str(free_port())
    serve = ("-accept", port, "-cert", f"{label}.crt", "-key", f"{label}.pem", "-naccept", str(connections))
    with subprocess.Popen(
        ["openssl", "s_server", "-async", "-www", *serve],
        cwd=openssl.folder,
        env=openssl.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as server:
        assert server.stdout is not None
        said = ""
        while "ACCEPT" not in said:
            line = server.stdout.readline()
            assert line, said
            said += line
        plain = {**openssl.environment, "OPENSSL_CONF": "/dev/null", "LD_PRELOAD": ""}
        client = OpenSsl(openssl.folder, plain)
        for version in ("-tls1_2", "-tls1_3") * (connections // 2):
            check = ("-verify_return_error", "-CAfile", f"{label}.crt", "-servername", "localhost")
            page = client.run(
                "s_client", "-connect", f"127.0.0.1:{port}", version, *check, data=b"GET / HTTP/1.0\r\n\r\n"
            )
            assert b"Verify return code: 0 (ok)" in page
        said += server.communicate(timeout=60)[0]
        assert server.returncode == 0, said
    return said


@pytest.mark.parametrize("label", ["provider-rsa", "provider-p521"])
def test_a_server_with_jobs(openssl: OpenSsl, label: str) -> None:
    _serve_asynchronously(openssl, label, 4)


@pytest.mark.skipif(not SANITIZED.exists(), reason="scripts/test without arguments makes the sanitized build")
def test_under_address_sanitizer(simulator: Simulator, folder: Path) -> None:
    """The sanitized build of provider and module inside the ordinary openssl, its leaks apart (openssl has its own)."""
    libraries = [
        subprocess.run(
            ["gcc", f"-print-file-name=lib{name}.so"], check=True, capture_output=True, text=True
        ).stdout.strip()
        for name in ("asan", "ubsan")
    ]
    own = {"LD_PRELOAD": " ".join(libraries), "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=1:exitcode=99"}
    openssl = OpenSsl.make(simulator, folder, module=SANITIZED, **own)
    for label in KINDS:
        openssl.certificate(label)
        openssl.run("verify", "-CAfile", f"{label}.crt", f"{label}.crt")
    assert "Sanitizer" not in _serve_asynchronously(openssl, "provider-p256", 4)
    for name in ("pkcs11:object=nobody", "pkcs11:object=%", "pkcs11:id=%00;type=private"):
        openssl.run("pkey", "-in", name, "-pubout", status=1)
