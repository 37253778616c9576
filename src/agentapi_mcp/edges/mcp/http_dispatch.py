"""Dispatch of one JSON-RPC request over HTTP, answered by a JSON body or by an event stream."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio
from mcp.server.runner import modern_error_data
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import MCPError, NoBackChannelError
from mcp.shared.message import MessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp_types import (
    REQUEST_TIMEOUT,
    ErrorData,
    JSONRPCError,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    ProgressToken,
    RequestId,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from agentapi_mcp.web.requests import Head

Answer = JSONRPCResponse | JSONRPCError
Headers = list[tuple[bytes, bytes]]
# Takes a factory of the request by its id, a function that sends it, and a timeout; returns the client's result.
ClientRequester = Callable[
    [Callable[[str], JSONRPCRequest], Callable[[JSONRPCRequest], Awaitable[None]], float | None],
    Awaitable[dict[str, Any]],
]

# The code of the Language Server Protocol; MCP defines none for it.
REQUEST_CANCELLED = -32800
PING_SECONDS = 15.0
EVENT_STREAM: Headers = [
    (b"content-type", b"text/event-stream"),
    # no-transform: a proxy that compresses would hold events back. X-Accel-Buffering: nginx buffers by default.
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]
PING = b": ping\r\n\r\n"
_BUFFERED = 256
_MODERN_VERSIONS = frozenset(version.encode() for version in MODERN_PROTOCOL_VERSIONS)


@dataclass(eq=False)
class HttpDispatch:
    """The SDK's dispatch context of one request; notifications and requests to the client go into its response."""

    request_id: RequestId
    transport: TransportContext
    message_metadata: MessageMetadata
    progress_token: ProgressToken | None
    streams: bool
    request_client: ClientRequester | None = None
    cancel_requested: anyio.Event = field(default_factory=anyio.Event)
    events: asyncio.Queue[bytes | None] = field(default_factory=lambda: asyncio.Queue(_BUFFERED))
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    @property
    def can_send_request(self) -> bool:
        """Whether a request can be sent to the client within the response."""
        return self.request_client is not None and self.streams

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        """Send a request to the client within the response, which must be an event stream of an MCP session."""
        if self.request_client is None or not self.can_send_request:
            raise NoBackChannelError(method)

        def request(request_id: str) -> JSONRPCRequest:
            return JSONRPCRequest(jsonrpc="2.0", id=request_id, method=method, params=dict(params) if params else None)

        try:
            return await self.request_client(request, self._send, (opts or {}).get("timeout"))
        except MCPError as exc:
            if exc.error.code == REQUEST_TIMEOUT:
                await self.notify("notifications/cancelled", {**(exc.error.data or {}), "reason": exc.error.message})
            raise

    async def _send(self, request: JSONRPCRequest) -> None:
        # Waits for room, unlike a notification: a lost request would leave its sender waiting.
        await self.events.put(event_of(request))

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        """Send a notification; it is dropped if the client reads no event stream or falls behind."""
        del opts
        if self.streams and not self.events.full():
            notification = JSONRPCNotification(jsonrpc="2.0", method=method, params=dict(params) if params else None)
            self.events.put_nowait(event_of(notification))

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        """Send a progress notification, if the client gave a progress token."""
        if self.progress_token is None:
            return
        params: dict[str, Any] = {"progressToken": self.progress_token, "progress": progress}
        params |= {name: value for name, value in (("total", total), ("message", message)) if value is not None}
        await self.notify("notifications/progress", params)

    async def answer(self, work: Callable[[], Awaitable[dict[str, Any]]]) -> Answer:
        """Run the work and return its response; a cancelled request gets the error of a cancellation."""
        answer: Answer = JSONRPCError(
            jsonrpc="2.0",
            id=self.request_id,
            error=ErrorData(code=REQUEST_CANCELLED, message="The client took the request back."),
        )
        with self.scope:
            try:
                answer = JSONRPCResponse(jsonrpc="2.0", id=self.request_id, result=await work())
            except Exception as exc:  # noqa: BLE001  # the outermost point; the SDK logs unexpected errors
                answer = JSONRPCError(jsonrpc="2.0", id=self.request_id, error=modern_error_data(exc))
        return answer


@dataclass(frozen=True, slots=True)
class AsgiConnection:
    """The three arguments of an ASGI application."""

    scope: Scope
    receive: Receive
    send: Send

    async def gone(self) -> None:
        """Wait until the client closes the connection."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def write(self, body: bytes, *, more: bool = True) -> None:
        """Send a part of the body."""
        await self.send({"type": "http.response.body", "body": body, "more_body": more})

    async def reply(self, status: int, message: object = None, headers: Headers | None = None) -> None:
        """Send a whole response."""
        content = b"" if message is None else json.dumps(message, separators=(",", ":")).encode()
        response = Response(content, status, media_type=None if message is None else "application/json")
        response.raw_headers.extend(headers or [])
        await response(self.scope, self.receive, self.send)

    async def refuse(self, status: int, code: int, message: str, headers: Headers | None = None) -> None:
        """Respond with a JSON-RPC error with a null id."""
        error = {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": message}}
        await self.reply(status, error, headers)


def is_modern(head: Head) -> bool:
    """Return whether a request is of the 2026 era, which the SDK serves."""
    # 2025-era clients send no version with `initialize`, and the negotiated one afterwards.
    return head.first.get(b"mcp-protocol-version") in _MODERN_VERSIONS


def event_of(message: Answer | JSONRPCNotification | JSONRPCRequest) -> bytes:
    """Encode a message as one server-sent event."""
    return b"event: message\r\ndata: " + json.dumps(_plain(message), separators=(",", ":")).encode() + b"\r\n\r\n"


async def respond(
    wire: AsgiConnection,
    exchange: HttpDispatch,
    work: Callable[[], Awaitable[dict[str, Any]]],
    headers: Callable[[Answer], Awaitable[Headers]],
) -> None:
    """Run the work and send its response; cancel it if the client disconnects."""
    answers: list[Answer] = []

    async def handle() -> None:
        answers.append(await exchange.answer(work))
        await exchange.events.put(None)

    async def watch(scope: anyio.CancelScope) -> None:
        await wire.gone()
        scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(handle)
        group.start_soon(watch, group.cancel_scope)
        # The first event opens the stream; without one, a single JSON body is enough.
        event = await _next(exchange) if exchange.streams else await exchange.events.get()
        if event is None:
            await wire.reply(200, _plain(answers[0]), await headers(answers[0]))
        else:
            await wire.send({"type": "http.response.start", "status": 200, "headers": EVENT_STREAM})
            while event is not None:
                await wire.write(event)
                event = await _next(exchange)
            await wire.write(event_of(answers[0]), more=False)
        # Ends `watch`, which waits for a disconnect.
        group.cancel_scope.cancel()


async def _next(exchange: HttpDispatch) -> bytes | None:
    """Return the next event, a ping after a while without one, or None at the end."""
    with anyio.move_on_after(PING_SECONDS):
        return await exchange.events.get()
    return PING


def _plain(message: Answer | JSONRPCNotification | JSONRPCRequest) -> dict[str, Any]:
    return message.model_dump(mode="json", by_alias=True, exclude_none=True)
