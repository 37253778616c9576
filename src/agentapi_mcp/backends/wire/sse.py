"""Parser for server-sent events that also reports comments, since providers send them as keep-alive.

`httpx2.EventSource` drops comments, and gives no access to the raw bytes.
"""

import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass

from agentapi_mcp.base.errors import BackendError, BackendFault

LARGEST_EVENT = 8 * 1024 * 1024  # bytes, far above a model's longest answer in one event

_NEWLINE = re.compile(rb"\r\n|\n|\r(?!\Z)")  # a trailing CR may be the first half of CRLF
_ENDS_A_LINE = re.compile(rb"[\r\n]")


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One event of a stream."""

    data: str
    name: str = "message"


@dataclass(frozen=True, slots=True)
class StreamComment:
    """A comment, which serves as keep-alive."""


class EventParser:
    """Incremental parser of one stream."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._begun = False
        self._name = ""
        self._data: list[str] = []
        self._size = 0

    def feed(self, chunk: bytes) -> Iterator[StreamEvent | StreamComment]:
        """Parse the next bytes and return the completed events.

        Raises:
            BackendError: BAD_REPLY, when one event exceeds the limit.
        """
        if self._rest.endswith(b"\r") or _ENDS_A_LINE.search(chunk):
            *lines, rest = _NEWLINE.split(bytes(self._rest) + chunk)
            self._rest = bytearray(rest)
            for line in lines:
                yield from self._line(line)
        else:  # avoids rescanning a line that arrives byte by byte, which would be quadratic
            self._rest += chunk
        self._bound(len(self._rest))

    def flush(self) -> Iterator[StreamEvent | StreamComment]:
        """Return the event completed by the end of the stream; an incomplete line is dropped."""
        if self._rest.endswith(b"\r"):
            yield from self._line(bytes(self._rest[:-1]))
        yield from self._dispatch()

    def _line(self, line: bytes) -> Iterator[StreamEvent | StreamComment]:
        if not self._begun:
            self._begun, line = True, line.removeprefix(BOM_UTF8)
        if not line:
            yield from self._dispatch()
        elif line.startswith(b":"):
            yield StreamComment()
        else:
            self._size += len(line)
            self._bound(0)
            self._field(line.decode("utf-8", errors="replace"))

    def _field(self, line: str) -> None:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._name = value

    def _dispatch(self) -> Iterator[StreamEvent]:
        data, name = self._data, self._name
        self._data, self._name, self._size = [], "", 0
        if data:
            yield StreamEvent("\n".join(data), name or "message")

    def _bound(self, pending: int) -> None:
        if self._size + pending > LARGEST_EVENT:
            raise BackendError(BackendFault.BAD_REPLY, "The provider sent an event that is too large.")
