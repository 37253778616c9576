"""Stopping without a lost request: what was let in is served to its end, what comes later goes to another replica."""

import asyncio
from collections.abc import Mapping
from http import HTTPStatus

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


class _Request:
    """A request that was let in: `refused` once the core had no room for it, `answered` once its response began."""

    __slots__ = ("_cancelling", "_task", "answered", "given_up", "refused")

    def __init__(self) -> None:
        self.refused = self.answered = self.given_up = False
        self._task = asyncio.current_task()
        self._cancelling = 0 if self._task is None else self._task.cancelling()

    def give_up(self) -> None:
        """Cancel its work, once."""
        if self._task is not None and not self.given_up:
            self.given_up = True
            self._task.cancel()

    def has_ended(self) -> bool:
        """Take back the cancellation; return whether it was that alone which ended the work."""
        return self.given_up and self._task is not None and self._task.uncancel() <= self._cancelling


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
            request.give_up()

    def let_in(self, request: _Request) -> None:
        """Count a request until `answer`."""
        self._unanswered.add(request)
        self._idle.clear()

    def answer(self, request: _Request) -> None:
        """Note that the response of a request begins, or that it has ended without one."""
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
        request = _Request()

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start" and not self._is_late(request):
                self._begin_response(request, message)
            if request.answered:
                await send(message)

        scope[_REQUEST] = request
        self._stopping.let_in(request)
        try:
            await self._app(scope, receive, answer)
        except asyncio.CancelledError:
            if not request.has_ended():
                raise
        finally:
            self._stopping.answer(request)
        if not request.answered and (request.given_up or self._is_late(request)):
            await self._refuse(scope, receive, send)

    def _begin_response(self, request: _Request, message: Message) -> None:
        request.answered = True
        self._stopping.answer(request)
        if self._stopping.begun:
            MutableHeaders(scope=message)["connection"] = "close"

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
