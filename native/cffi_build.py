"""Write the C source of an extension: cffi's binding of a header.

Usage: cffi_build.py MODULE HEADER OUTPUT_C. Only what stands between the header's two markers is bound.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import cffi

BEGIN, END = "/* cffi reads from here */", "/* cffi reads to here */"


def declarations(header: str) -> str:
    """The part that cffi reads, without comments."""
    body = header.partition(BEGIN)[2].partition(END)[0]
    return re.sub(r"/\*.*?\*/", "", body, flags=re.DOTALL)


def main(module: str, header: Path, output: Path) -> None:
    """Emit the extension's source."""
    ffi = cffi.FFI()
    ffi.cdef(declarations(header.read_text(encoding="utf-8")))
    ffi.set_source(module, f'#include "{header.name}"')
    ffi.emit_c_code(str(output))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
