"""Keys on a real HSM process: made, brought, wrapped, unwrapped, derived, by the rules of PKCS#11 and CloudHSM."""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap_with_padding, aes_key_wrap_with_padding
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_public_key
from support.hsm import P256, USERS, Client, Hsm, Values, cluster, mechanism, refused, template

from hsmsim.hsm import messages as m
from hsmsim.hsm.client import HsmClient
from hsmsim.hsm.cryptoki import CKA, CKD, CKG, CKK, CKM, CKO, CKR, CKU, CKZ
from hsmsim.hsm.wire import Attr, encode_template

if TYPE_CHECKING:
    from collections.abc import Iterator

YES, NO = b"\1", b"\0"
VALUE = bytes(range(32))
KWP = CKM.AES_KEY_WRAP_PAD
CURVES = {
    "06052b81040021": ec.SECP224R1(),
    "06082a8648ce3d030107": ec.SECP256R1(),
    "06052b81040022": ec.SECP384R1(),
    "06052b81040023": ec.SECP521R1(),
    "06052b8104000a": ec.SECP256K1(),
}
ED25519 = bytes.fromhex("06032b6570")


@pytest.fixture(scope="module")
def hsm(engine: str) -> Iterator[Hsm]:
    with cluster(engine=engine) as made:
        yield made.hsms[0]


@pytest.fixture
def alice(hsm: Hsm) -> Iterator[Client]:
    with hsm.user("alice") as client:
        yield client


def test_a_pair_whose_session_closes_meanwhile_leaves_no_half(hsm: Hsm) -> None:
    """The public key is a session object, the private key would stay."""
    with hsm.user("alice") as client, HsmClient(hsm.socket) as second:
        assert client.wire.hello is not None
        second.call(m.HelloRequest(1, 0, b"", b"", client.wire.hello.cookie))
        client.open(2)
        before = client.find()
        closing = threading.Timer(0.1, second.call, (m.CloseSessionsRequest((1,)),))
        closing.start()
        with refused(CKR.SESSION_HANDLE_INVALID):
            client.rsa(bits=4096, public={CKA.TOKEN: False}, token=True)
        closing.join()
        assert client.call(m.FindRequest(()), 2).objects == before


def test_a_key_is_its_makers_or_nobodys(hsm: Hsm) -> None:
    """Another user logs in while SoftHSM2 makes the pair; or nobody, when the maker has died."""
    with hsm.user("alice") as client, HsmClient(hsm.socket) as second:
        assert client.wire.hello is not None
        second.call(m.HelloRequest(1, 0, b"", b"", client.wire.hello.cookie))
        before = hsm.info().keys

        def change_users() -> None:
            second.call(m.LogoutRequest())
            second.login("bob", USERS["bob"], CKU.USER)

        changing = threading.Timer(0.1, change_users)
        changing.start()
        with refused(CKR.USER_NOT_LOGGED_IN):
            client.rsa(bits=4096, token=True)
        changing.join()
        assert hsm.info().keys == before


def brought(client: Client, value: bytes = VALUE, **given: Any) -> int:
    """An AES key that somebody had outside."""
    more = {CKA[name.upper()]: one for name, one in given.items()}
    return client.create({CKA.CLASS: CKO.SECRET_KEY, CKA.KEY_TYPE: CKK.AES, CKA.VALUE: value, **more})


def spki(client: Client, public: int) -> Any:
    data = client.get(public, CKA.PUBLIC_KEY_INFO)[0]
    assert data is not None
    return load_der_public_key(data)


# ---- made --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("curve", CURVES)
def test_ec_keys_of_every_curve_sign(alice: Client, curve: str) -> None:
    public, private = alice.ec(curve=bytes.fromhex(curve))
    key = spki(alice, public)
    assert key.curve.name == CURVES[curve].name
    digest = hashlib.sha256(b"signed").digest()
    raw = alice.sign(private, digest)
    half = len(raw) // 2
    der = utils.encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))
    key.verify(der, digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))


