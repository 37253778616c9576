"""A provider may answer anything: it is an answer or a BackendError, and nothing of it costs more than its bytes."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentapi_mcp.backends import registry
from agentapi_mcp.backends.kinds.ccrouter import RouterFaults
from agentapi_mcp.backends.wire.answers import is_error
from agentapi_mcp.backends.wire.chat_completions import ChatCompletionsReply
from agentapi_mcp.backends.wire.fault_classes import fault_of
from agentapi_mcp.backends.wire.faults import FaultReader, read_error
from agentapi_mcp.backends.wire.fields import parse_json
from agentapi_mcp.backends.wire.messages import MessagesReply
from agentapi_mcp.backends.wire.reasons import ProviderError
from agentapi_mcp.backends.wire.redaction import LONGEST_LINE, Redactor
from agentapi_mcp.backends.wire.sse import EventParser, StreamComment, StreamEvent
from agentapi_mcp.base.errors import BackendError, BackendFault
from agentapi_mcp.base.json_values import as_amount, as_count
from agentapi_mcp.core.backends.events import BackendEvent, UsageReported
from agentapi_mcp.core.backends.ports import Backend
from agentapi_mcp.testing.hosts import FakeHost
from tests.support.hostile import TEXTS, holds, json_values
from tests.support.peers.cases import backend_turn

SECRET = "s3cret-0123456789"  # noqa: S105  # the test looks for it everywhere
FAULTS = FaultReader(provider="stub", redactor=Redactor([SECRET]))
ROUTER_FAULTS = RouterFaults(provider="router", redactor=Redactor([SECRET]))
WEEK = timedelta(days=7)

CHAT_KEYS = (
    *("choices", "delta", "message", "content", "finish_reason", "index", "tool_calls", "function", "name", "id"),
    *("model", "provider", "usage", "prompt_tokens", "completion_tokens", "cost", "prompt_tokens_details", "error"),
    *("cached_tokens", "reasoning_content", "reasoning", "refusal", "text", "metadata", "code", "status", "details"),
)
MESSAGES_KEYS = (
    *("type", "message", "delta", "content_block", "content", "stop_reason", "usage", "input_tokens", "output_tokens"),
    *("cache_read_input_tokens", "text", "thinking", "name", "error", "model", "id"),
)
MESSAGES_KINDS = st.sampled_from(
    [
        *("message", "message_start", "content_block_start", "content_block_delta", "message_delta", "message_stop"),
        *("ping", "error", "text", "thinking", "text_delta", "thinking_delta", "tool_use", "end_turn", "refusal"),
    ]
)
ERROR_KEYS = (
    *("error", "message", "detail", "code", "type", "status", "metadata", "error_type", "reasons", "availability"),
    *("retryable", "retry_after", "details", "@type", "retryDelay"),
)
ERROR_WORDS = st.sampled_from(
    ["429", 429, "RESOURCE_EXHAUSTED", "google.rpc.RetryInfo", "1e99999s", "2s", f"The key {SECRET} is wrong"]
)


def chat() -> ChatCompletionsReply:
    return ChatCompletionsReply(FAULTS, provider=None, has_cost=True)


def events_of(make: Callable[[], Iterable[BackendEvent]]) -> list[BackendEvent]:
    """Return what it says; a BackendError is an answer too, and it is fit to be shown."""
    try:
        return list(make())
    except BackendError as error:
        delta = str(error)
    assert len(delta) < 400
    assert SECRET not in delta
    assert delta.isprintable()
    return []


# --- server-sent events

LINES = st.sampled_from(
    [b"data: x", b"data:", b"data", b": comment", b"event: error", b"id: 7", b"retry: x", b"\xef\xbb\xbf", b"\xff\xfe"]
)
ENDS = st.sampled_from([b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n", b"\n\r"])
STREAMS = st.lists(LINES | ENDS | st.binary(max_size=8), max_size=20).map(b"".join)


def parse(pieces: list[bytes]) -> list[StreamEvent | StreamComment]:
    parser = EventParser()
    return [event for piece in pieces for event in parser.feed(piece)] + list(parser.flush())


@given(STREAMS, st.lists(st.integers(0, 60), max_size=12))
@example(b"data: a\r\ndata: b\r\n\r\n", [8])
@example(b"\xef\xbb\xbf: comment\n\xef\xbb\xbfdata: x\n\n", [1, 2])
def test_events_are_the_same_wherever_the_network_cuts(stream: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(stream)]
    pieces = [stream[start:end] for start, end in pairwise(places)]
    if places[-2] > len(stream):
        pieces = [stream[place : place + 1] for place in range(len(stream))]
    assert parse(pieces) == parse([stream])


def test_a_mark_in_mid_stream_is_part_of_a_fields_name() -> None:
    assert parse([b"\n\xef\xbb\xbfdata: x\n\ndata: y\n\n"]) == [StreamEvent("y")]


@pytest.mark.parametrize("line", [b"data: x\n", b"event: x\n", b"data\n", b"x"])
def test_an_event_of_many_small_parts_is_bounded_as_well(line: bytes) -> None:
    with pytest.raises(BackendError) as caught:
        parse([line * (1_000_000 // len(line))] * 20)
    assert caught.value.fault is BackendFault.BAD_REPLY


def test_a_line_that_comes_byte_by_byte_is_looked_at_once() -> None:
    parser = EventParser()
    list(parser.feed(b"data: "))
    for _ in range(200_000):  # looked through again each time, it would take minutes
        list(parser.feed(b"x"))
    assert list(parser.feed(b"\n\n")) == [StreamEvent("x" * 200_000)]


# --- numbers, and what else stands in JSON


@given(
    st.binary() | st.text() | json_values().map(json.dumps) | st.sampled_from(["1e99999999999999999999", "[" * 99_999])
)
@example("1" * 5000)
@example("1e99999999999999999999")
@example("NaN")
def test_what_is_no_json_is_the_providers_fault(raw: str | bytes) -> None:
    fault: BackendFault | None = None
    value: object = None
    try:
        value = parse_json(raw, what="It")
    except BackendError as error:
        fault = error.fault
    assert fault in {None, BackendFault.BAD_REPLY}
    assert isinstance(value, dict | list | str | int | Decimal | None)


@given(json_values())
@example("1e999999999999")
@example("sNaN")
def test_a_number_is_one_that_can_be_counted_with_or_it_is_absent(value: object) -> None:
    assert (as_count(value) or 0) >= 0
    assert (as_amount(value) or Decimal(0)) >= 0


# --- replies and errors


@given(st.lists(json_values(CHAT_KEYS, st.sampled_from(["stop", "error", "tool_calls", "9" * 50])), max_size=4))
@example([{"choices": [{"delta": {"tool_calls": [{"index": [], "function": {"name": "x"}}]}}]}])
@example([{"choices": [], "usage": {"prompt_tokens": 10**30, "cost": "1e99999"}}])
def test_a_chat_completion_of_any_shape_is_events_or_a_fault(pieces: list[object]) -> None:
    answer = chat()
    events = [event for piece in pieces for event in events_of(lambda piece=piece: answer.feed(piece))]
    events += events_of(answer.end)
    assert [event for event in events if not isinstance(event, BackendEvent)] == []


@given(st.lists(json_values(MESSAGES_KEYS, MESSAGES_KINDS), max_size=4), st.sampled_from([FAULTS, ROUTER_FAULTS]))
@example([{"error": "\U00018cd6 \ud7fc"}], FAULTS)
def test_a_message_of_any_shape_is_events_or_a_fault(pieces: list[object], faults: FaultReader) -> None:
    answer = MessagesReply(faults, None)
    events = [event for piece in pieces for event in events_of(lambda piece=piece: answer.feed(piece))]
    events += events_of(answer.end)
    assert [event for event in events if not isinstance(event, BackendEvent)] == []


@given(json_values(ERROR_KEYS, ERROR_WORDS), st.integers(100, 999), TEXTS)
@example([{"error": {"details": [{"@type": "RetryInfo", "retryDelay": "1e999999s"}]}}], 429, "")
@example({"error": {"message": f"Error from provider(x: 429): {SECRET}Error: at /srv/x"}}, 429, "")
def test_an_error_of_any_shape_has_a_fault_and_hides_the_key(body: object, status: int, wait: str) -> None:
    read_error(body)
    for faults in (FAULTS, ROUTER_FAULTS):
        for error in (faults.of_reply(status, {"retry-after": wait}, body), faults.of_error(body)):
            assert error.next_step
            assert SECRET not in str(error)
            assert len(str(error)) < 400
            assert error.retry_after is None or timedelta(0) <= error.retry_after <= WEEK


@given(TEXTS | st.from_regex(r"\A\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d [+-]?\w{1,4}\Z"))
@example("Fri, 31 Dec 9999 23:59:59 -2359")
@example("Fri, 31 Dec 9999 23:59:59 GMT")
@example("1 Jan 99999999999 0:0:0 +0000")
@example("-1")
@example("1e999999")
def test_a_wait_is_at_most_a_week_or_it_is_not_said(delta: str) -> None:
    wait = FAULTS.of_reply(429, {"retry-after": delta}, None).retry_after
    assert wait is None or timedelta(0) <= wait <= WEEK


@given(st.lists(TEXTS | st.just(SECRET)).map("".join))
def test_what_a_provider_says_is_shown_as_one_clean_line(message: str) -> None:
    line = Redactor([SECRET]).line(message)
    assert len(line) <= LONGEST_LINE
    assert len(line.splitlines()) <= 1
    assert SECRET not in line
    assert line.encode().decode() == line


LONG = 300_000
# What some pattern looks for, again and again.
REPEATED = pytest.mark.parametrize(
    "part",
    [" ", "\n", "A", "1", "-", "<title>", "ratelimit-", "token count ", "exceeds the maximum ", "in 1 s, ", "a/"],
)


@REPEATED
@pytest.mark.parametrize("faults", [FAULTS, ROUTER_FAULTS])
def test_an_error_is_read_in_one_pass_whatever_it_repeats(faults: FaultReader, part: str) -> None:
    long = (part * LONG)[:LONG] + "x"  # looked through again from each place, it would take many minutes
    names = ("message", "code", "type", "status", "retry_after", "detail")
    for body in [long, {"error": long}, *({"error": {name: long}} for name in names), {"errors": [long] * 8}]:
        assert len(str(faults.of_reply(429, {long: "1", "retry-after": long}, body))) < 400
    for piece in [{name: long, "message": "m"} for name in names]:
        _ = events_of(lambda piece=piece: chat().parts([piece]))


@REPEATED
def test_what_is_no_part_of_an_answer_is_read_in_one_pass(part: str) -> None:
    long = (part * LONG)[:LONG] + "x"
    read = [is_error({name: long, "message": "m"}) for name in ("code", "status_code", "type", "status", "object")]
    assert read == [True, True, False, False, False]


@pytest.mark.parametrize("part", ["token count ", "exceeds the maximum ", "prompt length "])
def test_words_of_any_length_have_their_fault_after_one_pass(part: str) -> None:
    error = ProviderError(words=(part * (400_000 // len(part)),))
    assert fault_of(error, 400) is BackendFault.BAD_REQUEST


HUGE = st.sampled_from(["1e9999999", "-1e9999999", "1e-9999999", "9" * 5000, "9E+999999", "1e400", "sNaN", "-0"])


@given(HUGE, HUGE, st.booleans())
@example("9E+999999", "9E+999999", True)  # noqa: FBT003  # whose sum no Decimal holds
def test_a_cost_of_any_size_is_one_or_unknown(cost: str, upstream: str, is_byok: bool) -> None:  # noqa: FBT001  # drawn
    usage = {"prompt_tokens": 1, "cost": cost, "cost_details": {"upstream_inference_cost": upstream}}
    reply = {"usage": {**usage, "is_byok": is_byok}, "choices": [{"delta": {"content": "w"}, "finish_reason": "stop"}]}
    bills = [event.usage for event in chat().parts([reply]) if isinstance(event, UsageReported)]
    assert [bill.input_tokens for bill in bills] == [1]
    assert all(bill.cost_usd is None or 0 <= bill.cost_usd < 10**13 for bill in bills)


@given(HUGE)
def test_a_wait_of_any_size_is_a_wait_or_none(said: str) -> None:
    for headers, body in (
        ({"retry-after": said}, {}),
        ({}, {"error": {"retry_after": said, "retryDelay": f"{said}s"}}),
    ):
        assert (FAULTS.of_reply(429, headers, body).retry_after or WEEK) <= WEEK


# --- bytes


@asynccontextmanager
async def beside(kind: str, replies: list[bytes]) -> AsyncGenerator[Backend]:
    """Open a backend whose provider answers each request with the last of the replies, and then hangs up."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(replies[-1])
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, FakeHost() as host:
        options = {"base_url": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "api_key": SECRET}
        yield registry.create(kind, options, host)


