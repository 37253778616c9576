"""Read a reply as an answer: as a stream of events or as JSON, whichever it is, whatever its content type says."""

import re
from codecs import BOM_UTF8
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager
from itertools import chain
from typing import Protocol

from typing_extensions import override

from agentapi_mcp.backends.wire.answers import Answer
from agentapi_mcp.backends.wire.fields import charset_of, decoded_body, parse_documents
from agentapi_mcp.backends.wire.http import Reply
from agentapi_mcp.backends.wire.sse import EventParser
from agentapi_mcp.base.errors import BackendError, BackendFault
from agentapi_mcp.core.backends.events import BackendEvent

# Seconds that a whole answer waits for the mark of its end; and for its bill too, which the mark follows.
_PATIENCE, _PATIENCE_FOR_BILL = 1.0, 2.0
_OF_THE_CONNECTION = frozenset({BackendFault.STREAM_CUT, BackendFault.TIMEOUT_IDLE, BackendFault.TIMEOUT_TOTAL})
_EVENT = re.compile(rb"(?:data|event|id|retry)?:")
_LONGEST_FIELD = 6  # bytes, with the colon
_MOST_TRIES = 8  # to read a JSON document as it comes: each costs the time to parse it


class Reader(Protocol):
    """What makes events of an answer from the bytes of its body."""

    def feed(self, chunk: bytes) -> Iterator[BackendEvent]:
        """Read what comes next."""
        ...

    def last(self, rest: bytes, broken: BackendError | None) -> Iterator[BackendEvent]:
        """Read what is left at the end, which is where a connection broke, or regular."""
        ...


@asynccontextmanager
async def open_answer(reply: Reply, answer: Answer) -> AsyncGenerator[AsyncIterator[BackendEvent]]:
    """Yield the events of a successful reply, which raise BackendError if there is no complete answer."""
    charset = charset_of(reply.headers.get("content-type", ""))
    async with aclosing(reply.chunks()) as chunks:
        begun = b"" if reply.is_event_stream else await _beginning(chunks)
        is_stream = reply.is_event_stream or _EVENT.match(begun)
        reader = _Frames(answer, charset) if is_stream else _Documents(answer, charset)
        async with aclosing(_events(reply, answer, reader, begun, chunks)) as events:
            yield events


async def _beginning(chunks: AsyncIterator[bytes]) -> bytes:
    """Return the beginning of a body, before which white space may be sent as a sign of life."""
    begun = b""
    async for chunk in chunks:
        begun = (begun + chunk).removeprefix(BOM_UTF8).lstrip()
        if len(begun) >= _LONGEST_FIELD:
            break
    return begun


async def _events(
    reply: Reply, answer: Answer, reader: Reader, begun: bytes, chunks: AsyncIterator[bytes]
) -> AsyncGenerator[BackendEvent]:
    broken: BackendError | None = None
    chunk: bytes | None = begun
    is_ending = False
    try:
        while chunk is not None:
            for event in reader.feed(chunk):
                yield event
            if answer.is_ending or is_ending:
                is_ending = _limit(reply, answer)
            chunk = None if answer.is_over else await anext(chunks, None)
    except BackendError as error:
        if error.fault not in _OF_THE_CONNECTION:
            answer.fail(error)
        broken = error
    # The bill may come after the mark of the end, and the connection can be used again once all was read.
    rest = await reply.drain() if answer.is_over else b""
    for event in reader.last(rest, broken):
        yield event
    for event in _ended(answer, broken, reply.headers):
        yield event


def _limit(reply: Reply, answer: Answer) -> bool:
    """Wait a moment for the rest of an answer that is ending, and as long as ever for one that has gone on."""
    patience = _PATIENCE if answer.is_billed else _PATIENCE_FOR_BILL
    reply.end_within(patience if answer.is_ending else None)
    return answer.is_ending


def _ended(answer: Answer, broken: BackendError | None, headers: Mapping[str, str]) -> Iterator[BackendEvent]:
    if broken is not None and not (answer.is_whole or answer.is_over):
        raise broken
    yield from answer.end(next((found for name in answer.id_headers if (found := headers.get(name))), None))


class _Frames(Reader):
    """A stream of events."""

    def __init__(self, answer: Answer, charset: str | None) -> None:
        self._answer = answer
        self._parser = EventParser(charset)

    @override
    def feed(self, chunk: bytes) -> Iterator[BackendEvent]:
        return chain.from_iterable(map(self._answer.frame, self._parser.feed(chunk)))

    @override
    def last(self, rest: bytes, broken: BackendError | None) -> Iterator[BackendEvent]:
        yield from self.feed(rest)
        for piece in self._parser.flush():
            yield from self._answer.frame(piece)


class _Documents(Reader):
    """JSON, whose end is that of the answer also if the connection is then kept open, or breaks."""

    def __init__(self, answer: Answer, charset: str | None) -> None:
        self._answer = answer
        self._charset = charset
        self._body = bytearray()
        self._tries = _MOST_TRIES
        answer.expect_message()

    @override
    def feed(self, chunk: bytes) -> Iterator[BackendEvent]:
        self._body += chunk
        if not self._tries or not chunk.rstrip().endswith((b"}", b"]")):
            return
        self._tries -= 1
        try:
            documents, is_all = self._parsed()
        except BackendError:
            return  # it is not all
        if is_all:
            self._body.clear()
            self._tries = _MOST_TRIES
            yield from self._answer.parts(documents)

    @override
    def last(self, rest: bytes, broken: BackendError | None) -> Iterator[BackendEvent]:
        if not self._body.strip():
            return
        try:
            documents, is_all = self._parsed()
        except BackendError as error:
            text = decoded_body(bytes(self._body), self._charset)
            self._answer.fail(broken or self._answer.unread(text, error))
            return
        yield from self._answer.parts(documents)
        if not is_all:
            unread = BackendError(BackendFault.BAD_REPLY, "What follows the provider's reply is not JSON.")
            self._answer.fail(broken or unread)

    def _parsed(self) -> tuple[list[object], bool]:
        return parse_documents(decoded_body(bytes(self._body), self._charset), what="The provider's reply")
