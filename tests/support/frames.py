"""Answers in the frames of both formats, as bytes; and what the program makes of them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise

from agentapi_mcp.backends.wire.answers import Answer
from agentapi_mcp.backends.wire.chat_completions import ChatCompletionsReply
from agentapi_mcp.backends.wire.faults import FaultReader
from agentapi_mcp.backends.wire.messages import MessagesReply
from agentapi_mcp.backends.wire.redaction import Redactor
from agentapi_mcp.backends.wire.sse import EventParser
from agentapi_mcp.base.errors import BackendError
from agentapi_mcp.core.backends.events import BackendEvent, Finished, TextDelta, ThoughtDelta, Usage, UsageReported

FAULTS = FaultReader(provider="stub", redactor=Redactor())
NOTHING: Mapping[str, object] = {}
Frame = Mapping[str, object] | str  # a string is data as it is


class Format(StrEnum):
    """The formats, by the kind of backend that speaks them."""

    CHAT = "openai"
    MESSAGES = "anthropic"

    def answer(self) -> Answer:
        """Make what reads an answer."""
        if self is Format.CHAT:
            return ChatCompletionsReply(FAULTS, provider=None, has_cost=False)
        return MessagesReply(FAULTS, None)

    def begin(self) -> list[Frame]:
        """Make the frames before the text."""
        if self is Format.CHAT:
            return [{"model": "m", "choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]}]
        usage = {"input_tokens": 11, "output_tokens": 1}
        return [
            {"type": "message_start", "message": {"id": "m", "model": "m", "content": [], "usage": usage}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        ]

    def piece(self, text: str) -> Frame:
        """Make the frame of a piece of the text."""
        if self is Format.CHAT:
            return {"model": "m", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
        return {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}

    def stop(self, reason: str | None = None) -> Frame:
        """Make the frame that says why the model stopped."""
        if self is Format.CHAT:
            return {"choices": [{"index": 0, "delta": NOTHING, "finish_reason": reason or "stop"}]}
        delta = {"stop_reason": reason or "end_turn"}
        return {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 5}}

    def end(self) -> list[Frame]:
        """Make the frames after that: the bill, where it is one of them, and the mark of the end."""
        if self is Format.CHAT:
            return [{"choices": [], "usage": {"prompt_tokens": 11, "completion_tokens": 5}}, "[DONE]"]
        return [{"type": "message_stop"}]

    def frames(self, pieces: Iterable[str], reason: str | None = None) -> list[Frame]:
        """Make a whole answer."""
        return [*self.begin(), *map(self.piece, pieces), self.stop(reason), *self.end()]

    def message(self, text: str, reason: str | None = None) -> dict[str, object]:
        """Make an answer that is no stream."""
        if self is Format.CHAT:
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason or "stop"}
            return {"model": "m", "choices": [choice], "usage": {"prompt_tokens": 11, "completion_tokens": 5}}
        return {
            "type": "message",
            "model": "m",
            "content": [{"type": "text", "text": text}],
            "stop_reason": reason or "end_turn",
            "usage": {"input_tokens": 11, "output_tokens": 5},
        }


def written(frames: Iterable[Frame], *, end: str = "\n", gap: str | None = None) -> bytes:
    """Write frames as server-sent events, named as the Messages API does; `gap` is what ends each."""
    lines = list[str]()
    for frame in frames:
        if isinstance(frame, str):
            lines.append(f"data: {frame}{end}{end if gap is None else gap}")
            continue
        name = f"event: {frame['type']}{end}" if "type" in frame else ""
        lines.append(f"{name}data: {json.dumps(frame)}{end}{end if gap is None else gap}")
    return "".join(lines).encode()


@dataclass
class Outcome:
    """What became of an answer."""

    events: list[BackendEvent] = field(default_factory=list[BackendEvent])
    error: BackendError | None = None

    @property
    def text(self) -> str:
        """The reply."""
        return "".join(event.text for event in self.events if isinstance(event, TextDelta))

    @property
    def thought(self) -> str:
        """The reasoning."""
        return "".join(event.text for event in self.events if isinstance(event, ThoughtDelta))

    @property
    def usage(self) -> Usage:
        """The last bill."""
        return next((event.usage for event in self.events[::-1] if isinstance(event, UsageReported)), Usage())

    @property
    def end(self) -> Finished:
        """The regular end."""
        assert self.error is None
        last = self.events[-1]
        assert isinstance(last, Finished)
        return last


def read(
    form: Format, stream: bytes, cuts: Sequence[int] = (), *, size: int | None = None, answer: Answer | None = None
) -> Outcome:
    """Read a stream that comes in pieces, cut at these places or each of a size, and then ends."""
    answer, parser, outcome = answer or form.answer(), EventParser(), Outcome()
    places = [0, *(range(size, len(stream), size) if size else sorted(cut % (len(stream) + 1) for cut in cuts)), None]
    try:
        for begin, end in pairwise(places):
            for event in parser.feed(stream[begin:end]):
                outcome.events.extend(answer.frame(event))
        for event in parser.flush():
            outcome.events.extend(answer.frame(event))
        outcome.events.extend(answer.end())
    except BackendError as error:
        outcome.error = error
    return outcome
