"""What providers send over a connection: any content type and charset, connections that stay open, and what follows."""

import asyncio
import gzip
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from agentapi_mcp.backends import registry
from agentapi_mcp.base.errors import BackendError, BackendFault
from agentapi_mcp.core.backends.events import StopReason
from agentapi_mcp.core.backends.ports import Backend
from agentapi_mcp.testing.contract import outcome_of
from agentapi_mcp.testing.hosts import FakeHost
from agentapi_mcp.testing.http import Ticks
from agentapi_mcp.testing.waiting import expect_soon
from tests.support.frames import Format, Outcome, written
from tests.support.peers.cases import backend_turn

TEXT = "w0 w1 w2"
KINDS = pytest.mark.parametrize("kind", ["openai", "anthropic", "ccrouter"])
STREAM = "text/event-stream"
DECODED_AT_ONCE = 64 * 1024  # bytes
LONGER_THAN_FOR_AN_END = 2.5  # seconds
PATIENT = 600  # seconds, which no test waits


def format_of(kind: str) -> Format:
    return Format.CHAT if kind == "openai" else Format.MESSAGES


def stream_of(kind: str, *, frames: slice = slice(None)) -> bytes:
    return written(format_of(kind).frames(["w0 ", "w1 ", "w2"])[frames])


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def served(kind: str, serve: Serve) -> AsyncGenerator[Backend]:
    """Open a backend whose provider answers a connection in this way."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, FakeHost() as host:
        base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        options = {"base_url": base_url, "idle_timeout_seconds": PATIENT, "total_timeout_seconds": PATIENT}
        yield registry.create(kind, options, host)


@asynccontextmanager
async def beside(
    kind: str,
    body: bytes,
    content_type: str | None = STREAM,
    *,
    later: bytes = b"",
    held: bool = False,
    headers: str = "",
) -> AsyncGenerator[Backend]:
    """Open a backend whose provider sends this body, the rest a little later, and then holds the connection or not."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        kinds = "" if content_type is None else f"content-type: {content_type}\r\n"
        writer.write(f"HTTP/1.1 200 OK\r\n{kinds}{headers}\r\n".encode() + body)
        if later:
            await Ticks(0.2).step()
            writer.write(later)
        while held and await reader.read(65_536):
            pass
        writer.close()

    async with served(kind, answer) as backend:
        yield backend


async def ask(backend: Backend) -> Outcome:
    """Run a turn that ends long before its deadlines."""
    outcome = Outcome()

    async def run() -> None:
        outcome.events, outcome.error = await outcome_of(backend, backend_turn())

    await expect_soon(run(), "the turn ends")
    return outcome


@KINDS
@pytest.mark.parametrize(
    "content_type", ["text/plain; charset=utf-8", "application/json", "application/octet-stream", "text/html", None]
)
@pytest.mark.parametrize("before", [b"", b"\n \r\n", b"\xef\xbb\xbf", b": hello\n\n", b"retry: 1\n\n"])
async def test_a_stream_is_read_under_any_content_type(kind: str, content_type: str | None, before: bytes) -> None:
    async with beside(kind, before + stream_of(kind), content_type) as backend:
        outcome = await ask(backend)
    assert outcome.text == TEXT
    assert outcome.end.stop_reason is StopReason.END
    assert outcome.usage.input_tokens == 11


@KINDS
@pytest.mark.parametrize("content_type", [STREAM, "text/plain", "application/json", None])
@pytest.mark.parametrize("indent", [None, 2])
async def test_json_is_read_under_any_content_type(kind: str, content_type: str | None, indent: int | None) -> None:
    body = json.dumps(format_of(kind).message(TEXT), indent=indent).encode()
    async with beside(kind, b"\n\n" + body, content_type) as backend:
        outcome = await ask(backend)
    assert outcome.text == TEXT
    assert outcome.end.warning is None


@KINDS
async def test_a_stream_under_another_content_type_is_passed_on_as_it_comes(kind: str) -> None:
    frames = slice(0, -3)  # without the end, which never comes
    async with beside(kind, stream_of(kind, frames=frames), "text/plain", held=True) as backend:
        events = backend.run(backend_turn())
        await expect_soon(anext(events), "the first event")
        await events.aclose()


