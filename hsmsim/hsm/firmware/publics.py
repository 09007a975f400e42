"""Public halves: SubjectPublicKeyInfo from attributes and back. Parsing is pyca/cryptography's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from hsmsim.errors import CkrError
from hsmsim.hsm.cryptoki import CKA, CKK, CKR

if TYPE_CHECKING:
    from hsmsim.hsm.firmware.values import Attributes

CURVES: Final[dict[bytes, ec.EllipticCurve]] = {
    bytes.fromhex("06052b81040021"): ec.SECP224R1(),
    bytes.fromhex("06082a8648ce3d030107"): ec.SECP256R1(),
    bytes.fromhex("06052b81040022"): ec.SECP384R1(),
    bytes.fromhex("06052b81040023"): ec.SECP521R1(),
    bytes.fromhex("06052b8104000a"): ec.SECP256K1(),
}
ED25519_OID: Final = bytes.fromhex("06032b6570")
ED25519_NAME: Final = b"\x13\x0cedwards25519"
_ED25519_POINT: Final = 32
RSA_PUBLIC_MIN, RSA_PUBLIC_MAX = 1024, 8192


def octets(data: bytes) -> bytes:
    """A DER OCTET STRING."""
    size = len(data)
    length = bytes([size]) if size < 0x80 else bytes([0x81, size])  # noqa: PLR2004 - X.690 8.1.3
    return b"\x04" + length + data


def _content(der: bytes) -> bytes:
    """What an OCTET STRING holds; a bare point is taken as it is."""
    for header in (2, 3):
        if len(der) > header and octets(der[header:]) == der:
            return der[header:]
    return der


def curve_of(params: bytes) -> ec.EllipticCurve:
    """The named curve; CKR_CURVE_NOT_SUPPORTED for others."""
    try:
        return CURVES[params]
    except KeyError:
        raise CkrError(
            CKR.CURVE_NOT_SUPPORTED, "this curve is not one of P-224, P-256, P-384, P-521, secp256k1"
        ) from None


def big(number: int) -> bytes:
    """An unsigned big-endian integer."""
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def describe(spki: bytes) -> tuple[CKK, int, Attributes]:
    """Key type, bits, and the attributes that a public key tells."""
    try:
        key = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CkrError(CKR.ATTRIBUTE_VALUE_INVALID, "the public key does not parse") from error
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        return (
            CKK.RSA,
            key.key_size,
            {
                CKA.MODULUS: big(numbers.n),
                CKA.MODULUS_BITS: key.key_size,
                CKA.PUBLIC_EXPONENT: big(numbers.e),
            },
        )
    if isinstance(key, ec.EllipticCurvePublicKey):
        params = next((oid for oid, curve in CURVES.items() if curve.name == key.curve.name), None)
        if params is not None:
            point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
            return CKK.EC, key.curve.key_size, {CKA.EC_PARAMS: params, CKA.EC_POINT: octets(point)}
    if isinstance(key, ed25519.Ed25519PublicKey):
        point = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
        return CKK.EC_EDWARDS, 255, {CKA.EC_PARAMS: ED25519_OID, CKA.EC_POINT: octets(point)}
    raise CkrError(CKR.ATTRIBUTE_VALUE_INVALID, "this kind of public key is not supported")


def build(key_type: CKK, given: Attributes) -> bytes:
    """SubjectPublicKeyInfo of the public key that a C_CreateObject template describes."""

    def raw(name: CKA) -> bytes:
        value = given.get(name, b"")
        return value if isinstance(value, bytes) else b""

    try:
        key = _public_key(key_type, raw(CKA.MODULUS), raw(CKA.PUBLIC_EXPONENT), raw(CKA.EC_PARAMS), raw(CKA.EC_POINT))
    except ValueError as error:
        raise CkrError(CKR.ATTRIBUTE_VALUE_INVALID, f"this is no public key: {error}") from error
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _public_key(
    key_type: CKK, modulus: bytes, exponent: bytes, params: bytes, point: bytes
) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey:
    if key_type is CKK.RSA:
        number = int.from_bytes(modulus, "big")
        if not RSA_PUBLIC_MIN <= number.bit_length() <= RSA_PUBLIC_MAX:
            raise CkrError(CKR.KEY_SIZE_RANGE, f"RSA public keys have {RSA_PUBLIC_MIN} to {RSA_PUBLIC_MAX} bits")
        return rsa.RSAPublicNumbers(int.from_bytes(exponent, "big"), number).public_key()
    if key_type is CKK.EC:
        return ec.EllipticCurvePublicKey.from_encoded_point(curve_of(params), _content(point))
    if key_type is CKK.EC_EDWARDS:
        if params not in (ED25519_OID, ED25519_NAME):
            raise CkrError(CKR.CURVE_NOT_SUPPORTED, "of the Edwards curves Ed25519 is supported")
        return ed25519.Ed25519PublicKey.from_public_bytes(_content(point))
    raise CkrError(CKR.TEMPLATE_INCONSISTENT, f"there are no public keys of type {key_type.name}")