@pytest.mark.parametrize("bits", [2048, 2304, 3072])
def test_rsa_keys_sign(alice: Client, bits: int) -> None:
    public, private = alice.rsa(bits=bits)
    key = spki(alice, public)
    assert key.key_size == bits
    assert key.public_numbers().e == 65537
    key.verify(alice.sign(private, b"signed", CKM.SHA256_RSA_PKCS), b"signed", padding.PKCS1v15(), hashes.SHA256())


def test_the_public_exponent_is_the_callers(alice: Client) -> None:
    public, _ = alice.rsa(public={CKA.PUBLIC_EXPONENT: b"\0\1\0\3"})
    assert spki(alice, public).public_numbers().e == 65539
    for exponent in (b"\3", b"\1\0\2"):
        with refused(CKR.ATTRIBUTE_VALUE_INVALID):
            alice.rsa(public={CKA.PUBLIC_EXPONENT: exponent})


def test_ed25519_keys_sign(alice: Client) -> None:
    public, private = alice.ec(curve=ED25519, kind=CKM.EC_EDWARDS_KEY_PAIR_GEN)
    spki(alice, public).verify(alice.sign(private, b"signed", CKM.EDDSA), b"signed")


@pytest.mark.parametrize("length", [1, 20, 32, 33, 800])
def test_generic_secrets_of_any_length(alice: Client, length: int) -> None:
    key = alice.secret(length=length, sensitive=False, extractable=True)
    value = alice.get(key, CKA.VALUE)[0]
    assert value is not None
    assert len(value) == length
    assert alice.sign(key, b"signed", CKM.SHA256_HMAC) == _hmac(value, b"signed")


def _hmac(key: bytes, data: bytes) -> bytes:
    import hmac  # noqa: PLC0415 - beside its only use

    return hmac.new(key, data, "sha256").digest()


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda c: c.aes(length=20), CKR.KEY_SIZE_RANGE),
        (lambda c: c.secret(length=0), CKR.KEY_SIZE_RANGE),
        (lambda c: c.secret(length=801), CKR.KEY_SIZE_RANGE),
        (lambda c: c.rsa(bits=1024), CKR.KEY_SIZE_RANGE),
        (lambda c: c.rsa(bits=2049), CKR.KEY_SIZE_RANGE),
        (lambda c: c.ec(curve=bytes.fromhex("06092b2403030208010107")), CKR.CURVE_NOT_SUPPORTED),
        (lambda c: c.ec(curve=b""), CKR.CURVE_NOT_SUPPORTED),
        (lambda c: c.aes(value=bytes(32)), CKR.TEMPLATE_INCONSISTENT),
        (lambda c: c.aes(local=True), CKR.ATTRIBUTE_READ_ONLY),
        (lambda c: c.aes(modulus=b"1"), CKR.ATTRIBUTE_TYPE_INVALID),
        (lambda c: c.aes(key_type=CKK.RSA), CKR.TEMPLATE_INCONSISTENT),
        (lambda c: c.call(m.GenerateKeyRequest(mechanism(CKM.AES_KEY_GEN), ())), CKR.TEMPLATE_INCOMPLETE),
        (lambda c: c.call(m.GenerateKeyRequest(mechanism(CKM.AES_CBC), ())), CKR.MECHANISM_INVALID),
        (lambda c: c.call(m.GenerateKeyRequest(m.Mechanism(0x99999999), ())), CKR.MECHANISM_INVALID),
    ],
)
def test_what_cannot_be_made(alice: Client, make: Any, code: CKR) -> None:
    before = alice.find()
    with refused(code):
        make(alice)
    assert alice.find() == before


