"""The Open Inference Protocol v2 over gRPC: what ``routes`` is for HTTP, on the same models, checks and limits."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from service.errors import NotReady, Overloaded, ServiceError, StartupError, StoreUnavailable
from service.names import checked_name
from service.problems import CLIENT_GONE, STATUS
from service.protocol.messages import MESSAGES, METHODS, Message, parsed
from service.protocol.models import Models, reference_of
from service.protocol.scoring import Inferred
from service.scoring.callers import Caller

log = logging.getLogger(__name__)

SERVICE = "inference.GRPCInferenceService"
TIMING = "server-timing"  # trailing metadata of an answer, as the header of HTTP
OTHER_LIMIT = 2**16  # bytes of a request that is not ModelInfer
SMALL = 2**16  # bytes of a message without its binary data that are parsed at once, and not by a thread
FRAME = 2**16  # bytes that a message may take beyond the largest body
LONGEST_DETAIL = 1000  # characters of an error, which travels in a header
CALLS = 1000  # at a time, whatever they ask for; more are refused unread
IDLE_SECONDS = 300  # after which a connection without calls is closed
PING_SECONDS = 20  # after which a silent client is asked whether it still is there, and given as long to answer

CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT, 401: grpc.StatusCode.UNAUTHENTICATED, 403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND, 409: grpc.StatusCode.FAILED_PRECONDITION, 413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    415: grpc.StatusCode.INVALID_ARGUMENT, 422: grpc.StatusCode.INVALID_ARGUMENT, 429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    CLIENT_GONE: grpc.StatusCode.CANCELLED, 500: grpc.StatusCode.INTERNAL, 501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE, 504: grpc.StatusCode.DEADLINE_EXCEEDED, 507: grpc.StatusCode.RESOURCE_EXHAUSTED,
}  # fmt: skip  # what a status of HTTP is in gRPC

Answered = Awaitable[bytes]


class Calls(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Answers the protocol's methods. They take and give bytes: nothing is parsed before its size has been looked at."""

    def __init__(self, models: Models) -> None:
        self._models, self._parts = models, models.parts
        self._held = 0  # bytes of the requests to infer that are being answered
        self._answers: dict[str, Callable[..., Answered]] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ServerMetadata": self._server,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._metadata,
            "ModelStatistics": self._statistics,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }

    def service(self, call: Any) -> Any:
        """The handler of a call, as grpc asks for it; None where there is no such method."""
        service, _, method = call.method.strip("/").partition("/")
        if service != SERVICE or method not in METHODS:
            return None

        async def handler(data: bytes, context: Any) -> bytes:
            return await self._answered(method, data, context)

        return grpc.unary_unary_rpc_method_handler(handler)

    async def _answered(self, method: str, data: bytes, context: Any) -> bytes:
        """The answer to a call, counted by method and by the status that HTTP has for it; or the refusal, as gRPC has it."""
        start, status, detail = time.perf_counter(), 500, "the service failed on this request; its log has the details"
        try:
            answer = await (self._infer(data, context) if method == "ModelInfer" else self._other(method, data))
            status = 200
            return answer
        except asyncio.CancelledError:
            status = CLIENT_GONE
            raise
        except ServiceError as error:
            status, detail = STATUS[type(error)][0], str(error)
            if isinstance(error, StoreUnavailable):
                self._parts.metrics.store_error()
                log.warning("%s", error)
                detail = error.public
        except Exception:
            log.exception("unexpected error on %s", method)
        finally:
            self._parts.metrics.request(f"/{SERVICE}/{method}", status, time.perf_counter() - start)
        await context.abort(CODES[status], detail.encode("ascii", "backslashreplace").decode()[:LONGEST_DETAIL])
        raise AssertionError(method)  # abort raises

    async def _other(self, method: str, data: bytes) -> bytes:
        return await self._answers[method](parsed(METHODS[method].input_type.name, data, OTHER_LIMIT))

    async def _infer(self, data: bytes, context: Any) -> bytes:
        """Cancelled when the client leaves or its deadline passes: work that waits is dropped, work that runs is let run out."""
        self._held += len(data)
        since, gone = time.monotonic(), asyncio.Event()
        try:
            if self._held > self._parts.settings.max_held_bytes and self._held > len(data):
                raise Overloaded("too much is being sent at the same time; try again in a moment")
            work = asyncio.ensure_future(self._scored(data, Caller(_receiving(gone), _deadline(context)), since))
            inferred = await asyncio.shield(work)
            context.set_trailing_metadata(((TIMING, inferred.timing()),))
            return inferred.answer
        finally:
            gone.set()
            self._held -= len(data)

    async def _scored(self, data: bytes, caller: Caller, since: float) -> Inferred[bytes]:
        limit = self._parts.settings.max_json_bytes
        message = Message(data, limit) if len(data) <= SMALL else await self._parts.gate.run(Message, data, limit, caller=caller)
        loaded = await self._models.loaded(checked_name(message.name), reference_of(message.version))
        return await self._models.infer(loaded, message, caller, since)

    async def _live(self, _request: Any) -> bytes:
        return _encoded("ServerLiveResponse", live=True)

    async def _ready(self, _request: Any) -> bytes:
        try:
            self._models.check_ready()
        except NotReady:
            return _encoded("ServerReadyResponse", ready=False)
        return _encoded("ServerReadyResponse", ready=True)

    async def _server(self, _request: Any) -> bytes:
        return _encoded("ServerMetadataResponse", **self._models.server().model_dump())

    async def _model_ready(self, request: Any) -> bytes:
        try:
            found = await self._models.readiness(checked_name(request.name), reference_of(request.version))
        except NotReady:
            return _encoded("ModelReadyResponse", ready=False)
        return _encoded("ModelReadyResponse", ready=found.ready)

    async def _metadata(self, request: Any) -> bytes:
        found = await self._models.metadata(checked_name(request.name), reference_of(request.version))
        return _encoded("ModelMetadataResponse", **found.model_dump(exclude={"properties"}))

    async def _statistics(self, request: Any) -> bytes:
        name = checked_name(request.name) if request.name else None
        found = (await self._models.statistics(name, reference_of(request.version))).model_dump()
        for item in found["model_stats"]:
            del item["batch_stats"]
        return _encoded("ModelStatisticsResponse", **found)

    async def _index(self, request: Any) -> bytes:
        entries = await self._models.index(only_ready=request.ready)
        return _encoded("RepositoryIndexResponse", models=[entry.model_dump() for entry in entries])

    async def _load(self, request: Any) -> bytes:
        await self._models.load(checked_name(request.model_name), set(request.parameters))
        return _encoded("RepositoryModelLoadResponse")

    async def _unload(self, request: Any) -> bytes:
        await self._models.unload(checked_name(request.model_name), set(request.parameters))
        return _encoded("RepositoryModelUnloadResponse")


