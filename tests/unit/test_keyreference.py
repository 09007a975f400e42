"""A PEM file that names a key has what OpenSSL's providers for PKCS#11 read, and nothing else."""

from __future__ import annotations

import base64

import pytest
from asn1crypto.core import Sequence, UTF8String, VisibleString

from hsmsim.fleet import keyreference


@pytest.mark.parametrize("length", [1, 100, 200, 70_000])
def test_a_pem_that_names_a_key(length: int) -> None:
    name = "pkcs11:object=" + "x" * length
    begin, *body, end = keyreference.document(name).splitlines()
    assert (begin, end) == (b"-----BEGIN PKCS#11 PROVIDER URI-----", b"-----END PKCS#11 PROVIDER URI-----")
    inside = Sequence.load(base64.b64decode(b"".join(body), validate=True), strict=True).contents
    first = VisibleString.load(inside)
    second = UTF8String.load(inside[len(first.dump()) :], strict=True)
    assert (first.native, second.native) == ("PKCS#11 Provider URI v1.0", name)