def test_an_attribute_twice_or_of_the_wrong_form(alice: Client) -> None:
    length = Attr(CKA.VALUE_LEN, (32).to_bytes(8, "little"))
    for extra, code in (
        ((length, length), CKR.TEMPLATE_INCONSISTENT),
        ((length, Attr(CKA.TOKEN, b"\2")), CKR.ATTRIBUTE_VALUE_INVALID),
        ((length, Attr(CKA.TOKEN, b"")), CKR.ATTRIBUTE_VALUE_INVALID),
        ((Attr(CKA.VALUE_LEN, b"\1"),), CKR.ATTRIBUTE_VALUE_INVALID),
        ((length, Attr(CKA.START_DATE, b"2026")), CKR.ATTRIBUTE_VALUE_INVALID),
        ((length, Attr(0x80009999, b"")), CKR.ATTRIBUTE_TYPE_INVALID),
        ((length, Attr(CKA.LABEL, None)), CKR.ATTRIBUTE_VALUE_INVALID),
    ):
        with refused(code):
            alice.call(m.GenerateKeyRequest(mechanism(CKM.AES_KEY_GEN), extra))


# ---- brought -----------------------------------------------------------------------------------------------------


def test_a_brought_key_is_the_same_key_and_its_history_is_told(alice: Client) -> None:
    key = brought(alice, token=True, extractable=False)
    assert alice.encrypt(key, bytes(16)).hex() == "f29000b62a499fd0a9f39a6add2e7780"
    assert alice.get(key, CKA.LOCAL, CKA.ALWAYS_SENSITIVE, CKA.NEVER_EXTRACTABLE, CKA.SENSITIVE) == (NO, NO, NO, YES)
    assert alice.get(key, CKA.CHECK_VALUE, CKA.VALUE_LEN) == (bytes.fromhex("f29000"), (32).to_bytes(8, "little"))


def test_a_brought_rsa_key_signs(alice: Client) -> None:
    key = rsa.generate_private_key(65537, 2048)
    numbers, public = key.private_numbers(), key.public_key().public_numbers()

    def big(number: int) -> bytes:
        return number.to_bytes((number.bit_length() + 7) // 8, "big")

    parts = {CKA.MODULUS: big(public.n), CKA.PUBLIC_EXPONENT: big(public.e), CKA.PRIVATE_EXPONENT: big(numbers.d)}
    handle = alice.create({CKA.CLASS: CKO.PRIVATE_KEY, CKA.KEY_TYPE: CKK.RSA, **parts})
    key.public_key().verify(
        alice.sign(handle, b"signed", CKM.SHA256_RSA_PKCS), b"signed", padding.PKCS1v15(), hashes.SHA256()
    )
    assert alice.get(handle, CKA.MODULUS) == (big(public.n),)
    wrong = parts | {CKA.PRIVATE_EXPONENT: big(numbers.d + 2)}
    with refused(CKR.ATTRIBUTE_VALUE_INVALID):
        alice.create({CKA.CLASS: CKO.PRIVATE_KEY, CKA.KEY_TYPE: CKK.RSA, **wrong})
    with refused(CKR.TEMPLATE_INCOMPLETE):
        alice.create({CKA.CLASS: CKO.PRIVATE_KEY, CKA.KEY_TYPE: CKK.RSA, CKA.MODULUS: big(public.n)})


def test_a_brought_public_key_verifies(alice: Client) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    point = b"\x04\x41" + key.public_key().public_bytes(Encoding.X962, _uncompressed())
    given = {CKA.CLASS: CKO.PUBLIC_KEY, CKA.KEY_TYPE: CKK.EC, CKA.EC_PARAMS: P256}
    handle = alice.create({**given, CKA.EC_POINT: point})
    digest = hashlib.sha256(b"signed").digest()
    r, s = utils.decode_dss_signature(key.sign(digest, ec.ECDSA(utils.Prehashed(hashes.SHA256()))))
    alice.verify(handle, digest, r.to_bytes(32, "big") + s.to_bytes(32, "big"))
    with refused(CKR.SIGNATURE_INVALID):
        alice.verify(handle, digest, s.to_bytes(32, "big") + r.to_bytes(32, "big"))
    with refused(CKR.ATTRIBUTE_VALUE_INVALID):
        alice.create({**given, CKA.EC_POINT: point[:-1] + bytes([point[-1] ^ 1])})


def _uncompressed() -> Any:
    from cryptography.hazmat.primitives.serialization import PublicFormat  # noqa: PLC0415 - beside its only use

    return PublicFormat.UncompressedPoint


# ---- wrapped and unwrapped ---------------------------------------------------------------------------------------


def test_a_wrapped_key_is_rfc_5649_and_comes_back(alice: Client) -> None:
    wrapping = brought(alice, wrap=True, unwrap=True)
    key = alice.aes(extractable=True, sensitive=False)
    value = alice.get(key, CKA.VALUE)[0]
    wrapped = alice.wrap(wrapping, key)
    assert aes_key_unwrap_with_padding(VALUE, wrapped) == value
    again = alice.unwrap(wrapping, wrapped, label="again")
    assert alice.encrypt(again, bytes(16)) == alice.encrypt(key, bytes(16))
    assert alice.get(again, CKA.LOCAL, CKA.ALWAYS_SENSITIVE, CKA.NEVER_EXTRACTABLE) == (NO, NO, NO)
    with refused(CKR.WRAPPED_KEY_INVALID):
        alice.unwrap(wrapping, wrapped[:-1] + bytes([wrapped[-1] ^ 1]))


def test_a_private_key_is_wrapped_as_pkcs8(alice: Client) -> None:
    wrapping = brought(alice, wrap=True, unwrap=True)
    key = ec.generate_private_key(ec.SECP256R1())
    pkcs8 = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    handle = alice.unwrap(
        wrapping,
        aes_key_wrap_with_padding(VALUE, pkcs8),
        object_class=CKO.PRIVATE_KEY,
        key_type=CKK.EC,
        extractable=True,
    )
    digest = hashlib.sha256(b"signed").digest()
    raw = alice.sign(handle, digest)
    der = utils.encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    key.public_key().verify(der, digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))
    with refused(CKR.WRAPPED_KEY_INVALID):
        alice.unwrap(wrapping, aes_key_wrap_with_padding(VALUE, pkcs8), object_class=CKO.PRIVATE_KEY, key_type=CKK.RSA)