@KINDS
@pytest.mark.parametrize("later", [b"", b": alive\n\n"])
async def test_a_whole_stream_that_is_held_open_is_over(kind: str, later: bytes) -> None:
    async with beside(kind, stream_of(kind, frames=slice(0, -1)), later=later, held=True) as backend:
        outcome = await ask(backend)
    assert outcome.text == TEXT
    assert outcome.end.warning is None
    assert outcome.usage.output_tokens == 5


def _ended_too_early(kind: str) -> dict[str, tuple[bytes, bytes]]:
    """Make answers that go on after their end was told: what is sent, and what long after that."""
    form = format_of(kind)
    pieces, rest = (
        [form.piece(f"w{place} ") for place in range(2)],
        written([form.piece("w2"), form.stop(), *form.end()]),
    )
    first = written([*form.begin(), form.stop()])
    each = written([*form.begin(), pieces[0], form.stop(), pieces[1], form.stop()])
    messages = [json.dumps({**form.message(text), "usage": None}).encode() for text in ("w0 ", "w0 w1 ", TEXT)]
    return {
        "with the first frame": (first, written(pieces) + rest),
        "with each frame": (each, rest),
        "by each message": (b"\n".join(messages[:2]), messages[2]),
    }


@KINDS
@pytest.mark.parametrize("told", _ended_too_early("openai"))
async def test_an_end_that_is_told_too_early_cuts_nothing(kind: str, told: str) -> None:
    begun, rest = _ended_too_early(kind)[told]
    content_type = "application/json" if "message" in told else STREAM

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\n\r\n".encode() + begun)
        await Ticks(LONGER_THAN_FOR_AN_END).step()
        writer.write(rest)
        writer.close()

    async with served(kind, answer) as backend:
        outcome = await ask(backend)
    assert outcome.text == TEXT
    assert outcome.end.stop_reason is StopReason.END
    assert outcome.end.warning is None


@KINDS
async def test_a_provider_is_given_time_again_once_its_answer_goes_on(kind: str) -> None:
    form, outcome, is_read = format_of(kind), Outcome(), asyncio.Event()
    begun = written([*form.begin(), form.piece("w0 "), form.stop()])

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + begun)
        await is_read.wait()
        writer.write(written([form.piece("w1 ")]))
        await Ticks(LONGER_THAN_FOR_AN_END).step()
        writer.write(written([form.piece("w2"), form.stop(), *form.end()]))
        writer.close()

    async with served(kind, answer) as backend:
        async for event in backend.run(backend_turn()):
            outcome.events.append(event)
            if outcome.text:
                is_read.set()
    assert outcome.text == TEXT


async def test_a_bill_that_comes_a_little_later_is_read() -> None:
    async with beside(
        "openai", stream_of("openai", frames=slice(0, -2)), later=stream_of("openai", frames=slice(-2, -1)), held=True
    ) as backend:
        outcome = await ask(backend)
    assert outcome.usage.input_tokens == 11


async def test_a_bill_that_comes_after_the_mark_of_the_end_is_read() -> None:
    bill, mark = Format.CHAT.end()
    text, end = stream_of("openai", frames=slice(0, -2)), written([mark])
    filled = text + b":" * (DECODED_AT_ONCE - len(text) - len(end) - 2) + b"\n\n" + end
    body = gzip.compress(filled + written([bill]))  # of which the bill is a piece of its own
    headers = f"content-encoding: gzip\r\ncontent-length: {len(body)}\r\n"
    async with beside("openai", body, headers=headers) as backend:
        outcome = await ask(backend)
    assert outcome.text == TEXT
    assert outcome.usage.input_tokens == 11


