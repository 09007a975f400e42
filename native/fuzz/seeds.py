"""Write the seed corpora: `.venv/bin/python native/fuzz/seeds.py`.

Real frames, templates and keys in the input format that stands at the head of each fuzz target. Always the same bytes;
a test compares them with what is committed. Inputs that once were findings are named found-* and stay as they are.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from hsmsim.fleet.keyreference import document
from hsmsim.hsm import codec, messages, wire
from hsmsim.hsm.cryptoki import CKA, CKG, CKK, CKM, CKO, CKZ
from hsmsim.hsm.messages import Mechanism
from hsmsim.hsm.wire import Attr, encode_template

if TYPE_CHECKING:
    from hsmsim.hsm.codec import Fields, Response

CORPUS = Path(__file__).parent / "corpus"
Seeds = Iterator[tuple[str, bytes]]

AES = Mechanism(CKM.AES_CBC_PAD, messages.IvParams(bytes(16)))
MECHANISMS = {
    "ecdsa": Mechanism(CKM.ECDSA),
    "rsa-pkcs": Mechanism(CKM.SHA256_RSA_PKCS),
    "rsa-raw": Mechanism(CKM.RSA_X_509),
    "pss": Mechanism(CKM.SHA256_RSA_PKCS_PSS, messages.PssParams(CKM.SHA256, CKG.MGF1_SHA256, 32)),
    "oaep": Mechanism(CKM.RSA_PKCS_OAEP, messages.OaepParams(CKM.SHA256, CKG.MGF1_SHA1, CKZ.DATA_SPECIFIED, b"label")),
    "eddsa": Mechanism(CKM.EDDSA, messages.EddsaParams(1, b"context")),
    "hmac": Mechanism(CKM.SHA256_HMAC),
    "hmac-general": Mechanism(CKM.SHA256_HMAC_GENERAL, messages.MacGeneralParams(16)),
    "cmac": Mechanism(CKM.AES_CMAC),
    "cbc-pad": AES,
    "ctr": Mechanism(CKM.AES_CTR, messages.CtrParams(64, bytes(16))),
    "gcm": Mechanism(CKM.AES_GCM, messages.GcmParams(bytes(12), 96, b"aad", 128)),
}
# The keys that fuzz_server_frames loads.
KEYS = {
    "generic": 100,
    "aes": 101,
    "rsa": 102,
    "rsa-public": 103,
    "ec": 104,
    "ec-public": 105,
    "ed": 106,
    "on-demand": 199,
}


def u16(value: int) -> bytes:
    """Two bytes, little-endian."""
    return struct.pack("<H", value)


def sized(data: bytes) -> bytes:
    """Length and bytes, as the targets read them."""
    return u16(len(data)) + data


def number(type_: int, value: int) -> Attr:
    """An attribute that is a CK_ULONG."""
    return Attr(type_, struct.pack("<Q", value))


# ---- any message ----------------------------------------------------------------------------------------------------


def example(kind: type[Fields]) -> Fields:
    """A message with something in each field."""
    values: dict[str, Any] = {
        codec.U8: 1,
        codec.U32: 1,
        codec.U64: 1,
        codec.Blob: b"bytes",
        codec.InClear: b"secret12",
        Mechanism: AES,
        codec.Attributes: (Attr(CKA.LABEL, b"label"), number(CKA.CLASS, CKO.SECRET_KEY), Attr(CKA.VALUE, None)),
        codec.Numbers: (1, 2),
        codec.Strings: (b"one", b""),
    }
    return kind(**{name: values[kind.__annotations__[name]] for name in kind.__struct_fields__})


def wire_messages() -> Seeds:
    """Each request and response that has fields."""
    for index, request_type in enumerate(codec.REQUESTS.values()):
        for response, kind in enumerate((request_type, request_type.response())):
            if not kind.__struct_fields__ and request_type.OP != messages.Op.PING:
                continue  # all empty ones are alike
            name = f"{request_type.OP.name.lower()}-{'response' if response else 'request'}"
            yield name, u16(index * 2 + response) + example(kind).encode()
    for name, mechanism in MECHANISMS.items():
        request = messages.SignRequest(key=1, mechanism=mechanism, digested=0, data=b"data")
        yield f"mechanism-{name}", u16(list(codec.REQUESTS).index(messages.Op.SIGN) * 2) + request.encode()


# ---- frames to the server -------------------------------------------------------------------------------------------

FRESH, MET, LOGGED_IN = b"\0", b"\1", b"\2"


def frame(op: int, payload: bytes) -> bytes:
    """A whole frame."""
    return b"\1" + u16(op) + sized(payload)


def split(op: int, payload: bytes, at: int) -> bytes:
    """A frame in two sends."""
    return b"\2" + u16(op) + u16(at) + sized(payload)


def raw(data: bytes) -> bytes:
    """Bytes as they are."""
    return b"\0" + sized(data)


def signed(key: int, mechanism: Mechanism, data: bytes = bytes(32)) -> bytes:
    """A SIGN frame."""
    request = messages.SignRequest(key=key, mechanism=mechanism, digested=0, data=data)
    return frame(messages.Op.SIGN, request.encode())


def server_frames() -> Seeds:
    """Each operation alone, each mechanism with its key, and frames in pieces."""
    for op, request_type in codec.REQUESTS.items():
        yield request_type.OP.name.lower(), LOGGED_IN + frame(op, example(request_type).encode())
    hello = messages.HelloRequest(version=1, profile=0, partition=b"", vantage=b"", cookie=b"").encode()
    ping = wire.Header(length=0, op=messages.Op.PING, seq=1).encode()
    pairs = {"ecdsa": "ec", "eddsa": "ed", "hmac": "generic", "hmac-general": "generic", "cmac": "aes"}
    for name, mechanism in MECHANISMS.items():
        key = KEYS[pairs.get(name, "rsa" if "rsa" in name or name in {"pss", "oaep"} else "aes")]
        yield f"sign-{name}", LOGGED_IN + signed(key, mechanism)
        encrypt = messages.EncryptRequest(key=key, mechanism=mechanism, data=bytes(32)).encode()
        yield f"encrypt-{name}", LOGGED_IN + frame(messages.Op.ENCRYPT, encrypt)
    begin = messages.MacBeginRequest(key=KEYS["generic"], mechanism=MECHANISMS["hmac"], verify=0).encode()
    update = messages.MacUpdateRequest(stream=1, data=b"part").encode()
    final = messages.MacFinalRequest(stream=1, expected=b"").encode()
    stream = (messages.Op.MAC_BEGIN, begin), (messages.Op.MAC_UPDATE, update), (messages.Op.MAC_FINAL, final)
    yield "mac-stream", LOGGED_IN + b"".join(frame(op, payload) for op, payload in stream)
    yield "on-demand", LOGGED_IN + signed(KEYS["on-demand"], MECHANISMS["hmac"]) * 2
    yield "hello-split", FRESH + split(messages.Op.HELLO, hello, 5) + raw(ping)
    yield "hello-twice", FRESH + frame(messages.Op.HELLO, hello) * 2
    yield "pipelined", LOGGED_IN + (signed(KEYS["ec"], MECHANISMS["ecdsa"]) + frame(messages.Op.USER_LIST, b"")) * 4
    yield "pings-in-pieces", MET + b"".join(raw((ping * 3)[at : at + 7]) for at in range(0, 96, 7))
    yield "too-long", MET + raw(wire.Header(length=0x7FFFFFFF, op=messages.Op.SIGN, seq=1).encode())
    create = encode_template(tuple(attr for _, attr in zip(range(9), rsa_attributes(), strict=False)))
    yield "create-rsa", LOGGED_IN + frame(messages.Op.CREATE_OBJECT, create)


# ---- answers to the module ------------------------------------------------------------------------------------------

STEPS = [
    "find",
    "get_attributes",
    "sign_ecdsa",
    "sign_rsa",
    "sign_parts",
    "verify",
    "encrypt",
    "decrypt",
    "wrap",
    "make_keys",
    "token",
    "login",
]
PLAIN, PAYLOAD, CODE, BROKEN_HEADER, SHORT, RAW = range(6)


def payload(message: Response) -> bytes:
    """An answer with this payload."""
    return bytes([PAYLOAD]) + sized(message.encode())


def key_facts(key_type: int, bits: int) -> bytes:
    """What the module asks for before an operation."""
    return payload(
        messages.KeyFactsResponse(
            class_=CKO.PRIVATE_KEY, key_type=key_type, bits=bits, usage=0x1FF, flags=0, allowed=()
        )
    )


def module_answers() -> Seeds:
    """Right answers for each step, and each way to be wrong."""
    attributes = (
        Attr(CKA.LABEL, b"label"),
        Attr(CKA.MODULUS, bytes(256)),
        Attr(CKA.SENSITIVE, b"\1"),
        Attr(CKA.ALLOWED_MECHANISMS, struct.pack("<Q", CKM.ECDSA)),
        Attr(CKA.WRAP_TEMPLATE, encode_template((number(CKA.KEY_TYPE, CKK.AES), Attr(CKA.LABEL, b"inner")))),
    )
    data = messages.EncryptResponse(data=bytes(112), iv=b"")
    wrapped = messages.WrapKeyResponse(wrapped=bytes(40), iv=bytes(12))
    answers = {
        "find": payload(messages.FindResponse(objects=(1, 2, 3, 4, 5))),
        "get_attributes": payload(messages.GetAttributesResponse(template=attributes)) * 2,
        "sign_ecdsa": key_facts(CKK.EC, 256) + payload(messages.SignResponse(signature=bytes(64))),
        "sign_rsa": key_facts(CKK.RSA, 2048) + payload(messages.SignResponse(signature=bytes(256))),
        "sign_parts": key_facts(CKK.GENERIC_SECRET, 256)
        + payload(messages.MacBeginResponse(stream=1))
        + bytes([PLAIN] * 3)
        + payload(messages.MacFinalResponse(mac=bytes(32))),
        "verify": key_facts(CKK.EC, 256) + bytes([PLAIN]),
        "encrypt": key_facts(CKK.AES, 256) + payload(data) * 2,
        "decrypt": key_facts(CKK.AES, 256) + payload(messages.DecryptResponse(data=bytes(84))) * 3,
        "wrap": payload(wrapped) * 2,
        "make_keys": bytes([PLAIN] * 8),
        "token": bytes([PLAIN] * 4),
        "login": bytes([PLAIN]) + payload(messages.LoginResponse(ticket=b"ticket", user_id=7, role=2)),
    }
    for index, step in enumerate(STEPS):
        yield step, bytes([index]) + answers[step]
        half = answers[step][: len(answers[step]) // 2]
        yield f"{step}-not", bytes([index]) + half + bytes([CODE + 6 * 2]) + sized(b"") * 3
    hello = payload(
        messages.HelloResponse(client=1, cookie=bytes(16), hsm_id=b"a", cluster_id=b"b", partition_id=1, fips=0)
    )
    yield "hostile-start", bytes([0x80]) + hello + bytes([PLAIN] * 4) + answers["find"]
    for offset, name in enumerate(("length", "op", "flags", "seq", "word", "epoch")):
        at = (0, 4, 6, 8, 16, 24)[offset]
        yield f"wrong-{name}", bytes([0, BROKEN_HEADER]) + sized(bytes(at) + b"\1")
    yield "cut-header", bytes([0, SHORT]) + sized(bytes(20))
    yield "cut-payload", bytes([0, SHORT]) + sized(bytes(34))
    yield "noise", bytes([0, RAW]) + sized(hashlib.sha256(b"noise").digest() * 2)


# ---- parameters and templates of applications -----------------------------------------------------------------------


def mechanism() -> Seeds:
    """A zero structure of each likely size, with each way to set pointers."""
    for index in range(0, 96, 3):
        size = (0, 8, 16, 24, 32, 40, 48, 72)[index % 8]
        pointers = bytes([3 + 16]) + bytes(16) + bytes([3 + 4]) + b"more"
        yield f"table-{index}", bytes([index, index % 16, size]) + bytes(size) + pointers
    for index in range(1, 96, 5):
        yield f"hostile-{index}", bytes([index, 0x80 | index % 16, 48]) + bytes(48) + b"\1" + b"\xff" * 8 + b"\2\0"


def template() -> Seeds:
    """Arrays to send, and answers to arrays."""
    value = bytes([4 + 3]) + b"abc"
    plain = bytes([3]) + b"".join(bytes([index]) + value for index in (20, 30, 40))
    inner = bytes([3, 1, 10]) + value + bytes([20]) + value
    nested = bytes([2]) + b"".join(bytes([index]) + inner for index in (50, 60))
    answer = encode_template((Attr(CKA.LABEL, b"label"), Attr(CKA.ID, b"id"), Attr(CKA.VALUE, None)))
    for name, array in (("plain", plain), ("nested", nested)):
        yield f"put-{name}", b"\0" + array
        yield f"fill-{name}", b"\1" + array + answer
    yield "put-hostile", b"\0" + bytes([3]) + bytes([20, 1]) + b"\xff" * 8 + bytes([30, 2]) + b"\0\0" + bytes([40, 0])
    yield "put-too-many", b"\0\xff"


def config() -> Seeds:
    """Files that people have, and near misses."""
    server = {"hostname": "hsm-1", "port": 2223, "enable": True, "socket": "/run/hsmsim/hsm-1.sock"}
    cluster = {"cluster_id": "cluster-1", "servers": [server], "options": {"disable_key_availability_check": True}}
    own = {"partition": "", "vantage": "", "uid": 0, "label": "hsmsim"}
    whole = {
        "clusters": [{"type": "hsm2m", "cluster": cluster, "hsmsim": own}],
        "logging": {"log_type": "file", "log_file": "/tmp/x", "log_level": "warn"},  # noqa: S108 - nothing is written
        "hsmsim": {"profile": "cloudhsm", "timeout_ms": 5000},
    }
    yield "whole", json.dumps(whole, indent=2).encode()
    two = {"cluster": {"servers": [server, server | {"enable": False}]}}
    yield "two-servers", json.dumps(whole | {"clusters": [two] * 2}).encode()
    tcp = {
        "cluster_id": "cluster-1",
        "hsm_ca_file": "/etc/ca",
        "client_cert_hsm_tls_path": "/etc/client.pem",
        "client_key_hsm_tls_path": "/etc/client.key",
        "servers": [{"hostname": "hsm-1", "port": 2223}, server],
    }
    yield "by-tcp", json.dumps(whole | {"clusters": [{"cluster": tcp}]}).encode()
    yield "array-for-object", json.dumps(whole | {"hsmsim": [1], "logging": ["x"]}).encode()
    yield "escapes", b'{"clusters": "\\u00e9\\u20ac\\n\\"", "x": [-1, null, {"a": {}}]}'
    yield "deep", b"[" * 20
    yield "cut", json.dumps(whole).encode()[:200]


def key_name() -> Seeds:
    """Names of keys as a person writes them, as RFC 7512 has them, and as `hsmsim key generate-file` does."""
    named = "pkcs11:token=hsmsim;object=web;type=private"
    yield "uri", named.encode()
    yield (
        "uri-id",
        b"pkcs11:id=%01%a0%FF;serial=0;model=hsm2m.medium;manufacturer=x?pin-source=file:/run/pin&pin-value=user:p%20w",
    )
    yield "uri-empty", b"pkcs11:"
    yield "uri-twice", b"pkcs11:token=a;token=b"
    yield "uri-bad-octet", b"pkcs11:object=%4"
    yield "uri-long", b"pkcs11:object=" + b"%61" * 256
    yield "uri-too-long", b"pkcs11:object=" + b"a" * 257
    pem = document(named)
    der = base64.b64decode(b"".join(pem.splitlines()[1:-1]))
    yield "pem", pem
    yield "pem-long", document("pkcs11:object=" + "b" * 200)
    yield "der", der
    yield "der-cut", der[:-1]
    yield "der-more", der + b"\0"
    yield "der-indefinite", b"\x30\x80" + der[2:] + bytes(2)
    yield "der-other-description", der.replace(b"v1.0", b"v2.0")


# ---- keys -----------------------------------------------------------------------------------------------------------


def prime(seed: bytes) -> int:
    """A 1024-bit prime, always the same."""
    stream = b"".join(hashlib.sha256(seed + bytes([index])).digest() for index in range(4))
    candidate = int.from_bytes(stream) | 3 << 1022 | 1
    while pow(2, candidate - 1, candidate) != 1 or (candidate - 1) % 65537 == 0:
        candidate += 2
    return candidate


def rsa_key() -> rsa.RSAPrivateNumbers:
    """An RSA-2048 key that everybody knows."""
    p, q, e = prime(b"p"), prime(b"q"), 65537
    d = pow(e, -1, (p - 1) * (q - 1))
    public = rsa.RSAPublicNumbers(e, p * q)
    return rsa.RSAPrivateNumbers(p, q, d, d % (p - 1), d % (q - 1), rsa.rsa_crt_iqmp(p, q), public)


def rsa_attributes() -> Iterator[Attr]:
    """It as a template."""
    key = rsa_key()
    numbers = {
        CKA.MODULUS: key.public_numbers.n,
        CKA.PUBLIC_EXPONENT: key.public_numbers.e,
        CKA.PRIVATE_EXPONENT: key.d,
        CKA.PRIME_1: key.p,
        CKA.PRIME_2: key.q,
        CKA.EXPONENT_1: key.dmp1,
        CKA.EXPONENT_2: key.dmq1,
        CKA.COEFFICIENT: key.iqmp,
    }
    for type_, value in numbers.items():
        yield Attr(type_, value.to_bytes((value.bit_length() + 7) // 8))


def key_import() -> Seeds:
    """Templates, PKCS#8, SubjectPublicKeyInfo and points, of each type."""
    import_, plaintext, wrapped, derive, clear = (bytes([way]) for way in range(5))
    secret, private, public = (16 * class_ for class_ in range(3))
    types = {"rsa": 0, "ec": 1, "ed": 2, "aes": 3}
    curve = ec.derive_private_key(0x1234567890ABCDEF, ec.SECP256R1())
    keys = {
        "rsa": rsa_key().private_key(),
        "ec": curve,
        "ed": ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32))),
    }
    numbers = list(rsa_attributes())
    yield "template-rsa", import_ + bytes([private]) + encode_template(tuple(numbers))
    yield "template-rsa-short", import_ + bytes([private]) + encode_template(tuple(numbers[:3]))
    yield "template-rsa-public", import_ + bytes([public]) + encode_template(tuple(numbers[:2]))
    yield "template-aes", import_ + bytes([secret + types["aes"]]) + encode_template((Attr(CKA.VALUE, bytes(32)),))
    huge = (*numbers[:2], Attr(CKA.PRIVATE_EXPONENT, b"\1" * 600))
    yield "template-rsa-huge-exponent", import_ + bytes([private]) + encode_template(huge)
    for name, key in keys.items():
        der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        yield f"pkcs8-{name}", plaintext + bytes([private + types[name]]) + der
        yield f"pkcs8-{name}-clear", clear + bytes([private + types[name]]) + der
        yield f"spki-{name}", clear + bytes([public + types[name]]) + spki
    scalar = Attr(CKA.VALUE, (0x1234567890ABCDEF).to_bytes(32))
    params = Attr(CKA.EC_PARAMS, bytes.fromhex("06082a8648ce3d030107"))
    point = curve.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    yield "template-ec", import_ + bytes([private + 1]) + encode_template((params, scalar))
    octets = Attr(CKA.EC_POINT, b"\x04\x41" + point)
    yield "template-ec-public", import_ + bytes([public + 1]) + encode_template((params, octets))
    yield "derive", derive + bytes([types["aes"]]) + point
    yield "wrapped", wrapped + bytes([secret + types["aes"]]) + bytes(40)