def test_what_does_not_leave(hsm: Hsm, alice: Client) -> None:
    wrapping = alice.aes(token=True, wrap=True)
    closed = alice.aes()
    with refused(CKR.KEY_UNEXTRACTABLE):
        alice.wrap(wrapping, closed)
    picky = alice.aes(extractable=True, wrap_with_trusted=True)
    with refused(CKR.KEY_NOT_WRAPPABLE):
        alice.wrap(wrapping, picky)
    with hsm.client() as admin:
        admin.admin().set(wrapping, trusted=True)
    assert alice.wrap(wrapping, picky)
    no_wrap = alice.aes(wrap=False)
    with refused(CKR.KEY_FUNCTION_NOT_PERMITTED):
        alice.wrap(no_wrap, picky)
    with refused(CKR.WRAPPING_KEY_HANDLE_INVALID):
        alice.wrap(1, picky)
    with refused(CKR.KEY_HANDLE_INVALID):
        alice.wrap(wrapping, 1)
    public, _ = alice.ec()
    with refused(CKR.KEY_NOT_WRAPPABLE):
        alice.wrap(wrapping, public)


def test_the_wrapping_keys_templates_bind(alice: Client) -> None:
    extractable = template({CKA.EXTRACTABLE: True, CKA.KEY_TYPE: CKK.AES})
    closed = encode_template(template({CKA.EXTRACTABLE: False, CKA.LABEL: "closed"}))
    wrapping = alice.aes(wrap=True, unwrap=True, wrap_template=encode_template(extractable), unwrap_template=closed)
    key, other = alice.aes(extractable=True), alice.secret(extractable=True)
    wrapped = alice.wrap(wrapping, key)
    with refused(CKR.KEY_HANDLE_INVALID):
        alice.wrap(wrapping, other)
    unwrapped = alice.unwrap(wrapping, wrapped)
    assert alice.get(unwrapped, CKA.EXTRACTABLE, CKA.LABEL) == (NO, b"closed")
    with refused(CKR.TEMPLATE_INCONSISTENT):
        alice.unwrap(wrapping, wrapped, extractable=True)


