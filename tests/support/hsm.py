"""HSM processes of a test's own, started from config.json without the fleet, in a folder that goes with the test."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import pytest
from support.mortal import ARMED

from hsmsim.bench.serve import free_port
from hsmsim.errors import CkrError
from hsmsim.fleet import customer
from hsmsim.hsm import messages as m
from hsmsim.hsm.client import HsmClient
from hsmsim.hsm.cryptoki import CKA, CKF, CKK, CKM, CKO, CKR, CKU
from hsmsim.hsm.roots.authority import manufacture
from hsmsim.hsm.wire import Attr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
SOFTHSM = "/usr/lib/softhsm/libsofthsm2.so"
CLUSTER = "cluster-aaaaaaaaaaa"
ADMIN = "admin-password"
USERS = {"alice": "alice-password", "bob": "bob-password", "carol": "carol-password"}
P256 = bytes.fromhex("06082a8648ce3d030107")
PROGRAM = ("-m", "hsmsim.hsm")
MORTAL = (str(ROOT / "tests/support/mortal.py"),)
"""The same, to die at a step: Hsm.arm(), Hsm.died()."""
NONE = m.NoneParams()
Values = dict[CKA, Any]
Made = TypeVar("Made")


def template(values: Values) -> tuple[Attr, ...]:
    """A template as the module sends it."""
    return tuple(Attr(name, encoded(value)) for name, value in values.items())


def encoded(value: Any) -> bytes:
    if isinstance(value, bool):
        return bytes([value])
    if isinstance(value, int):
        return value.to_bytes(8, "little")
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, tuple):
        return b"".join(number.to_bytes(8, "little") for number in value)
    return bytes(value)


def mechanism(kind: CKM, params: Any = NONE) -> m.Mechanism:
    return m.Mechanism(kind, params)


@contextmanager
def refused(rv: CKR) -> Iterator[None]:
    """A call in here is answered with this code."""
    with pytest.raises(CkrError) as caught:
        yield
    assert CKR(caught.value.rv).name == rv.name


def eventually(met: Callable[[], bool], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def patiently(make: Callable[[], Made]) -> Made:
    """Make token keys; an HSM that has just started, or stood still, is not seen by the other one at once.

    It may also be lost again before it has the key: the key goes, and making it is tried again.
    """
    deadline = time.monotonic() + 30
    while True:
        try:
            return make()
        except CkrError as error:
            if error.rv not in {CKR.FUNCTION_FAILED, CKR.DEVICE_ERROR} or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


class Client:
    """An application on one HSM: one connection, session 1 read/write."""

    def __init__(self, path: Path | str, partition: str = "", *, profile: int = 0, seconds: float = 60) -> None:
        """seconds: how long each answer is waited for."""
        self.wire = HsmClient.connect(path, partition, profile=profile, seconds=seconds)
        self.login_ticket = b""
        try:
            self.open(1)
        except BaseException:
            self.wire.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wire.close()

    def call(self, request: Any, session: int = 1) -> Any:
        return self.wire.call(request, session)

    def open(self, session: int, flags: int = CKF.SERIAL_SESSION | CKF.RW_SESSION) -> None:
        self.call(m.OpenSessionsRequest((session,), (flags,)))

    def login(self, name: str, password: str | None = None, kind: CKU = CKU.USER) -> m.LoginResponse:
        answer: m.LoginResponse = self.wire.login(name, password or USERS[name], kind)
        self.login_ticket = answer.ticket
        return answer

    def admin(self, password: str = ADMIN) -> Self:
        self.login("admin", password, CKU.SO)
        return self

    def logout(self) -> None:
        self.call(m.LogoutRequest())

    def aes(self, *, length: int = 32, session: int = 1, **given: Any) -> int:
        values: Values = {CKA.VALUE_LEN: length, **_named(given)}
        answer = self.call(m.GenerateKeyRequest(mechanism(CKM.AES_KEY_GEN), template(values)), session)
        return int(answer.key)

    def secret(self, *, length: int = 32, **given: Any) -> int:
        values: Values = {CKA.VALUE_LEN: length, **_named(given)}
        return int(self.call(m.GenerateKeyRequest(mechanism(CKM.GENERIC_SECRET_KEY_GEN), template(values))).key)

    def ec(
        self, *, curve: bytes = P256, kind: CKM = CKM.EC_KEY_PAIR_GEN, public: Values | None = None, **private: Any
    ) -> tuple[int, int]:
        return self._pair(kind, {CKA.EC_PARAMS: curve, **(public or {})}, _named(private))

    def rsa(self, *, bits: int = 2048, public: Values | None = None, **private: Any) -> tuple[int, int]:
        return self._pair(CKM.RSA_PKCS_KEY_PAIR_GEN, {CKA.MODULUS_BITS: bits, **(public or {})}, _named(private))

    def _pair(self, kind: CKM, public: Values, private: Values) -> tuple[int, int]:
        for name in (CKA.TOKEN, CKA.LABEL, CKA.ID):
            if name in private:
                public.setdefault(name, private[name])
        answer = self.call(m.GenerateKeyPairRequest(mechanism(kind), template(public), template(private)))
        return answer.public_key, answer.private_key

    def create(self, values: Values) -> int:
        return int(self.call(m.CreateObjectRequest(template(values))).object)

    def destroy(self, handle: int) -> None:
        self.call(m.DestroyObjectRequest(handle))

    def find(self, **wanted: Any) -> tuple[int, ...]:
        found: tuple[int, ...] = self.call(m.FindRequest(template(_named(wanted)))).objects
        return found

    def get(self, handle: int, *names: CKA) -> tuple[bytes | None, ...]:
        answer = self.call(m.GetAttributesRequest(handle, names))
        return tuple(one.value for one in answer.template)

    def ask(self, handle: int, *names: CKA) -> tuple[CKR, tuple[bytes | None, ...]]:
        """C_GetAttributeValue whatever its code."""
        rv, content = self.wire.exchange(m.GetAttributesRequest(handle, names), 1)
        return CKR(rv), tuple(one.value for one in m.GetAttributesResponse.decode(content).template)

    def set(self, handle: int, **given: Any) -> None:
        self.call(m.SetAttributesRequest(handle, template(_named(given))))

    def sign(self, key: int, data: bytes, kind: CKM = CKM.ECDSA, params: Any = NONE, *, digested: int = 0) -> bytes:
        return bytes(self.call(m.SignRequest(key, mechanism(kind, params), digested, data)).signature)

    def verify(
        self, key: int, data: bytes, signature: bytes, kind: CKM = CKM.ECDSA, params: Any = NONE, *, digested: int = 0
    ) -> None:
        self.call(m.VerifyRequest(key, mechanism(kind, params), digested, data, signature))

    def encrypt(self, key: int, data: bytes, kind: CKM = CKM.AES_ECB, params: Any = NONE) -> bytes:
        return bytes(self.call(m.EncryptRequest(key, mechanism(kind, params), data)).data)

    def decrypt(self, key: int, data: bytes, kind: CKM = CKM.AES_ECB, params: Any = NONE) -> bytes:
        return bytes(self.call(m.DecryptRequest(key, mechanism(kind, params), data)).data)

    def wrap(self, wrapping: int, key: int, kind: CKM = CKM.AES_KEY_WRAP_PAD, params: Any = NONE) -> bytes:
        return bytes(self.call(m.WrapKeyRequest(mechanism(kind, params), wrapping, key)).wrapped)

    def unwrap(
        self, unwrapping: int, wrapped: bytes, kind: CKM = CKM.AES_KEY_WRAP_PAD, params: Any = NONE, **given: Any
    ) -> int:
        values = {CKA.CLASS: CKO.SECRET_KEY, CKA.KEY_TYPE: CKK.AES, **_named(given)}
        return int(self.call(m.UnwrapKeyRequest(mechanism(kind, params), unwrapping, wrapped, template(values))).key)


def _named(given: dict[str, Any]) -> Values:
    """Attributes by their names in lower case: token=True, wrap_with_trusted=True."""
    return {CKA["CLASS" if name == "object_class" else name.upper()]: value for name, value in given.items()}


@dataclass(slots=True)
class Hsm:
    """One HSM process."""

    home: Path
    hsm_id: str
    config: dict[str, Any]
    program: tuple[str, ...] = PROGRAM
    process: subprocess.Popen[bytes] | None = None
    within: tuple[str, ...] = ()
    """The command that runs it in a network of its own."""

    @property
    def folder(self) -> Path:
        return self.home / "hsms" / self.hsm_id

    @property
    def address(self) -> str:
        """Where clients reach it: by TCP where the other HSMs do so, too."""
        return self.config.get("advertise") or self.config["socket"]

    @property
    def socket(self) -> Path:
        return Path(self.config["socket"])

    @property
    def log(self) -> str:
        return (self.folder / "hsm.log").read_text(encoding="utf-8", errors="replace")

    @property
    def running(self) -> subprocess.Popen[bytes]:
        assert self.process is not None, "not started"
        return self.process

    def start(self, *, wait: bool = True) -> Self:
        (self.folder / "config.json").write_text(json.dumps(self.config), encoding="utf-8")
        with (self.folder / "hsm.log").open("ab") as log:
            own = [sys.executable, "-P", *self.program, "--config", str(self.folder / "config.json")]
            command = [*self.within, *own]
            self.process = subprocess.Popen(
                command, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)}
            )
        if wait:
            self.wait()
        return self

    def wait(self, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while True:
            assert self.running.poll() is None, f"{self.hsm_id} ended:\n{self.log}"
            try:
                self.info()
            except OSError:
                assert time.monotonic() < deadline, f"{self.hsm_id} does not answer:\n{self.log}"
                time.sleep(0.02)
            else:
                return

    def info(self) -> m.HsmInfoResponse:
        connection = HsmClient(self.socket)
        try:
            answer: m.HsmInfoResponse = connection.call(m.HsmInfoRequest())
            return answer
        finally:
            connection.close()

    def settled(self, seconds: float = 60) -> m.HsmInfoResponse:
        """Wait until the vault has followed the rows."""
        deadline = time.monotonic() + seconds
        while (info := self.info()).vault_pending:
            assert time.monotonic() < deadline, f"{info}\n{self.log}"
            time.sleep(0.01)
        return info

    def arm(self, step: str) -> None:
        """Have a mortal HSM die at a step of support.mortal."""
        beside = self.folder / f"{ARMED}.new"
        beside.write_text(step, encoding="ascii")
        beside.rename(self.folder / ARMED)

    def died(self, seconds: float = 20) -> None:
        """Wait until an armed HSM has died by its step."""
        process, self.process = self.running, None
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            pytest.fail(f"{self.hsm_id} never came to its step\n{self.log}")
        assert -status in {signal.SIGKILL, signal.SIGXFSZ}, f"{self.hsm_id} ended with {status}\n{self.log}"

    def freeze(self) -> None:
        """Stop the process where it stands; its threads go on until the last of them has heard of it."""
        self.running.send_signal(signal.SIGSTOP)
        tasks = Path(f"/proc/{self.running.pid}/task")

        def stopped() -> bool:
            states = [(task / "stat").read_text().rpartition(")")[2].split()[0] for task in tasks.iterdir()]
            return set(states) == {"T"}

        eventually(stopped, 20)

    def thaw(self) -> None:
        self.running.send_signal(signal.SIGCONT)

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        if self.process is None:
            return 0
        process, self.process = self.process, None
        process.send_signal(how)
        return process.wait(30)

    def client(self, partition: str = "", *, profile: int = 0) -> Client:
        return Client(self.socket, partition, profile=profile)

    def user(self, name: str, *, profile: int = 0) -> Client:
        client = self.client(profile=profile)
        try:
            client.login(name)
        except (OSError, CkrError):
            client.wire.close()
            raise
        return client


@dataclass(slots=True)
class Cluster:
    """A cluster whose HSMs are Hsm objects. Active, with the crypto users of USERS."""

    home: Path
    engine: str = "fast"
    check: bool = False
    mode: str = "NON_FIPS"
    model: str = "hsm2m.medium"
    program: tuple[str, ...] = PROGRAM
    database: str = ""
    tcp: bool = False
    clock: str = ""
    hsms: list[Hsm] = field(default_factory=list)

    @property
    def database_url(self) -> str:
        return self.database or f"sqlite:///{self.home}/cluster.db"

    def add(self) -> Hsm:
        return self.new().start()

    def new(self) -> Hsm:
        """An HSM that was not started yet."""
        hsm_id = f"hsm-{'abcdefg'[len(self.hsms)] * 11}"
        manufacture(self.home, hsm_id)
        config = {
            "hsm_id": hsm_id,
            "cluster_id": CLUSTER,
            "database_url": self.database_url,
            "socket": str(self.home / f"{hsm_id}.sock"),
            "folder": str(self.home / "hsms" / hsm_id),
            "engine": self.engine,
            "softhsm_library": SOFTHSM,
            "availability_check": self.check,
            "model": self.model,
            "workers": 0,
            "mode": self.mode,
            "images": str(self.home / "images"),
            "clock": self.clock,
        }
        if self.tcp:
            config["listen"] = f"127.0.0.1:{free_port()}"
        hsm = Hsm(self.home, hsm_id, config, self.program)
        self.hsms.append(hsm)
        return hsm

    def initialize(self) -> None:
        """What the customer does, with a root of this test's own, unless it is done."""
        with HsmClient(self.hsms[0].socket) as client:
            csr = client.call(m.CertificatesRequest()).csr
            if csr:
                client.call(m.InitializeRequest(*customer.sign(self.home / "customer", csr)))

    def activate(self) -> None:
        self.initialize()
        with self.hsms[0].client() as client:
            client.call(m.ActivateRequest(ADMIN.encode()))
            client.admin()
            for name, password in USERS.items():
                client.call(m.UserCreateRequest(name.encode(), 2, password.encode()))

    def end(self) -> None:
        for hsm in self.hsms:
            hsm.end(signal.SIGKILL)
        shutil.rmtree(self.home)


@contextmanager
def cluster(
    *,
    hsms: int = 1,
    engine: str = "fast",
    check: bool = False,
    mode: str = "NON_FIPS",
    program: tuple[str, ...] = PROGRAM,
    database: str = "",
    tcp: bool = False,
    clock: str = "",
) -> Iterator[Cluster]:
    """An active cluster, gone at the end. database: a URL, empty for a file of its own; tcp: with ports.

    clock: a file of clock.set_offset.
    """
    home = Path(tempfile.mkdtemp(prefix="hsmsim-firmware-"))
    made = Cluster(home, engine, check, mode, program=program, database=database, tcp=tcp, clock=clock)
    (home / "images").mkdir(mode=0o700)
    try:
        for _ in range(hsms):
            made.add()
        made.activate()
        yield made
    finally:
        made.end()
