"""engine = "softhsm": what the mechanism table gives to SoftHSM2 runs there, with the results that everybody gets."""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING, Any

import pytest
from support.hsm import NONE, Client, Hsm, cluster, mechanism, refused

from hsmsim.errors import CkrError
from hsmsim.hsm import messages as m
from hsmsim.hsm.cryptoki import CKF, CKG, CKK, CKM, CKR, CKZ, MECHANISMS
from hsmsim.hsm.vault import mechanisms

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = bytes(range(64))
IV = bytes(range(16))
HASHES = {CKM.SHA_1: "sha1", CKM.SHA224: "sha224", CKM.SHA256: "sha256", CKM.SHA384: "sha384", CKM.SHA512: "sha512"}
MGF = {
    CKM.SHA_1: CKG.MGF1_SHA1,
    CKM.SHA224: CKG.MGF1_SHA224,
    CKM.SHA256: CKG.MGF1_SHA256,
    CKM.SHA384: CKG.MGF1_SHA384,
    CKM.SHA512: CKG.MGF1_SHA512,
}


def usual(info: Any) -> Any:
    """Parameters that a client would send."""
    digest = info.hash or CKM.SHA256
    return {
        "none": NONE,
        "iv": m.IvParams(IV),
        "ctr": m.CtrParams(128, IV),
        "gcm": m.GcmParams(IV[:12], 96, b"aad", 128),
        "pss": m.PssParams(digest, MGF[digest], 20),
        "oaep": m.OaepParams(CKM.SHA_1, CKG.MGF1_SHA1, CKZ.DATA_SPECIFIED, b""),
        "eddsa": m.EddsaParams(0, b""),
        "mac_general": m.MacGeneralParams(16),
    }[info.params[0]]


def given_to_softhsm(function: int) -> list[CKM]:
    return [info.type for info in MECHANISMS.values() if info.softhsm & function and info.general]


SIGNING = [one for one in given_to_softhsm(CKF.SIGN) if one is not CKM.EDDSA]  # SoftHSM2 wraps no Ed25519 keys
CIPHERS = given_to_softhsm(CKF.ENCRYPT)


@pytest.fixture(scope="module")
def hsm() -> Iterator[Hsm]:
    with cluster(engine="softhsm") as made:
        yield made.hsms[0]


@pytest.fixture
def alice(hsm: Hsm) -> Iterator[Client]:
    with hsm.user("alice") as client:
        yield client


@pytest.fixture(scope="module")
def keys(hsm: Hsm) -> dict[CKK, tuple[int, int]]:
    """Token keys, public half first."""
    with hsm.user("alice") as client:
        aes, secret = client.aes(token=True, sign=True, verify=True), client.secret(length=64, token=True)
        pairs = {CKK.RSA: client.rsa(token=True), CKK.EC: client.ec(token=True)}
    return pairs | {CKK.AES: (aes, aes), CKK.GENERIC_SECRET: (secret, secret)}


def said(hsm: Hsm) -> list[str]:
    return [line for line in hsm.log.splitlines() if "SoftHSM2 says" in line]


def pair(keys: dict[CKK, tuple[int, int]], kind: CKM) -> tuple[int, int]:
    return keys[MECHANISMS[kind].key_types[0]]


def input_of(kind: CKM) -> bytes:
    """Raw RSA takes a whole block, raw ECDSA a digest."""
    return {CKM.RSA_X_509: b"\0" + bytes(255), CKM.ECDSA: DATA[:32], CKM.RSA_PKCS_PSS: DATA[:32]}.get(kind, DATA)


@pytest.mark.parametrize("kind", SIGNING, ids=lambda kind: kind.name)
def test_signatures_are_made_and_verified_in_softhsm(
    hsm: Hsm, alice: Client, keys: dict[CKK, tuple[int, int]], kind: CKM
) -> None:
    before = said(hsm)
    params = usual(MECHANISMS[kind])
    public, private = pair(keys, kind)
    signature = alice.sign(private, input_of(kind), kind, params)
    alice.verify(public, input_of(kind), signature, kind, params)
    assert said(hsm) == before
    with refused(CKR.SIGNATURE_LEN_RANGE):
        alice.verify(public, input_of(kind), signature + b"\0", kind, params)
    with refused(CKR.SIGNATURE_INVALID):
        alice.verify(public, input_of(kind), bytes([signature[0] ^ 1]) + signature[1:], kind, params)


@pytest.mark.parametrize("kind", CIPHERS, ids=lambda kind: kind.name)
def test_ciphertexts_are_made_and_opened_in_softhsm(
    hsm: Hsm, alice: Client, keys: dict[CKK, tuple[int, int]], kind: CKM
) -> None:
    before = said(hsm)
    params = usual(MECHANISMS[kind])
    public, private = pair(keys, kind)
    data = input_of(kind)
    assert alice.decrypt(private, alice.encrypt(public, data, kind, params), kind, params) == data
    assert said(hsm) == before