@pytest.mark.parametrize(
    "inner",
    [
        (Attr(0x7FFF_0001, b"x"),),
        (Attr(CKA.EXTRACTABLE, b"\2"),),
        (Attr(CKA.LABEL, None),),
        (Attr(CKA.WRAP_TEMPLATE, encode_template((Attr(0x7FFF_0001, b"x"),))),),
    ],
    ids=["unknown", "no truth value", "without value", "unknown inside"],
)
def test_a_template_of_what_no_object_has_is_refused(alice: Client, inner: tuple[Attr, ...]) -> None:
    with refused(CKR.ATTRIBUTE_VALUE_INVALID):
        alice.aes(wrap=True, wrap_template=encode_template(inner))


def test_rsa_wraps_and_unwraps(alice: Client) -> None:
    public, private = alice.rsa(public={CKA.WRAP: True}, unwrap=True)
    key = alice.aes(extractable=True)
    oaep = m.OaepParams(CKM.SHA256, CKG.MGF1_SHA256, CKZ.DATA_SPECIFIED, b"")
    again = alice.unwrap(private, alice.wrap(public, key, CKM.RSA_PKCS_OAEP, oaep), CKM.RSA_PKCS_OAEP, oaep)
    assert alice.encrypt(again, bytes(16)) == alice.encrypt(key, bytes(16))
    rsa_aes = m.RsaAesParams(256, CKM.SHA256, CKG.MGF1_SHA256, CKZ.DATA_SPECIFIED, b"")
    _, pair = alice.ec(extractable=True)
    wrapped = alice.wrap(public, pair, CKM.RSA_AES_KEY_WRAP, rsa_aes)
    kept = alice.unwrap(private, wrapped, CKM.RSA_AES_KEY_WRAP, rsa_aes, object_class=CKO.PRIVATE_KEY, key_type=CKK.EC)
    assert alice.get(kept, CKA.PUBLIC_KEY_INFO) == alice.get(pair, CKA.PUBLIC_KEY_INFO)
    with refused(CKR.WRAPPING_KEY_TYPE_INCONSISTENT):
        alice.wrap(key, pair, CKM.RSA_PKCS_OAEP, oaep)


def test_gcm_wraps_with_an_iv_of_the_hsm(alice: Client) -> None:
    wrapping, key = alice.aes(wrap=True, unwrap=True), alice.aes(extractable=True)
    answer = alice.call(m.WrapKeyRequest(mechanism(CKM.AES_GCM, m.GcmParams(b"", 0, b"aad", 128)), wrapping, key))
    assert len(answer.iv) == 12
    again = alice.unwrap(wrapping, answer.wrapped, CKM.AES_GCM, m.GcmParams(answer.iv, 96, b"aad", 128))
    assert alice.encrypt(again, bytes(16)) == alice.encrypt(key, bytes(16))


# ---- derived -----------------------------------------------------------------------------------------------------


def derive(client: Client, base: int, how: m.Mechanism, **given: Any) -> int:
    values: Values = {CKA[name.upper()]: one for name, one in given.items()}
    return int(client.call(m.DeriveKeyRequest(how, base, template(values))).key)


