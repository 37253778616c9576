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


def test_the_end_of_the_stream_completes_an_event_and_perhaps_its_line() -> None:
    assert parse(b"data: whole\ndata: ha", 100) == [StreamEvent("whole\nha", certain=False)]
    assert parse(b"data: whole\n", 100) == [StreamEvent("whole")]
    assert parse(b"data: whole\r", 100) == [StreamEvent("whole")]


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("stream", "events"),
    [
        ('data: {"a":1}\ndata: {"b":2}\ndata: [DONE]\n', ['{"a":1}', '{"b":2}', "[DONE]"]),
        ('data: {"a":1}\ndata: "[DONE]"\n\n', ['{"a":1}', '"[DONE]"']),
        ('data: {"a":\ndata: {"b":2}\ndata: }\n\n', ['{"a":\n{"b":2}\n}']),
        ('data: [1,\ndata: [2]\ndata: ,"x"]\n\n', ['[1,\n[2]\n,"x"]']),
    ],
)
def test_documents_that_no_blank_line_parts_are_events_of_their_own(stream: str, events: list[str], size: int) -> None:
    assert [event.data for event in parse(stream.encode(), size) if isinstance(event, StreamEvent)] == events


def test_each_document_has_the_name_that_stands_before_it() -> None:
    stream = b'event: a\ndata: {"a":1}\nevent: b\ndata: {"b":2}\n\ndata: {"c":3}\nevent: late\n\n'
    assert parse(stream, 5) == [
        StreamEvent('{"a":1}', "a"),
        StreamEvent('{"b":2}', "b"),
        StreamEvent('{"c":3}', "late"),
    ]


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize(
    ("stream", "data"),
    [
        ('data: {"a":1}\n\n{"error":"x"}\n', '{"error":"x"}'),
        ('data: {"a":1}\n\n{"error":"x"}', '{"error":"x"}'),
        ('data: {"a":1}\n{"error":"x"}\n\n', '{"error":"x"}'),
        ('data: {"a":1}\n\n{\n  "error": "x"\n}\n\n', '{\n  "error": "x"\n}'),
        ('{"error":"x"}\ndata: {"a":1}\n\n', '{"error":"x"}'),
        ('[{"error":"x"}]\n\ndata: {"a":1}\n\n', '[{"error":"x"}]'),
    ],
)
def test_json_without_the_name_of_a_field_is_data(stream: str, data: str, size: int) -> None:
    events = parse(stream.encode(), size)
    assert StreamEvent(data, certain=False) in events
    assert StreamEvent('{"a":1}') in events
    assert len(events) == 2


def test_a_stream_of_another_charset_is_read_in_it() -> None:
    latin, utf_8 = "data: é\n\n".encode("latin-1"), "data: é\n\n".encode()
    assert list(EventParser("latin-1").feed(latin + utf_8)) == [StreamEvent("é")] * 2
    assert list(EventParser().feed(latin)) == [StreamEvent("\N{REPLACEMENT CHARACTER}")]


@pytest.mark.parametrize("line", [b"x" * 1_000_000, b"data: " + b"x" * 1_000_000 + b"\n"])
def test_an_event_without_end_is_refused(line: bytes) -> None:
    parser = EventParser()
    for _ in range(LARGEST_EVENT // len(line)):
        list(parser.feed(line))
    with pytest.raises(BackendError) as caught:
        list(parser.feed(line))
    assert caught.value.fault is BackendFault.BAD_REPLY
