"""Server-sent events, however the network cuts them."""

import pytest

from agentapi_mcp.backends.wire.sse import LARGEST_EVENT, EventParser, StreamComment, StreamEvent
from agentapi_mcp.base.errors import BackendError, BackendFault

STREAM = ': hello\n\ndata: {"a":\ndata: "é"}\r\n\r\nevent: error\rdata:late\r\rid: 7\n\ndata: [DONE]\n\n'
EVENTS = [StreamComment(), StreamEvent('{"a":\n"é"}'), StreamEvent("late", "error"), StreamEvent("[DONE]")]


def parse(content: bytes, size: int) -> list[StreamEvent | StreamComment]:
    parser = EventParser()
    pieces = [content[start : start + size] for start in range(0, len(content), size)]
    return [event for piece in pieces for event in parser.feed(piece)] + list(parser.flush())


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_the_same_however_they_arrive(size: int) -> None:
    assert parse(STREAM.encode(), size) == EVENTS


def test_a_byte_order_mark_is_not_part_of_the_first_field() -> None:
    assert parse(b"\xef\xbb\xbfdata: x\n\n", 100) == [StreamEvent("x")]


def test_the_end_of_the_stream_completes_an_event_but_not_a_line() -> None:
    assert parse(b"data: whole\ndata: ha", 100) == [StreamEvent("whole")]
    assert parse(b"data: whole\r", 100) == [StreamEvent("whole")]


@pytest.mark.parametrize("line", [b"x" * 1_000_000, b"data: " + b"x" * 1_000_000 + b"\n"])
def test_an_event_without_end_is_refused(line: bytes) -> None:
    parser = EventParser()
    for _ in range(LARGEST_EVENT // len(line)):
        list(parser.feed(line))
    with pytest.raises(BackendError) as caught:
        list(parser.feed(line))
    assert caught.value.fault is BackendFault.BAD_REPLY
