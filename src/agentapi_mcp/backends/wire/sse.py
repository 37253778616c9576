"""Parser for server-sent events that also reports comments, since providers send them as keep-alive.

`httpx2.EventSource` drops comments, and gives no access to the raw bytes.
"""

import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass

from agentapi_mcp.base.errors import BackendError, BackendFault

LARGEST_EVENT = 16 * 1024 * 1024  # bytes, far above a model's longest answer in one event
_COST_OF_A_LINE = 64  # bytes that Python needs for it beside its text

_NEWLINE = re.compile(rb"\r\n|\n|\r(?!\Z)")  # a trailing CR may be the first half of CRLF
_ENDS_A_LINE = re.compile(rb"[\r\n]")


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One event of a stream.

    Its data is `certain` unless it was not named as data, or its line has no end: if that cannot be read, it is none.
    """

    data: str
    name: str = "message"
    certain: bool = True


@dataclass(frozen=True, slots=True)
class StreamComment:
    """A comment, which serves as keep-alive."""


class EventParser:
    """Incremental parser of one stream, which also reads JSON that servers send without the frame of an event.

    - JSON documents on successive lines of data are events of their own, even if no blank line parts them.
    - Lines of JSON that are named by no field are data.
    - What is not UTF-8 is read in the charset, which is that of the content type.
    """

    def __init__(self, charset: str | None = None) -> None:
        self._charset = charset or "utf-8"
        self._rest = bytearray()
        self._begun = False
        self._name = self._next_name = ""
        self._data: list[str] = []
        self._unnamed: list[str] = []
        self._certain = True
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
        """Return the event that the end of the stream completes, also within a line, which may be cut or not."""
        rest = bytes(self._rest)
        if rest:
            self._rest.clear()
            self._certain = rest.endswith(b"\r")
            yield from self._line(rest.removesuffix(b"\r"))
        yield from self._dispatch()

    def _line(self, line: bytes) -> Iterator[StreamEvent | StreamComment]:
        if not self._begun:
            self._begun, line = True, line.removeprefix(BOM_UTF8)
        if not line:
            yield from self._dispatch()
        elif line.startswith(b":"):
            yield StreamComment()
        else:
            self._size += len(line) + _COST_OF_A_LINE
            self._bound(0)
            try:
                text = line.decode()
            except UnicodeDecodeError:
                text = line.decode(self._charset, errors="replace")
            if text.startswith("data:") and not self._data and not self._unnamed:
                self._data.append(text[5:].removeprefix(" "))
            else:
                yield from self._field(text)

    def _field(self, line: str) -> Iterator[StreamEvent]:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            if self._unnamed or (self._data and _part_two_documents(self._data[-1], value)):
                following, self._next_name = self._next_name, ""
                yield from self._dispatch()
                self._name = following
            self._data.append(value)
        elif field == "event":
            # It names the event of the data before it, unless more data shows that no blank line parted the two.
            if self._data:
                self._next_name = value
            else:
                self._name = value
        elif self._unnamed or line.lstrip().startswith(("{", "[")):
            self._unnamed.append(line)
            if len(self._unnamed) == 1 and not self._data and line.rstrip().endswith(("}", "]")):
                yield from self._dispatch()

    def _dispatch(self) -> Iterator[StreamEvent]:
        data, unnamed, name, certain = self._data, self._unnamed, self._next_name or self._name, self._certain
        self._data, self._unnamed, self._name, self._next_name, self._size = [], [], "", "", 0
        if data:
            yield StreamEvent("\n".join(data), name or "message", certain)
        if unnamed:
            yield StreamEvent("\n".join(unnamed), name or "message", certain=False)

    def _bound(self, pending: int) -> None:
        if self._size + pending > LARGEST_EVENT:
            raise BackendError(BackendFault.BAD_REPLY, "The provider sent an event that is too large.")


def _part_two_documents(line: str, following: str) -> bool:
    """Whether JSON cannot go on in this way, so that the following line begins another document."""
    return line.rstrip().endswith(("}", "]")) and following.lstrip().startswith(("{", "[", '"'))
