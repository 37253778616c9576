"""The Messages API (https://docs.claude.com/en/api/messages): requests, and streamed or complete replies."""

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

from agentapi_mcp.backends.wire.api import HttpApi, JsonRequest
from agentapi_mcp.backends.wire.conversations import folded, instructions_of, spoken_of
from agentapi_mcp.backends.wire.faults import FaultReader
from agentapi_mcp.backends.wire.fields import parse_json
from agentapi_mcp.backends.wire.http import Reply
from agentapi_mcp.backends.wire.sse import EventParser, StreamComment
from agentapi_mcp.base.errors import BackendError, BackendFault
from agentapi_mcp.base.json_values import as_count, as_list, as_object, as_text
from agentapi_mcp.core.backends.events import (
    BackendEvent,
    Finished,
    SignOfLife,
    StopReason,
    TextDelta,
    ThoughtDelta,
    ToolActivity,
    ToolState,
    Usage,
    UsageReported,
)
from agentapi_mcp.core.backends.models import BackendTurn

_STOP_REASONS: dict[str, StopReason] = {
    "end_turn": StopReason.END,
    "stop_sequence": StopReason.END,
    "max_tokens": StopReason.LENGTH,
    "model_context_window_exceeded": StopReason.LENGTH,
    "tool_use": StopReason.TOOL_CALLS,
    "refusal": StopReason.CONTENT_FILTER,
}

_MAX_TOKENS = 8192  # where neither the turn, the operator nor the model says more
_OF_THE_CONNECTION = frozenset({BackendFault.STREAM_CUT, BackendFault.TIMEOUT_IDLE, BackendFault.TIMEOUT_TOTAL})


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestShape:
    """Variations of the request; `max_tokens` is the operator's default for the turn's own, which the format needs."""

    max_tokens: int | None
    stream: bool
    omit_parameters: frozenset[str]
    system_role: Literal["system", "user"]


def build_request(turn: BackendTurn, model: str, shape: RequestShape) -> dict[str, object]:
    """Build the request body of a turn.

    The instructions are sent as one string: claude-code-router takes a second block for a choice of model.
    """
    messages, system = spoken_of(turn), instructions_of(turn)
    if shape.system_role == "user":
        messages, system = folded(system, messages), ""
    if messages[0]["role"] != "user":  # a truncated history may begin with an assistant message, which the API rejects
        messages.insert(0, {"role": "user", "content": "(Earlier messages are left out.)"})
    body: dict[str, object] = {
        "model": model,
        "max_tokens": turn.max_tokens or _default_limit(shape.max_tokens, turn.max_output_tokens),
        "messages": messages,
        "stream": shape.stream,
    }
    if system:
        body["system"] = system
    if turn.temperature is not None and "temperature" not in shape.omit_parameters:
        body["temperature"] = turn.temperature
    return body


def _default_limit(operators: int | None, models: int | None) -> int:
    if operators is None:
        return _MAX_TOKENS if models is None else models
    return operators if models is None else min(operators, models)


