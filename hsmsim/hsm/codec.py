"""What a message of the HSM wire is made of: fields in order, each of a kind that says how it is packed and read.

`hsmsim.hsm.messages`, generated from native/tables/wire.toml, declares the messages and nothing else:

    class SignRequest(Request[SignResponse], frozen=True):
        OP = Op.SIGN

        key: U64
        mechanism: Mechanism
        digested: U8
        data: Blob

A type checker sees int and bytes in U64 and Blob; `Fields` finds there how they stand on the wire, once, when the class
is made. Annotations are therefore values here and in messages.py: no `from __future__ import annotations`.

Whatever bytes come in, decode returns a value or raises WireError.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import Annotated, Any, ClassVar, Final, Generic, NamedTuple, Self, TypeVar, get_args, get_origin

from msgspec import Struct
from msgspec.structs import astuple

from hsmsim.hsm import wire
from hsmsim.hsm.wire import Reader, Secret, Template, WireError, packed


class Kind(NamedTuple):
    """How a field of one type stands on the wire."""

    pack: Callable[[Any], bytes]
    read: Callable[[Reader], Any]


U8 = Annotated[int, Kind(wire.u8, Reader.u8)]
U32 = Annotated[int, Kind(wire.u32, Reader.u32)]
U64 = Annotated[int, Kind(wire.u64, Reader.u64)]
Blob = Annotated[bytes, Kind(wire.blob, Reader.blob)]
InClear = Annotated[bytes | Secret, Kind(wire.secret, Reader.secret)]
Numbers = Annotated[tuple[int, ...], Kind(wire.numbers, Reader.numbers)]
Strings = Annotated[tuple[bytes, ...], Kind(wire.strings, Reader.strings)]
Attributes = Annotated[Template, Kind(wire.template, Reader.template)]


class Fields(Struct, frozen=True):
    """Values that stand on the wire in the order in which they are declared; a field may be Fields itself."""

    _packs: ClassVar[tuple[Callable[[Any], bytes], ...]] = ()
    _reads: ClassVar[tuple[Callable[[Reader], Any], ...]] = ()

    def __init_subclass__(cls) -> None:
        """Look up the kinds of the fields."""
        super().__init_subclass__()
        kinds = [_kind(type_) for type_ in cls.__annotations__.values() if not _is_constant(type_)]
        cls._packs = tuple(kind.pack for kind in kinds)
        cls._reads = tuple(kind.read for kind in kinds)

    def pack(self) -> bytes:
        """Return the fields' bytes; struct.error for a value that does not fit."""
        return b"".join([pack(value) for pack, value in zip(self._packs, astuple(self), strict=True)])

    @classmethod
    def read(cls, reader: Reader) -> Self:
        """Take the fields."""
        return cls(*[read(reader) for read in cls._reads])

    def encode(self) -> bytes:
        """Return the payload; WireError for a value that does not fit."""
        return packed(type(self).pack, self)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read a whole payload; WireError for any other bytes."""
        reader = Reader(data)
        message = cls.read(reader)
        reader.end()
        return message


def _is_constant(type_: object) -> bool:
    origin: object = get_origin(type_)
    return origin is ClassVar


def _kind(type_: Any) -> Kind:  # noqa: ANN401 - an annotation
    if get_origin(type_) is Annotated:
        kind: Kind = type_.__metadata__[0]
        return kind
    return Kind(type_.pack, type_.read)


# ---- messages -------------------------------------------------------------------------------------------------------


class Response(Fields, frozen=True):
    """What an HSM answers."""


_Answer = TypeVar("_Answer", bound=Response)
REQUESTS: Final[dict[int, "type[Request[Any]]"]] = {}
"""By the code of the operation; hsmsim.hsm.messages fills it."""


class Request(Fields, Generic[_Answer], frozen=True):
    """What an HSM is asked, and what it answers: a Request[_Answer] is answered with an _Answer."""

    OP: ClassVar[IntEnum]

    def __init_subclass__(cls) -> None:
        """Enter it into the table."""
        super().__init_subclass__()
        REQUESTS[cls.OP] = cls

    @classmethod
    def response(cls) -> type[_Answer]:
        """Return the type of the answer."""
        answer: type[_Answer]
        (answer,) = get_args(vars(cls)["__orig_bases__"][0])
        return answer


# ---- parameters of mechanisms ---------------------------------------------------------------------------------------

PARAMS: Final[dict[int, "type[Params]"]] = {}
"""By the number that stands for the kind of parameters on the wire; hsmsim.hsm.messages fills it."""


class Params(Fields, frozen=True):
    """A mechanism's parameters. NAME: as the table of mechanisms has it."""

    KIND: ClassVar[int]
    NAME: ClassVar[str]

    def __init_subclass__(cls) -> None:
        """Enter it into the table."""
        super().__init_subclass__()
        PARAMS[cls.KIND] = cls


def _pack_params(params: Params) -> bytes:
    return wire.u32(params.KIND) + params.pack()


def _read_params(reader: Reader) -> Params:
    kind = PARAMS.get(reader.u32())
    if kind is None:
        raise WireError("unknown kind of mechanism parameters")
    return kind.read(reader)


AnyParams = Annotated[Params, Kind(_pack_params, _read_params)]
