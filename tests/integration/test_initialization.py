"""A cluster's first steps: its CSR, what certifies the hardware, the customer's certificate, activation, its mode."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from support.hsm import ADMIN, Cluster, cluster, refused, template

from hsmsim.errors import CkrError
from hsmsim.fleet import customer
from hsmsim.hsm import messages as m
from hsmsim.hsm.client import HsmClient
from hsmsim.hsm.cryptoki import CKA, CKM, CKR
from hsmsim.hsm.roots import AWS_ROOT, MANUFACTURER_ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.hsm import Hsm


def ask(hsm: Hsm, request: object) -> object:
    with HsmClient(hsm.socket) as client:
        return client.call(request)


def certificates(hsm: Hsm) -> m.CertificatesResponse:
    answer = ask(hsm, m.CertificatesRequest())
    assert isinstance(answer, m.CertificatesResponse)
    return answer


def openssl(*arguments: str | Path, cwd: Path) -> str:
    done = subprocess.run(["openssl", *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def new(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster whose first HSM runs, and nothing more."""
    made = Cluster(tmp_path, mode="FIPS")
    (tmp_path / "images").mkdir()
    try:
        made.add()
        yield made
    finally:
        for hsm in made.hsms:
            hsm.end()


def test_the_documented_steps_with_openssl_verify_the_hsm_and_initialize_the_cluster(new: Cluster) -> None:
    hsm, home = new.hsms[0], new.home
    assert hsm.info().state == b"UNINITIALIZED"
    found = certificates(hsm)
    for name, content in (
        ("ClusterCsr.csr", found.csr),
        ("HsmCertificate.crt", found.hsm),
        ("AwsHardwareCertificate.crt", found.aws_hardware),
        ("ManufacturerHardwareCertificate.crt", found.manufacturer_hardware),
    ):
        (home / name).write_bytes(content)
    roots = home / "roots"
    for hardware, root in (
        ("AwsHardwareCertificate.crt", AWS_ROOT),
        ("ManufacturerHardwareCertificate.crt", MANUFACTURER_ROOT),
    ):
        (home / "chain.crt").write_bytes((home / hardware).read_bytes() + (roots / root).read_bytes())
        assert "HsmCertificate.crt: OK" in openssl("verify", "-CAfile", "chain.crt", "HsmCertificate.crt", cwd=home)
    csr_key = openssl("req", "-in", "ClusterCsr.csr", "-pubkey", "-noout", "-verify", cwd=home)
    assert openssl("x509", "-in", "HsmCertificate.crt", "-pubkey", "-noout", cwd=home) == csr_key
    subject = openssl("req", "-in", "ClusterCsr.csr", "-subject", "-noout", "-nameopt", "sep_comma_plus", cwd=home)
    assert subject.startswith("subject=C=US,ST=CA,O=Marvell,OU=N3FIPS,L=SanJose,CN=HSM:")
    assert subject.strip().endswith(":PARTN:1, for FIPS mode")

    openssl("genrsa", "-out", "customerCA.key", "2048", cwd=home)
    openssl(
        "req",
        "-new",
        "-x509",
        "-days",
        "3652",
        "-key",
        "customerCA.key",
        "-subj",
        "/CN=us",
        "-out",
        "customerCA.crt",
        cwd=home,
    )
    signing = "x509 -req -days 3652 -in ClusterCsr.csr -CA customerCA.crt -CAkey customerCA.key -CAcreateserial"
    openssl(*signing.split(), "-out", "CustomerHsmCertificate.crt", cwd=home)
    signed, anchor = (home / "CustomerHsmCertificate.crt").read_bytes(), (home / "customerCA.crt").read_bytes()
    with refused(CKR.USER_PIN_NOT_INITIALIZED), hsm.client() as client:
        client.admin()
    ask(hsm, m.InitializeRequest(signed, anchor))
    ask(hsm, m.InitializeRequest(signed, anchor))
    assert hsm.info().state == b"INITIALIZED"
    after = certificates(hsm)
    assert (after.csr, after.hsm, after.aws_hardware, after.manufacturer_hardware) == (b"", b"", b"", b"")
    assert x509.load_pem_x509_certificate(after.cluster) == x509.load_pem_x509_certificate(signed)
    assert after.trust_anchor == anchor
    with hsm.client() as client:
        assert dict(zip((users := client.call(m.UserListRequest())).names, users.roles, strict=True))[b"admin"] == 4
        client.call(m.ActivateRequest(ADMIN.encode()))
        assert dict(zip((users := client.call(m.UserListRequest())).names, users.roles, strict=True))[b"admin"] == 1
    assert hsm.info().state == b"ACTIVE"


def test_an_hsm_that_is_killed_before_each_step_goes_on(new: Cluster) -> None:
    hsm = new.hsms[0]
    before = certificates(hsm)
    hsm.end()
    hsm.start()
    assert certificates(hsm) == before
    new.initialize()
    hsm.end()
    hsm.start()
    assert hsm.info().state == b"INITIALIZED"
    assert new.add().info().state == b"INITIALIZED"
    assert certificates(new.hsms[1]) == certificates(hsm)


def signed_by(
    key: object, csr: bytes, *, issuer: str = "root", public: object = None, algorithm: object = None
) -> bytes:
    request = x509.load_pem_x509_csr(csr)
    return made(issuer, "leaf", public or request.public_key(), key, authority=False, algorithm=algorithm)


