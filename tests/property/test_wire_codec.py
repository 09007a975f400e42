"""Every message survives its encoding, and no bytes make a decoder do anything but return or raise WireError."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsmsim.hsm import codec, messages
from hsmsim.hsm.codec import PARAMS, REQUESTS, Fields
from hsmsim.hsm.messages import Mechanism, SetPasswordRequest, UnwrapKeyRequest
from hsmsim.hsm.wire import Attr, Header, Reader, Secret, WireError, decode_template, encode_template, located

MESSAGES = [kind for request in REQUESTS.values() for kind in (request, request.response())]
U64 = st.integers(0, 2**64 - 1)
TEMPLATES = st.lists(st.builds(Attr, U64, st.none() | st.binary(max_size=40)), max_size=5).map(tuple)


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a message or of parameters, by the kinds of its fields."""
    return st.builds(kind, **{name: VALUES[kind.__annotations__[name]] for name in names(kind)})


def names(kind: Any) -> tuple[str, ...]:
    return tuple(kind.__struct_fields__)


VALUES: dict[Any, st.SearchStrategy[Any]] = {
    codec.U8: st.integers(0, 2**8 - 1),
    codec.U32: st.integers(0, 2**32 - 1),
    codec.U64: U64,
    codec.Blob: st.binary(max_size=64),
    codec.InClear: st.binary(max_size=64),
    codec.Numbers: st.lists(U64, max_size=5).map(tuple),
    codec.Strings: st.lists(st.binary(max_size=20), max_size=5).map(tuple),
    codec.Attributes: TEMPLATES,
}
VALUES[Mechanism] = st.builds(Mechanism, U64, st.one_of([values(kind) for kind in PARAMS.values()]))


def shown(message: Any, payload: bytes) -> dict[str, Any]:
    """A message's fields, secrets looked up in the payload."""
    found = {name: getattr(message, name) for name in names(message)}
    return {
        name: payload[one.offset : one.offset + one.length] if isinstance(one, Secret) else one
        for name, one in found.items()
    }


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
@settings(max_examples=25)
@given(data=st.data())
def test_a_message_survives_its_encoding(kind: type[Fields], data: st.DataObject) -> None:
    message = data.draw(values(kind))
    payload = message.encode()
    assert shown(kind.decode(payload), payload) == shown(message, payload)


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
@settings(max_examples=25)
@given(data=st.data())
def test_a_cut_or_longer_payload_is_refused(kind: type[Fields], data: st.DataObject) -> None:
    payload = data.draw(values(kind)).encode()
    cut = data.draw(st.integers(0, len(payload)))
    if cut != len(payload):
        with pytest.raises(WireError):
            kind.decode(payload[:cut])
    with pytest.raises(WireError):
        kind.decode(payload + b"\0")


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
@settings(max_examples=25)
@given(payload=st.binary(max_size=200))
def test_random_bytes_decode_or_are_refused(kind: type[Fields], payload: bytes) -> None:
    try:
        message = kind.decode(payload)
    except WireError:
        return
    assert len(shown(message, payload)) == len(names(message))


@pytest.mark.parametrize("count", [257, 2**31, 2**32 - 1])
def test_counts_over_the_limit_are_refused_before_anything_is_read(count: int) -> None:
    with pytest.raises(WireError):
        decode_template(count.to_bytes(4, "little") + bytes(64))
    with pytest.raises(WireError):
        Reader(count.to_bytes(4, "little") + bytes(64)).strings()
    with pytest.raises(WireError):
        Reader(count.to_bytes(4, "little") + bytes(64)).numbers()


def test_a_secret_decodes_to_its_place_and_cannot_be_sent_on() -> None:
    payload = SetPasswordRequest(b"old password", b"new password").encode()
    request = SetPasswordRequest.decode(payload)
    assert (located(request.old), located(request.new)) == (Secret(4, 12), Secret(20, 12))
    with pytest.raises(WireError):
        request.encode()
    with pytest.raises(WireError):
        located(b"in the clear")


def test_an_attributes_offset_points_at_its_value() -> None:
    payload = UnwrapKeyRequest(Mechanism(1), 2, b"xyz", (Attr(0, b"first"), Attr(1, None), Attr(2, b"second"))).encode()
    first, missing, second = UnwrapKeyRequest.decode(payload).template
    assert payload[first.offset :].startswith(b"first")
    assert payload[second.offset :].startswith(b"second")
    assert missing.value is None


@given(TEMPLATES)
def test_a_nested_template_survives(template: tuple[Attr, ...]) -> None:
    assert decode_template(encode_template(template)) == template


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**16 - 1), U64, U64, U64)
def test_a_header_survives(length: int, op: int, seq: int, word: int, epoch: int) -> None:
    header = Header(length, op, seq, word, epoch)
    raw = header.encode()
    assert len(raw) == Header.SIZE == 32
    assert Header.decode(raw) == header
    with pytest.raises(WireError):
        Header.decode(raw[:6] + b"\1" + raw[7:])
    with pytest.raises(WireError):
        Header.decode(raw[:-1])


def test_the_golden_bytes_of_a_sign_request() -> None:
    request = messages.SignRequest(
        key=0x1122,
        mechanism=Mechanism(0xD, messages.PssParams(hash=0x250, mgf=2, salt_length=32)),
        digested=1,
        data=b"\xaa\xbb",
    )
    fields = (
        "2211000000000000",  # key
        "0d00000000000000 04000000 5002000000000000 0200000000000000 2000000000000000",  # mechanism, kind, parameters
        "01",  # digested
        "02000000 aabb",  # data
    )
    assert request.encode() == bytes.fromhex("".join(fields))
