"""From native/tables/*.toml to C, Python and Markdown. Python 3.11 and its standard library, nothing else."""

from gentables import c_messages, c_tables, docs, headers, py_cryptoki, py_messages
from gentables.model import Tables


def outputs(tables: Tables) -> dict[str, str]:
    """Each generated file's path from the repository's root, and its text."""
    return {
        "native/include/pkcs11_values.h": headers.values(tables),
        "native/include/pkcs11_functions.h": headers.functions(tables),
        "native/wire/tables.h": c_tables.header(tables),
        "native/wire/tables.c": c_tables.source(tables),
        "native/wire/messages.h": c_messages.header(tables),
        "native/wire/messages.c": c_messages.source(tables),
        "hsmsim/hsm/cryptoki.py": py_cryptoki.module(tables),
        "hsmsim/hsm/messages.py": py_messages.module(tables),
        "docs/reference/mechanisms.md": docs.mechanisms(tables),
        "docs/reference/functions.md": docs.functions(tables),
        "docs/reference/attributes.md": docs.attributes(tables),
        "docs/reference/wire.md": docs.wire(tables),
    }
