"""The ASGI applications: AWS's port, and the management socket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from hsmsim.errors import AwsError, HsmsimError
from hsmsim.gateway.codec.wire import HttpRequest, HttpResponse, join_headers
from hsmsim.gateway.crowd import Bodies
from hsmsim.gateway.http import TLS

if TYPE_CHECKING:
    from hsmsim.gateway.pipeline import Pipeline
    from hsmsim.gateway.ports import Route

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

HEALTH: Final = "/_hsmsim/health"
MAX_BODY: Final = 2 << 20
"""Above every limit of the services here (the largest is a form with a policy); object storage will stream."""
MAX_BODIES: Final = 64 << 20
"""Of all clients at once, without those that are small."""
BODY_TIMEOUT_S: Final = 20.0
_SMALL: Final = 64 << 10
_LOG: Final = logging.getLogger("hsmsim.gateway")
_CLOSE: Final = ("Connection", "close")


class TooLargeError(Exception):
    """The body is larger than MAX_BODY."""


class GoneError(Exception):
    """The client left, or sent its body too slowly."""


class AwsApp:
    """What answers on the port that clients of AWS use."""

    def __init__(self, pipeline: Pipeline, version: str) -> None:
        self._pipeline = pipeline
        self._bodies = Bodies(MAX_BODIES, _SMALL)
        self._health = msgspec.json.encode({"status": "ok", "version": version})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["path"] == HEALTH:
            await _send(send, HttpResponse(200, [("Content-Type", "application/json")], self._health))
            return
        client, headers = scope["client"], join_headers(scope["headers"])
        request = HttpRequest(
            scope["method"],
            scope["raw_path"].decode("latin-1"),
            scope["query_string"].decode("latin-1"),
            headers,
            b"",
            client[0] if client else "",
            scope["state"].get(TLS),
        )
        try:
            request.body = await _body(headers, receive, self._bodies)
        except TooLargeError:
            error = AwsError("RequestEntityTooLarge", f"The body is larger than {MAX_BODY} bytes.", 413)
            answer = self._pipeline.refuse(request, error)
            answer.headers.append(_CLOSE)
        except GoneError:
            answer = HttpResponse(408, [_CLOSE])
        else:
            answer = await self._pipeline.handle(request)
        await _send(send, answer)


async def _body(headers: Mapping[str, str], receive: Receive, bodies: Bodies) -> bytes:
    announced = headers.get("content-length", "0")
    if announced.isdigit() and int(announced[:20]) > MAX_BODY:
        raise TooLargeError
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S) as limit:
            with bodies.coming(limit):
                return await _parts(receive, lambda size: bodies.grown(limit, size))
    except TimeoutError as error:
        raise GoneError from error


async def _parts(receive: Receive, grown: Callable[[int], None]) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise GoneError
        parts.append(message["body"])
        size += len(message["body"])
        if size > MAX_BODY:
            raise TooLargeError
        grown(size)
        if not message["more_body"]:
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def _send(send: Send, answer: HttpResponse) -> None:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    headers.append((b"content-length", b"%d" % len(answer.body)))
    start = {"type": "http.response.start", "status": answer.status, "headers": headers}
    body = {"type": "http.response.body", "body": answer.body}
    await send(start)
    await send(body)


class ManagementApp:
    """What answers on the management socket: JSON in, JSON out. Who may open the socket may do all."""

    def __init__(self, routes: Mapping[tuple[str, str], Route], version: str) -> None:
        self._bodies = Bodies(MAX_BODIES, _SMALL)
        self._routes = {("GET", HEALTH): lambda _: {"status": "ok", "version": version}, **routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one call."""
        try:
            body = await _body(join_headers(scope["headers"]), receive, self._bodies)
        except (TooLargeError, GoneError):
            await _send(send, HttpResponse(400, [_CLOSE]))
            return
        status, answer = await asyncio.to_thread(self._call, scope["method"], scope["path"], body)
        await _send(send, HttpResponse(status, [("Content-Type", "application/json")], msgspec.json.encode(answer)))

    def _call(self, method: str, path: str, body: bytes) -> tuple[int, Mapping[str, Any]]:
        route = self._routes.get((method, path))
        if route is None:
            return 404, {"error": f"The gateway has no {method} {path}; it is another version than the command."}
        try:
            members = msgspec.json.decode(body, type=dict[str, Any]) if body else {}
            return 200, route(members)
        except msgspec.DecodeError as error:
            return 400, {"error": f"The body is no JSON object: {error}."}
        except HsmsimError as error:
            return 400, {"error": str(error)}
        except Exception:  # noqa: BLE001 - the last edge
            _LOG.exception("%s %s failed.", method, path)
            return 500, {"error": "The gateway failed; its log says why."}