@pytest.mark.parametrize(
    "kind", [CKM.SHA256_RSA_PKCS, CKM.SHA512_RSA_PKCS, CKM.SHA1_RSA_PKCS_PSS], ids=lambda k: k.name
)
def test_a_digest_of_the_client_gives_the_same_signature(
    hsm: Hsm, alice: Client, keys: dict[CKK, tuple[int, int]], kind: CKM
) -> None:
    info = MECHANISMS[kind]
    assert info.hash is not None
    digest = hashlib.new(HASHES[info.hash], DATA).digest()
    public, private = keys[CKK.RSA]
    before = said(hsm)
    signature = alice.sign(private, digest, kind, usual(info), digested=1)
    alice.verify(public, DATA, signature, kind, usual(info))
    alice.verify(public, digest, signature, kind, usual(info), digested=1)
    assert said(hsm) == before


def test_what_softhsm_lacks_the_engine_does(alice: Client, keys: dict[CKK, tuple[int, int]]) -> None:
    public, private = keys[CKK.EC]
    alice.verify(public, DATA, alice.sign(private, DATA, CKM.ECDSA_SHA256), CKM.ECDSA_SHA256)
    public, private = keys[CKK.RSA]
    oaep = m.OaepParams(CKM.SHA256, CKG.MGF1_SHA1, CKZ.DATA_SPECIFIED, b"label")
    ciphertext = alice.encrypt(public, b"text", CKM.RSA_PKCS_OAEP, oaep)
    assert alice.decrypt(private, ciphertext, CKM.RSA_PKCS_OAEP, oaep) == b"text"
    short = alice.secret(length=16)  # SoftHSM2 wants as many bytes as the hash has
    alice.verify(short, DATA, alice.sign(short, DATA, CKM.SHA512_HMAC), CKM.SHA512_HMAC)


def test_an_iv_of_the_hsm_is_returned(alice: Client, keys: dict[CKK, tuple[int, int]]) -> None:
    key = keys[CKK.AES][0]
    answer = alice.call(m.EncryptRequest(key, mechanism(CKM.AES_GCM, m.GcmParams(b"", 0, b"", 128)), DATA))
    assert len(answer.iv) == 12
    assert alice.decrypt(key, answer.data, CKM.AES_GCM, m.GcmParams(answer.iv, 96, b"", 128)) == DATA


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        (CKM.AES_GCM, m.GcmParams(bytes(300), 2400, b"", 128)),
        (CKM.AES_GCM, m.GcmParams(IV, 128, b"", 7)),
        (CKM.AES_CBC, m.IvParams(b"")),
        (CKM.AES_CBC, NONE),
        (CKM.AES_CTR, m.CtrParams(0, IV)),
        (CKM.AES_CTR, m.CtrParams(1 << 63, IV)),
        (CKM.AES_CTR, m.CtrParams(128, IV[:3])),
        (CKM.AES_ECB, m.IvParams(IV)),
        (CKM.RSA_PKCS, NONE),
        (CKM.AES_CMAC, NONE),
    ],
)
def test_nonsense_is_refused_and_crashes_nothing(
    hsm: Hsm, alice: Client, keys: dict[CKK, tuple[int, int]], kind: CKM, params: Any
) -> None:
    for data in (b"", DATA, DATA[:1]):
        with pytest.raises(CkrError) as caught:
            alice.encrypt(keys[CKK.AES][0], data, kind, params)
        assert caught.value.rv not in (CKR.GENERAL_ERROR, CKR.DEVICE_ERROR)
    assert hsm.running.poll() is None


def test_many_at_a_time(hsm: Hsm, keys: dict[CKK, tuple[int, int]]) -> None:
    before = said(hsm)
    failed: list[str] = []

    def use() -> None:
        with hsm.user("alice") as client:
            for number in range(40):
                public, private = keys[CKK.EC]
                try:
                    client.verify(public, DATA[:32], client.sign(private, DATA[:32]))
                    own = client.aes(token=number % 5 == 0)
                    assert client.decrypt(own, client.encrypt(own, DATA)) == DATA
                    client.destroy(own)
                except CkrError as error:
                    failed.append(str(error))

    threads = [threading.Thread(target=use) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert said(hsm) == before


@pytest.mark.parametrize("kind", [*SIGNING, *CIPHERS], ids=lambda kind: kind.name)
def test_the_table_promises_no_more_than_is_done(kind: CKM) -> None:
    info = MECHANISMS[kind]
    how = mechanism(kind, usual(info))
    asked = m.SignRequest(1, how, 0, DATA) if info.softhsm & CKF.SIGN else m.EncryptRequest(1, how, DATA)
    assert mechanisms._call(asked, info) is not None
