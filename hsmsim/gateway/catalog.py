"""What the gateway can do: every operation of every service, and of those that work every member of the request.

It comes from what decides: the services as `assembly` builds them, in a temporary folder, and AWS's own models.
"""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import inspect

from hsmsim.clock import SystemClock
from hsmsim.gateway import assembly
from hsmsim.gateway.codec import model as models
from hsmsim.gateway.config import GatewayConfig
from hsmsim.gateway.process import make_ports
from hsmsim.gateway.reconcile import Reconcilers
from hsmsim.storage.database import Database
from hsmsim.storage.lead import Alone
from hsmsim.storage.migrate import GATEWAY, migrate
from hsmsim.storage.writer import GroupWriter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hsmsim.gateway.codec.model import Ref, ServiceModel
    from hsmsim.services.kernel import Service

_ELEMENT: Final = "[]"


@dataclass(frozen=True, slots=True)
class OperationEntry:
    """An operation: whether it works, and the request's members, `Filters[].Name` for those of structures inside."""

    name: str
    works: bool
    members: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServiceEntry:
    """A service of the gateway, by the name that botocore and the AWS CLI have for it."""

    name: str
    version: str
    protocols: tuple[str, ...]
    operations: tuple[OperationEntry, ...]


def catalog() -> tuple[ServiceEntry, ...]:
    """Return all services in the order of their names."""
    with _services() as services:
        return tuple(_service(one) for one in sorted(services, key=lambda one: one.model))


@contextmanager
def _services() -> Iterator[tuple[Service, ...]]:
    with tempfile.TemporaryDirectory(prefix="hsmsim-catalog-") as folder:
        config = GatewayConfig(home=Path(folder))
        migrate(config.database_url, GATEWAY)
        database = Database(config.database_url)
        writer = GroupWriter(database)
        try:
            ports = make_ports(config, database, writer, SystemClock(), Reconcilers(Alone()), lambda _: None)
            yield assembly.build(ports).services
        finally:
            writer.close()
            database.close()


def _service(service: Service) -> ServiceEntry:
    model = models.load(service.model)
    operations = tuple(_operation(service, model, name) for name in sorted(model.operation_names))
    return ServiceEntry(service.model, model.version, model.protocols, operations)


def _operation(service: Service, model: ServiceModel, name: str) -> OperationEntry:
    built, known = service.operations.get(name), model.operation(name)
    if built is None or known is None:
        return OperationEntry(name, works=False)
    paths = list(_paths(known.input, inspect.type_info(built.request), "", ()))
    return OperationEntry(
        name,
        works=True,
        members=tuple(path for path, read in paths if read),
        refused=tuple(path for path, read in paths if not read),
    )


def _paths(
    ref: Ref | None, read: inspect.Type | None, prefix: str, above: tuple[str, ...]
) -> Iterator[tuple[str, bool]]:
    """Each member of a shape with whether the request's type has it; below one that is refused nothing more is said."""
    if ref is None or ref.shape.name in above:
        return
    shape, inside = ref.shape, _inside(read)
    if shape.type in {"list", "map"}:
        element = shape.element or shape.value
        item = inside.item_type if isinstance(inside, inspect.ListType | inspect.VarTupleType) else None
        item = inside.value_type if isinstance(inside, inspect.DictType) else item
        yield from _paths(element, item, f"{prefix}{_ELEMENT}", (*above, shape.name))
    elif shape.type == "structure" and isinstance(inside, inspect.StructType):
        fields = {field.encode_name: field.type for field in inside.fields}
        for member, below in shape.members.items():
            path = f"{prefix}.{member}" if prefix else member
            yield path, member in fields
            if member in fields:
                yield from _paths(below, fields[member], path, (*above, shape.name))


def _inside(read: inspect.Type | None) -> inspect.Type | None:
    """The type without None and without msgspec's marks."""
    if isinstance(read, inspect.Metadata):
        return _inside(read.type)
    if isinstance(read, inspect.UnionType):
        return _inside(next((one for one in read.types if not isinstance(one, inspect.NoneType)), None))
    return read


def document(entries: tuple[ServiceEntry, ...]) -> object:
    """Return the catalog as JSON can have it."""
    return msgspec.to_builtins(entries)