HEADS = st.sampled_from(
    [
        b"",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: [DONE]\n\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
        b"HTTP/1.1 307 No\r\nlocation: http://[\r\n\r\n",
        b"HTTP/1.1 429 No\r\nretry-after: Fri, 31 Dec 9999 23:59:59 -2359\r\n\r\n",
        b"HTTP/1.1 999 No\r\n\r\n{",
        b"HTTP/1.1 101 Switch\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
    ]
)


@pytest.mark.parametrize("kind", ["openai", "anthropic", "ccrouter"])
async def test_bytes_of_any_kind_are_a_fault_of_the_provider(kind: str) -> None:
    replies = [b""]
    async with beside(kind, replies) as backend:

        async def check(reply: bytes) -> None:
            replies.append(reply)
            with pytest.raises(BackendError) as caught:
                _ = [event async for event in backend.run(backend_turn())]
            assert str(caught.value).isprintable()

        streams = st.tuples(HEADS, STREAMS).map(b"".join)
        await holds(streams, check, examples=60, also=[b"HTTP/1.1 307 No\r\nlocation: http://[\r\n\r\n"])


@pytest.mark.parametrize("kind", ["openai", "anthropic", "ccrouter"])
@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"no healthy upstream", "no healthy upstream"),
        (b"<html><title>Gone</title><p>words</p></html>", "Gone"),
        (b'{"detail": "caf\xe9"}', "café"),  # Latin-1
        (b"caf\xc3\xa9", "café"),
        (b'["x", {"error": "Nope"', '["x", {"error": "Nope"'),
    ],
)
async def test_an_error_that_is_no_json_is_told_in_its_words(kind: str, body: bytes, said: str) -> None:
    async with beside(kind, [b"HTTP/1.1 502 No\r\n\r\n" + body]) as backend:
        with pytest.raises(BackendError) as caught:
            _ = [event async for event in backend.run(backend_turn())]
    assert str(caught.value).endswith(f"says: {said}")


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("[" + "[]," * 100_000 + "1]", "has more than 50,000 arrays and objects"),
        ("[" + "1," * 300_000 + "1]", "has more than 250,000 values"),
        ("[" * 100 + "]" * 100, "is nested more than 64 deep"),
        ("[" + "1" * 5_000 + "]", "has a number of more than 100 characters"),
        ("[" + "1e" * 10 + "]", "is not JSON"),
    ],
)
def test_a_reply_that_would_cost_is_not_parsed(reply: str, reason: str) -> None:
    for raw in (reply, reply.encode()):
        with pytest.raises(BackendError, match=f"^The reply {reason}.$") as caught:
            parse_json(raw, what="The reply")
        assert caught.value.fault is BackendFault.BAD_REPLY