@pytest.mark.parametrize(("between", "tokens"), [(0, 11), (6_000, 11), (4_000_000, None)])
async def test_what_follows_the_mark_of_the_end_is_read_up_to_a_bound(between: int, tokens: int | None) -> None:
    bill, mark = map(written, ([frame] for frame in Format.CHAT.end()))
    body = stream_of("openai", frames=slice(0, -2)) + mark + b": alive\n\n" * (between // 9) + bill
    async with beside("openai", body, headers=f"content-length: {len(body)}\r\n") as backend:
        outcome = await ask(backend)
    assert outcome.text == TEXT
    assert outcome.end.warning is None
    assert outcome.usage.input_tokens == tokens


@KINDS
@pytest.mark.parametrize(("between", "is_read"), [(500_000, True), (4_000_000, False)])
async def test_what_follows_a_whole_answer_is_read_up_to_a_bound(kind: str, between: int, is_read: bool) -> None:  # noqa: FBT001  # a parameter
    begun, end = stream_of(kind, frames=slice(0, -1)), stream_of(kind, frames=slice(-1, None))
    error = written(['{"error":"late"}'])
    async with beside(kind, begun + b": alive\n\n" * (between // 9) + error + end, held=True) as backend:
        outcome = await ask(backend)
    assert outcome.text == TEXT
    assert ("late" in (outcome.end.warning or "")) is is_read
    assert "The answer is whole" in (outcome.end.warning or "")


@KINDS
@pytest.mark.parametrize("mark", [b"data: [DONE]\n\n", b"data: [DONE]", b'data: "[DONE]"\n\n'])
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("instead", [True, False])
async def test_the_mark_of_the_other_format_ends_it_too(kind: str, mark: bytes, at_once: bool, instead: bool) -> None:  # noqa: FBT001  # parameters
    body = stream_of(kind, frames=slice(0, -1 if instead else None))
    async with beside(kind, body + (mark if at_once else b""), later=b"" if at_once else mark) as backend:
        outcome = await ask(backend)
    assert outcome.text == TEXT
    assert outcome.end.warning is None


@KINDS
@pytest.mark.parametrize("later", [b"", b"\n"])
async def test_whole_json_that_is_held_open_is_over(kind: str, later: bytes) -> None:
    body = json.dumps(format_of(kind).message(TEXT)).encode()
    async with beside(kind, body, "application/json", later=later, held=True) as backend:
        outcome = await ask(backend)
    assert outcome.text == TEXT
    assert outcome.end.warning is None


@KINDS
async def test_json_that_comes_in_parts_is_read_to_its_end(kind: str) -> None:
    body = json.dumps(format_of(kind).message(f"{TEXT}}}")).encode()
    place = body.index(b"}") + 1  # it may look like the end
    async with beside(kind, body[:place], "application/json", later=body[place:]) as backend:
        assert (await ask(backend)).text == f"{TEXT}}}"


@KINDS
@pytest.mark.parametrize("junk", ["<!-- cached -->", '{"error":{"message":"late"}}', "{", "\n\ntrue"])
async def test_json_that_something_follows_is_an_answer_with_a_warning(kind: str, junk: str) -> None:
    body = json.dumps(format_of(kind).message(TEXT)) + junk
    async with beside(kind, body.encode(), "application/json") as backend:
        outcome = await ask(backend)
    assert outcome.text == TEXT
    assert "The answer is whole" in (outcome.end.warning or "")


@KINDS
async def test_a_message_without_a_reason_is_whole_if_it_is_no_stream(kind: str) -> None:
    message = format_of(kind).message(TEXT)
    choices = message.get("choices")
    if isinstance(choices, list):
        del choices[0]["finish_reason"]
    message["stop_reason"] = None
    async with beside(kind, json.dumps(message).encode(), "application/json") as backend:
        outcome = await ask(backend)
    assert outcome.text == TEXT
    assert outcome.end.stop_reason is StopReason.END


@KINDS
async def test_lines_of_json_are_a_stream_which_may_be_cut(kind: str) -> None:
    frames = [frame for frame in format_of(kind).frames(["w0 ", "w1 ", "w2"]) if not isinstance(frame, str)]
    lines = [json.dumps(frame) + "\n" for frame in frames]
    async with beside(kind, "".join(lines).encode(), "application/x-ndjson") as backend:
        outcome = await ask(backend)
    assert outcome.text == TEXT
    assert outcome.end
    async with beside(kind, "".join(lines[:3]).encode(), "application/x-ndjson") as backend:
        assert _fault((await ask(backend)).error) is BackendFault.STREAM_CUT


@KINDS
@pytest.mark.parametrize(
    ("charset", "content_type"),
    [
        ("latin-1", "application/json; charset=ISO-8859-1"),
        ("cp1252", "application/json"),
        ("utf-8", "application/json; charset=latin-1"),
        ("utf-16", "application/json"),
    ],
)
async def test_json_in_another_charset_is_read(kind: str, charset: str, content_type: str) -> None:
    body = json.dumps(format_of(kind).message("Grüße, très bien"), ensure_ascii=False).encode(charset)
    async with beside(kind, body, content_type) as backend:
        assert (await ask(backend)).text == "Grüße, très bien"


@KINDS
async def test_utf_8_that_is_broken_loses_what_is_broken_alone(kind: str) -> None:
    body = json.dumps(format_of(kind).message("Grüße Z"), ensure_ascii=False).encode().replace(b"Z", b"\xff")
    async with beside(kind, body, "application/json") as backend:
        assert (await ask(backend)).text == "Grüße \N{REPLACEMENT CHARACTER}"


@KINDS
@pytest.mark.parametrize(
    "error",
    [
        {"base_resp": {"status_code": 1000, "status_msg": "no"}},
        {"code": 500, "msg": "no"},
        {"detail": "no"},
        {"error": "no"},
    ],
)
async def test_an_error_in_a_reply_of_success_is_an_error(kind: str, error: dict[str, object]) -> None:
    async with beside(kind, json.dumps(error).encode(), "application/json") as backend:
        assert _fault((await ask(backend)).error) is BackendFault.UPSTREAM


@KINDS
@pytest.mark.parametrize("body", [b"", b"\n\n", b"<html>no</html>", b"{}", b"[]", b"data: [DONE]\n\n", b"17"])
async def test_a_body_without_an_answer_is_refused(kind: str, body: bytes) -> None:
    for content_type in (STREAM, "application/json"):
        async with beside(kind, body, content_type) as backend:
            assert _fault((await ask(backend)).error) is BackendFault.BAD_REPLY


@KINDS
@pytest.mark.parametrize(
    ("body", "fault", "said"),
    [
        ("<html><head><title>Sign in</title></head></html>", BackendFault.BAD_REPLY, "is not JSON, but says: Sign in"),
        ("data: upstream connect error\n\n", BackendFault.BAD_REPLY, "but says: upstream connect error"),
        ("Model x is not found", BackendFault.NOT_FOUND, "says: Model x is not found"),
        ("data: Too many requests, wait 3 s\n\n", BackendFault.RATE_LIMIT, "says: Too many requests"),
        ('{"choices":[{"message":{"content":"secret', BackendFault.BAD_REPLY, "The provider's reply is not JSON."),
        ('data: {"choices":[{"delta":{"content":"secret\n\n', BackendFault.BAD_REPLY, "answer is not JSON."),
        (f"<p>{'x' * 70_000}", BackendFault.BAD_REPLY, "is not JSON"),
    ],
)
async def test_what_stands_in_place_of_an_answer_is_told_in_its_words(
    kind: str, body: str, fault: BackendFault, said: str
) -> None:
    async with beside(kind, body.encode(), STREAM if body.startswith("data") else "text/plain") as backend:
        error = (await ask(backend)).error
    assert error is not None
    assert error.fault is fault
    assert said in str(error)
    assert len(str(error)) < 400
    assert "secret" not in str(error)


@KINDS
async def test_an_error_that_is_held_open_is_told(kind: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 429 Too Many Requests\r\ncontent-type: {STREAM}\r\nretry-after: 7\r\n\r\n"
        writer.write(head.encode() + b'data: {"error":{"message":"Slow down"}}\n\n')
        while await reader.read(65_536):
            pass
        writer.close()

    async with served(kind, answer) as backend:
        error = (await ask(backend)).error
    assert error is not None
    assert (error.fault, error.retry_after) == (BackendFault.RATE_LIMIT, timedelta(seconds=7))
    assert "Slow down" in str(error)


@KINDS
async def test_an_answer_of_ten_megabytes_is_read(kind: str) -> None:
    text = "word " * 2_000_000
    for body, content_type in (
        (written(format_of(kind).frames([text])), STREAM),
        (json.dumps(format_of(kind).message(text)).encode(), "application/json"),
    ):
        async with beside(kind, body, content_type) as backend:
            assert (await ask(backend)).text == text


def _fault(error: BackendError | None) -> BackendFault | None:
    return None if error is None else error.fault
