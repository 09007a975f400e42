"""One request from bytes to bytes: a list of named steps, then the operation where its mode says, then the record.

Rules:
- Where other gateways write to the database, memory is brought up to it first (`fresh`).
- Nothing of a request is parsed before its signature holds, except what finds its service.
- A WRITE runs, is serialised and recorded in one transaction: all of it or nothing. Every other call's record, and
  that of a call that fails, goes to the writer behind (`behind`).
- A database that is away is ServiceUnavailable, which clients try again.
- What the gateway cannot explain is answered as InternalFailure, or as the service calls that, with the request's id,
  and logged with its trace.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec

from hsmsim.errors import AwsError, StorageError
from hsmsim.gateway import audit, faults
from hsmsim.gateway.codec.tree import UnknownMemberError
from hsmsim.gateway.directory import NO_MODEL, Directory, Found, guess_protocol
from hsmsim.services.kernel import Call, Mode

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from sqlalchemy.engine import Connection

    from hsmsim.clock import Clock
    from hsmsim.gateway.authenticate import Authenticator, Identity
    from hsmsim.gateway.behind import Behind
    from hsmsim.gateway.codec.model import OperationModel
    from hsmsim.gateway.codec.wire import HttpRequest, HttpResponse
    from hsmsim.gateway.fresh import Fresh
    from hsmsim.gateway.ports import Parts, Writer
    from hsmsim.services.kernel import Ids, Operation, Request, Response
    from hsmsim.storage.database import Database

_LOG: Final = logging.getLogger("hsmsim.gateway")
_UNKNOWN_MEMBER: Final = re.compile(r"Object contains unknown field `([^`]*)`(?: - at `\$\.?([^`]*)`)?")
MAX_USER_AGENT: Final = 1024


@dataclass(slots=True)
class Exchange:
    """One request under way; each step adds what it finds."""

    request: HttpRequest
    request_id: str
    found: Found | None = None
    identity: Identity | None = None
    model: OperationModel | None = None
    operation: Operation | None = None
    values: dict[str, Any] = field(default_factory=dict)
    typed: Request | None = None
    after: list[Callable[[], None]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Limits:
    """threads: operations that run at once. waiting: those that may wait for a thread or for the writer."""

    threads: int = 16
    waiting: int = 512


class Pipeline:
    """All that requests share."""

    def __init__(
        self,
        parts: Parts,
        authenticator: Authenticator,
        database: Database,
        writer: Writer,
        behind: Behind,
        clock: Clock,
        ids: Ids,
        limits: Limits,
        fresh: Fresh | None = None,
    ) -> None:
        self._fresh = fresh
        self._directory = Directory(parts.services)
        self._authorizer = parts.authorizer
        self._recorder = parts.recorder
        self._authenticator = authenticator
        self._database = database
        self._writer = writer
        self._behind = behind
        self._clock = clock
        self._ids = ids
        self._limits = limits
        self._pool = ThreadPoolExecutor(limits.threads, thread_name_prefix="operation")
        self._running = 0
        self._steps = (
            self._find_service,
            self._authenticate,
            self._find_operation,
            self._parse,
            self._validate,
            self._convert,
        )
        self._modes = {
            Mode.WRITE: self._write,
            Mode.READ: self._read,
            Mode.BLOCK: self._block,
            Mode.INLINE: self._inline,
        }

    async def handle(self, request: HttpRequest) -> HttpResponse:
        """Answer a request, whatever it is."""
        exchange = self._exchange(request)
        try:
            if self._fresh is not None:
                await self._fresh.now()
            for step in self._steps:
                step(exchange)
            assert exchange.operation is not None  # noqa: S101 - _find_operation found it
            response = await self._modes[exchange.operation.mode](exchange)
        except AwsError as error:
            return self._refuse(exchange, error)
        except StorageError as error:
            _LOG.error("Request %s: %s", exchange.request_id, error)
            return self._refuse(exchange, faults.busy("The gateway's database cannot be used now. Try again."))
        except Exception:  # noqa: BLE001 - the last edge: logged, and told as InternalFailure
            _LOG.exception("Request %s failed.", exchange.request_id)
            return self._refuse(exchange, _defect(exchange))
        if exchange.operation.mode is not Mode.WRITE:
            _run_after(exchange)
        return response

    def refuse(self, request: HttpRequest, error: AwsError) -> HttpResponse:
        """Answer a request of which the body was not read."""
        return self._refuse(self._exchange(request), error)

    def _exchange(self, request: HttpRequest) -> Exchange:
        return Exchange(request, audit.new_request_id(self._ids.token(16)))

    def close(self) -> None:
        """Let the operations that run end."""
        self._pool.shutdown()

    # ---- steps -------------------------------------------------------------------------------------------------

    def _find_service(self, exchange: Exchange) -> None:
        exchange.found = self._directory.find(exchange.request)

    def _authenticate(self, exchange: Exchange) -> None:
        found = _found(exchange)
        exchange.identity = self._authenticator.identify(exchange.request, found.service.signing)

    def _find_operation(self, exchange: Exchange) -> None:
        found = _found(exchange)
        name = found.protocol.find(found.model, exchange.request)
        exchange.model = found.model.operation(name)
        if exchange.model is None:
            raise _no_action(found, name)
        exchange.operation = found.service.operations.get(name)
        if exchange.operation is None:
            raise AwsError(
                found.service.unsupported,
                f"hsmsim does not have {found.service.prefix}:{name}. `hsmsim services` lists what it has.",
                501,
            )

    def _parse(self, exchange: Exchange) -> None:
        found, model = _found(exchange), _model(exchange)
        exchange.values = found.protocol.parse(found.model, model, exchange.request)

    def _validate(self, exchange: Exchange) -> None:
        _found(exchange).protocol.validate(_model(exchange), exchange.values)

    def _convert(self, exchange: Exchange) -> None:
        assert exchange.operation is not None  # noqa: S101 - _find_operation found it
        try:
            exchange.typed = msgspec.convert(
                exchange.values, exchange.operation.request, builtin_types=(bytes, dt.datetime)
            )
        except msgspec.ValidationError as error:
            unknown = _UNKNOWN_MEMBER.match(str(error))
            if unknown is None:
                raise
            name = ".".join(part for part in (unknown.group(2), unknown.group(1)) if part)
            service = _found(exchange).service
            raise AwsError(
                service.unsupported,
                f"hsmsim does not support the member {name} of {service.prefix}:{exchange.operation.name}; "
                "leave it out.",
                501,
            ) from error

    # ---- where operations run ----------------------------------------------------------------------------------

    async def _inline(self, exchange: Exchange) -> HttpResponse:
        call = self._call(exchange, None)
        result = self._run(exchange, call)
        response = _respond(exchange, result)
        self._behind.put(self._record(exchange, call, result))
        if self._behind.full:
            await self._behind.room()
        return response

    async def _read(self, exchange: Exchange) -> HttpResponse:
        def work() -> tuple[HttpResponse, dict[str, Any]]:
            with self._database.read() as connection:
                return self._answer(exchange, connection)

        return await self._in_pool(work)

    async def _block(self, exchange: Exchange) -> HttpResponse:
        return await self._in_pool(lambda: self._answer(exchange, None))

    async def _in_pool(self, work: Callable[[], tuple[HttpResponse, dict[str, Any]]]) -> HttpResponse:
        self._enter()
        try:
            response, record = await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._running -= 1
        self._behind.put(record)
        if self._behind.full:
            await self._behind.room()
        return response

    async def _write(self, exchange: Exchange) -> HttpResponse:
        def work(connection: Connection) -> HttpResponse:
            response, record = self._answer(exchange, connection)
            self._recorder.record(connection, record)
            return response

        def follow(future: Future[HttpResponse]) -> None:
            if future.exception() is None:
                _run_after(exchange)

        self._enter()
        try:
            # A client that leaves does not undo what the writer has begun: the future is not cancelled with it. What
            # follows the commit hangs on the future, too.
            written = self._writer.submit(work)
            written.add_done_callback(follow)
            response: HttpResponse = await asyncio.shield(asyncio.wrap_future(written))
        finally:
            self._running -= 1
        return response

    def _enter(self) -> None:
        if self._running >= self._limits.threads + self._limits.waiting:
            raise faults.busy("The gateway has more requests than it can hold. Try again.")
        self._running += 1

    def _answer(self, exchange: Exchange, connection: Connection | None) -> tuple[HttpResponse, dict[str, Any]]:
        call = self._call(exchange, connection)
        result = self._run(exchange, call)
        return _respond(exchange, result), self._record(exchange, call, result)

    def _run(self, exchange: Exchange, call: Call) -> Response | None:
        operation, typed = exchange.operation, exchange.typed
        assert operation is not None  # noqa: S101 - _find_operation found it
        for access in operation.access(call, typed):
            try:
                self._authorizer.authorize(call, access)
            except AwsError as error:
                raise _denied(exchange, error) from error
        return operation.run(call, typed)

    def _call(self, exchange: Exchange, connection: Connection | None) -> Call:
        assert exchange.identity is not None and exchange.model is not None  # noqa: S101, PT018 - the steps set them
        request, identity = exchange.request, exchange.identity
        return Call(
            service=_found(exchange).service.model,
            operation=exchange.model.name,
            region=identity.region,
            account=identity.caller.account,
            caller=identity.caller,
            request_id=exchange.request_id,
            source_ip=request.source_ip,
            user_agent=request.headers.get("user-agent", "")[:MAX_USER_AGENT],
            secure=request.tls is not None,
            clock=self._clock,
            ids=self._ids,
            writer=self._writer,
            _connection=connection,
            _after=exchange.after,
        )

    # ---- records and errors ------------------------------------------------------------------------------------

    def _record(self, exchange: Exchange, call: Call, result: Response | None) -> dict[str, Any]:
        service, model, operation = _found(exchange).service, _model(exchange), exchange.operation
        record = audit.event(service, operation, model, call, exchange.request)
        if operation is not None:
            audit.add_outcome(record, service, operation, model, exchange.values, result)
        return record

    def _refuse(self, exchange: Exchange, error: AwsError) -> HttpResponse:
        """Answer with the error, and record it where it is known who called what."""
        found = exchange.found
        protocol = found.protocol if found else guess_protocol(exchange.request)
        model = found.model if found else NO_MODEL
        known = model.exception(error.code)
        told = faults.translate(error, protocol)
        if known is not None and known.error_status and told.status == 400:  # noqa: PLR2004 - AwsError's default
            told.status = known.error_status
        elif known is not None and known.fault and told.status == 400:  # noqa: PLR2004
            told.status = 500
        if exchange.identity is not None and exchange.model is not None:
            record = self._record(exchange, self._call(exchange, None), None)
            audit.add_error(record, faults.recorded(told, model, protocol), str(told))
            self._behind.put(record)
        try:
            return protocol.fail(model, told, exchange.request_id)
        except UnknownMemberError:
            _LOG.exception("The error of request %s is not in the model.", exchange.request_id)
            told = faults.translate(_defect(exchange), protocol)
            return protocol.fail(model, told, exchange.request_id)


def _run_after(exchange: Exchange) -> None:
    """What was acknowledged stays so, whatever happens afterwards."""
    for work in exchange.after:
        try:
            work()
        except Exception:  # noqa: BLE001 - the last edge: logged
            _LOG.exception("What should follow request %s failed.", exchange.request_id)


def _found(exchange: Exchange) -> Found:
    assert exchange.found is not None  # noqa: S101 - _find_service is the first step
    return exchange.found


def _model(exchange: Exchange) -> OperationModel:
    assert exchange.model is not None  # noqa: S101 - _find_operation set it
    return exchange.model


def _respond(exchange: Exchange, result: Response | None) -> HttpResponse:
    found = _found(exchange)
    return found.protocol.respond(found.model, _model(exchange), result, exchange.request_id)


def _defect(exchange: Exchange) -> AwsError:
    """InternalFailure; once its operation is known, by the name that the service has for it."""
    own = exchange.found.service.failure if exchange.found and exchange.operation else ""
    return faults.defect(exchange.request_id, own)


def _denied(exchange: Exchange, error: AwsError) -> AwsError:
    """The authorizer's AccessDenied by the service's own name for it."""
    if error.code != "AccessDenied":
        return error
    found = _found(exchange)
    return AwsError(found.service.denied, str(error), 400 if found.protocol.exceptions else 403)


def _no_action(found: Found, name: str) -> AwsError:
    name = name[:128]
    if found.protocol.name == "ec2":
        return AwsError("InvalidAction", f"The action {name} is not valid for this web service.")
    return AwsError("InvalidAction", f"Could not find operation {name} for version {found.model.version}")
