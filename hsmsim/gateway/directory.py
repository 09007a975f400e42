"""Which service a request is for, and which protocol it speaks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from hsmsim.errors import AwsError
from hsmsim.gateway import sigv4
from hsmsim.gateway.codec import model as models
from hsmsim.gateway.codec import protocols, query

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from hsmsim.gateway.codec.model import ServiceModel
    from hsmsim.gateway.codec.protocols import Protocol
    from hsmsim.gateway.codec.wire import HttpRequest
    from hsmsim.services.kernel import Service

_CBOR: Final = "rpc-v2-cbor"
_FORMS: Final = ("query", "ec2", "rest-xml")
NO_MODEL: Final = models.ServiceModel(
    "", {"metadata": {"protocol": "query", "apiVersion": "", "endpointPrefix": ""}, "operations": {}, "shapes": {}}
)


@dataclass(frozen=True, slots=True)
class Found:
    """A service, its model, and the protocol of the request."""

    service: Service
    model: ServiceModel
    protocol: Protocol


class Directory:
    """The services that the gateway has."""

    def __init__(self, services: Iterable[Service]) -> None:
        self._services = tuple(services)
        self._by_signing: dict[str, list[Service]] = {}
        for service in self._services:
            self._by_signing.setdefault(service.signing, []).append(service)

    def find(self, request: HttpRequest) -> Found:
        """The service that the signature's scope names.

        X-Amz-Target, path, version and host tell those apart that share a name, and find the service of a request that
        is not signed.
        """
        scope = sigv4.scope_of(request)
        candidates = self._services if scope is None else self._by_signing.get(scope[1], ())
        if scope is not None and not candidates:
            raise AwsError(
                "NotImplemented",
                f"hsmsim has no service that signs as {scope[1][:64]!r}. It has: {', '.join(self._by_signing)}.",
                501,
            )
        service = candidates[0] if len(candidates) == 1 else _choose(candidates, request)
        if service is None:
            if scope is None:
                raise AwsError("MissingAuthenticationToken", "Request is missing Authentication Token", 403)
            raise AwsError("InvalidAction", "The request names no operation of a service that hsmsim has.")
        model = models.load(service.model)
        return Found(service, model, _protocol_of(model, request))


def guess_protocol(request: HttpRequest) -> Protocol:
    """The protocol that an error is written in where no service was found."""
    if request.headers.get("smithy-protocol") == _CBOR:
        return protocols.CBOR
    return protocols.JSON if "x-amz-target" in request.headers else protocols.QUERY


def _protocol_of(model: ServiceModel, request: HttpRequest) -> Protocol:
    guessed = guess_protocol(request)
    if guessed is protocols.QUERY:
        # A service that has no such protocol answers in its own that the request names no operation.
        return protocols.ALL[next((name for name in model.protocols if name in _FORMS), model.protocols[-1])]
    if guessed.name not in model.protocols:
        raise AwsError("InvalidAction", f"{model.name} does not speak {guessed.name}.")
    return guessed


def _choose(candidates: Sequence[Service], request: HttpRequest) -> Service | None:
    if request.headers.get("smithy-protocol") == _CBOR:
        named = request.path.removeprefix("/service/").partition("/")[0]
        return _first(candidates, lambda model: model.target == named)
    target = request.headers.get("x-amz-target")
    if target is not None:
        prefix = target.rpartition(".")[0]
        return _first(candidates, lambda model: model.target == prefix)
    if request.method == "POST" or "Action=" in request.query:
        version = dict(query.form_of(request)).get(query.VERSION)
        found = _first(candidates, lambda model: model.version == version) if version else None
        if found is not None:
            return found
    host = request.headers.get("host", "").partition(".")[0]
    return _first(candidates, lambda model: model.endpoint == host)


def _first(candidates: Sequence[Service], fits: Callable[[ServiceModel], bool]) -> Service | None:
    return next((service for service in candidates if fits(models.load(service.model))), None)
