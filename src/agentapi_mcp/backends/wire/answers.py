"""What the formats of answers have in common: frames, errors in any form, why the model stopped, and the tail."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import ClassVar

from agentapi_mcp.backends.wire.faults import FaultReader
from agentapi_mcp.backends.wire.fields import parse_json
from agentapi_mcp.backends.wire.reasoning import AnswerText
from agentapi_mcp.backends.wire.redaction import LONGEST_LINE
from agentapi_mcp.backends.wire.sse import StreamComment, StreamEvent
from agentapi_mcp.base.errors import REFUSALS, BackendError, BackendFault
from agentapi_mcp.base.json_bounds import JsonBoundsError
from agentapi_mcp.base.json_values import as_object, is_list, is_object
from agentapi_mcp.base.text import quoted
from agentapi_mcp.core.backends.events import (
    BackendEvent,
    Finished,
    SignOfLife,
    StopReason,
    TextDelta,
    ThoughtDelta,
    ToolActivity,
)

# The words of all formats, because routers hand on those of another; of Gemini and Cohere in lower case.
_STOP_REASONS: dict[str, StopReason] = {
    **dict.fromkeys(
        ("stop", "end_turn", "eos", "eos_token", "stop_sequence", "complete", "completed", "end"), StopReason.END
    ),
    **dict.fromkeys(
        ("length", "max_tokens", "model_length", "model_context_window_exceeded", "max_output_tokens", "max_length"),
        StopReason.LENGTH,
    ),
    **dict.fromkeys(("tool_calls", "tool_call", "tool_use", "function_call"), StopReason.TOOL_CALLS),
    **dict.fromkeys(
        ("content_filter", "content_filtered", "refusal", "safety", "recitation", "blocklist", "prohibited_content"),
        StopReason.CONTENT_FILTER,
    ),
    **dict.fromkeys(
        ("spii", "image_safety", "language", "sensitive", "error_toxic", "guardrail_intervened"),
        StopReason.CONTENT_FILTER,
    ),
    **dict.fromkeys(("pause_turn", "pause", "compaction"), StopReason.PAUSED),
}
# The word for none, written as a text.
_NO_REASON = frozenset({"null", "none", "undefined"})
# Reasons that say that the provider failed in mid-answer: vLLM and SGLang, DeepSeek, Zhipu, Cohere.
_FAILURES = frozenset({"error", "abort", "aborted", "insufficient_system_resource", "network_error", "server_error"})

_END_OF_STREAM = frozenset({"[DONE]", '"[DONE]"'})
_NOTHING = frozenset({"", "null", "{}", "[]"})
_KEEP_ALIVE = frozenset({"ping", "heartbeat", "keepalive", "keep-alive"})
_ERRORS = frozenset({"error", "Error", "ERROR"})
_ALIVE = (SignOfLife(),)
_MOST_WARNINGS, _MOST_LINES = 5, 1_000  # of an answer, and of one of its events
_LONGEST_SIGN = 8  # characters of the data that is no part of an answer
_SAID = ("message", "msg", "detail", "errors", "error_msg", "error_message", "status_msg")
_ALWAYS_BAD = ("detail", "errors", "error_msg", "error_message")
_CODES = ("code", "status_code", "statusCode", "error_code")
_KINDS = ("status", "type", "object")
_BAD_KIND = re.compile(r"error|fail|exception|denied|invalid", re.IGNORECASE)
_BEGINS_JSON = ("", "{", "[", '"')
_SUCCESS = re.compile(r"(?:0|2\d\d|ok|success)?", re.IGNORECASE)


class Answer(ABC):
    """Parses one answer frame by frame into events, and tracks how much of it came.

    It is whole when the reason was received why the model stopped: a frame after that cannot make it a failure. It is
    over when the end was marked too. Some servers give the reason with the first frame, or with each: an answer that
    goes on is not whole until they give it again.
    """

    id_headers: ClassVar[tuple[str, ...]] = ()

    def __init__(self, faults: FaultReader, provider: str | None) -> None:
        self._faults = faults
        self._provider = provider
        self._model: str | None = None
        self._id: str | None = None
        self._stop: str | None = None
        self._goes_on = self._went_on = False
        self._begun = False
        self._over = False
        self._takes_message = self._has_message = False
        self._text = AnswerText()
        self._warnings: dict[str, None] = {}  # each once, in order

    @property
    def is_whole(self) -> bool:
        """Whether the reason was received why the model stopped, or a whole message outside of a stream."""
        return (self._stop is not None and not self._goes_on) or self._has_message

    @property
    def is_ending(self) -> bool:
        """Whether nothing more is expected: it is whole, never went on after an end, and has text if it is regular."""
        if self._went_on or not (self._stop is not None or self._has_message):
            return False
        return self._text.is_seen or self._stop_reason() is not StopReason.END

    @property
    def is_over(self) -> bool:
        """Whether the mark of the end was received, even if the server keeps the stream open."""
        return self._over

    @property
    @abstractmethod
    def is_billed(self) -> bool:
        """Whether usage was received."""

    def expect_message(self) -> None:
        """Take a whole message for the answer: it comes in no stream, whose pieces may be cut."""
        self._takes_message = True

    def frame(self, event: StreamEvent | StreamComment) -> Iterable[BackendEvent]:
        """Parse one event of a stream.

        Raises:
            BackendError: it reports a failure, or cannot be read, before the answer is whole.
        """
        if isinstance(event, StreamComment):
            return _ALIVE
        data = event.data.strip()
        is_sign = len(data) <= _LONGEST_SIGN and event.name not in _ERRORS
        if is_sign and data in _END_OF_STREAM:
            self._over = True
            return ()
        if (is_sign and data in _NOTHING) or event.name in _KEEP_ALIVE:
            return _ALIVE
        return self._after_the_end(data) if self._over else self._frame(event, data)

    def parts(self, parts: Iterable[object]) -> Iterator[BackendEvent]:
        """Parse parts of a stream or complete replies.

        Raises:
            BackendError: one reports a failure, or is not part of an answer, before the answer is whole.
        """
        for part in parts:
            try:
                yield from self._after_its_end(self.feed(part))
            except BackendError as error:
                self.fail(error)

    def feed(self, piece: object, name: str = "message") -> Iterable[BackendEvent]:
        """Parse a part of a stream, or a complete reply.

        Raises:
            BackendError: it reports a failure, or is not part of an answer.
        """
        if is_object(piece):
            return self._read(piece, name)
        if is_list(piece):  # Google's compatible endpoint wraps an error in an array
            return chain.from_iterable(self.feed(each, name) for each in piece)
        if piece is not None:
            raise self._foreign()
        return ()

    def unread(self, text: str, error: BackendError) -> BackendError:
        """Return the error of what could not be read, which are the provider's words where it is no broken JSON."""
        is_json = isinstance(error.__cause__, JsonBoundsError) or text.lstrip()[:1] in _BEGINS_JSON
        return error if is_json else self._faults.of_text(text)

    def fail(self, error: BackendError) -> None:
        """Note what went wrong after the answer was whole.

        Raises:
            BackendError: it was not.
        """
        if not self.is_whole:
            has_come = self._begun or self._text.is_begun or self._text.has_thought or self.is_billed
            error.unbilled = error.fault in REFUSALS and not has_come
            raise error
        if error.fault is not BackendFault.BAD_REPLY:
            said = quoted(str(error), LONGEST_LINE)  # a warning stands beside the server's own words
            self._warn(f"The answer is whole, but after it the provider reported an error: {said}")
        elif self.is_billed:
            self._warn("The answer is whole, but what the provider sent after it could not be read.")
        else:
            self._warn("The answer is whole, but not its bill: what the provider sent after it could not be read.")

    def end(self, request_id: str | None = None) -> Iterator[BackendEvent]:
        """Return the last events, at the end of the reply.

        Raises:
            BackendError: STREAM_CUT, BAD_REPLY or CONTENT_POLICY, if the answer is incomplete or missing.
        """
        reason = self._stop_reason()
        yield from self._text.finish(reason)
        if reason is StopReason.CONTENT_FILTER and not self._text.is_seen:
            raise BackendError(BackendFault.CONTENT_POLICY, self._withheld())
        has_end = self._stop is not None or self._has_message
        if not self._begun and not has_end:
            raise self._nothing()
        if not has_end and not self._over:
            raise BackendError(BackendFault.STREAM_CUT, "The answer stopped before its end.")
        if self._is_unsure:
            self._warn("The answer went on after the provider had told its end, and did not tell it again.")
        elif reason is StopReason.OTHER:
            reason_given = quoted(self._faults.redactor.line(self._stop or ""))
            self._warn(f"The provider gives {reason_given} as the reason of its end.")
        self._warn(self._text.warning(reason))
        yield Finished(
            stop_reason=reason,
            model=self._model,
            provider=self._provider,
            provider_request_id=request_id or self._id,
            warning=" ".join(self._warnings) or None,
        )

    def _frame(self, event: StreamEvent, data: str) -> Iterator[BackendEvent]:
        try:
            if event.name in _ERRORS:
                self.fail(self._error(data))
                return
            for piece in self._documents(event):
                events = self.feed(piece, event.name)  # nearly always before the end: no call more for each frame
                yield from events if self._stop is None and not self._has_message else self._after_its_end(events)
        except BackendError as error:
            self.fail(error)

    def _documents(self, event: StreamEvent) -> list[object]:
        """Parse the data of an event: one document, or one in each of its lines."""
        what = "A part of the provider's answer"
        try:
            return [parse_json(event.data, what=what)]
        except BackendError as error:
            lines = [line for line in event.data.split("\n") if line.strip()]
            if not event.certain:
                return _readable(lines[:_MOST_LINES])
            # One line is the data itself.
            if not 1 < len(lines) <= _MOST_LINES or lines[0].lstrip()[:1] not in _BEGINS_JSON:
                raise self.unread(event.data, error) from error
            return [parse_json(line, what=what) for line in lines]

    def _after_its_end(self, events: Iterable[BackendEvent]) -> Iterator[BackendEvent]:
        """Notice an answer that goes on after its end was told."""
        is_told = self._stop is not None or self._has_message
        for event in events:
            if is_told and _is_said(event):
                self._goes_on = self._went_on = True
            yield event

    @abstractmethod
    def _read(self, body: Mapping[str, object], name: str) -> Iterator[BackendEvent]:
        """Parse one object, whose event has this name."""

    @abstractmethod
    def _foreign(self) -> BackendError:
        """Return the error of what is not part of this format."""

    def _nothing(self) -> BackendError:
        said = "The provider's reply holds no answer."
        if not self.is_billed:
            return BackendError(BackendFault.BAD_REPLY, said)
        step = "It was billed, and would be again: check that base_url is the API that the agent's backend speaks."
        return BackendError(BackendFault.BAD_REPLY, said, retryable=False, next_step=step)

    @abstractmethod
    def _withheld(self) -> str:
        """Say why there is no text."""

    def _after_the_end(self, data: str) -> Iterator[BackendEvent]:
        """Parse what follows the mark of the end."""
        del data
        yield from ()

    def _stopped(self, word: str) -> None:
        """Note why the model stopped.

        Raises:
            BackendError: it is because the provider failed.
        """
        if word.lower() in _FAILURES:
            said = f"The provider broke its answer off ({word})."
            raise self._faults.of_error({"error": {"message": said, "code": word}})
        if word.lower() in _NO_REASON:
            return
        # A regular end that is told after another one, and nothing between them, does not take it back.
        if self._stop is None or self._goes_on or _reason_of(word) is not StopReason.END:
            self._stop = word
        self._goes_on = False

    @property
    def _is_unsure(self) -> bool:
        """Whether the end was told too early, and neither told again nor marked."""
        return self._goes_on and not self._over and not self._has_message

    def _stop_reason(self) -> StopReason:
        if self._is_unsure:
            return StopReason.OTHER
        if self._stop is None:
            return StopReason.END if self._over or self._has_message else StopReason.OTHER
        return _reason_of(self._stop)

    def _add_whole(self, message: str | None) -> Iterator[BackendEvent]:
        self._has_message = self._takes_message
        try:
            yield from self._text.add_whole(message or "")
        except ValueError:
            self._warn("The provider sent its answer twice, the second time with other words; this is the first.")

    def _error(self, data: str) -> BackendError:
        """Return the error that an event is by its name."""
        try:
            body = parse_json(data, what="The error")
        except BackendError:
            body = None
        return self._faults.of_error(error_body(as_object(body)) if is_object(body) else body or {"error": data})

    def _warn(self, warning: str | None) -> None:
        if warning and len(self._warnings) < _MOST_WARNINGS:
            self._warnings[warning] = None