def listen(models: Models, host: str, port: int) -> tuple[grpc.aio.Server, int]:
    """A server on ``port``, still to be started, and the port, which may be given as 0. Raises StartupError where it is taken."""
    options = {
        "grpc.so_reuseport": int(models.parts.settings.workers > 1),  # else two services on one port would share its connections unseen
        "grpc.max_receive_message_length": min(models.parts.settings.max_body_bytes + FRAME, 2**31 - 1),
        "grpc.max_send_message_length": -1,
        "grpc.max_connection_idle_ms": 1000 * IDLE_SECONDS,
        "grpc.keepalive_time_ms": 1000 * PING_SECONDS,
        "grpc.keepalive_timeout_ms": 1000 * PING_SECONDS,
    }
    server = grpc.aio.server(options=tuple(options.items()), maximum_concurrent_rpcs=CALLS)
    server.add_generic_rpc_handlers((Calls(models),))
    try:
        return server, server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    except RuntimeError:
        raise StartupError(
            f"cannot listen for gRPC on {host}, port {port}: choose another with --grpc-port, or 0 for any free one"
        ) from None


def _deadline(context: Any) -> float:
    remaining = context.time_remaining()
    return math.inf if remaining is None else time.monotonic() + remaining


def _receiving(gone: asyncio.Event) -> Callable[[], Awaitable[dict[str, str]]]:
    """What ``Caller`` waits for to learn that the client has left."""

    async def receive() -> dict[str, str]:
        await gone.wait()
        return {"type": "http.disconnect"}

    return receive


def _encoded(name: str, /, **fields: Any) -> bytes:
    encoded: bytes = MESSAGES[name](**fields).SerializeToString()
    return encoded