def made(
    issuer: str, subject: str, public: object, key: object, *, authority: bool | None, algorithm: object = None
) -> bytes:
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in (issuer, subject)]
    builder = x509.CertificateBuilder(*names, public, x509.random_serial_number(), customer._BEGIN, customer._END)  # type: ignore[arg-type]
    if authority is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    return builder.sign(key, algorithm or hashes.SHA256()).public_bytes(Encoding.PEM)  # type: ignore[arg-type]


def test_a_certificate_that_breaks_a_rule_is_refused(new: Cluster) -> None:
    hsm = new.hsms[0]
    csr = certificates(hsm).csr
    key, other, small = (
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP256R1()),
        rsa.generate_private_key(65537, 1024),
    )
    root = made("root", "root", key.public_key(), key, authority=True)
    good = signed_by(key, csr)
    middle = made("root", "middle", other.public_key(), key, authority=True)
    cases = [
        (b"nonsense", root, CKR.ARGUMENTS_BAD),
        (good, b"", CKR.ARGUMENTS_BAD),
        (good + good, root, CKR.ARGUMENTS_BAD),
        (good, root * 5, CKR.ARGUMENTS_BAD),
        (good, root + b"\n" * 20_000, CKR.ARGUMENTS_BAD),
        (signed_by(other, csr), root, CKR.SIGNATURE_INVALID),
        (good, middle, CKR.SIGNATURE_INVALID),
        (good, made("root", "root", key.public_key(), key, authority=False), CKR.SIGNATURE_INVALID),
        (signed_by(key, csr, public=other.public_key()), root, CKR.PUBLIC_KEY_INVALID),
        (
            signed_by(small, csr),
            made("root", "root", small.public_key(), small, authority=True),
            CKR.PUBLIC_KEY_INVALID,
        ),
        (signed_by(key, csr, algorithm=hashes.SHA3_256()), root, CKR.PUBLIC_KEY_INVALID),
    ]
    for signed, anchor, code in cases:
        with pytest.raises(CkrError) as caught:
            ask(hsm, m.InitializeRequest(signed, anchor))
        assert CKR(caught.value.rv) == code, (signed[:40], anchor[:40], hsm.log[-500:])
    assert hsm.info().state == b"UNINITIALIZED"
    ask(hsm, m.InitializeRequest(signed_by(other, csr, issuer="middle"), middle + root))
    assert hsm.info().state == b"INITIALIZED"
    with refused(CKR.FUNCTION_REJECTED):
        ask(hsm, m.InitializeRequest(good, root))


@pytest.mark.parametrize("engine", ["fast", "softhsm"])
@pytest.mark.parametrize(("mode", "forbidden"), [("FIPS", True), ("NON_FIPS", False)])
def test_the_mode_decides_what_the_hsm_does(mode: str, engine: str, *, forbidden: bool) -> None:
    pkcs = m.Mechanism(CKM.RSA_PKCS, m.NoneParams())
    with cluster(mode=mode, engine=engine) as one, one.hsms[0].user("alice") as alice:
        assert one.hsms[0].info().mode == mode.encode()
        assert alice.wire.hello is not None
        assert alice.wire.hello.fips == forbidden
        public, private = alice.rsa(public={CKA.ENCRYPT: True, CKA.WRAP: True}, decrypt=True, sign=True)
        secret = alice.aes(extractable=True)
        calls = [
            lambda: alice.encrypt(public, b"text", CKM.RSA_PKCS),
            lambda: alice.call(m.WrapKeyRequest(pkcs, public, secret)),
            lambda: alice.ec(curve=bytes.fromhex("06032b6570"), kind=CKM.EC_EDWARDS_KEY_PAIR_GEN),
        ]
        for call in calls:
            if forbidden:
                with refused(CKR.MECHANISM_INVALID):
                    call()
            else:
                call()
        assert len(alice.sign(private, b"text", CKM.SHA256_RSA_PKCS)) == 256
        assert (alice.call(m.KeyFactsRequest(private)).flags & 8 != 0) == forbidden


def test_limited_write_mode_keeps_token_objects_and_users_as_they_are() -> None:
    with cluster(hsms=2) as two:
        first, second = two.hsms
        with first.user("alice") as alice, second.client() as admin:
            admin.admin()
            key = alice.aes(token=True, label="kept")
            ask(first, m.LimitedWriteRequest(1))
            assert [hsm.info().limited_write for hsm in two.hsms] == [1, 1]
            template_ = template({CKA.LABEL: "new"})
            for call in (
                lambda: alice.aes(token=True),
                lambda: alice.destroy(key),
                lambda: alice.call(m.SetAttributesRequest(key, template_)),
                lambda: alice.call(m.CopyObjectRequest(key, template({CKA.TOKEN: True}))),
                lambda: alice.call(m.KeyShareRequest(key, b"bob")),
                lambda: alice.call(m.SetPasswordRequest(b"alice-password", b"alice-passw0rd")),
                lambda: admin.call(m.UserCreateRequest(b"dave", 2, b"dave-password")),
                lambda: admin.call(m.UserDeleteRequest(b"carol", 2)),
                lambda: admin.call(m.UserPasswordRequest(b"bob", 2, b"bob-passw0rd")),
                lambda: admin.call(m.PartitionCreateRequest(b"more", b"more-password")),
            ):
                with refused(CKR.TOKEN_WRITE_PROTECTED):
                    call()
            assert alice.find(label="kept") == (key,)
            assert len(alice.encrypt(key, bytes(16))) == 16
            session_key = alice.aes()
            alice.set(session_key, label="mine")
            alice.destroy(session_key)
            ask(first, m.LimitedWriteRequest(0))
            alice.destroy(key)
