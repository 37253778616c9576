"""Stopping without a lost request: what was let in is served to its end, what comes later goes to another replica."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus

import anyio
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentapi_mcp.web.mounts import Mount, Refusal

_REQUEST = "agentapi.request"  # scope key of the request that was let in
# Close: a client that keeps the connection would send its next request here too.
_REFUSAL = Refusal(
    status=HTTPStatus.SERVICE_UNAVAILABLE,
    message="This server is shutting down; send the request again in a moment.",
    headers={"retry-after": "1", "connection": "close"},
)


@dataclass(slots=True, eq=False)
class _Request:
    """A request that was let in; `refused` once the core had no room for it any more."""

    work: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    refused: bool = False


class Stopping:
    """Whether the server stops, and the requests that were let in and have no response yet."""

    def __init__(self) -> None:
        self._begun = False
        self._unanswered: set[_Request] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def begun(self) -> bool:
        """Whether the server stops."""
        return self._begun

    def begin(self) -> None:
        """Refuse new requests from now on."""
        self._begun = True

    async def wait_answered(self) -> None:
        """Wait until the response of every request that was let in has begun."""
        await self._idle.wait()

    def give_up(self) -> None:
        """Refuse the requests that still have no response, so that their clients send them to another replica."""
        for request in tuple(self._unanswered):
            request.work.cancel()

    @asynccontextmanager
    async def unanswered(self, request: _Request) -> AsyncGenerator[None]:
        """Count a request within the context, until `answer`."""
        self._unanswered.add(request)
        self._idle.clear()
        try:
            yield
        finally:
            self.answer(request)

    def answer(self, request: _Request) -> None:
        """Note that the response of a request begins."""
        self._unanswered.discard(request)
        if not self._unanswered:
            self._idle.set()


class Draining:
    """Middleware that answers 503 once the server stops, except to what concerns work in progress."""

    def __init__(self, app: ASGIApp, mount: Mount, stopping: Stopping) -> None:
        self._app = app
        self._mount = mount
        self._stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, whose body has been read already."""
        if self._stopping.begun and not self._mount.serves_while_stopping(scope):
            await self._refuse(scope, receive, send)
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, answered = _Request(), False

        async def answer(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                if self._is_late(request):
                    return
                answered = True
                self._stopping.answer(request)
                if self._stopping.begun:
                    MutableHeaders(scope=message)["connection"] = "close"
            if answered:
                await send(message)

        async with self._stopping.unanswered(request):
            with request.work:
                await self._app({**scope, _REQUEST: request}, receive, answer)
        if not answered and (request.work.cancelled_caught or self._is_late(request)):
            await self._refuse(scope, receive, send)

    def _is_late(self, request: _Request) -> bool:
        return request.refused and self._stopping.begun

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._mount.render(_REFUSAL)(scope, receive, send)


def note_no_room(scope: Mapping[str, object]) -> None:
    """Note that the core had no room for this request: a server that stops then answers it with 503.

    The client finds room at another replica, and an error within a 200 would be passed on as an answer.
    """
    request = scope.get(_REQUEST)
    if isinstance(request, _Request):
        request.refused = True
