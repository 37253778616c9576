"""The Messages API (https://docs.claude.com/en/api/messages): requests, and streamed or complete replies."""

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from typing_extensions import override

from agentapi_mcp.backends.wire.answers import Answer, error_body, is_error
from agentapi_mcp.backends.wire.api import HttpApi, JsonRequest
from agentapi_mcp.backends.wire.conversations import folded, instructions_of, spoken_of
from agentapi_mcp.backends.wire.faults import FaultReader
from agentapi_mcp.backends.wire.replies import open_answer
from agentapi_mcp.backends.wire.usage import UsageMeter
from agentapi_mcp.base.errors import BackendError, BackendFault
from agentapi_mcp.base.json_values import as_list, as_object, as_text
from agentapi_mcp.core.backends.events import (
    BackendEvent,
    SignOfLife,
    ThoughtDelta,
    ToolActivity,
    ToolState,
    UsageReported,
)
from agentapi_mcp.core.backends.models import BackendTurn

_MAX_TOKENS = 8192  # where neither the turn, the operator nor the model says more


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


class MessagesReply(Answer):
    """Parses one reply piece by piece into events, and tracks whether the answer is complete."""

    id_headers = ("request-id",)

    def __init__(self, faults: FaultReader, provider: str | None) -> None:
        super().__init__(faults, provider)
        self._meter = UsageMeter()
        self._readers: dict[str, Callable[[Mapping[str, object]], Iterator[BackendEvent]]] = {
            "message": self._whole,
            "message_start": self._start,
            "content_block_start": lambda body: self._block(as_object(body.get("content_block"))),
            "content_block_delta": lambda body: self._delta(as_object(body.get("delta"))),
            "message_delta": self._delta_of_message,
            "message_stop": self._ended,
            "ping": lambda _: iter((SignOfLife(),)),
        }

    @property
    @override
    def is_billed(self) -> bool:
        return self._meter.is_read

    @override
    def _read(self, body: Mapping[str, object], name: str) -> Iterator[BackendEvent]:
        """Parse one object; without a type it is what its event is named. Unknown ones are ignored within an answer."""
        kind = as_text(body.get("type")) or (name if name != "message" and name in self._readers else None)
        if kind == "error" or body.get("error"):
            raise self._faults.of_error(error_body(body))
        reader = None if kind is None else self._readers.get(kind)
        if reader is not None:
            yield from reader(body)
        elif is_error(body):
            raise self._faults.of_error(body)
        elif kind is None and not self._begun:
            raise self._foreign()

    @override
    def _foreign(self) -> BackendError:
        return BackendError(BackendFault.BAD_REPLY, "The reply is not of the Messages API.")

    @override
    def _withheld(self) -> str:
        return "The model refused to answer this."

    def _start(self, body: Mapping[str, object]) -> Iterator[BackendEvent]:
        message = as_object(body.get("message"))
        self._begin(message)
        # The input is billed even if the stream breaks off; the output is a placeholder at the start of the answer.
        usage = as_object(message.get("usage"))
        yield from self._meter.add({name: count for name, count in usage.items() if name != "output_tokens"})

    def _delta_of_message(self, body: Mapping[str, object]) -> Iterator[BackendEvent]:
        yield from self._report_usage(body, as_text(as_object(body.get("delta")).get("stop_reason")))
        if stop := as_text(as_object(body.get("delta")).get("stop_reason")):
            self._stopped(stop)

    def _ended(self, body: Mapping[str, object]) -> Iterator[BackendEvent]:
        del body
        self._over = True
        yield from ()

    def _begin(self, message: Mapping[str, object]) -> None:
        self._begun = True
        self._model = as_text(message.get("model")) or self._model
        self._id = as_text(message.get("id")) or self._id

    def _whole(self, message: Mapping[str, object]) -> Iterator[BackendEvent]:
        blocks = [as_object(block) for block in as_list(message.get("content"))]
        if not blocks and is_error(message):
            raise self._faults.of_error(message)
        repeats = self._text.is_begun
        self._begin(message)
        self._begun = bool(blocks) or repeats  # an empty reply holds no answer; it was not cut off
        if not repeats:
            for block in blocks:
                yield from self._block(block)
        if self._begun:
            text = (as_text(block.get("text")) or "" for block in blocks if block.get("type") == "text")
            yield from self._add_whole("".join(text))
        yield from self._report_usage(message, as_text(message.get("stop_reason")))
        if stop := as_text(message.get("stop_reason")):
            self._stopped(stop)

    def _think(self, thought: str | None) -> Iterator[BackendEvent]:
        if thought:
            self._text.has_thought = True
            yield ThoughtDelta(thought)

    def _add(self, text: str | None) -> Iterable[BackendEvent]:
        if text is None:
            return ()
        self._begun = True
        return self._text.add(text)

    def _block(self, block: Mapping[str, object]) -> Iterator[BackendEvent]:
        match block.get("type"):
            case "text":
                yield from self._add(as_text(block.get("text")))
            case "thinking":
                yield from self._think(as_text(block.get("thinking")))
            case "tool_use" | "server_tool_use":
                yield ToolActivity(as_text(block.get("name")) or "a tool", ToolState.STARTED)
            case _:
                pass

    def _delta(self, delta: Mapping[str, object]) -> Iterator[BackendEvent]:
        match delta.get("type"):
            case "text_delta":
                yield from self._add(as_text(delta.get("text")))
            case "thinking_delta":
                yield from self._think(as_text(delta.get("thinking")))
            case _:
                pass  # signatures, citations and tool arguments

    def _report_usage(self, body: Mapping[str, object], stop: str | None) -> Iterator[UsageReported]:
        is_last = self.is_whole or stop is not None
        yield from self._meter.add(body.get("usage"), is_empty=is_last and not self._text.is_begun)


async def exchange(
    api: HttpApi, request: JsonRequest, faults: FaultReader, answer: MessagesReply
) -> AsyncGenerator[BackendEvent]:
    """Send the request and yield the events of the reply.

    Raises:
        BackendError: there is no complete answer.
    """
    async with api.send(request, faults) as reply, open_answer(reply, answer) as events:
        async for event in events:
            yield event
