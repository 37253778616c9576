"""What is noted once a response has arrived: its last byte was handed to a connection on which no end had been seen."""

import json
import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

from anyio import AsyncFile
from starlette.types import ASGIApp, Message, Receive, Scope, Send

Notes = list[Callable[[], None]]
# Tells what stands between that a response comes next, and with which function to say that the client has it.
Announce = Callable[[Callable[[], None]], None]
# Of the request that is being served; the tasks that serve it share the list.
_waiting: ContextVar[Notes | None] = ContextVar("waiting_for_delivery", default=None)
# The line of a response, as the SDK writes it: its id is the second member.
RESPONSE = re.compile(r'\{"jsonrpc":"2\.0","id":("(?:[^"\\]|\\.)*"|-?\d+),"(?:result|error)":')


def after_response(note: Callable[[], None]) -> None:
    """Call a function once the response to this request has arrived; over SSE, whose responses go another way, now."""
    waiting = _waiting.get()
    if waiting is None:
        note()
    else:
        waiting.append(note)


@contextmanager
def no_response() -> Generator[None]:
    """Let nothing be noted: what is told within is no response, and the one that it belongs to comes much later."""
    token = _waiting.set([])
    try:
        yield
    finally:
        _waiting.reset(token)


def response_id(line: str) -> object:
    """Return the id of the request that a line of the SDK's answers; None if it is no response."""
    found = RESPONSE.match(line)
    return None if found is None else json.loads(found[1])


class PipeDeliveries:
    """The pipe of one client over stdio: it tells which of the responses were handed over whole.

    Without somebody in between to whom they are announced, a response that was flushed has arrived: it is in the pipe
    that the client reads.
    """

    def __init__(self, pipe: AsyncFile[str], has_ended: Callable[[], bool], announce: Announce | None) -> None:
        self._pipe = pipe
        self._has_ended = has_ended
        self._announce = announce
        self._notes: dict[object, Notes] = {}
        self._written: Notes = []

    @contextmanager
    def of(self, request_id: object) -> Generator[None]:
        """Keep what waits for the response to a request; its errors note nothing."""
        waiting: Notes = []
        token = _waiting.set(waiting)
        self._notes[request_id] = waiting
        try:
            yield
        except BaseException:
            waiting.clear()
            raise
        finally:
            _waiting.reset(token)
            if not waiting:  # a client may use an id twice at once
                self._notes.pop(request_id, None)

    async def write(self, line: str, /) -> object:
        """Write a line."""
        notes = self._notes.pop(response_id(line), []) if self._notes else []
        if notes and self._announce is not None:
            self._announce(partial(self._note, notes))
        else:
            self._written += notes
        return await self._pipe.write(line)

    async def flush(self) -> None:
        """Hand the line to the reader's pipe, which waits while the pipe is full."""
        await self._pipe.flush()
        notes, self._written = self._written, []
        self._note(notes)

    def _note(self, notes: Notes) -> None:
        if not self._has_ended():
            for note in notes:
                note()


class Deliveries:
    """An ASGI application that tells which of its responses have arrived."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        waiting: Notes = []
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
