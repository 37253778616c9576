"""What is noted once a response has arrived: its last byte was handed to a connection on which no end had been seen."""

from collections.abc import Callable
from contextvars import ContextVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Of the HTTP request that is being served; the tasks that serve it share the list.
_waiting: ContextVar[list[Callable[[], None]] | None] = ContextVar("waiting_for_delivery", default=None)


def after_response(note: Callable[[], None]) -> None:
    """Call a function once the response to this request has arrived; over stdio, whose pipe takes it at once, now."""
    waiting = _waiting.get()
    if waiting is None:
        note()
    else:
        waiting.append(note)


class Deliveries:
    """An ASGI application that tells which of its responses have arrived."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        waiting: list[Callable[[], None]] = []
        is_gone = False

        async def watched() -> Message:
            nonlocal is_gone
            message = await receive()
            is_gone = is_gone or message["type"] == "http.disconnect"
            return message

        async def sent(message: Message) -> None:
            await send(message)
            is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if is_last and not is_gone:
                while waiting:
                    waiting.pop()()

        token = _waiting.set(waiting)
        try:
            await self._app(scope, watched, sent)
        finally:
            _waiting.reset(token)
