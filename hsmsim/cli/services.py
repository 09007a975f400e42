"""`hsmsim services`."""

from __future__ import annotations

import click

from hsmsim.cli import show
from hsmsim.errors import HsmsimError
from hsmsim.gateway import catalog


@click.command()
@click.argument("service", required=False)
@show.as_json
def services(*, service: str | None, as_json: bool) -> None:
    """Say which operations of AWS's services work here; the others are refused by name.

    With SERVICE (iam, sts, ...), its operations; else each service with how many work.
    """
    found = catalog.catalog()
    if service is not None:
        found = tuple(one for one in found if one.name == service) or _unknown(service, found)
    if as_json:
        show.document(catalog.document(found))
    elif service is not None:
        rows = [
            [one.name, "works" if one.works else "refused", ", ".join(one.refused)]
            for entry in found
            for one in entry.operations
        ]
        show.table(["OPERATION", "STATE", "MEMBERS REFUSED"], rows, empty="It has no operations.")
    else:
        rows = [
            [
                one.name,
                str(sum(each.works for each in one.operations)),
                str(len(one.operations)),
                ", ".join(one.protocols),
            ]
            for one in found
        ]
        show.table(["SERVICE", "WORK", "OF", "PROTOCOLS"], rows, empty="There are no services.")


def _unknown(service: str, known: tuple[catalog.ServiceEntry, ...]) -> tuple[catalog.ServiceEntry, ...]:
    raise HsmsimError(f"The gateway has no service {service!r}. It has {', '.join(one.name for one in known)}.")
