"""The Chat Completions API: requests, and streamed or complete replies."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from agentapi_mcp.backends.wire.conversations import folded, instructions_of, spoken_of
from agentapi_mcp.backends.wire.faults import FaultReader
from agentapi_mcp.base.errors import BackendError, BackendFault
from agentapi_mcp.base.json_values import as_amount, as_count, as_list, as_object, as_text
from agentapi_mcp.core.backends.events import (
    BackendEvent,
    Finished,
    StopReason,
    TextDelta,
    ThoughtDelta,
    ToolActivity,
    ToolState,
    Usage,
    UsageReported,
)
from agentapi_mcp.core.backends.models import BackendTurn

OURS = frozenset({"model", "messages", "stream"})  # fields that `extra_body` must not set
END_OF_STREAM = "[DONE]"

_STOP_REASONS: dict[str, StopReason] = {
    "stop": StopReason.END,
    "end_turn": StopReason.END,
    "eos": StopReason.END,
    "length": StopReason.LENGTH,
    "max_tokens": StopReason.LENGTH,
    "tool_calls": StopReason.TOOL_CALLS,
    "function_call": StopReason.TOOL_CALLS,
    "content_filter": StopReason.CONTENT_FILTER,
    "safety": StopReason.CONTENT_FILTER,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestShape:
    """Provider-specific variations of the request."""

    stream: bool = True
    include_usage: bool = True
    max_tokens_parameter: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    omit_parameters: frozenset[str] = frozenset()
    system_role: Literal["system", "developer", "user"] = "system"
    fallback_models: tuple[str, ...] = ()
    extra_body: Mapping[str, object] = field(default_factory=dict[str, object])


def build_request(turn: BackendTurn, model: str, shape: RequestShape) -> dict[str, object]:
    """Build the request body of a turn; its parameters override `extra_body`."""
    messages = _messages(turn, shape.system_role)
    body: dict[str, object] = {**shape.extra_body, "model": model, "messages": messages, "stream": shape.stream}
    if shape.stream and shape.include_usage:
        body.setdefault("stream_options", {"include_usage": True})
    if shape.fallback_models:
        body["models"] = [model, *(name for name in shape.fallback_models if name != model)]
    if turn.temperature is not None and "temperature" not in shape.omit_parameters:
        body["temperature"] = turn.temperature
    if "max_tokens" not in shape.omit_parameters:
        if turn.max_tokens is not None:
            body[shape.max_tokens_parameter] = turn.max_tokens
        elif turn.max_output_tokens is not None:
            body.setdefault(shape.max_tokens_parameter, turn.max_output_tokens)
    return body


def _messages(turn: BackendTurn, system_role: str) -> list[dict[str, str]]:
    instructions, spoken = instructions_of(turn), spoken_of(turn)
    if system_role == "user":
        return folded(instructions, spoken)
    return [{"role": system_role, "content": instructions}, *spoken] if instructions else spoken


class ChatCompletionsReply:
    """Parses one reply piece by piece into events, and tracks whether the answer is complete."""

    def __init__(self, faults: FaultReader, *, provider: str | None, has_cost: bool) -> None:
        self._faults = faults
        self._provider = provider
        self._has_cost = has_cost
        self._model: str | None = None
        self._id: str | None = None
        self._finish: str | None = None
        self._usage = Usage()
        self._choices_seen = False
        self._text_seen = False
        self._tools = set[tuple[int, str | None]]()

    @property
    def is_whole(self) -> bool:
        """Whether the finish reason was received; only the usage follows."""
        return self._finish is not None

    def feed(self, piece: object) -> Iterator[BackendEvent]:
        """Parse a chunk of a stream, or a complete reply.

        Raises:
            BackendError: it reports a failure, or is not part of a reply.
        """
        body = as_object(piece)
        if not body and piece != {}:
            # Google's compatible endpoint wraps an error in an array.
            if any(as_object(item).get("error") for item in as_list(piece)):
                raise self._faults.of_error(piece)
            raise BackendError(BackendFault.BAD_REPLY, "The provider's reply is not of Chat Completions.")
        if body.get("error"):
            yield from self._report_usage(as_object(body.get("usage")))
            raise self._faults.of_error(body)
        self._model = as_text(body.get("model")) or self._model
        self._id = as_text(body.get("id")) or self._id
        self._provider = as_text(body.get("provider")) or self._provider
        # We ask for one choice.
        for choice in as_list(body.get("choices"))[:1]:
            yield from self._choice(as_object(choice))
        yield from self._report_usage(as_object(body.get("usage")))

    def end(self, *, done_seen: bool, request_id: str | None = None) -> Finished:
        """Return the final event, at the end of the reply.

        Raises:
            BackendError: STREAM_CUT, BAD_REPLY or CONTENT_POLICY, if the answer is incomplete or missing.
        """
        reason = self._stop_reason()
        if reason is StopReason.CONTENT_FILTER and not self._text_seen:
            raise BackendError(BackendFault.CONTENT_POLICY, "The provider's content filter withheld the answer.")
        if not self._choices_seen:
            raise BackendError(BackendFault.BAD_REPLY, "The provider's reply holds no answer.")
        if not self.is_whole and not done_seen:
            raise BackendError(BackendFault.STREAM_CUT, "The answer stopped before its end.")
        return Finished(
            stop_reason=reason,
            model=self._model,
            provider=self._provider,
            provider_request_id=request_id or self._id,
            warning="The model asked for a tool that is not there." if reason is StopReason.TOOL_CALLS else None,
        )

    def _stop_reason(self) -> StopReason:
        return StopReason.END if self._finish is None else _STOP_REASONS.get(self._finish.lower(), StopReason.OTHER)

    def _choice(self, choice: Mapping[str, object]) -> Iterator[BackendEvent]:
        finish = as_text(choice.get("finish_reason"))
        if choice.get("error") or finish == "error":
            raise self._faults.of_error({"error": choice.get("error")})
        self._choices_seen = True
        delta = as_object(choice.get("delta")) or as_object(choice.get("message"))
        thought = as_text(delta.get("reasoning_content")) or as_text(delta.get("reasoning"))
        if thought:
            yield ThoughtDelta(thought)
        spoken = _spoken(delta.get("content")) or as_text(delta.get("refusal"))
        if spoken:
            self._text_seen = True
            yield TextDelta(spoken)
        yield from self._tool_calls(as_list(delta.get("tool_calls")))
        self._finish = finish or self._finish

    def _tool_calls(self, calls: Iterable[object]) -> Iterator[ToolActivity]:
        for place, call in enumerate(map(as_object, calls)):
            name = as_text(as_object(call.get("function")).get("name"))
            index = as_count(call.get("index"))
            which = (place if index is None else index, as_text(call.get("id")))
            if name and which not in self._tools:
                self._tools.add(which)
                yield ToolActivity(name, ToolState.STARTED)

    def _report_usage(self, body: Mapping[str, object]) -> Iterator[UsageReported]:
        usage = read_usage(body, has_cost=self._has_cost)
        if usage not in {Usage(), self._usage}:
            self._usage = usage
            yield UsageReported(usage)


def read_usage(body: Mapping[str, object], *, has_cost: bool) -> Usage:
    """Read the usage; a server that does not count sends zero input tokens, which means unknown."""
    cost = as_amount(body.get("cost")) if has_cost else None
    tokens = as_count(body.get("prompt_tokens"))
    if not tokens:
        return Usage(cost_usd=cost)
    return Usage(
        input_tokens=tokens,
        output_tokens=as_count(body.get("completion_tokens")),
        cached_tokens=as_count(as_object(body.get("prompt_tokens_details")).get("cached_tokens")),
        reasoning_tokens=as_count(as_object(body.get("completion_tokens_details")).get("reasoning_tokens")),
        cost_usd=cost,
    )


def _spoken(content: object) -> str | None:
    parts = (as_object(part) for part in as_list(content))
    return as_text(content) or "".join(as_text(part.get("text")) or "" for part in parts) or None