def test_ecdh_gives_the_shared_secret(alice: Client) -> None:
    public, private = alice.ec(derive=True)
    peer = ec.generate_private_key(ec.SECP256R1())
    point = peer.public_key().public_bytes(Encoding.X962, _uncompressed())
    how = mechanism(CKM.ECDH1_DERIVE, m.Ecdh1Params(CKD.NULL, b"", point))
    secret = derive(alice, private, how, key_type=CKK.GENERIC_SECRET, sensitive=False, extractable=True)
    assert alice.get(secret, CKA.VALUE) == (peer.exchange(ec.ECDH(), spki(alice, public)),)
    assert alice.get(secret, CKA.LOCAL, CKA.ALWAYS_SENSITIVE) == (NO, NO)
    aes = derive(alice, private, how, key_type=CKK.AES, value_len=16)
    assert alice.get(aes, CKA.VALUE_LEN) == ((16).to_bytes(8, "little"),)
    with refused(CKR.MECHANISM_PARAM_INVALID):
        derive(alice, private, mechanism(CKM.ECDH1_DERIVE, m.Ecdh1Params(CKD.NULL, b"", point[:-1])), key_type=CKK.AES)


def test_a_derived_keys_history_is_its_bases_too(alice: Client) -> None:
    kdf = mechanism(CKM.HKDF_DERIVE, m.HkdfParams(0, 1, CKM.SHA256, 1, b"", 0, b"info"))
    closed, seen = alice.secret(derive=True), brought_secret(alice)
    for base, history in ((closed, (YES, YES)), (seen, (NO, NO))):
        key = derive(alice, base, kdf, key_type=CKK.AES, value_len=32)
        assert alice.get(key, CKA.ALWAYS_SENSITIVE, CKA.NEVER_EXTRACTABLE) == history
    with refused(CKR.KEY_FUNCTION_NOT_PERMITTED):
        derive(alice, alice.secret(derive=False), kdf, key_type=CKK.AES, value_len=32)


def brought_secret(client: Client) -> int:
    return client.create(
        {CKA.CLASS: CKO.SECRET_KEY, CKA.KEY_TYPE: CKK.GENERIC_SECRET, CKA.VALUE: VALUE, CKA.DERIVE: True}
    )


def test_allowed_mechanisms_bind_everywhere(alice: Client) -> None:
    key = alice.aes(wrap=True, allowed_mechanisms=(CKM.AES_CTR,))
    target = alice.aes(extractable=True)
    with refused(CKR.MECHANISM_INVALID):
        alice.wrap(key, target)
    with refused(CKR.MECHANISM_INVALID):
        alice.encrypt(key, bytes(16))
    assert alice.encrypt(key, bytes(16), CKM.AES_CTR, m.CtrParams(128, bytes(16)))


def test_token_keys_of_every_kind_outlive_the_process(engine: str) -> None:
    with cluster(engine=engine) as made:
        hsm = made.hsms[0]
        with hsm.user("alice") as client:
            pairs = {
                CKM.ECDSA: client.ec(token=True),
                CKM.EDDSA: client.ec(curve=ED25519, kind=CKM.EC_EDWARDS_KEY_PAIR_GEN, token=True),
                CKM.SHA256_RSA_PKCS: client.rsa(token=True),
            }
            key, short = brought(client, token=True), client.secret(length=5, token=True)
            mac = client.sign(short, b"signed", CKM.SHA256_HMAC)
            wrapped = client.wrap(brought(client, wrap=True), brought(client, bytes(16), extractable=True))
            unwrapped = client.unwrap(brought(client, unwrap=True), wrapped, token=True)
        hsm.end()
        hsm.start()
        with hsm.user("alice") as client:
            for kind, (public, private) in pairs.items():
                client.verify(public, VALUE, client.sign(private, VALUE, kind), kind)
            assert client.encrypt(key, bytes(16)).hex() == "f29000b62a499fd0a9f39a6add2e7780"
            assert client.sign(short, b"signed", CKM.SHA256_HMAC) == mac
            assert client.encrypt(unwrapped, bytes(16)).hex() == "66e94bd4ef8a2c3b884cfa59ca342b2e"
        assert hsm.settled().vault_objects == 5  # Ed25519 is a row only
