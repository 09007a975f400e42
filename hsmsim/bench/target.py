"""Simulators as the benchmarks and demos see them, and keys made for them."""

from __future__ import annotations

import json
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hsmsim.bench.measure import wait_idle
from hsmsim.config import Places, tools_folder
from hsmsim.errors import HsmsimError
from hsmsim.fleet import keys, launch, modulecfg, quickstart
from hsmsim.fleet.access import Role, connect
from hsmsim.fleet.credentials import Credential
from hsmsim.hsm.cryptoki import CKK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

AES: Final = "aes256"
SIZES: Final[Mapping[str, tuple[CKK, int | str]]] = {
    "rsa2048": (CKK.RSA, 2048),
    "rsa3072": (CKK.RSA, 3072),
    "rsa4096": (CKK.RSA, 4096),
    "p256": (CKK.EC, "P-256"),
    "p384": (CKK.EC, "P-384"),
    "p521": (CKK.EC, "P-521"),
    "ed25519": (CKK.EC_EDWARDS, "Ed25519"),
    AES: (CKK.AES, 256),
}
NO_KEYS: Final[Mapping[str, str]] = {}
SIGNING: Final = tuple(kind for kind in SIZES if kind != AES)


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

    def by_socket(self, folder: Path) -> Target:
        """The same HSMs, for clients whose configuration (a file in `folder`) keeps them off shared memory."""
        content = self._configuration()
        content["hsmsim"]["transport"] = "socket"
        return self._configured(folder / "socket.cfg", content)

    def with_hsms(self, number: int, folder: Path) -> Target:
        """The first so many HSMs, for clients whose configuration (a file in `folder`) has no others."""
        content = self._configuration()
        servers = content["clusters"][0]["cluster"]["servers"]
        content["clusters"][0]["cluster"]["servers"] = servers[:number]
        content["clusters"][0]["cluster"]["options"]["disable_key_availability_check"] = True
        return self._configured(folder / f"hsms-{number}.cfg", content)

    def _configuration(self) -> dict[str, Any]:
        path = Path(self.environment["HSMSIM_PKCS11_CONFIG"])
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content

    def _configured(self, path: Path, content: dict[str, Any]) -> Target:
        path.write_bytes(modulecfg.encoded(content))
        return replace(self, environment={**self.environment, "HSMSIM_PKCS11_CONFIG": str(path)})


@contextmanager
def temporary_simulator(
    say: Callable[[str], None], *, engine: str = "fast", hsms: int = 2, labels: Mapping[str, str] = NO_KEYS
) -> Iterator[Places]:
    """A simulator of the benchmark's own in a temporary folder, which goes afterwards.

    It has a key, or key pair, of each kind in `labels` (kind -> label).
    """
    folder = Path(tempfile.mkdtemp(prefix="hsmsim-bench-"))
    folder.chmod(0o711)
    places = Places(folder / "home", folder / "run")
    try:
        quickstart.bring_up(places, say, hsms=hsms, engine=engine)
        _make_keys(places, labels, [])
        yield places
    finally:
        quickstart.take_down(places)
        shutil.rmtree(folder)


@contextmanager
def one_hsm(say: Callable[[str], None], engine: str, labels: Mapping[str, str]) -> Iterator[Target]:
    """One HSM process with a key of each kind under its label.

    A second HSM keeps the keys when they are made, as the key availability check wants it, and is stopped then.
    """
    with temporary_simulator(say, engine=engine, labels=labels) as places:
        launch.stop(places, quickstart.ready(places).hsm_ids[1:])
        target = Target.of(places)
        wait_idle(target.pids)  # it measures its processor at the start, and its vault is filled behind the work
        yield target


def _make_keys(places: Places, labels: Mapping[str, str], handles: list[int]) -> None:
    """A key, or key pair, of each kind under its label; their handles go to the list, one by one."""
    with connect(places, "", _user(places)) as client:
        for kind, label in labels.items():
            key_type, size = SIZES[kind]
            if key_type is CKK.AES and isinstance(size, int):
                handles.append(keys.generate_secret(client, key_type, size, keys.Wish(label)))
            else:
                handles += keys.generate_pair(client, key_type, size, keys.Wish(label))


@contextmanager
def temporary_keys(places: Places, kinds: tuple[str, ...], prefix: str) -> Iterator[dict[str, str]]:
    """A key pair of each kind in the HSM, labelled `prefix`-kind, for the length of the block: kind -> label."""
    labels = {kind: f"{prefix}-{kind}" for kind in kinds}
    handles: list[int] = []
    try:
        _make_keys(places, labels, handles)
        yield labels
    finally:
        with connect(places, "", _user(places)) as client:
            for handle in handles:
                keys.delete(client, handle)


def _user(places: Places) -> Credential:
    ready = quickstart.ready(places)
    name, _, password = ready.pin.partition(":")
    return Credential(ready.cluster_id, "", name, Role.CRYPTO_USER, password)
