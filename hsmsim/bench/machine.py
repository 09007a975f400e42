"""What a figure was measured on: processors, system, versions. Without them it says nothing."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Final

import cryptography
from cryptography.hazmat.backends.openssl import backend

import hsmsim

LANES = "avx512ifma"
_VERSIONS: Final = {
    "openssl": ("openssl", "version"),
    "softhsm2": ("softhsm2-util", "--version"),
    "nginx": ("nginx", "-v"),
    "haproxy": ("haproxy", "-v"),
    "p11-kit": ("p11-kit", "--version"),
}
_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"


def _version(command: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - the table above
            command, env={"PATH": _PATH}, capture_output=True, text=True, timeout=10, check=False
        )
    except FileNotFoundError:
        return "missing"
    said = (done.stdout or done.stderr).strip().splitlines()
    return said[0] if said else "unknown"


def _cpuinfo(name: str) -> str:
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    found = re.search(rf"^{name}\s*: (.*)$", text, re.MULTILINE)
    return found.group(1) if found else "unknown"


def has_lanes() -> bool:
    """Whether the processor has what batches are computed with (AVX512-IFMA)."""
    return LANES in _cpuinfo("flags").split()


def machine() -> dict[str, str]:
    """Processor, count, load and versions of all contenders."""
    return {
        "processor": _cpuinfo("model name"),
        "processors": str(os.cpu_count()),
        LANES: "yes" if has_lanes() else "no",
        "load_at_start": " ".join(f"{load:.1f}" for load in os.getloadavg()),
        "system": platform.platform(),
        "python": platform.python_version(),
        "hsmsim": hsmsim.__version__,
        **{name: _version(command) for name, command in _VERSIONS.items()},
        "cryptography": f"{cryptography.__version__} with {backend.openssl_version_text()}",
    }
