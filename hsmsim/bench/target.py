"""The running simulator as the benchmarks and demos see it, and keys made for them."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hsmsim.config import Places, tools_folder
from hsmsim.errors import HsmsimError
from hsmsim.fleet import keys, launch, quickstart
from hsmsim.fleet.access import Role, connect
from hsmsim.fleet.credentials import Credential
from hsmsim.hsm.cryptoki import CKK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

SIZES: Final[Mapping[str, tuple[CKK, int | str]]] = {
    "rsa2048": (CKK.RSA, 2048),
    "rsa3072": (CKK.RSA, 3072),
    "rsa4096": (CKK.RSA, 4096),
    "p256": (CKK.EC, "P-256"),
    "p384": (CKK.EC, "P-384"),
    "p521": (CKK.EC, "P-521"),
    "ed25519": (CKK.EC_EDWARDS, "Ed25519"),
}


@dataclass(frozen=True, slots=True)
class Target:
    """The module, the token's label, what its clients need in their environment (PIN in HSMSIM_PIN), and who serves."""

    module: Path
    token: str
    environment: Mapping[str, str]
    pids: tuple[int, ...]
    tools: Path  # folder of hsmsim-signbench and hsmsim-handshakes

    @classmethod
    def of(cls, places: Places) -> Target:
        """The simulator that runs; HsmsimError says what is missing."""
        ready = quickstart.ready(places)
        pids = tuple(pid for pid in (launch.pid_of(places, hsm_id) for hsm_id in ready.hsm_ids) if pid is not None)
        tools = tools_folder()
        if not (tools / "hsmsim-signbench").exists():
            raise HsmsimError(
                f"The benchmark programs are not built: {tools} lacks hsmsim-signbench. Run scripts/up once."
            )
        return cls(ready.module, ready.token, ready.environment(), pids, tools)


@contextmanager
def temporary_simulator(say: Callable[[str], None], *, engine: str = "fast") -> Iterator[Places]:
    """A simulator of the benchmark's own in a temporary folder, which goes afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="hsmsim-bench-"))
    folder.chmod(0o711)
    places = Places(folder / "home", folder / "run")
    try:
        quickstart.bring_up(places, say, engine=engine)
        yield places
    finally:
        quickstart.take_down(places)
        shutil.rmtree(folder)


@contextmanager
def temporary_keys(places: Places, kinds: tuple[str, ...], prefix: str) -> Iterator[dict[str, str]]:
    """A key pair of each kind in the HSM, labelled `prefix`-kind, for the length of the block: kind -> label."""
    ready = quickstart.ready(places)
    name, _, password = ready.pin.partition(":")
    user = Credential(ready.cluster_id, "", name, Role.CRYPTO_USER, password)
    handles: list[int] = []
    try:
        with connect(places, "", user) as client:
            for kind in kinds:
                key_type, size = SIZES[kind]
                handles += keys.generate_pair(client, key_type, size, keys.Wish(f"{prefix}-{kind}"))
        yield {kind: f"{prefix}-{kind}" for kind in kinds}
    finally:
        with connect(places, "", user) as client:
            for handle in handles:
                keys.delete(client, handle)