class MessagesReply:
    """Parses one reply piece by piece into events, and tracks whether the answer is complete."""

    def __init__(self, faults: FaultReader, provider: str | None, *, zero_is_unknown: bool) -> None:
        self._faults = faults
        self._provider = provider
        self._zero_is_unknown = zero_is_unknown
        self._begun = False
        self._model: str | None = None
        self._id: str | None = None
        self._stop: str | None = None
        self._over = False
        self._text_seen = False
        self._counts: dict[str, int] = {}
        self._usage = Usage()
        self._readers: dict[str, Callable[[Mapping[str, object]], Iterator[BackendEvent]]] = {
            "message": self._whole,
            "message_start": self._start,
            "content_block_start": lambda body: self._block(as_object(body.get("content_block"))),
            "content_block_delta": lambda body: self._delta(as_object(body.get("delta"))),
            "message_delta": self._stopped,
            "message_stop": self._ended,
            "ping": lambda _: iter((SignOfLife(),)),
        }

    @property
    def is_whole(self) -> bool:
        """Whether the stop reason was received."""
        return self._stop is not None

    @property
    def is_ended(self) -> bool:
        """Whether the last event was received, even if the server keeps the stream open."""
        return self._over

    def feed(self, piece: object) -> Iterator[BackendEvent]:
        """Parse a stream event or a complete reply; unknown event types are ignored.

        Raises:
            BackendError: it reports a failure, or is not part of a reply.
        """
        body = as_object(piece)
        kind = as_text(body.get("type"))
        if kind == "error" or body.get("error"):
            raise self._faults.of_error(_error_of(body))
        if kind is None:
            raise BackendError(BackendFault.BAD_REPLY, "The reply is not of the Messages API.")
        reader = self._readers.get(kind)
        if reader is not None:
            yield from reader(body)

    def end(self, request_id: str | None) -> Finished:
        """Return the final event, at the end of the reply.

        Raises:
            BackendError: STREAM_CUT, BAD_REPLY or CONTENT_POLICY, if the answer is incomplete or missing.
        """
        if self._stop is None:
            if self._text_seen or self._begun:
                raise BackendError(BackendFault.STREAM_CUT, "The answer stopped before its end.")
            raise BackendError(BackendFault.BAD_REPLY, "The reply holds no answer.")
        reason = _STOP_REASONS.get(self._stop, StopReason.OTHER)
        if reason is StopReason.CONTENT_FILTER and not self._text_seen:
            raise BackendError(BackendFault.CONTENT_POLICY, "The model refused to answer this.")
        return Finished(
            stop_reason=reason,
            model=self._model,
            provider=self._provider,
            provider_request_id=request_id or self._id,
            warning="The model asked for a tool that is not there." if reason is StopReason.TOOL_CALLS else None,
        )

    def _start(self, body: Mapping[str, object]) -> Iterator[BackendEvent]:
        self._begin(as_object(body.get("message")))
        self._counts.pop("output_tokens", None)  # a placeholder at the start of the answer
        yield from self._report_usage({})  # the input is billed even if the stream breaks off

    def _stopped(self, body: Mapping[str, object]) -> Iterator[BackendEvent]:
        self._stop = as_text(as_object(body.get("delta")).get("stop_reason")) or self._stop
        yield from self._report_usage(as_object(body.get("usage")))

    def _ended(self, body: Mapping[str, object]) -> Iterator[BackendEvent]:
        del body
        self._over = True
        yield from ()

    def _begin(self, message: Mapping[str, object]) -> None:
        self._begun = True
        self._model = as_text(message.get("model")) or self._model
        self._id = as_text(message.get("id")) or self._id
        self._count(as_object(message.get("usage")))

    def _whole(self, message: Mapping[str, object]) -> Iterator[BackendEvent]:
        self._begin(message)
        for block in map(as_object, as_list(message.get("content"))):
            yield from self._block(block)
        self._stop = as_text(message.get("stop_reason"))
        # An empty reply holds no answer; it was not cut off.
        self._begun = bool(as_list(message.get("content")))
        yield from self._report_usage({})

    def _block(self, block: Mapping[str, object]) -> Iterator[BackendEvent]:
        match block.get("type"):
            case "text":
                yield from self._text(as_text(block.get("text")))
            case "thinking":
                thought = as_text(block.get("thinking"))
                if thought:
                    yield ThoughtDelta(thought)
            case "tool_use" | "server_tool_use":
                yield ToolActivity(as_text(block.get("name")) or "a tool", ToolState.STARTED)
            case _:
                pass

    def _delta(self, delta: Mapping[str, object]) -> Iterator[BackendEvent]:
        match delta.get("type"):
            case "text_delta":
                yield from self._text(as_text(delta.get("text")))
            case "thinking_delta":
                thought = as_text(delta.get("thinking"))
                if thought:
                    yield ThoughtDelta(thought)
            case _:
                pass  # signatures, citations and tool arguments

    def _text(self, text: str | None) -> Iterator[TextDelta]:
        if text:
            self._text_seen = True
            yield TextDelta(text)

    def _count(self, usage: Mapping[str, object]) -> None:
        counted = {name: as_count(value) for name, value in usage.items()}
        self._counts |= {name: value for name, value in counted.items() if value is not None}

    def _report_usage(self, usage: Mapping[str, object]) -> Iterator[UsageReported]:
        self._count(usage)
        counts = self._counts
        fresh, output_tokens = counts.get("input_tokens"), counts.get("output_tokens")
        read, written = counts.get("cache_read_input_tokens", 0), counts.get("cache_creation_input_tokens", 0)
        if fresh is None or (self._zero_is_unknown and not fresh + read + written):
            return
        # In this format, `input_tokens` counts neither what was read from the cache nor what was written to it.
        total = Usage(input_tokens=fresh + read + written, output_tokens=output_tokens, cached_tokens=read)
        if total != self._usage:
            self._usage = total
            yield UsageReported(total)


async def exchange(
    api: HttpApi, request: JsonRequest, faults: FaultReader, answer: MessagesReply
) -> AsyncGenerator[BackendEvent]:
    """Send the request and yield the events of the reply.

    Raises:
        BackendError: there is no complete answer.
    """
    async with api.send(request, faults) as reply:
        if reply.is_event_stream:
            async with aclosing(_streamed(reply, answer)) as events:
                async for event in events:
                    yield event
        else:
            for event in answer.feed(parse_json(await reply.body(), what="The reply")):
                yield event
        yield answer.end(reply.headers.get("request-id"))


async def _streamed(reply: Reply, answer: MessagesReply) -> AsyncGenerator[BackendEvent]:
    parser = EventParser()
    async with aclosing(reply.chunks()) as chunks:
        try:
            async for chunk in chunks:
                for piece in parser.feed(chunk):
                    if isinstance(piece, StreamComment):
                        yield SignOfLife()
                        continue
                    for event in answer.feed(parse_json(piece.data, what="A part of the answer")):
                        yield event
                if answer.is_ended:
                    await reply.drain()
                    return
        except BackendError as error:
            # After the stop reason the answer is complete, so a connection that breaks then loses nothing.
            if not answer.is_whole or error.fault not in _OF_THE_CONNECTION:
                raise


def _error_of(body: Mapping[str, object]) -> Mapping[str, object]:
    """Extract the error; claude-code-router sends `message` instead of `error`."""
    if "error" in body:
        return body
    return {"error": as_text(body.get("message")) or as_object(body.get("message"))}
