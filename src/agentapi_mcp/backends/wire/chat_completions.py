"""The Chat Completions API: requests, and streamed or complete replies."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from typing_extensions import override

from agentapi_mcp.backends.wire.answers import Answer, is_error
from agentapi_mcp.backends.wire.conversations import folded, instructions_of, spoken_of
from agentapi_mcp.backends.wire.faults import FaultReader
from agentapi_mcp.backends.wire.fields import parse_json
from agentapi_mcp.backends.wire.usage import UsageMeter, usage_in
from agentapi_mcp.base.errors import BackendError, BackendFault
from agentapi_mcp.base.json_values import as_count, as_list, as_object, as_text, is_list
from agentapi_mcp.core.backends.events import (
    BackendEvent,
    StopReason,
    ThoughtDelta,
    ToolActivity,
    ToolState,
    UsageReported,
)
from agentapi_mcp.core.backends.models import BackendTurn

OURS = frozenset({"model", "messages", "stream"})  # fields that `extra_body` must not set


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


class ChatCompletionsReply(Answer):
    """Parses one reply piece by piece into events, and tracks whether the answer is complete."""

    id_headers = ("x-generation-id", "x-request-id")

    def __init__(self, faults: FaultReader, *, provider: str | None, has_cost: bool) -> None:
        super().__init__(faults, provider)
        self._meter = UsageMeter(has_cost=has_cost)
        self._index: int | None = None
        self._refused = False
        self._tools = set[tuple[int, str | None]]()

    @property
    @override
    def is_billed(self) -> bool:
        return self._meter.is_read

    @override
    def _read(self, body: Mapping[str, object], name: str) -> Iterator[BackendEvent]:
        if body.get("error"):
            yield from self._report_usage(body, None)
            raise self._faults.of_error(body)
        choices = as_list(body.get("choices"))
        if not choices and is_error(body):
            raise self._faults.of_error(body)
        self._model = as_text(body.get("model")) or self._model
        self._id = as_text(body.get("id")) or self._id
        self._provider = as_text(body.get("provider")) or self._provider
        choice = self._ours(choices) if choices else None
        if choice is not None:
            yield from self._choice(choice)
        yield from self._report_usage(body, choice)
        if choice is not None:
            if choice.get("error"):
                raise self._faults.of_error({"error": choice.get("error")})
            if finish := as_text(choice.get("finish_reason")):
                self._stopped(finish)

    @override
    def _foreign(self) -> BackendError:
        return BackendError(BackendFault.BAD_REPLY, "The provider's reply is not of Chat Completions.")

    @override
    def _withheld(self) -> str:
        return "The provider's content filter withheld the answer."

    @override
    def _after_the_end(self, data: str) -> Iterator[BackendEvent]:
        with suppress(BackendError):
            yield from self._report_usage(as_object(parse_json(data, what="")), None)

    def _ours(self, choices: list[object]) -> Mapping[str, object] | None:
        """Return the choice that is the answer: the first that came, also if `n` asked for more of them."""
        if len(choices) == 1:  # nearly always
            only = as_object(choices[0])
            if only.get("index") == self._index:
                return only
        numbered = {
            place if (index := as_count(choice.get("index"))) is None else index: choice
            for place, choice in enumerate(map(as_object, choices))
        }
        if self._index is None:
            self._index = min(numbered)
        if numbered.keys() != {self._index}:
            self._warn("The provider sent several answers; this is one of them.")
        return numbered.get(self._index)

    def _choice(self, choice: Mapping[str, object]) -> Iterator[BackendEvent]:
        self._begun = True
        delta, message = as_object(choice.get("delta")), as_object(choice.get("message"))
        if delta or not message:
            if len(delta) > 1 or not isinstance(delta.get("content"), str):  # than text
                yield from self._reasoned(delta)
            if spoken := self._spoken(delta) or (None if message else as_text(choice.get("text"))):
                self._has_message = self._takes_message and not delta  # Completions know no pieces of another kind
                yield from self._text.add(spoken)
        if message:
            yield from self._reasoned(message)
            yield from self._add_whole(self._spoken(message))

    def _spoken(self, part: Mapping[str, object]) -> str | None:
        content = part.get("content")
        if spoken := as_text(content) or _joined(as_list(content)):
            return spoken
        refusal = as_text(part.get("refusal"))
        self._refused = self._refused or refusal is not None
        return refusal

    @override
    def _stop_reason(self) -> StopReason:
        reason = super()._stop_reason()
        return StopReason.CONTENT_FILTER if self._refused and reason is StopReason.END else reason

    def _reasoned(self, part: Mapping[str, object]) -> Iterator[BackendEvent]:
        thought = as_text(part.get("reasoning_content")) or as_text(part.get("reasoning"))
        if not thought and is_list(content := part.get("content")):
            thought = _joined(thinking for each in content for thinking in as_list(as_object(each).get("thinking")))
        if thought:
            self._text.has_thought = True
            yield ThoughtDelta(thought)
        if calls := as_list(part.get("tool_calls")):
            yield from self._tool_calls(calls)

    def _tool_calls(self, calls: Iterable[object]) -> Iterator[ToolActivity]:
        for place, call in enumerate(map(as_object, calls)):
            name = as_text(as_object(call.get("function")).get("name"))
            index = as_count(call.get("index"))
            which = (place if index is None else index, as_text(call.get("id")))
            if name and which not in self._tools:
                self._tools.add(which)
                yield ToolActivity(name, ToolState.STARTED)

    def _report_usage(self, body: Mapping[str, object], choice: Mapping[str, object] | None) -> Iterator[UsageReported]:
        if usage := usage_in(body) or (None if choice is None else choice.get("usage")):  # Moonshot's is in the choice
            is_last = self.is_whole or (choice is not None and bool(choice.get("finish_reason")))
            yield from self._meter.add(usage, is_empty=is_last and not self._text.is_begun)


def _joined(content: Iterable[object]) -> str:
    return "".join(as_text(as_object(part).get("text")) or "" for part in content)
