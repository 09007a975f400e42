"""The gateway without its wire: operations are called as the pipeline calls them, over a real database and writer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from hsmsim.clock import ManualClock
from hsmsim.config import Places
from hsmsim.ids import SystemIds
from hsmsim.services.iam import api as iam
from hsmsim.services.iam import bootstrap, rootkey
from hsmsim.services.iam.authorizer import IamAuthorizer
from hsmsim.services.iam.directory import Directory
from hsmsim.services.kernel import Call, Mode, Service
from hsmsim.services.sts import api as sts
from hsmsim.storage.database import Database
from hsmsim.storage.migrate import GATEWAY, migrate
from hsmsim.storage.writer import GroupWriter

if TYPE_CHECKING:
    from pathlib import Path

    from hsmsim.authz.principal import Caller

ACCOUNT = "123456789012"


@dataclass
class World:
    """One gateway: its database, what it knows of IAM, its services."""

    folder: Path
    clock: ManualClock = field(default_factory=ManualClock)

    def __post_init__(self) -> None:
        self.places = Places(self.folder / "home", self.folder / "run")
        self.seal = bootstrap.load_seal(self.places)
        url = f"sqlite:///{self.folder}/gateway.db"
        migrate(url, GATEWAY)
        self.database = Database(url, durable=False)
        self.writer = GroupWriter(self.database)
        self.directory = Directory(self.seal, self.clock)
        self.root_key = bootstrap.ensure_root(
            self.places, self.writer, self.directory, SystemIds(), ACCOUNT, self.clock.time()
        )
        with self.database.read() as connection:
            self.directory.catch_up(connection)
        self.services: dict[str, Service] = {"iam": iam.build(self.directory), "sts": sts.build(self.directory)}
        self.authorizer = IamAuthorizer(self.directory)

    def close(self) -> None:
        self.writer.close()
        self.database.close()

    @property
    def root(self) -> Client:
        kept = rootkey.kept(self.places)
        assert kept is not None
        return Client(self, kept.access_key_id, kept.secret_access_key)

    def run(self, service: str, name: str, caller: Caller, members: dict[str, Any]) -> dict[str, Any]:
        """Authorise and run one operation."""
        operation = self.services[service].operations[name]
        request = msgspec.convert(members, operation.request)
        after: list[Any] = []

        def within(connection: Any) -> Any:
            call = self.call(service, name, caller, after, connection)
            for access in operation.access(call, request):
                self.authorizer.authorize(call, access)
            return operation.run(call, request)

        if operation.mode is Mode.WRITE:
            response = self.writer.write(within)
        elif operation.mode is Mode.READ:
            with self.database.read() as connection:
                response = within(connection)
        else:
            response = within(None)
        for work in after:
            work()
        return dict(response or {})

    def call(self, service: str, name: str, caller: Caller, after: list[Any], connection: Any = None) -> Call:
        return Call(
            service=service,
            operation=name,
            region="eu-west-1",
            account=caller.account,
            caller=caller,
            request_id="r",
            source_ip="203.0.113.1",
            user_agent="tests",
            secure=True,
            clock=self.clock,
            ids=SystemIds(),
            writer=self.writer,
            _connection=connection,
            _after=after,
        )


@dataclass
class Client:
    """Somebody with an access key."""

    world: World
    access_key_id: str
    secret: str
    token: str | None = None

    @property
    def caller(self) -> Caller:
        return self.world.directory.find(self.access_key_id, self.token).caller

    def iam(self, name: str, **members: Any) -> dict[str, Any]:
        return self.world.run("iam", name, self.caller, members)

    def sts(self, name: str, **members: Any) -> dict[str, Any]:
        return self.world.run("sts", name, self.caller, members)

    def session(self, operation: str, **members: Any) -> Client:
        """Who STS's operation makes."""
        found = self.sts(operation, **members)["Credentials"]
        return Client(self.world, found["AccessKeyId"], found["SecretAccessKey"], found["SessionToken"])

    def new_user(self, name: str, policy: str = "", **members: Any) -> Client:
        """Make a user with a key and an inline policy."""
        self.iam("CreateUser", UserName=name, **members)
        if policy:
            self.iam("PutUserPolicy", UserName=name, PolicyName="own", PolicyDocument=policy)
        key = self.iam("CreateAccessKey", UserName=name)["AccessKey"]
        return Client(self.world, key["AccessKeyId"], key["SecretAccessKey"])
