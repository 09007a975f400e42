"""Print the folders of crypto_mb's headers and library, a line each; nothing where it is not installed.

They belong to the packages ipp-crypto-include and ipp-crypto-static, wherever this interpreter finds those.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path


def folder(distribution: str, file: str) -> Path | None:
    """Where a distribution has put the file."""
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError:
        return None
    found = [Path(str(path.locate())).resolve() for path in files if path.as_posix().endswith(file)]
    return next((path for path in found if path.exists()), None)


def main() -> None:
    """Both or nothing."""
    header = folder("ipp-crypto-include", "aggregator/crypto_mb/rsa.h")
    library = folder("ipp-crypto-static", "/libcrypto_mb.a")
    if header is not None and library is not None:
        print(header.parent.parent, library.parent, sep="\n")  # noqa: T201 - read by meson


if __name__ == "__main__":
    main()