def ring() -> Seeds:
    """fuzz_ring: what a client does to its segment, step by step."""
    write, waiting, state, processor, sign, take, answer, firmware = (bytes([command]) for command in range(8))
    work = take + answer

    def request(slot: int, data: bytes) -> bytes:
        return sign + bytes([slot, len(data)]) + data

    def over(slot: int, at: int, data: bytes) -> bytes:
        offset = 64 + slot * (8192 - 64) + 64 + at
        return write + struct.pack("<HB", offset, len(data)) + data

    longest = b"\xff" * 4
    yield "signs", request(0, b"abc") + request(15, b"x" * 200) + work
    yield "every-slot", b"".join(request(i, bytes([i])) for i in range(16)) + work + work
    yield "length-grows-once-taken", request(1, b"abc") + take + over(1, 0, longest) + answer
    yield "length-grows-before", request(1, b"abc") + over(1, 0, longest) + work
    yield "asked-again-while-busy", request(2, b"abc") + take + waiting + b"\4\0\0\0" + state + b"\2\2" + answer + work
    yield "answered-by-python", request(4, b"abc") + over(4, 32, struct.pack("<Q", 999)) + work + firmware + work
    codes = (0x101, 0x102, 0x106, 0x107, 0x10A, 0x20, 0x5, 0x2)
    yield "operations", b"".join(request(5, b"abc" * 9) + over(5, 4, struct.pack("<H", code)) + work for code in codes)
    large = struct.pack("<IH", 4, messages.Op.RANDOM)
    yield "answer-too-large", request(6, b"") + over(6, 0, large) + over(6, 32, struct.pack("<I", 65536)) + work
    yield "every-bit", waiting + longest + work + processor + b"\1" + waiting + longest + work


TARGETS = {
    "fuzz_config": config,
    "fuzz_key_import": key_import,
    "fuzz_key_name": key_name,
    "fuzz_mechanism": mechanism,
    "fuzz_module_answers": module_answers,
    "fuzz_ring": ring,
    "fuzz_server_frames": server_frames,
    "fuzz_template": template,
    "fuzz_wire_messages": wire_messages,
}


def seeds() -> Iterator[tuple[Path, bytes]]:
    """Each file of the corpora that is made here."""
    for target, make in TARGETS.items():
        for name, data in make():
            yield CORPUS / target / f"seed-{name}", data


if __name__ == "__main__":
    for path, data in seeds():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