def _is_said(event: BackendEvent) -> bool:
    """Whether an event is a part of an answer."""
    return isinstance(event, ToolActivity) or (isinstance(event, TextDelta | ThoughtDelta) and not event.text.isspace())


def _reason_of(word: str) -> StopReason:
    # Some servers send the name of a constant: FinishReason.STOP.
    return _STOP_REASONS.get(word.lower().rpartition(".")[2], StopReason.OTHER)


def is_error(body: Mapping[str, object]) -> bool:
    """Whether an object that is no part of an answer is an error, in the forms that providers use beside `error`.

    They are those of vLLM, FastAPI, Cloudflare, MiniMax, Zhipu, Baidu and DashScope.
    """
    status = as_object(body.get("base_resp"))
    if status:
        return _is_bad(status.get("status_code"))
    if body.get("success") is False or any(body.get(name) for name in _ALWAYS_BAD):
        return True
    if not any(body.get(name) for name in _SAID):
        return False
    kinds = [body.get(name) for name in _KINDS]
    return (
        any(_is_bad(body.get(name)) for name in _CODES)
        or any(_is_bad(kind) for kind in kinds if isinstance(kind, int))
        or any(_BAD_KIND.search(kind) for kind in kinds if isinstance(kind, str))
    )


def _is_bad(code: object) -> bool:
    """Whether a code is one of a failure: neither absent nor a word or number for success."""
    return not (code is None or isinstance(code, bool) or _SUCCESS.fullmatch(str(code).strip()))


def error_body(body: Mapping[str, object]) -> Mapping[str, object]:
    """Return the error in the form that is read; claude-code-router sends it as `message`."""
    inner = as_object(body.get("message"))
    return body if body.get("error") or not inner else {"error": inner}


def _readable(lines: list[str]) -> list[object]:
    documents = list[object]()
    for line in lines:
        try:
            documents.append(parse_json(line, what=""))
        except BackendError:
            continue
    return documents
